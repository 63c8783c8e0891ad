/**
 * Chance, from a seed: the same seed gives the same numbers for ever, on every machine. The generator is sfc32 (Chris
 * Doty-Humphrey's Small Fast Counter): 128 bits of state, quick, and good enough that neighbouring seeds have nothing in
 * common. Everything that the simulator leaves to chance asks one of these, and each user that may come and go (an
 * incarnation, say) has a fork of its own, so that it does not shift the numbers of the others.
 */
import type { Random } from '../../src/io/random.ts';

export class SeededRandom implements Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number) {
    this.#a = seed >>> 0;
    this.#b = Math.floor(seed / 2 ** 32) >>> 0;
    this.#c = 0x9e3779b9;
    for (let round = 0; round < 15; round += 1) this.next();
  }

  /** 32 bits. */
  next(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    this.#c |= 0;
    return sum >>> 0;
  }

  /** In [0, 1). */
  uniform(): number {
    return this.next() / 2 ** 32;
  }

  /** A whole number in [0, limit). */
  below(limit: number): number {
    return Math.floor(this.uniform() * limit);
  }

  /** In [from, to). */
  between(from: number, to: number): number {
    return from + this.uniform() * (to - from);
  }

  chance(probability: number): boolean {
    return this.uniform() < probability;
  }

  /** Waiting times of what happens at random, `mean` on average. */
  exponential(mean: number): number {
    return -Math.log(1 - this.uniform()) * mean;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!;
  }

  bytes(size: number): Buffer {
    const data = Buffer.alloc(size);
    for (let at = 0; at < size; at += 1) data[at] = this.next() >>> 24;
    return data;
  }

  /** A generator of its own, that goes its own way from here. */
  fork(): SeededRandom {
    return new SeededRandom(this.next() * 2 ** 20 + (this.next() >>> 12));
  }
}
