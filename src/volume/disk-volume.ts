/**
 * The volume at the bottom: one Disk, a regular file or a block device.
 *
 * It keeps nothing of the data; writes go to the page cache at once and are durable after a sync. It does **not** put
 * overlapping mutations in order: exactly one layer above does, OrderedVolume or the replicating layer, whose lock
 * reaches further (until the operation stands in the stream). Locking here as well would pay twice for nothing.
 *
 * Invariants:
 * - Once a sync has failed, no later flush or FUA succeeds until restart: the kernel reports lost pages once only, and
 *   then calls them clean. Also a sync that was under way beside the failed one counts as failed.
 * - FUA answers only after a sync that began after the write had finished.
 */
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import { InFlight } from '../base/in-flight.ts';
import type { Disk } from '../io/disk.ts';
import {
  ALLOCATION_CONTEXT,
  EXTENT_HOLE,
  EXTENT_ZERO,
  type Extent,
  type Volume,
  type WriteOptions,
  type ZeroOptions,
} from './volume.ts';

export interface DiskVolumeOptions {
  /** Refuse every mutation with `not-permitted`. */
  readonly readOnly?: boolean;
}

export class DiskVolume implements Volume {
  readonly size: number;
  readonly readOnly: boolean;
  readonly contexts: readonly string[] = [ALLOCATION_CONTEXT];
  readonly #disk: Disk;
  readonly #inFlight = new InFlight();
  /** Why durability can no longer be promised. */
  #syncFailure: Error | undefined;

  /** The volume owns the disk from now on and closes it. */
  constructor(disk: Disk, options: DiskVolumeOptions = {}) {
    this.#disk = disk;
    this.size = disk.size;
    this.readOnly = options.readOnly ?? false;
  }

  read(target: Buffer, offset: number): void | Promise<void> {
    this.#checkRange(offset, target.length);
    const pending = this.#disk.read(target, offset);
    if (pending !== undefined) return this.#inFlight.during(pending);
  }

  write(offset: number, data: Uint8Array, options: WriteOptions): void | Promise<void> {
    this.#checkRange(offset, data.length);
    this.#checkMutation(options.fua);
    const pending = this.#disk.write(data, offset);
    if (pending !== undefined || options.fua) return this.#finish(pending, options.fua);
  }

  zero(offset: number, length: number, options: ZeroOptions): void | Promise<void> {
    this.#checkRange(offset, length);
    this.#checkMutation(options.fua);
    if (options.fast && !this.#disk.zeroIsFast(offset, length, options.allocate)) {
      throw new Failure('not-supported', 'zeroing this range would have to write zeroes');
    }
    const pending = this.#disk.zero(offset, length, options.allocate);
    if (pending !== undefined || options.fua) return this.#finish(pending, options.fua);
  }

  trim(offset: number, length: number, options: WriteOptions): boolean | Promise<boolean> {
    this.#checkRange(offset, length);
    this.#checkMutation(options.fua);
    const punched = this.#disk.punch(offset, length);
    if (typeof punched === 'boolean' && !(punched && options.fua)) return punched;
    return this.#inFlight.during(this.#finishTrim(punched, options.fua));
  }

  flush(): Promise<void> {
    return this.#inFlight.during(this.#sync());
  }

  cache(offset: number, length: number): void {
    this.#checkRange(offset, length);
    this.#disk.readAhead(offset, length);
  }

  extents(context: string, offset: number, length: number, countMax: number): Extent[] {
    this.#checkRange(offset, length);
    assert(context === ALLOCATION_CONTEXT && countMax > 0, 'context and count of an extents query');
    const end = offset + length;
    const extents: Extent[] = [];
    let at = offset;
    while (at < end && extents.length < countMax) {
      const dataStart = Math.min(this.#disk.seekData(at), end);
      if (dataStart > at) {
        extents.push({ length: dataStart - at, flags: EXTENT_HOLE | EXTENT_ZERO });
        at = dataStart;
        continue;
      }
      const holeStart = Math.min(this.#disk.seekHole(at), end);
      // Punched between the two questions, from another process: the byte was data a moment ago.
      const dataEnd = Math.max(holeStart, at + 1);
      extents.push({ length: dataEnd - at, flags: 0 });
      at = dataEnd;
    }
    return extents;
  }

  async close(): Promise<void> {
    await this.#inFlight.idle();
    await this.#disk.close();
  }

  #checkRange(offset: number, length: number): void {
    assert(offset >= 0 && length > 0 && offset + length <= this.size, 'range of a request inside the volume');
  }

  #checkMutation(fua: boolean): void {
    if (this.readOnly) throw new Failure('not-permitted', 'the volume is read-only');
    if (fua && this.#syncFailure !== undefined) throw this.#notDurable();
  }

  #finish(pending: void | Promise<void>, fua: boolean): Promise<void> {
    return this.#inFlight.during(fua ? this.#thenSync(pending) : pending!);
  }

  async #thenSync(pending: void | Promise<void>): Promise<void> {
    await pending;
    await this.#sync();
  }

  async #finishTrim(pending: boolean | Promise<boolean>, fua: boolean): Promise<boolean> {
    const punched = await pending;
    if (punched && fua) await this.#sync();
    return punched;
  }

  async #sync(): Promise<void> {
    if (this.#syncFailure === undefined && !this.readOnly) {
      try {
        await this.#disk.sync();
      } catch (error) {
        this.#syncFailure ??= error instanceof Error ? error : new Error(String(error));
      }
    }
    if (this.#syncFailure !== undefined) throw this.#notDurable();
  }

  #notDurable(): Failure {
    return new Failure('io-error', `a sync of ${this.#disk.path} failed: what was written may be lost`, {
      cause: this.#syncFailure,
    });
  }
}
