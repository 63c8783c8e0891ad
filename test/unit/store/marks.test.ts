import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GIB, MIB, TIB } from '../../../src/base/units.ts';
import { Marks, REGION_SIZE_MIN, regionSizeFor } from '../../../src/store/marks.ts';

/** Marks as sets of region numbers, as plainly as can be. */
class Model {
  readonly size: number;
  readonly marked = new Set<number>();
  fresh: Set<number> | undefined;

  constructor(size: number) {
    this.size = size;
  }

  mark(offset: number, length: number): void {
    for (let region = 0; region * MIB < this.size; region += 1) {
      if (region * MIB >= offset + length || (region + 1) * MIB <= offset) continue;
      this.marked.add(region);
      this.fresh?.add(region);
    }
  }

  /** Bytes of marked regions, ascending. */
  ranges(regions: ReadonlySet<number>): [from: number, to: number][] {
    return [...regions]
      .sort((a, b) => a - b)
      .map((region): [number, number] => [region * MIB, Math.min(this.size, (region + 1) * MIB)]);
  }

  /** Returns the regions that are no longer marked. */
  clearThrough(from: number, end: number): number[] {
    const cleared: number[] = [];
    if (this.fresh === undefined) return cleared;
    for (const region of [...this.marked].sort((a, b) => a - b)) {
      const regionEnd = Math.min(this.size, (region + 1) * MIB);
      if ((region + 1) * MIB > from && regionEnd <= end && !this.fresh.has(region)) {
        this.marked.delete(region);
        cleared.push(region);
      }
    }
    return cleared;
  }
}

const SIZE = 9 * MIB + 1536;
const ignore = (): void => undefined;

type Found = { offset: number; length: number } | undefined;

/** All ranges of a scope, found in pieces of at most `lengthMax`, neighbours joined. */
function walk(lengthMax: number, next: (offset: number, lengthMax: number) => Found): [from: number, to: number][] {
  const ranges: [number, number][] = [];
  for (let at = 0; ; ) {
    const range = next(at, lengthMax);
    if (range === undefined) return joined(ranges);
    if (range.offset < at || range.length <= 0 || range.length > lengthMax) throw new Error(`${at}: ${range.length}`);
    at = range.offset + range.length;
    ranges.push([range.offset, at]);
  }
}

function joined(ranges: readonly [number, number][]): [number, number][] {
  const result: [number, number][] = [];
  for (const [from, to] of ranges) {
    const last = result.at(-1);
    if (last !== undefined && last[1] === from) last[1] = to;
    else result.push([from, to]);
  }
  return result;
}

const range = fc
  .tuple(fc.nat(SIZE - 1), fc.oneof(fc.integer({ min: 1, max: 3 * MIB }), fc.constantFrom(1, MIB, SIZE)))
  .map(([offset, length]) => ({ offset, length: Math.min(length, SIZE - offset) }));
type Step =
  | { kind: 'mark'; range: { offset: number; length: number } }
  | { kind: 'clear'; range: { offset: number; length: number } }
  | { kind: 'markRegion'; region: number }
  | { kind: 'markAll' | 'beginPass' | 'endPass' };

const markStep: fc.Arbitrary<Step> = fc.record({ kind: fc.constant('mark'), range });
const clearStep: fc.Arbitrary<Step> = fc.record({ kind: fc.constant('clear'), range });
const regionStep: fc.Arbitrary<Step> = fc.record({ kind: fc.constant('markRegion'), region: fc.nat(9) });
const otherStep: fc.Arbitrary<Step> = fc.record({ kind: fc.constantFrom('markAll', 'beginPass', 'endPass') });

/** Does the step with both; returns what marks and model say of it: the snapshot of a pass, or what was cleared. */
function perform(marks: Marks, model: Model, step: Step, piece: number): [unknown, unknown] {
  switch (step.kind) {
    case 'mark':
      marks.mark(step.range.offset, step.range.length);
      model.mark(step.range.offset, step.range.length);
      break;
    case 'clear': {
      const end = step.range.offset + step.range.length;
      const cleared: number[] = [];
      marks.clearThrough(step.range.offset, end, (region) => cleared.push(region));
      return [cleared, model.clearThrough(step.range.offset, end)];
    }
    case 'markRegion':
      marks.markRegion(step.region);
      model.mark(step.region * MIB, 1);
      break;
    case 'markAll':
      marks.markAll();
      model.mark(0, SIZE);
      break;
    case 'endPass':
      marks.endPass();
      model.fresh = undefined;
      break;
    case 'beginPass': {
      const snapshot = marks.beginPass();
      const before = joined(model.ranges(model.marked));
      model.fresh = new Set();
      // What is marked from now on is not in the snapshot.
      marks.mark(0, 1);
      model.mark(0, 1);
      return [walk(piece, (at, lengthMax) => marks.nextOf(snapshot, at, lengthMax)), before];
    }
  }
  return [undefined, undefined];
}

