/**
 * One staged run of a mirror: `NAME.img.twin/staging/`, with the file `data`, in which the bytes of an overlay lie, and
 * `log`, which says which of them count (staging-log.ts). The log alone decides: without it there is no staged run.
 *
 * The life of a run: `create`; writes to `overlay`, now and then `sync`; `commit`; its owner reserves space, copies the
 * overlay into the image, syncs the image and records the position; `forget`. Or `remove` before the commit.
 *
 * What survives a crash, as `open` finds it:
 * - the ranges of the last `sync` that returned, or of one that was under way, with that position. Bytes rewritten since
 *   then are the old ones, the new ones or a mixture: whoever goes on must write again what came after the position;
 * - after `commit` has returned: the commit record and every byte. While it is under way: this or the above;
 * - once `remove` or `forget` has returned: nothing. Until it has, all of the above.
 *
 * Invariants:
 * - the log names only ranges whose data was synced before;
 * - a committed log does not change any more;
 * - after a failure in `sync` or `commit` the object is spoiled: pages may be lost, or the commit record may be durable
 *   though it was not said so. Then it can be removed, or closed and opened again: what is opened was read from the medium.
 *
 * What its owner must keep to:
 * - not a byte of the image changes from `create` on until `commit` has returned or `remove` has: a run that is still
 *   there would be resumed, or copied, over an image that it knows nothing of. This holds when `remove` has failed, too;
 * - between `commit` and the first byte of the copy the owner's own state should say, durably, that it commits. Found
 *   so at a start without a committed run here, the image is half new (somebody has deleted this directory);
 * - a committed run found at a start is copied (again), unless the owner's state says, in the same record as the new
 *   position, that the run of that id has been: then it is removed without being copied. Hence an id is never used for
 *   two runs: one that has been copied must not be begun again, empty.
 *
 * Rejected: the commit record as one more entry of the log (a log spoiled in front of it would look like a run that did
 * not complete); removing data before the log (what is left would look like a run).
 */
import { dirname } from 'node:path';
import { assert } from '../base/assert.ts';
import { Failure, isFailure } from '../base/failure.ts';
import { alignUp, KIB } from '../base/units.ts';
import type { Disk, FileSystem } from '../io/disk.ts';
import { Overlay } from './overlay.ts';
import {
  DATA_NAME,
  LOG_FACTOR,
  LOG_NAME,
  readAnew,
  readLog,
  removeFiles,
  removeLog,
  removeRest,
} from './staging-files.ts';
import {
  batchSize,
  type Chained,
  type CommitRecord,
  type DecodedLog,
  ENTRY_SIZE,
  encodeBatch,
  encodeCommit,
  encodeHeader,
  type LogHeader,
  type StagedPosition,
  type StagingBase,
} from './staging-log.ts';

/** A log is rewritten when it is larger than this, and than LOG_FACTOR times what its live ranges take. */
const LOG_SIZE_LOW = 256 * KIB;
/** The log's file grows in such steps. */
const LOG_STEP_SIZE = 64 * KIB;

/** A staged run, looked at from outside. */
export interface StagingSummary {
  readonly id: Buffer;
  readonly base: StagingBase;
  /** Undefined: it holds nothing yet. */
  readonly position: StagedPosition | undefined;
  readonly committed: CommitRecord | undefined;
}

export class Staging {
  readonly id: Buffer;
  readonly base: StagingBase;
  /** Bytes of the disk: the image is at most as large, and becomes so with the copy. */
  readonly size: number;
  readonly overlay: Overlay;
  readonly #files: FileSystem;
  readonly #directory: string;
  readonly #data: Disk;
  readonly #header: LogHeader;
  readonly #logSizeLow: number;
  #log: Disk;
  /**
   * Bytes of the log that count, and the CRC with which the next batch begins. What a crash has left behind them is
   * overwritten by and by; it does not continue the CRC.
   */
  #logEnd: number;
  #logCrc: number;
  #position: StagedPosition;
  #committed: CommitRecord | undefined;
  #spoiled: Failure | undefined;
  #dataLost = false;
  #busy = false;

  private constructor(
    files: FileSystem,
    directory: string,
    opened: { readonly data: Disk; readonly log: Disk; readonly overlay: Overlay },
    contents: DecodedLog,
    logSizeLow: number,
  ) {
    this.#logSizeLow = logSizeLow;
    this.#files = files;
    this.#directory = directory;
    this.#data = opened.data;
    this.#log = opened.log;
    this.overlay = opened.overlay;
    this.#header = { id: contents.id, base: contents.base, size: contents.size };
    this.id = contents.id;
    this.base = contents.base;
    this.size = contents.size;
    this.#logEnd = contents.end;
    this.#logCrc = contents.crc;
    this.#position = contents.batches.at(-1)?.position ?? { sequence: 0, checkpoint: 0 };
    this.#committed = contents.committed;
  }

