/**
 * The marks of one mirror: which regions of the disk may differ from its *view*, the image seen through the staged run
 * that it receives, if any. What survives a crash is the dirty map, which holds these and more.
 *
 * Invariants:
 * - A byte that may differ from the view of a mirror that stands at or after `clearedThrough` lies in a marked region or
 *   under an operation in the backlog.
 * - A mark set while a pass runs survives the pass: only marks of the pass's snapshot are cleared by it.
 * - What is cleared for good moves `clearedThrough` and `checkpoint` forward: a mirror whose image is older than that
 *   (restored from a backup, say) cannot use the marks.
 */
import { assert } from '../base/assert.ts';
import { Bitmap } from '../base/bitmap.ts';
import { MIB } from '../base/units.ts';

/** Regions are as small as this, and larger only where there would be more than REGION_COUNT_MAX of them. */
export const REGION_SIZE_MIN = MIB;
const REGION_COUNT_MAX = 2 ** 20;

/** Bytes of a region for a disk of `size` bytes: a power of two. */
export function regionSizeFor(size: number): number {
  let regionSize = REGION_SIZE_MIN;
  while (size / regionSize > REGION_COUNT_MAX) regionSize *= 2;
  return regionSize;
}

/** A contiguous range of marked regions, cut at the end of the disk. */
export interface MarkedRange {
  readonly offset: number;
  readonly length: number;
}

export class Marks {
  readonly size: number;
  readonly regionSize: number;
  readonly #marked: Bitmap;
  /** Regions that the local disk could not read: they may differ. A session does not rescan for their sake. */
  readonly #unreadable: Bitmap;
  /** Regions marked again since the pass began; undefined while no pass runs. */
  #fresh: Bitmap | undefined;
  /** Nothing is covered before a session or a clean stop has said from where. */
  #clearedThrough = Number.POSITIVE_INFINITY;
  #checkpoint = 0;

  /** `regionSize`: a power of two; the dirty map's. */
  constructor(size: number, regionSize: number = regionSizeFor(size)) {
    this.size = size;
    this.regionSize = regionSize;
    this.#marked = new Bitmap(Math.ceil(size / this.regionSize));
    this.#unreadable = new Bitmap(this.#marked.length);
  }

  /** Marked regions. */
  get count(): number {
    return this.#marked.count;
  }

  get regionCount(): number {
    return this.#marked.length;
  }

  /** Bytes in marked regions. */
  get markedSize(): number {
    return this.#sizeOf(this.#marked);
  }

  /** Bytes in regions marked again since the pass began: for the next one. */
  get remarkedSize(): number {
    return this.#fresh === undefined ? 0 : this.#sizeOf(this.#fresh);
  }

  /** The highest checkpoint at which a mark was cleared for good. */
  get checkpoint(): number {
    return this.#checkpoint;
  }

  /** Marks every region that the range touches. */
  mark(offset: number, length: number): void {
    assert(offset >= 0 && length > 0 && offset + length <= this.size, 'mark inside the disk');
    const last = Math.floor((offset + length - 1) / this.regionSize);
    for (let index = Math.floor(offset / this.regionSize); index <= last; index += 1) {
      this.#marked.set(index);
      this.#fresh?.set(index);
    }
  }

  /**
   * The local disk cannot read this range: shown, but no reason for another rescan, which would fail likewise. The next
   * pass that there is for any other reason looks at it again.
   */
  markUnreadable(offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / this.regionSize);
    for (let index = Math.floor(offset / this.regionSize); index <= last; index += 1) this.#unreadable.set(index);
  }

  /** Bytes in regions that the local disk could not read. */
  get unreadableSize(): number {
    return this.#sizeOf(this.#unreadable);
  }

  /** Marks one region. */
  markRegion(index: number): void {
    this.#marked.set(index);
    this.#fresh?.set(index);
  }

  /** True when the region is marked, or cannot be read here. */
  holds(index: number): boolean {
    return this.#marked.get(index) || this.#unreadable.get(index);
  }

  markAll(): void {
    this.#marked.fill();
    this.#fresh?.fill();
  }

  /** The first marked range at or after `offset`, at most `lengthMax` bytes long. */
  nextMarked(offset: number, lengthMax: number): MarkedRange | undefined {
    return this.nextOf(this.#marked, offset, lengthMax);
  }

  /** The same for a snapshot. */
  nextOf(regions: Bitmap, offset: number, lengthMax: number): MarkedRange | undefined {
    if (offset >= this.size) return undefined;
    let index = regions.nextSet(Math.floor(offset / this.regionSize));
    if (index < 0) return undefined;
    const start = Math.max(offset, index * this.regionSize);
    while (index + 1 < regions.length && (index + 1) * this.regionSize - start < lengthMax && regions.get(index + 1)) {
      index += 1;
    }
    const end = Math.min((index + 1) * this.regionSize, start + lengthMax, this.size);
    return { offset: start, length: end - start };
  }

  /**
   * A pass begins: marks set from now on survive it. Returns the snapshot of what it has to compare, what could not be
   * read before included: so a pass always counts all of it, and finds out what can be read again.
   */
  beginPass(): Bitmap {
    for (let index = this.#unreadable.nextSet(0); index >= 0; index = this.#unreadable.nextSet(index)) {
      this.#unreadable.clear(index);
      this.#marked.set(index);
    }
    this.#fresh = new Bitmap(this.#marked.length);
    return this.#marked.copy();
  }

  /**
   * The pass has compared [from, end) of its snapshot, in order, and the mirror holds the outcome durably in its view.
   * Regions that end in the range are cleared, except those marked again since the pass began; `cleared` sees each. After
   * the pass has ended nothing is cleared: what was marked again is no longer known.
   */
  clearThrough(from: number, end: number, cleared: (index: number) => void): void {
    if (this.#fresh === undefined) return;
    for (let index = Math.floor(from / this.regionSize); index < this.#marked.length; index += 1) {
      if (Math.min((index + 1) * this.regionSize, this.size) > end) break;
      if (!this.#fresh.get(index) && this.#marked.clear(index)) cleared(index);
    }
  }

  /** A pass ended, whether complete or not. */
  endPass(): void {
    this.#fresh = undefined;
  }

  /** What was cleared, or left the window, up to here is in the image itself: an older image cannot use these marks. */
  settled(sequence: number, checkpoint: number): void {
    this.#clearedThrough = Math.max(this.#clearedThrough, sequence);
    this.#checkpoint = Math.max(this.#checkpoint, checkpoint);
  }

  /** True when marks and backlog together cover every difference to an image at that position. */
  coverFrom(sequence: number, checkpoint: number): boolean {
    return sequence >= this.#clearedThrough && checkpoint >= this.#checkpoint;
  }

  /** Marks and backlog cover every difference to an image at that position from now on. */
  startAt(sequence: number, checkpoint: number): void {
    this.#clearedThrough = sequence;
    this.#checkpoint = checkpoint;
  }

  /** Bytes in regions that are set: the last one may be short. */
  #sizeOf(regions: Bitmap): number {
    const missing = regions.length * this.regionSize - this.size;
    return regions.count * this.regionSize - (regions.get(regions.length - 1) ? missing : 0);
  }
}
