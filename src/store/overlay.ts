/**
 * Newer content over a disk: ranges of bytes, each with data or all zero, that lie over what is below. A staged run of a
 * mirror is one, and so are the merged parts of a primary's spool.
 *
 * What it keeps: in memory the map of the ranges (range-map.ts); in a sparse file, at the same offsets as on the disk,
 * the bytes of the ranges with data. Rewriting a block takes no more room than writing it once.
 *
 * Invariants:
 * - a range with data is in the map only when its bytes are in the file;
 * - what is covered stays covered until `clear`;
 * - blocks of the file without any data are given back, where the store can punch. A block with some takes its whole
 *   size: the file takes at most `dataSize` and two blocks for each range.
 *
 * Writes come one at a time from one caller (asserted). Reads may run beside them and see the old or the new content of
 * what is being written, or a mixture.
 *
 * Survives a crash: nothing by itself. Who syncs the file and keeps what `takeChanges` gave can `restore` the ranges;
 * bytes rewritten since then are the old ones, the new ones or a mixture.
 *
 * Rejected: appending data in the order of arrival (a hot set rewritten for hours would fill the disk).
 */
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import { alignDown, alignUp, formatSize, MIB } from '../base/units.ts';
import type { Disk } from '../io/disk.ts';
import { type OverlayRange, RangeMap } from './range-map.ts';

export type { OverlayRange } from './range-map.ts';

/** Ranges at most. One takes about 100 bytes of memory, and as much again while it has changed: 200 MiB in all. */
export const RANGES_MAX = 1_048_576;
/** Unit in which file systems give space back. */
const BLOCK_SIZE = 4096;
/** Bytes copied at a time; and bytes, or ranges, copied between two reports of progress. */
const COPY_SIZE = MIB;
const COPY_RANGES = 32;

export class Overlay {
  readonly #file: Disk;
  readonly #sizeMax: number;
  readonly #rangesMax: number;
  #map: RangeMap;
  #busy = false;

  /**
   * `file`: a sparse file that has been resized to the size of the disk, used by nobody else, closed by its opener.
   * `sizeMax`: bytes of data at most. `rangesMax` is for tests.
   */
  constructor(file: Disk, sizeMax: number, rangesMax: number = RANGES_MAX) {
    this.#file = file;
    this.#sizeMax = sizeMax;
    this.#rangesMax = rangesMax;
    this.#map = new RangeMap(rangesMax);
  }

  /** Bytes of the ranges with data. */
  get dataSize(): number {
    return this.#map.dataSize;
  }

  /** Bytes of all ranges. */
  get coveredSize(): number {
    return this.#map.coveredSize;
  }

  get rangeCount(): number {
    return this.#map.count;
  }

  get sizeMax(): number {
    return this.#sizeMax;
  }

  /**
   * Puts `data` over the disk. The buffer belongs to the overlay until the call has finished. Not durable on return.
   * Failures: `staging-full` when it would pass a limit: nothing has changed then; those of the file (`no-space`,
   * `io-error`): the ranges are as before, but data that lay there may be in part the new one.
   */
  write(offset: number, data: Uint8Array): void | Promise<void> {
    const end = this.#checked(offset, data.length);
    if (data.length === 0) return;
    this.#checkRoom(offset, end, false);
    const writing = this.#file.write(data, offset);
    if (writing !== undefined) return this.#covered(writing, offset, end);
    this.#map.cover(offset, end, false);
  }