  /**
   * Begins an empty run; removes one that is there, durably. Itself it is worth nothing before the first `sync`.
   * `size`: bytes of the disk; `sizeMax`: bytes that the run may take. `logSizeLow` is for tests.
   * Failures: `state-unwritable`, `no-space`, `io-error`: nothing, or an empty run, is there then.
   */
  static async create(
    files: FileSystem,
    directory: string,
    id: Buffer,
    size: number,
    sizeMax: number,
    base: StagingBase,
    logSizeLow: number = LOG_SIZE_LOW,
  ): Promise<Staging> {
    await files.makeDirectory(directory);
    // Where it was there already, who made it may have failed to make its name durable.
    await files.syncDirectory(dirname(directory));
    await removeFiles(files, directory);
    const header: LogHeader = {
      id: Buffer.from(id),
      base: { run: Buffer.from(base.run), sequence: base.sequence },
      size,
    };
    const data = await files.openState(`${directory}/${DATA_NAME}`);
    try {
      await data.resize(size);
      const { bytes, crc } = encodeHeader(header, 'STGO');
      // Makes the name of the data file durable as well: it is the same directory.
      await files.replaceFile(`${directory}/${LOG_NAME}`, bytes);
      const log = await files.openState(`${directory}/${LOG_NAME}`);
      const contents = { ...header, batches: [], committed: undefined, end: bytes.length, crc };
      return new Staging(files, directory, { data, log, overlay: new Overlay(data, sizeMax) }, contents, logSizeLow);
    } catch (error) {
      await data.close();
      throw error;
    }
  }

  /**
   * Opens the run that is there, as it was at its last `sync` or `commit`. Undefined when there is none, or one that is
   * uncommitted and of no use, which is removed: without any position, for a smaller disk, or with its data gone.
   * `size`: bytes of the image. All of it is read from the medium, whatever a failed sync had left in the cache.
   * Failures: `state-corrupt` when the log is damaged in its header, or is committed and damaged, or is committed and
   * does not fit the image or its data: the image may be half new; and those of the disk.
   */
  static async open(
    files: FileSystem,
    directory: string,
    size: number,
    sizeMax: number,
    logSizeLow: number = LOG_SIZE_LOW,
  ): Promise<Staging | undefined> {
    const path = `${directory}/${LOG_NAME}`;
    if ((await files.exists(path)) === undefined) {
      // Data without a log is what an interrupted removal leaves.
      await Staging.discard(files, directory);
      return undefined;
    }
    // Who put the log there may have died, or failed, before its name was durable: a commit that the next loss of power
    // takes back must not be copied.
    await files.syncDirectory(directory);
    const log = await files.openState(path);
    let data: Disk | undefined;
    try {
      await readAnew(log);
      const contents = await readLog(files, path);
      data = await files.openState(`${directory}/${DATA_NAME}`);
      const fits = contents.size >= size && data.size === contents.size;
      if (contents.committed === undefined && (!fits || contents.batches.length === 0)) {
        await data.close();
        await log.close();
        await removeFiles(files, directory);
        return undefined;
      }
      if (!fits) {
        throw new Failure(
          'state-corrupt',
          `the committed run in ${directory} is of ${contents.size} bytes with ${data.size} of data, the image has ${size}`,
        );
      }
      const overlay = await restored(data, contents, sizeMax);
      return new Staging(files, directory, { data, log, overlay }, contents, logSizeLow);
    } catch (error) {
      await data?.close();
      await log.close();
      throw error;
    }
  }

  /** What a run that is there says of itself; nothing is changed. Undefined when there is none. Failures: `state-corrupt`. */
  static async look(files: FileSystem, directory: string): Promise<StagingSummary | undefined> {
    const path = `${directory}/${LOG_NAME}`;
    if ((await files.exists(path)) === undefined) return undefined;
    const contents = await readLog(files, path);
    const { id, base, committed } = contents;
    return { id, base, committed, position: contents.batches.at(-1)?.position };
  }

  /** Removes what is there without looking at it, as `remove` does. */
  static async discard(files: FileSystem, directory: string): Promise<void> {
    if ((await files.exists(directory)) === 'directory') await removeFiles(files, directory);
  }

  /** The file with the bytes of the overlay, at the offsets of the disk: to be read. */
  get data(): Disk {
    return this.#data;
  }

  /** The last durable position; both zero before the first `sync`. */
  get position(): StagedPosition {
    return this.#position;
  }

  /** Set when the run is durably complete: every byte is there and waits to be copied. */
  get committed(): CommitRecord | undefined {
    return this.#committed;
  }

  /** Set after a failure in `sync` or `commit`: nothing but `close` and `remove` may be called. */
  get spoiled(): Failure | undefined {
    return this.#spoiled;
  }

  /**
   * True when it was the data that could not be synced, be it for lack of space: what the overlay reads may be gone from
   * one moment to the next, so it must not be copied anywhere. Otherwise a spoiled run still reads as it was written.
   */
  get dataLost(): boolean {
    return this.#dataLost;
  }

