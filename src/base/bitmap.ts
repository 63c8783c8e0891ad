import { assert } from './assert.ts';

/** A fixed number of bits with a running count of those set. Index 0 to `length` - 1. */
export class Bitmap {
  readonly length: number;
  readonly #words: Uint32Array;
  #count = 0;

  constructor(length: number) {
    assert(Number.isSafeInteger(length) && length >= 0 && length <= 2 ** 32, 'bitmap length');
    this.length = length;
    this.#words = new Uint32Array(Math.ceil(length / 32));
  }

  /** How many bits are set. */
  get count(): number {
    return this.#count;
  }

  get(index: number): boolean {
    assert(index >= 0 && index < this.length, 'bitmap index');
    return (this.#words[index >>> 5]! & (1 << (index & 31))) !== 0;
  }

  /** Sets a bit; returns true when it was clear. */
  set(index: number): boolean {
    assert(index >= 0 && index < this.length, 'bitmap index');
    const word = this.#words[index >>> 5]!;
    const mask = 1 << (index & 31);
    if ((word & mask) !== 0) return false;
    this.#words[index >>> 5] = word | mask;
    this.#count += 1;
    return true;
  }

  /** Clears a bit; returns true when it was set. */
  clear(index: number): boolean {
    assert(index >= 0 && index < this.length, 'bitmap index');
    const word = this.#words[index >>> 5]!;
    const mask = 1 << (index & 31);
    if ((word & mask) === 0) return false;
    this.#words[index >>> 5] = word & ~mask;
    this.#count -= 1;
    return true;
  }

  /** Sets every bit. */
  fill(): void {
    this.#words.fill(0xffffffff);
    const rest = this.length & 31;
    if (rest !== 0) this.#words[this.#words.length - 1] = 0xffffffff >>> (32 - rest);
    this.#count = this.length;
  }

  /** The first set bit at or after `from`, or -1. Skips 32 clear bits at a time. */
  nextSet(from: number): number {
    let index = from;
    while (index < this.length) {
      const word = this.#words[index >>> 5]! >>> (index & 31);
      if (word !== 0) {
        const found = index + (31 - Math.clz32(word & -word));
        return found < this.length ? found : -1;
      }
      index = ((index >>> 5) + 1) << 5;
    }
    return -1;
  }

  /** Clears every bit. */
  clearAll(): void {
    this.#words.fill(0);
    this.#count = 0;
  }

  /** Calls `visit` for every set bit, in order. */
  forEach(visit: (index: number) => void): void {
    for (let index = this.nextSet(0); index >= 0; index = this.nextSet(index + 1)) visit(index);
  }

  copy(): Bitmap {
    const copy = new Bitmap(this.length);
    copy.#words.set(this.#words);
    copy.#count = this.#count;
    return copy;
  }
}