describe('marks', () => {
  it('behave like sets of regions under any sequence of marking, passes and clearing', () => {
    const steps = fc.array(fc.oneof(markStep, clearStep, regionStep, otherStep), { maxLength: 40 });
    fc.assert(
      fc.property(steps, fc.constantFrom(300_001, MIB, 3 * MIB, GIB), (taken, piece) => {
        const marks = new Marks(SIZE);
        const model = new Model(SIZE);
        for (const step of taken) {
          const [said, expectedSaid] = perform(marks, model, step, piece);
          const ranges = model.ranges(model.marked);
          expect({
            said,
            count: marks.count,
            markedSize: marks.markedSize,
            marked: walk(piece, (at, lengthMax) => marks.nextMarked(at, lengthMax)),
            held: Array.from({ length: 10 }, (_, region) => marks.holds(region)),
          }).toEqual({
            said: expectedSaid,
            count: model.marked.size,
            markedSize: ranges.reduce((sum, [from, to]) => sum + to - from, 0),
            marked: joined(ranges),
            held: Array.from({ length: 10 }, (_, region) => model.marked.has(region)),
          });
        }
      }),
      { numRuns: 200 },
    );
  });

  it('are all cleared by a pass that compares everything in pieces, in order, with nothing written meanwhile', () => {
    fc.assert(
      fc.property(fc.integer({ min: 4096, max: 4 * MIB }), (piece) => {
        const marks = new Marks(SIZE);
        marks.markAll();
        expect(marks.markedSize).toBe(SIZE);
        const snapshot = marks.beginPass();
        for (let at = 0; ; ) {
          const next = marks.nextOf(snapshot, at, piece);
          if (next === undefined) break;
          at = next.offset + next.length;
          marks.clearThrough(next.offset, at, ignore);
        }
        expect(marks.count).toBe(0);
      }),
      { numRuns: 50 },
    );
  });

  it('stay where the range ends inside a region, and go with the piece that reaches its end', () => {
    const marks = new Marks(3 * MIB);
    marks.markAll();
    marks.beginPass();
    marks.clearThrough(0, MIB + MIB / 2, ignore);
    expect(marks.nextMarked(0, GIB)).toEqual({ offset: MIB, length: 2 * MIB });
    marks.clearThrough(MIB + MIB / 2, 2 * MIB, ignore);
    expect(marks.nextMarked(0, GIB)).toEqual({ offset: 2 * MIB, length: MIB });
  });

  it('set again during a pass survive it, also when the pass has already compared them', () => {
    const marks = new Marks(4 * MIB);
    marks.markAll();
    marks.beginPass();
    marks.mark(2 * MIB + 7, 1);
    marks.clearThrough(0, 4 * MIB, ignore);
    marks.endPass();
    expect(marks.nextMarked(0, GIB)).toEqual({ offset: 2 * MIB, length: MIB });
  });

  it('are not cleared by a checkpoint that comes after the pass has ended', () => {
    const marks = new Marks(4 * MIB);
    marks.markAll();
    marks.beginPass();
    marks.endPass();
    marks.clearThrough(0, 4 * MIB, ignore);
    expect(marks.count).toBe(4);
  });

  it('count the last region with the bytes that it has', () => {
    const marks = new Marks(4 * MIB + 512);
    marks.mark(4 * MIB, 512);
    expect(marks.markedSize).toBe(512);
    marks.mark(0, 1);
    expect(marks.markedSize).toBe(MIB + 512);
    marks.markUnreadable(4 * MIB, 1);
    expect(marks.unreadableSize).toBe(512);
  });

  it('take what could not be read into the next pass, and no longer call it unreadable', () => {
    const marks = new Marks(4 * MIB);
    marks.markUnreadable(MIB - 1, 2);
    expect([marks.unreadableSize, marks.count]).toEqual([2 * MIB, 0]);
    marks.mark(3 * MIB, 1);
    const snapshot = marks.beginPass();
    expect([0, 1, 2, 3].map((region) => snapshot.get(region))).toEqual([true, true, false, true]);
    expect([marks.unreadableSize, marks.markedSize]).toEqual([0, 3 * MIB]);
    // Found unreadable again: compared as far as can be, and remembered.
    marks.markUnreadable(0, 1);
    marks.clearThrough(0, 4 * MIB, ignore);
    expect([marks.unreadableSize, marks.count]).toEqual([MIB, 0]);
  });

  it('refuse a range outside the disk', () => {
    const marks = new Marks(MIB);
    expect(() => marks.mark(0, MIB + 1)).toThrow('mark inside the disk');
    expect(() => marks.mark(MIB, 1)).toThrow('mark inside the disk');
    expect(() => marks.mark(0, 0)).toThrow('mark inside the disk');
    expect(() => marks.mark(-1, 1)).toThrow('mark inside the disk');
  });

  it('are held with what could not be read, also when they are not marked', () => {
    const marks = new Marks(4 * MIB);
    marks.markRegion(1);
    marks.markUnreadable(2 * MIB, 1);
    expect([0, 1, 2, 3].map((region) => marks.holds(region))).toEqual([false, true, true, false]);
  });

  it('cover nothing before a session or a clean stop has said from where', () => {
    const marks = new Marks(4 * MIB);
    expect(marks.coverFrom(Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)).toBe(false);
    marks.settled(7, 1);
    expect(marks.coverFrom(7, 1)).toBe(false);
    marks.startAt(7, 1);
    expect(marks.coverFrom(7, 1)).toBe(true);
  });

  it('cover an image that is not older than what has settled in it', () => {
    const marks = new Marks(4 * MIB);
    marks.startAt(10, 2);
    expect(marks.coverFrom(10, 2)).toBe(true);
    expect(marks.coverFrom(9, 2)).toBe(false);
    expect(marks.coverFrom(10, 1)).toBe(false);
    marks.settled(12, 0);
    expect([marks.coverFrom(11, 2), marks.coverFrom(12, 2)]).toEqual([false, true]);
    marks.settled(15, 3);
    expect([marks.coverFrom(15, 2), marks.coverFrom(14, 3), marks.coverFrom(15, 3)]).toEqual([false, false, true]);
    // What settles late makes nothing younger.
    marks.settled(3, 1);
    expect([marks.coverFrom(14, 3), marks.coverFrom(15, 3), marks.checkpoint]).toEqual([false, true, 3]);
  });

  it('say nothing of the image by being cleared: that may be so in the view only', () => {
    const marks = new Marks(4 * MIB);
    marks.startAt(10, 2);
    marks.markAll();
    marks.beginPass();
    const cleared: number[] = [];
    marks.clearThrough(0, 2 * MIB, (region) => cleared.push(region));
    expect(cleared).toEqual([0, 1]);
    expect(marks.coverFrom(10, 2)).toBe(true);
  });

  it('cover an older image again once a session begins there', () => {
    const marks = new Marks(4 * MIB);
    marks.startAt(10, 2);
    marks.startAt(4, 1);
    expect(marks.coverFrom(4, 1)).toBe(true);
    expect(marks.coverFrom(3, 1)).toBe(false);
  });
});

