/** A client that writes 4 KiB blocks at random into a set of regions, as fast as the server answers. */
import { randomFillSync } from 'node:crypto';
import { isFailure } from '../../dist/base/failure.js';
import type { NbdClient } from '../../dist/nbd/client.js';
import { Chance } from './chance.ts';

const BLOCK_SIZE = 4096;
const IN_FLIGHT = 32;

export class ScatteredWriter {
  readonly #client: NbdClient;
  readonly #regions: readonly number[];
  readonly #regionSize: number;
  readonly #chance: Chance;
  readonly #noise = randomFillSync(Buffer.allocUnsafe(1 << 20));
  readonly #touched = new Set<number>();
  #answered = 0;
  #stopping = false;

  /** `regions`: numbers of those that may be written. */
  constructor(client: NbdClient, regions: readonly number[], regionSize: number, seed: number) {
    this.#client = client;
    this.#regions = regions;
    this.#regionSize = regionSize;
    this.#chance = new Chance(seed);
  }

  /** Writes that have been answered. */
  get answered(): number {
    return this.#answered;
  }

  /** Regions that a write was sent to, answered or not. */
  get touchedCount(): number {
    return this.#touched.size;
  }

  /** Writes until `stop`, or until the connection is lost, which is no failure. Resolves when nothing is under way. */
  async run(): Promise<void> {
    const ends = await Promise.allSettled(Array.from({ length: IN_FLIGHT }, () => this.#writeOn()));
    for (const end of ends) {
      if (end.status === 'rejected' && !isFailure(end.reason, 'connection-lost')) throw end.reason;
    }
  }

  stop(): void {
    this.#stopping = true;
  }

  async #writeOn(): Promise<void> {
    while (!this.#stopping) {
      const region = this.#regions[this.#chance.below(this.#regions.length)]!;
      const block = this.#chance.below(this.#regionSize / BLOCK_SIZE);
      const from = this.#chance.below(this.#noise.length - BLOCK_SIZE);
      this.#touched.add(region);
      await this.#client.write(
        region * this.#regionSize + block * BLOCK_SIZE,
        this.#noise.subarray(from, from + BLOCK_SIZE),
      );
      this.#answered += 1;
    }
  }
}
