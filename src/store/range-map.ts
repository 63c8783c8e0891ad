/**
 * Which ranges of bytes of a disk are covered, with data or with zeroes, and which of that has changed since it was
 * last written down. In memory only, no bytes: the index of an Overlay.
 *
 * Invariants:
 * - ranges are disjoint, and two that touch are of different kinds: neighbours of a kind are one range;
 * - `dataSize` is the sum of the lengths of the ranges with data, `count` the number of ranges;
 * - what is covered stays covered;
 * - extents of changes are disjoint, no two touch, and everything in them is covered.
 */
import { assert } from '../base/assert.ts';
import { SegmentIndex, type Span } from '../base/segment-index.ts';

export interface OverlayRange {
  readonly offset: number;
  readonly length: number;
  /** True: all of it is zero. */
  readonly zero: boolean;
}

interface Segment extends Span {
  readonly zero: boolean;
}

export class RangeMap {
  readonly #changesMax: number;
  readonly #ranges = new SegmentIndex<Segment>();
  #count = 0;
  #dataSize = 0;
  #coveredSize = 0;
  /** Extents whose ranges may have changed since `takeChanges`. */
  #changes = new SegmentIndex<Span>();
  #changeCount = 0;
  /** There were too many of them: everything counts as changed. */
  #allChanged = false;

  /** `changesMax`: extents of changes that are kept apart at most. */
  constructor(changesMax: number) {
    this.#changesMax = changesMax;
  }

  get dataSize(): number {
    return this.#dataSize;
  }

  get coveredSize(): number {
    return this.#coveredSize;
  }

  get count(): number {
    return this.#count;
  }

  /** The first range that ends after `offset`, cut to start at or after it. */
  next(offset: number): OverlayRange | undefined {
    const found = this.#ranges.firstEndingAfter(offset);
    return found === undefined ? undefined : cut(found, offset, found.end);
  }

  /** The first range with data that ends after `offset`, whole. */
  nextData(offset: number): Readonly<Span> | undefined {
    let range = this.#ranges.firstEndingAfter(offset);
    while (range?.zero === true) range = this.#ranges.firstEndingAfter(range.end);
    return range;
  }

  /** What the byte at `offset` is, and how far (exclusive) that goes on; Infinity: to the end of the disk. */
  kindAt(offset: number): { readonly kind: 'data' | 'zero' | 'uncovered'; readonly end: number } {
    const range = this.#ranges.firstEndingAfter(offset);
    if (range === undefined) return { kind: 'uncovered', end: Number.POSITIVE_INFINITY };
    if (range.start > offset) return { kind: 'uncovered', end: range.start };
    return { kind: range.zero ? 'zero' : 'data', end: range.end };
  }

  /** Bytes of data from `start` to `end`. */
  dataWithin(start: number, end: number): number {
    let size = 0;
    let range = this.#ranges.firstEndingAfter(start);
    for (; range !== undefined && range.start < end; range = this.#ranges.firstEndingAfter(range.end)) {
      if (!range.zero) size += Math.min(range.end, end) - Math.max(range.start, start);
    }
    return size;
  }

  /** How many ranges there would be after `cover`. */
  countAfter(start: number, end: number, zero: boolean): number {
    let count = this.#count + 1;
    let range = this.#ranges.firstEndingAfter(Math.max(0, start - 1));
    for (; range !== undefined && range.start <= end; range = this.#ranges.firstEndingAfter(range.end)) {
      if (range.zero === zero) count -= 1;
      else if (range.end > start && range.start < end) {
        count += (range.start < start ? 1 : 0) + (range.end > end ? 1 : 0) - 1;
      }
    }
    return count;
  }