describe('regions', () => {
  it('are 1 MiB up to 1 TiB, then as small as a million of them can be', () => {
    expect(REGION_SIZE_MIN).toBe(MIB);
    expect(regionSizeFor(1)).toBe(MIB);
    expect(regionSizeFor(TIB)).toBe(MIB);
    expect(regionSizeFor(TIB + 1)).toBe(2 * MIB);
    expect(regionSizeFor(4 * TIB)).toBe(4 * MIB);
    expect(regionSizeFor(4 * TIB + 512)).toBe(8 * MIB);
    expect(regionSizeFor(2 ** 53 - 1)).toBe(2 ** 33);
  });

  it('of a disk beyond 4 TiB whose size is no multiple are counted, found and cleared to the last byte', () => {
    const size = 4 * TIB + 3 * MIB + 512;
    const marks = new Marks(size);
    expect(marks.regionSize).toBe(8 * MIB);
    expect(marks.regionCount).toBe(2 ** 19 + 1);
    marks.mark(size - 1, 1);
    marks.mark(3 * TIB, 1);
    expect(marks.markedSize).toBe(8 * MIB + 3 * MIB + 512);
    expect(marks.nextMarked(0, GIB)).toEqual({ offset: 3 * TIB, length: 8 * MIB });
    expect(marks.nextMarked(3 * TIB + 5 * MIB, GIB)).toEqual({ offset: 3 * TIB + 5 * MIB, length: 3 * MIB });
    expect(marks.nextMarked(3 * TIB + 8 * MIB, GIB)).toEqual({ offset: 4 * TIB, length: 3 * MIB + 512 });
    expect(marks.nextMarked(4 * TIB, MIB)).toEqual({ offset: 4 * TIB, length: MIB });
    expect(marks.nextMarked(size, MIB)).toBeUndefined();
    marks.beginPass();
    marks.clearThrough(4 * TIB, size, ignore);
    expect(marks.count).toBe(1);
  });
});
