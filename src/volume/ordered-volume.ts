/**
 * The layer that puts overlapping mutations in order, for a volume that is served without replication (the replicating
 * layer has a lock of its own). A mutation holds its range from the moment it is asked for until its effect is there;
 * with FUA the range is free again during the sync, so that others need not wait for the platter.
 *
 * A mutation that the volume below finishes at once never enters the lock: nothing can come in between.
 */
import { InFlight } from '../base/in-flight.ts';
import { payloadPool } from '../base/payload-pool.ts';
import type { RangeHold } from './range-lock.ts';
import { RangeLock } from './range-lock.ts';
import type { Extent, Volume, WriteOptions, ZeroOptions } from './volume.ts';

export class OrderedVolume implements Volume {
  readonly #below: Volume;
  readonly #lock = new RangeLock();
  /** What waits for its turn, is under way, or stands between a write and its flush. */
  readonly #inFlight = new InFlight();

  /** The layer owns the volume below from now on and closes it. */
  constructor(below: Volume) {
    this.#below = below;
  }

  get size(): number {
    return this.#below.size;
  }

  get readOnly(): boolean {
    return this.#below.readOnly;
  }

  get contexts(): readonly string[] {
    return this.#below.contexts;
  }

  read(target: Buffer, offset: number): void | Promise<void> {
    return this.#below.read(target, offset);
  }

  write(offset: number, data: Uint8Array, options: WriteOptions): void | Promise<void> {
    if (options.fua) return this.#thenFlush(this.write(offset, data, WITHOUT_FUA));
    if (!this.#lock.isFree(offset, data.length)) {
      return this.#giving(
        data,
        this.#inTurn(offset, data.length, () => this.#below.write(offset, data, options)),
      );
    }
    const pending = this.#below.write(offset, data, options);
    if (pending !== undefined) return this.#giving(data, this.#held(offset, data.length, pending));
    payloadPool.give(data);
  }

  zero(offset: number, length: number, options: ZeroOptions): void | Promise<void> {
    if (options.fua) return this.#thenFlush(this.zero(offset, length, { ...options, fua: false }));
    if (!this.#lock.isFree(offset, length)) {
      return this.#inTurn(offset, length, () => this.#below.zero(offset, length, options));
    }
    const pending = this.#below.zero(offset, length, options);
    if (pending !== undefined) return this.#held(offset, length, pending);
  }

  trim(offset: number, length: number, options: WriteOptions): boolean | Promise<boolean> {
    if (options.fua) return this.#inFlight.during(this.#trimThenFlush(this.trim(offset, length, WITHOUT_FUA)));
    if (!this.#lock.isFree(offset, length)) {
      return this.#inTurn(offset, length, () => this.#below.trim(offset, length, options));
    }
    const pending = this.#below.trim(offset, length, options);
    return typeof pending === 'boolean' ? pending : this.#held(offset, length, pending);
  }

  flush(): Promise<void> {
    return this.#below.flush();
  }

  cache(offset: number, length: number): void {
    this.#below.cache(offset, length);
  }

  extents(context: string, offset: number, length: number, countMax: number): Extent[] | Promise<Extent[]> {
    return this.#below.extents(context, offset, length, countMax);
  }

  async close(): Promise<void> {
    await this.#inFlight.idle();
    await this.#below.close();
  }

  /** The range was free and work on it has begun in this turn: holds it until the work settles. */
  #held<T>(offset: number, length: number, pending: Promise<T>): Promise<T> {
    return this.#inFlight.during(this.#settle(this.#lock.acquire(offset, length), pending));
  }

  #inTurn<T>(offset: number, length: number, begin: () => T | Promise<T>): Promise<T> {
    return this.#inFlight.during(this.#wait(this.#lock.acquire(offset, length), begin));
  }

  /** Nobody needs the data of a write that is done. */
  async #giving(data: Uint8Array, writing: Promise<void>): Promise<void> {
    await writing;
    payloadPool.give(data);
  }

  async #wait<T>(hold: RangeHold, begin: () => T | Promise<T>): Promise<T> {
    await hold.ready;
    try {
      return await begin();
    } finally {
      this.#lock.release(hold);
    }
  }

  async #settle<T>(hold: RangeHold, pending: Promise<T>): Promise<T> {
    try {
      return await pending;
    } finally {
      this.#lock.release(hold);
    }
  }

  #thenFlush(pending: void | Promise<void>): Promise<void> {
    return this.#inFlight.during(this.#flushAfter(pending));
  }

  async #flushAfter(pending: void | Promise<void>): Promise<void> {
    await pending;
    await this.#below.flush();
  }

  async #trimThenFlush(pending: boolean | Promise<boolean>): Promise<boolean> {
    const punched = await pending;
    if (punched) await this.#below.flush();
    return punched;
  }
}

const WITHOUT_FUA: WriteOptions = { fua: false };