  /** Covers from `start` to `end`, which is above it. */
  cover(start: number, end: number, zero: boolean): void {
    // The parts at both ends that are of this kind already do not change.
    const first = this.#ranges.firstEndingAfter(start);
    const changedStart = first?.zero === zero && first.start <= start ? first.end : start;
    if (changedStart >= end) return;
    const last = this.#ranges.firstEndingAfter(end - 1);
    const changedEnd = last?.zero === zero && last.start < end ? last.start : end;
    this.#noteChange(changedStart, changedEnd);

    let coveringStart = start;
    let coveringEnd = end;
    let range = this.#ranges.firstEndingAfter(Math.max(0, start - 1));
    while (range !== undefined && range.start <= end) {
      const rangeEnd = range.end;
      if (range.zero === zero) {
        // Inside or touching: it becomes part of the new one.
        this.#remove(range);
        coveringStart = Math.min(coveringStart, range.start);
        coveringEnd = Math.max(coveringEnd, rangeEnd);
      } else if (rangeEnd > start && range.start < end) {
        this.#uncover(range, start, end);
      }
      range = this.#ranges.firstEndingAfter(rangeEnd);
    }
    this.#add({ start: coveringStart, end: coveringEnd, zero });
  }

  /** All ranges, in order. */
  *all(): IterableIterator<OverlayRange> {
    let range = this.#ranges.firstEndingAfter(0);
    for (; range !== undefined; range = this.#ranges.firstEndingAfter(range.end)) {
      yield cut(range, range.start, range.end);
    }
  }

  /** See Overlay.takeChanges. */
  takeChanges(): OverlayRange[] {
    const taken = this.#allChanged ? [...this.all()] : this.#changed();
    this.forgetChanges();
    return taken;
  }

  forgetChanges(): void {
    if (this.#changeCount > 0) this.#changes = new SegmentIndex();
    this.#changeCount = 0;
    this.#allChanged = false;
  }

  #changed(): OverlayRange[] {
    const ranges: OverlayRange[] = [];
    let change = this.#changes.firstEndingAfter(0);
    for (; change !== undefined; change = this.#changes.firstEndingAfter(change.end)) {
      for (let at = change.start; at < change.end; ) {
        const range = this.#ranges.firstEndingAfter(at);
        assert(range !== undefined && range.start <= at, 'what has changed is covered');
        ranges.push(cut(range, at, change.end));
        at = range.end;
      }
    }
    return ranges;
  }

  /** Takes what lies between `start` and `end` out of a range. */
  #uncover(range: Segment, start: number, end: number): void {
    const rangeEnd = range.end;
    if (range.start < start) {
      this.#size(range.zero, start - rangeEnd);
      range.end = start;
    } else {
      this.#remove(range);
    }
    if (rangeEnd > end) this.#add({ start: end, end: rangeEnd, zero: range.zero });
  }

  #add(range: Segment): void {
    this.#ranges.add(range);
    this.#count += 1;
    this.#size(range.zero, range.end - range.start);
  }

  #remove(range: Segment): void {
    this.#ranges.remove(range);
    this.#count -= 1;
    this.#size(range.zero, range.start - range.end);
  }

  #size(zero: boolean, change: number): void {
    this.#coveredSize += change;
    if (!zero) this.#dataSize += change;
  }

  #noteChange(start: number, end: number): void {
    if (this.#allChanged) return;
    let noteStart = start;
    let noteEnd = end;
    let change = this.#changes.firstEndingAfter(Math.max(0, start - 1));
    while (change !== undefined && change.start <= end) {
      if (change.start <= start && change.end >= end) return;
      this.#changes.remove(change);
      this.#changeCount -= 1;
      noteStart = Math.min(noteStart, change.start);
      noteEnd = Math.max(noteEnd, change.end);
      change = this.#changes.firstEndingAfter(change.end);
    }
    this.#changes.add({ start: noteStart, end: noteEnd });
    this.#changeCount += 1;
    // Zeroing and writing again here and there in one large range would need no ranges, but ever more of these.
    if (this.#changeCount <= this.#changesMax) return;
    this.forgetChanges();
    this.#allChanged = true;
  }
}

/** What of a range lies between `start` and `end`; they overlap. */
function cut(range: Segment, start: number, end: number): OverlayRange {
  const offset = Math.max(range.start, start);
  return { offset, length: Math.min(range.end, end) - offset, zero: range.zero };
}