  /**
   * Covers the range with zeroes and gives back the file's space below it. Not durable on return.
   * Failures: `staging-full` when there would be too many ranges: nothing has changed then; those of the file: the
   * range reads as zeroes, but not all space may have been given back.
   */
  zero(offset: number, length: number): void | Promise<void> {
    const end = this.#checked(offset, length);
    if (length === 0) return;
    this.#checkRoom(offset, end, true);
    const held = this.#map.dataWithin(offset, end) > 0;
    // First the map: from here on nobody reads the file there.
    this.#map.cover(offset, end, true);
    if (!held) return;
    // A block shared with a neighbour that has no data in it goes as well.
    const start = this.#map.dataWithin(alignDown(offset, BLOCK_SIZE), offset) === 0 ? alignDown : alignUp;
    const stop = this.#map.dataWithin(end, alignUp(end, BLOCK_SIZE)) === 0 ? alignUp : alignDown;
    const punching = this.#punch(start(offset, BLOCK_SIZE), stop(end, BLOCK_SIZE));
    if (punching !== undefined) return this.#exclusively(punching);
  }

  /** Fills `target` with what a reader of the disk sees at `offset`: the overlay, and `below` where nothing covers it. */
  read(target: Buffer, offset: number, below: Disk): void | Promise<void> {
    for (let done = 0; done < target.length; ) {
      const { kind, end } = this.#map.kindAt(offset + done);
      const piece = target.subarray(done, Math.min(target.length, end - offset));
      const reading = this.#readPiece(piece, offset + done, kind, below);
      done += piece.length;
      if (reading !== undefined) return this.#readOn(reading, target, offset, done, below);
    }
  }

  /** The first range that ends after `offset`, cut to start at or after it. */
  next(offset: number): OverlayRange | undefined {
    return this.#map.next(offset);
  }

  /** All ranges, in order. Nothing may be written while it is gone through. */
  ranges(): IterableIterator<OverlayRange> {
    return this.#map.all();
  }

  /**
   * The ranges, in order of offset, whose kind or coverage has changed since the last call: `restore` of all that was
   * ever taken, in the order of taking, leads to what is covered now. Data rewritten as data is no change. There are at
   * most 2 * RANGES_MAX.
   */
  takeChanges(): OverlayRange[] {
    return this.#map.takeChanges();
  }

  /** At opening: covers a range that `takeChanges` gave, whose data the file holds. No limits apply. */
  restore(range: OverlayRange): void {
    const end = this.#checked(range.offset, range.length);
    if (range.length === 0) return;
    this.#map.cover(range.offset, end, range.zero);
    this.#map.forgetChanges();
  }

  /**
   * At opening, after `restore`: gives back the file's space where there is no data, such as what was written after the
   * last changes that were kept.
   */
  async reclaim(): Promise<void> {
    const { size } = this.#file;
    for (let start = 0; start < size; ) {
      const data = this.#map.nextData(start);
      const end = data === undefined ? size : alignDown(data.start, BLOCK_SIZE);
      const used = this.#file.seekData(start);
      if (used < end) await this.#punch(Math.max(start, alignDown(used, BLOCK_SIZE)), end);
      start = data === undefined ? size : alignUp(data.end, BLOCK_SIZE);
    }
  }

  /** Drops every range and gives the file's space back. No read may run. On failure the overlay is empty all the same. */
  async clear(): Promise<void> {
    this.#checked(0, 0);
    this.#map = new RangeMap(this.#rangesMax);
    const { size } = this.#file;
    await this.#exclusively(this.#file.resize(0).then(() => this.#file.resize(size)));
  }

  /**
   * Reserves space on `target` for all data, so that copying it there cannot fail with `no-space`. `progress` is called
   * between two ranges, and is waited for: where a caller lets others run.
   */
  async reserveIn(target: Disk, progress?: () => void | Promise<void>): Promise<void> {
    for (let data = this.#map.nextData(0); data !== undefined; data = this.#map.nextData(data.end)) {
      const reserving = target.reserve(data.start, data.end - data.start);
      if (reserving !== undefined) await reserving;
      const others = progress?.();
      if (others !== undefined) await others;
    }
  }