  /**
   * Makes durable what has been written to the overlay before the call, then writes down that the view is at
   * `position`: durable on return. Writes may go on meanwhile; calls come one at a time.
   * Failures: `no-space`, `io-error`, `state-unwritable`; spoiled afterwards.
   */
  sync(position: StagedPosition): Promise<void> {
    return this.#step(async () => {
      // Before the data is synced: what comes later is not known to be on the medium when the batch says so.
      const changes = this.overlay.takeChanges();
      const liveSize = this.overlay.rangeCount * ENTRY_SIZE;
      const appendedSize = this.#logEnd + batchSize(changes.length);
      if (appendedSize > Math.max(this.#logSizeLow, LOG_FACTOR * liveSize)) {
        const whole = this.#encodeWhole('STGO', position);
        await this.#syncData();
        await this.#replaceLog(whole.bytes);
        this.#logEnd = whole.bytes.length;
        this.#logCrc = whole.crc;
      } else {
        const batch = encodeBatch(position, changes.length, changes, this.#logCrc);
        await this.#syncData();
        await this.#append(batch);
      }
      this.#position = position;
    });
  }

  /**
   * Makes the run complete: all data durable, then the record, durable on return. Nothing may be written to the overlay
   * from the call on. The buffers of the record are kept.
   * Failures: as of `sync`; spoiled afterwards. The record may be durable all the same: no byte of the image may change
   * before this was removed, or opened again to see.
   */
  commit(record: CommitRecord): Promise<void> {
    return this.#step(async () => {
      const position = { sequence: record.sequence, checkpoint: record.checkpoint };
      const whole = this.#encodeWhole('STGC', position);
      const log = Buffer.concat([whole.bytes, encodeCommit(record, whole.crc)]);
      await this.#syncData();
      await this.#replaceLog(log);
      this.#position = position;
      this.#committed = record;
    });
  }

  /**
   * Closes and removes the files; durable on return. A crash meanwhile leaves the run as it was, or none. No call may be
   * under way. Failures: `state-unwritable`: the run may still be there, call again.
   */
  async remove(): Promise<void> {
    const { cleared } = await this.forget();
    await cleared;
  }

  /**
   * As `remove`, but on return the run is gone, durably, and its space is given back once `cleared` resolves, which for
   * scattered data takes a while. Until then no other run may begin in the directory. Where `cleared` rejects, what is left
   * means nothing, and goes with the next run.
   */
  async forget(): Promise<{ readonly cleared: Promise<void> }> {
    await this.close();
    await removeLog(this.#files, this.#directory);
    return { cleared: removeRest(this.#files, this.#directory) };
  }

  /** Lets go of the files; what is there stays, as of the last `sync`. Idempotent. */
  async close(): Promise<void> {
    assert(!this.#busy, 'nothing is under way in a staged run that is closed');
    await this.#data.close();
    await this.#log.close();
  }

  async #step(work: () => Promise<void>): Promise<void> {
    if (this.#spoiled !== undefined) throw this.#spoiled;
    assert(!this.#busy, 'steps of a staged run come one at a time');
    assert(this.#committed === undefined, 'a committed run does not change');
    this.#busy = true;
    try {
      await work();
    } catch (error) {
      if (isFailure(error)) this.#spoiled = error;
      throw error;
    } finally {
      this.#busy = false;
    }
  }

  /** Header and one batch with every range there is. */
  #encodeWhole(kind: 'STGO' | 'STGC', position: StagedPosition): Chained {
    const header = encodeHeader(this.#header, kind);
    const batch = encodeBatch(position, this.overlay.rangeCount, this.overlay.ranges(), header.crc);
    return { bytes: Buffer.concat([header.bytes, batch.bytes]), crc: batch.crc };
  }

  async #syncData(): Promise<void> {
    try {
      await this.#data.sync();
    } catch (error) {
      this.#dataLost = true;
      throw error;
    }
  }

  async #append(batch: Chained): Promise<void> {
    const end = this.#logEnd + batch.bytes.length;
    if (end > this.#log.size) await this.#log.resize(alignUp(end, LOG_STEP_SIZE));
    await this.#log.write(batch.bytes, this.#logEnd);
    await this.#log.sync();
    this.#logEnd = end;
    this.#logCrc = batch.crc;
  }

  async #replaceLog(bytes: Buffer): Promise<void> {
    const path = `${this.#directory}/${LOG_NAME}`;
    await this.#files.replaceFile(path, bytes);
    const before = this.#log;
    this.#log = await this.#files.openState(path);
    await before.close();
  }
}

/** The overlay that a log describes, read from the medium. */
async function restored(data: Disk, contents: DecodedLog, sizeMax: number): Promise<Overlay> {
  await readAnew(data);
  const overlay = new Overlay(data, sizeMax);
  for (const { ranges } of contents.batches) for (const range of ranges) overlay.restore(range);
  if (contents.committed === undefined) await overlay.reclaim();
  return overlay;
}
