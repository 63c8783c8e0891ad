/**
 * Range lock: overlapping ranges are held one after the other, others side by side.
 *
 * What is kept: for every byte that anyone holds or waits for, who asked for it *last*, as disjoint segments in an
 * ordered index. A newcomer waits for the owners of the segments that it covers, then becomes their owner. Owners that were
 * covered over need no edge to the newcomer: whoever covered them already waits for them.
 *
 * Invariants:
 * - Segments are disjoint, in order, not empty; an owner appears only while it holds or waits.
 * - A hold is granted when everything that overlaps it and was asked for earlier has been released: first come, first
 *   served, and nobody is overtaken by a newcomer that overlaps.
 * - Waiting follows the order of arrival, so there is no deadlock as long as every hold is released.
 *
 * Cost: each acquire adds at most two segments and one edge per segment it covers, and a segment that is covered whole
 * disappears: a constant number per acquire over time, however many are in flight, on the same range or apart. Acquire
 * and release together: 0.6 us with 32 ranges in flight, 2 us with 10,000 (most of it cache misses).
 * Rejected: an edge to every overlapping predecessor (quadratic when thousands queue for one block); buckets (a trim of
 * a whole disk would have to enter millions of them).
 */
import { assert } from '../base/assert.ts';
import { SegmentIndex, type Span } from '../base/segment-index.ts';

interface Segment extends Span {
  readonly owner: RangeHold;
}

/** A range that is held or waited for. Made by `RangeLock.acquire`, ended by `RangeLock.release`. */
export class RangeHold {
  readonly offset: number;
  readonly length: number;
  /** Undefined when the range was free: it is held from the start. Otherwise resolves when it is held. */
  ready: Promise<void> | undefined = undefined;
  /** Internal to the lock: what it has ever owned; without extent once covered over. */
  readonly segments: Segment[] = [];
  /** Internal to the lock: whom to tell on release. The same one may stand here more than once. */
  followers: RangeHold[] | undefined = undefined;
  /** Internal to the lock: edges to predecessors not yet released. */
  predecessorCount = 0;
  /** Internal to the lock. */
  grant: (() => void) | undefined = undefined;
  released = false;

  constructor(offset: number, length: number) {
    this.offset = offset;
    this.length = length;
  }
}

export class RangeLock {
  readonly #segments = new SegmentIndex<Segment>();
  #holdCount = 0;

  /** How many ranges are held or waited for. */
  get holdCount(): number {
    return this.#holdCount;
  }

  /** True when nobody holds or waits for any byte of the range: `acquire` in the same turn would not wait. */
  isFree(offset: number, length: number): boolean {
    const next = this.#segments.firstEndingAfter(offset);
    return next === undefined || next.start >= offset + length;
  }

  /** Asks for a range, `length` at least 1. It is held once `ready` has resolved, or at once when `ready` is undefined. */
  acquire(offset: number, length: number): RangeHold {
    assert(length > 0 && offset >= 0 && Number.isSafeInteger(offset + length), 'range to lock');
    const hold = new RangeHold(offset, length);
    this.#holdCount += 1;
    this.#cover(hold);
    if (hold.predecessorCount > 0) {
      hold.ready = new Promise((resolve) => {
        hold.grant = resolve;
      });
    }
    return hold;
  }

  /** Ends a hold that has been granted, and grants those for whom it was the last obstacle. */
  release(hold: RangeHold): void {
    assert(!hold.released && hold.predecessorCount === 0, 'a range is released once, by who holds it');
    hold.released = true;
    this.#holdCount -= 1;
    for (const segment of hold.segments) {
      if (segment.end > segment.start) this.#segments.remove(segment);
    }
    if (hold.followers === undefined) return;
    for (const follower of hold.followers) {
      follower.predecessorCount -= 1;
      if (follower.predecessorCount === 0) follower.grant!();
    }
  }

  /** Resolves when all that hold or wait for a range now have released it. Whoever comes later neither waits nor is waited for. */
  settled(): Promise<void> {
    const observer = new RangeHold(0, 0);
    let end = 0;
    for (;;) {
      const segment = this.#segments.firstEndingAfter(end);
      if (segment === undefined) break;
      follow(segment.owner, observer);
      end = segment.end;
    }
    if (observer.predecessorCount === 0) return Promise.resolve();
    return new Promise((resolve) => {
      observer.grant = resolve;
    });
  }

  /** Makes `hold` the owner of its whole range and the follower of everyone who owned a part. */
  #cover(hold: RangeHold): void {
    const start = hold.offset;
    const end = start + hold.length;
    for (;;) {
      const segment = this.#segments.firstEndingAfter(start);
      if (segment === undefined || segment.start >= end) break;
      follow(segment.owner, hold);
      if (segment.end > end) this.#own(segment.owner, end, segment.end);
      if (segment.start < start) {
        segment.end = start;
      } else {
        this.#segments.remove(segment);
        segment.end = segment.start;
      }
    }
    this.#own(hold, start, end);
  }

  #own(owner: RangeHold, start: number, end: number): void {
    const segment: Segment = { start, end, owner };
    owner.segments.push(segment);
    this.#segments.add(segment);
  }
}

function follow(owner: RangeHold, follower: RangeHold): void {
  if (owner.followers === undefined) owner.followers = [follower];
  else if (owner.followers.at(-1) === follower) return;
  else owner.followers.push(follower);
  follower.predecessorCount += 1;
}
