/**
 * The replicating layer: a volume whose every mutation also enters the stream to the mirrors.
 *
 * A mutation holds its range from before it touches the local disk until it has its sequence and stands in the stream,
 * so overlapping mutations reach the mirror in the order in which they took effect here. One that the disk finishes at
 * once never enters the lock: nothing can come in between. While it holds its range the ledger admits it: what the next
 * start must know of it is durable before it touches the disk, and no mark of the range is cleared.
 *
 * A mutation that fails locally is answered with its error and not forwarded; what its range really holds now is read
 * back under the lock and forwarded as an operation of its own.
 *
 * A barrier enters the stream when the local sync begins that answers a FLUSH or FUA. Those that arrive during it share the
 * next one, and its barrier: nothing that waits for their answers can have been written by then. So a mirror that syncs at
 * every barrier does not sync more often than this side.
 *
 * What the mode demands of the mirror is waited for last: nothing is locked then, the local disk has done its part, and
 * nobody but the client waits. In `async` there is nothing to wait for.
 */
import { assert } from '../base/assert.ts';
import { isFailure } from '../base/failure.ts';
import { InFlight } from '../base/in-flight.ts';
import { SharedCall } from '../base/shared-call.ts';
import { MIB } from '../base/units.ts';
import {
  type Extent,
  UNREPLICATED_CONTEXT,
  type Volume,
  type WriteOptions,
  type ZeroOptions,
} from '../volume/volume.ts';
import type { Agreement } from './agreement.ts';
import type { ClientLoad } from './client-load.ts';
import type { Ledger } from './ledger.ts';
import type { LocalDisk } from './local-disk.ts';
import { runsOfZeroes } from './runs-of-zeroes.ts';

const WITHOUT_FUA: WriteOptions = { fua: false };
/** What a failed mutation left behind is read back in pieces of this size. */
const READ_BACK_SIZE = MIB;
/** After a failure on more than this (zeroing half a disk, say) a rescan of the range is the better repair. */
const READ_BACK_SIZE_MAX = 64 * MIB;

