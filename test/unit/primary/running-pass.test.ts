import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bitmap } from '../../../src/base/bitmap.ts';
import { RunningPass } from '../../../src/primary/running-pass.ts';

const REGION_SIZE = 1000;
const REGION_COUNT = 12;
const SMALL = 16;

function leavable(regions: readonly number[]): Bitmap {
  const bitmap = new Bitmap(REGION_COUNT);
  for (const region of regions) bitmap.set(region);
  return bitmap;
}

describe('a pass that runs', () => {
  it('sees what an operation leaves that lies wholly in regions that it has still to compare', () => {
    const pass = new RunningPass(leavable([2, 3, 5]), REGION_SIZE);
    expect(pass.willCompare(2000, 2000)).toBe(true);
    expect(pass.willCompare(2500, 1)).toBe(true);
    expect(pass.willCompare(1999, 2)).toBe(false);
    expect(pass.willCompare(3999, 2)).toBe(false);
    expect(pass.willCompare(2000, 4000)).toBe(false);
  });

  it('sees nothing below what it has taken up, not even the rest of an operation that begins there', () => {
    const pass = new RunningPass(leavable([2, 3]), REGION_SIZE);
    pass.reached(2500);
    expect(pass.willCompare(2499, 2)).toBe(false);
    expect(pass.willCompare(2500, 1000)).toBe(true);
  });

  it('sees nothing any more in a region of which an operation was streamed', () => {
    const pass = new RunningPass(leavable([1, 2, 3, 4]), REGION_SIZE);
    pass.streamed(999, 1002);
    expect([1, 2, 3].map((region) => pass.willCompare(region * REGION_SIZE, 1))).toEqual([false, false, true]);
    pass.streamed(3999, 1);
    expect([3, 4].map((region) => pass.willCompare(region * REGION_SIZE, 1))).toEqual([false, true]);
  });

  it('never leaves an operation out that it has passed by, or behind one that was streamed', () => {
    const step = fc.record({
      kind: fc.constantFrom('reach' as const, 'write' as const, 'write' as const),
      offset: fc.nat(REGION_COUNT * SMALL - 1),
      length: fc.integer({ min: 1, max: 3 * SMALL }),
    });
    const regions = fc.uniqueArray(fc.nat(REGION_COUNT - 1));
    let left = 0;
    fc.assert(
      fc.property(regions, fc.array(step, { maxLength: 30 }), (marked, steps) => {
        const pass = new RunningPass(leavable(marked), SMALL);
        let cursor = 0;
        // Bytes with an operation that the pass might read after it was undone by this one, or the other way round.
        const streamed = new Set<number>();
        const wrong: number[] = [];
        for (const { kind, offset, length: drawn } of steps) {
          if (kind === 'reach') {
            cursor = Math.max(cursor, offset);
            pass.reached(cursor);
            continue;
          }
          const length = Math.min(drawn, REGION_COUNT * SMALL - offset);
          const bytes = Array.from({ length }, (_, index) => offset + index);
          if (pass.willCompare(offset, length)) {
            left += 1;
            const seen = (byte: number): boolean => byte >= cursor && marked.includes(Math.floor(byte / SMALL));
            wrong.push(...bytes.filter((byte) => !seen(byte) || streamed.has(byte)));
          } else {
            pass.streamed(offset, length);
            for (const byte of bytes) streamed.add(byte);
          }
        }
        expect(wrong).toEqual([]);
      }),
      { numRuns: 300 },
    );
    expect(left).toBeGreaterThan(50);
  });
});
