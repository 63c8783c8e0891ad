/**
 * A disk with a cache that forgets: what was written is there for every reader at once, but survives a loss of power for
 * certain only when a flush that began after its answer has been answered. Of the rest a seed decides: each write is
 * kept, lost, or kept in some of its sectors, whatever was written before or after it.
 *
 * After `losePower` nothing is carried out any more, everything fails with `io-error`, until `powerUp`.
 */
import { Failure } from '../../src/base/failure.ts';
import { ALLOCATION_CONTEXT, type Extent, type Volume, type WriteOptions } from '../../src/volume/volume.ts';
import type { Chance } from './chance.ts';
import { SECTOR_SIZE } from './pieces.ts';

interface Unsynced {
  readonly offset: number;
  readonly data: Uint8Array;
}

/** What becomes of what was not synced: nothing or all of it is kept, or what the chance says. */
export type Survival = 'none' | 'all' | 'some';

export class VolatileDisk implements Volume {
  readonly readOnly = false;
  readonly contexts = [ALLOCATION_CONTEXT];
  readonly #chance: Chance;
  /** What readers see, and what is safe. */
  readonly #content: Buffer;
  readonly #safe: Buffer;
  #unsynced: Unsynced[] = [];
  #hasPower = true;

  constructor(size: number, chance: Chance) {
    this.#content = Buffer.alloc(size);
    this.#safe = Buffer.alloc(size);
    this.#chance = chance;
  }

  get size(): number {
    return this.#content.length;
  }

  /** Writes that no flush has made safe. */
  get unsyncedCount(): number {
    return this.#unsynced.length;
  }

  /** At once. How many unsynced writes are not there as they were any more. */
  losePower(survival: Survival): number {
    this.#hasPower = false;
    let lost = 0;
    for (const write of this.#unsynced) if (!this.#survives(write, survival)) lost += 1;
    this.#unsynced = [];
    this.#safe.copy(this.#content);
    return lost;
  }

  powerUp(): void {
    this.#hasPower = true;
  }

  read(target: Buffer, offset: number): void {
    this.#needPower();
    this.#content.copy(target, 0, offset);
  }

  write(offset: number, data: Uint8Array, options: WriteOptions): void {
    this.#needPower();
    this.#content.set(data, offset);
    this.#unsynced.push({ offset, data });
    if (options.fua) this.#sync();
  }

  zero(offset: number, length: number, options: WriteOptions): void {
    this.write(offset, Buffer.alloc(length), options);
  }

  trim(offset: number, length: number, options: WriteOptions): boolean {
    this.zero(offset, length, options);
    return true;
  }

  async flush(): Promise<void> {
    this.#needPower();
    this.#sync();
  }

  cache(): void {}

  extents(_context: string, _offset: number, length: number): Extent[] {
    return [{ length, flags: 0 }];
  }

  async close(): Promise<void> {}

  #sync(): void {
    for (const { offset, data } of this.#unsynced) this.#safe.set(data, offset);
    this.#unsynced = [];
  }

  /** True when all of it is kept. */
  #survives({ offset, data }: Unsynced, survival: Survival): boolean {
    const fate = survival === 'some' ? this.#chance.below(3) : survival === 'all' ? 0 : 1;
    if (fate === 0) this.#safe.set(data, offset);
    if (fate === 2) this.#tear(offset, data);
    return fate === 0;
  }

  /** Some of its sectors are kept. */
  #tear(offset: number, data: Uint8Array): void {
    for (let from = 0; from < data.length; ) {
      const to = Math.min(data.length, from + SECTOR_SIZE - ((offset + from) % SECTOR_SIZE));
      if (this.#chance.hits(1, 2)) this.#safe.set(data.subarray(from, to), offset + from);
      from = to;
    }
  }

  #needPower(): void {
    if (!this.#hasPower) throw new Failure('io-error', 'the disk has no power');
  }
}