export class ReplicatingVolume implements Volume {
  readonly #local: LocalDisk;
  readonly #ledger: Ledger;
  readonly #agreement: Agreement;
  readonly #load: ClientLoad;
  readonly contexts: readonly string[];
  /** What is under way on this side: mutations, their repairs, and syncs. Not what waits for the mirror alone. */
  readonly #inFlight = new InFlight();
  /** Syncs that clients have asked for. */
  readonly #epochs = new SharedCall(() => {
    this.#ledger.endEpoch();
    return this.#syncLocal();
  });

  constructor(local: LocalDisk, ledger: Ledger, agreement: Agreement, load: ClientLoad) {
    this.#local = local;
    this.#ledger = ledger;
    this.#agreement = agreement;
    this.#load = load;
    this.contexts = [...local.volume.contexts, UNREPLICATED_CONTEXT];
  }

  get size(): number {
    return this.#local.volume.size;
  }

  get readOnly(): boolean {
    return this.#local.volume.readOnly;
  }

  read(target: Buffer, offset: number): void | Promise<void> {
    return this.#load.request(this.#local.volume.read(target, offset));
  }

  write(offset: number, data: Uint8Array, options: WriteOptions): void | Promise<void> {
    return this.#load.request(this.#write(offset, data, options));
  }

  zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    return this.#load.request(
      this.#agreed(
        this.#inTurn(
          offset,
          length,
          () => this.#local.volume.zero(offset, length, { ...options, fua: false }),
          () => this.#ledger.zeroed(offset, length, 'zeroes'),
          options.fua,
        ),
        options.fua,
      ),
    );
  }

  trim(offset: number, length: number, options: WriteOptions): Promise<boolean> {
    let punched = false;
    const done = this.#inTurn(
      offset,
      length,
      async () => {
        punched = await this.#local.volume.trim(offset, length, WITHOUT_FUA);
      },
      // Where nothing changed there is nothing to be durable.
      () => (punched ? this.#ledger.zeroed(offset, length, 'trims') : undefined),
      options.fua,
    );
    return this.#load.request(this.#agreed(done, options.fua).then(() => punched));
  }

  flush(): Promise<void> {
    this.#ledger.flushed();
    return this.#load.request(this.#durable(this.#ledger.sequence));
  }

  cache(offset: number, length: number): void {
    this.#local.volume.cache(offset, length);
  }

  extents(context: string, offset: number, length: number, countMax: number): Extent[] | Promise<Extent[]> {
    if (context === UNREPLICATED_CONTEXT) return this.#ledger.unreplicated(offset, length, countMax);
    return this.#local.volume.extents(context, offset, length, countMax);
  }

  /** Makes the local disk durable for our own sake: no client asked, and no epoch ends. Failures: those of `flush`. */
  syncLocal(): Promise<void> {
    return this.#inFlight.during(this.#syncLocal());
  }

  /** Resolves when nothing is under way on this side; requests may still wait for the mirror. */
  idle(): Promise<void> {
    return this.#inFlight.idle();
  }

  /** The primary closes what lies underneath, after the mirrors have been told. */
  close(): Promise<void> {
    return this.idle();
  }

  #write(offset: number, data: Uint8Array, options: WriteOptions): void | Promise<void> {
    const fua = options.fua;
    if (!this.#ledger.admits(offset, data.length) || !this.#local.lock.isFree(offset, data.length)) {
      return this.#agreed(
        this.#inTurn(
          offset,
          data.length,
          () => this.#local.volume.write(offset, data, WITHOUT_FUA),
          () => this.#ledger.wrote(offset, data),
          fua,
        ),
        fua,
      );
    }
    let pending: void | Promise<void>;
    try {
      pending = this.#local.volume.write(offset, data, WITHOUT_FUA);
    } catch (error) {
      return this.#agreed(
        this.#inTurn(offset, data.length, () => rethrow(error), noEffect, false),
        false,
      );
    }
    if (pending === undefined) {
      const sequence = this.#ledger.wrote(offset, data);
      return fua ? this.#durable(sequence) : this.#agreement.written(sequence);
    }
    const running = pending;
    return this.#agreed(
      this.#inTurn(
        offset,
        data.length,
        () => running,
        () => this.#ledger.wrote(offset, data),
        fua,
      ),
      fua,
    );
  }

  /**
   * What the disk holds in a range enters the stream once more, as an operation of its own: a mirror that holds something
   * else there is repaired by it, in order with what clients write, and the range is marked until it is durable there.
   * At most READ_BACK_SIZE bytes. Resolves with the sequence at which the mirror holds it. Failures: `io-error` when it
   * cannot be read (nothing is sent), `shutting-down`, those of the marks.
   */
  restate(offset: number, length: number): Promise<number> {
    assert(length <= READ_BACK_SIZE, 'restated in small pieces');
    return this.#inFlight.during(this.#restate(offset, length));
  }

  #syncLocal(): Promise<void> {
    return this.#ledger.sync(() => this.#local.volume.flush());
  }

  /** A FLUSH or FUA that covers everything up to `sequence`: both disks sync at the same time. */
  async #durable(sequence: number): Promise<void> {
    await this.#inFlight.during(this.#epochs.run());
    const agreed = this.#agreement.durable(sequence);
    if (agreed !== undefined) await agreed;
  }

  /** Waits for what is done on this side, then for the mirror as far as the mode demands. */
  async #agreed(done: Promise<number | undefined>, fua: boolean): Promise<void> {
    const sequence = await this.#inFlight.during(done);
    if (sequence === undefined) return;
    const agreed = fua ? this.#agreement.durable(sequence) : this.#agreement.written(sequence);
    if (agreed !== undefined) await agreed;
  }

  /**
   * Waits for the range, mutates, and enters the outcome into the stream before the range is free again. With `fua`
   * the range is free during the sync: others need not wait for the platter. Resolves with the sequence, undefined when
   * nothing changed.
   */
  async #inTurn(
    offset: number,
    length: number,
    mutate: () => void | Promise<void>,
    enter: () => number | undefined,
    fua: boolean,
  ): Promise<number | undefined> {
    let sequence: number | undefined;
    const hold = this.#local.lock.acquire(offset, length);
    try {
      if (hold.ready !== undefined) await hold.ready;
      if (!this.#ledger.admits(offset, length)) await this.#ledger.admit(offset, length);
      try {
        await mutate();
      } catch (error) {
        // Refused before anything was touched: nothing to repair.
        if (!isFailure(error, 'not-supported') && !isFailure(error, 'not-permitted'))
          await this.#readBack(offset, length);
        throw error;
      }
      sequence = enter();
    } finally {
      this.#local.lock.release(hold);
    }
    if (fua && sequence !== undefined) await this.#epochs.run();
    return sequence;
  }

  /** A mutation failed somewhere in the range, which is locked: forwards what the disk holds there now. */
  async #readBack(offset: number, length: number): Promise<void> {
    if (length > READ_BACK_SIZE_MAX) {
      this.#ledger.uncertain(offset, length);
      return;
    }
    for (let at = offset; at < offset + length; at += READ_BACK_SIZE) {
      const data = Buffer.allocUnsafeSlow(Math.min(READ_BACK_SIZE, offset + length - at));
      try {
        await this.#local.volume.read(data, at);
      } catch (error) {
        if (!isFailure(error)) throw error;
        this.#ledger.unreadable(at, data.length);
        continue;
      }
      this.#forward(at, data);
    }
  }

  async #restate(offset: number, length: number): Promise<number> {
    const hold = this.#local.lock.acquire(offset, length);
    try {
      if (hold.ready !== undefined) await hold.ready;
      if (!this.#ledger.admits(offset, length)) await this.#ledger.admit(offset, length);
      const data = Buffer.allocUnsafeSlow(length);
      await this.#local.volume.read(data, offset);
      return this.#forward(offset, data);
    } finally {
      this.#local.lock.release(hold);
    }
  }

  /** What the disk holds, locked, as operations. Returns the sequence of the last. */
  #forward(offset: number, data: Buffer): number {
    for (const run of runsOfZeroes(data, offset)) {
      if (run.zero) this.#ledger.zeroed(offset + run.from, run.to - run.from, 'zeroes');
      else this.#ledger.wrote(offset + run.from, data.subarray(run.from, run.to));
    }
    return this.#ledger.sequence;
  }
}

function rethrow(error: unknown): never {
  throw error;
}

function noEffect(): undefined {
  // The mutation failed: #inTurn never gets here.
}