  /**
   * Copies every range to the same place on `target`, in order; ranges of zeroes become holes where it can make them.
   * Nothing may be written to the overlay meanwhile. Doing it again does no harm. Not synced on return.
   *
   * `progress` is told now and then how many bytes of ranges are done, and is waited for: where a caller lets others run.
   */
  async copyInto(target: Disk, progress?: (doneSize: number) => void | Promise<void>): Promise<void> {
    const buffer = Buffer.allocUnsafeSlow(COPY_SIZE);
    let doneSize = 0;
    let toldSize = 0;
    let untold = 0;
    let range = this.next(0);
    while (range !== undefined) {
      const length = range.zero ? range.length : Math.min(range.length, COPY_SIZE);
      const copying = range.zero
        ? target.zero(range.offset, length, false)
        : this.#copyData(buffer.subarray(0, length), range.offset, target);
      if (copying !== undefined) await copying;
      range = this.next(range.offset + length);
      doneSize += length;
      untold += 1;
      if (doneSize - toldSize < COPY_SIZE && untold < COPY_RANGES && range !== undefined) continue;
      toldSize = doneSize;
      untold = 0;
      await progress?.(doneSize);
    }
  }

  #copyData(piece: Buffer, offset: number, target: Disk): void | Promise<void> {
    const reading = this.#file.read(piece, offset);
    return reading === undefined ? target.write(piece, offset) : reading.then(() => target.write(piece, offset));
  }

  /** The end of a range that lies on the disk, while nothing else is being written. */
  #checked(offset: number, length: number): number {
    assert(!this.#busy, 'an overlay is written by one caller, one call at a time');
    const end = offset + length;
    assert(offset >= 0 && length >= 0 && end <= this.#file.size, 'a range of an overlay lies on its disk');
    return end;
  }

  /** Throws `staging-full` when covering the range would pass a limit. */
  #checkRoom(start: number, end: number, zero: boolean): void {
    if (!zero) {
      const neededSize = this.dataSize + (end - start) - this.#map.dataWithin(start, end);
      if (neededSize > this.#sizeMax && neededSize > this.dataSize) {
        throw new Failure(
          'staging-full',
          `what is new needs ${neededSize} bytes (${formatSize(neededSize)}) beside the disk and may take ${this.#sizeMax}`,
        );
      }
    }
    // Covering adds at most two: the new range, and the tail of one that it splits.
    if (this.rangeCount + 2 <= this.#rangesMax) return;
    const count = this.#map.countAfter(start, end, zero);
    if (count <= this.#rangesMax || count <= this.rangeCount) return;
    throw new Failure(
      'staging-full',
      `what is new needs ${this.dataSize} bytes (${formatSize(this.dataSize)}) and more beside the disk, in more than ${this.#rangesMax} pieces`,
    );
  }

  async #covered(writing: Promise<void>, start: number, end: number): Promise<void> {
    await this.#exclusively(writing);
    this.#map.cover(start, end, false);
  }

  async #exclusively(work: Promise<unknown>): Promise<void> {
    this.#busy = true;
    try {
      await work;
    } finally {
      this.#busy = false;
    }
  }

  /** The end may lie past the end of the file. Not every store can punch: then the space stays. */
  #punch(start: number, end: number): Promise<unknown> | undefined {
    const length = Math.min(end, this.#file.size) - start;
    if (length <= 0) return undefined;
    const punching = this.#file.punch(start, length);
    return typeof punching === 'boolean' ? undefined : punching;
  }

  #readPiece(target: Buffer, offset: number, kind: 'data' | 'zero' | 'uncovered', below: Disk): void | Promise<void> {
    if (kind === 'uncovered') return below.read(target, offset);
    if (kind === 'data') return this.#file.read(target, offset);
    target.fill(0);
  }

  async #readOn(reading: Promise<void>, target: Buffer, offset: number, from: number, below: Disk): Promise<void> {
    await reading;
    // The map is asked anew for each piece: ranges may have come meanwhile.
    for (let done = from; done < target.length; ) {
      const { kind, end } = this.#map.kindAt(offset + done);
      const piece = target.subarray(done, Math.min(target.length, end - offset));
      await this.#readPiece(piece, offset + done, kind, below);
      done += piece.length;
    }
  }
}
