import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionFailed } from '../../../src/base/assert.ts';
import { SegmentIndex, type Span } from '../../../src/base/segment-index.ts';

describe('SegmentIndex', () => {
  it('finds what a sorted list finds, after any additions and removals', () => {
    const step = fc.record({ slot: fc.nat(999), length: fc.integer({ min: 1, max: 10 }), ask: fc.nat(10_010) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 600 }), (steps) => {
        const index = new SegmentIndex<Span>();
        const model = new Map<number, Span>();
        for (const { slot, length, ask } of steps) {
          const there = model.get(slot);
          if (there === undefined) {
            const segment = { start: slot * 10, end: slot * 10 + length };
            model.set(slot, segment);
            index.add(segment);
          } else {
            model.delete(slot);
            index.remove(there);
          }
          const after = [...model.values()].filter((segment) => segment.end > ask);
          const expected = after.sort((one, other) => one.start - other.start)[0];
          expect(index.firstEndingAfter(ask)).toBe(expected);
        }
      }),
      { numRuns: 50 },
    );
  });

  it('finds each of many thousands', () => {
    const index = new SegmentIndex<Span>();
    const count = 20_000;
    // In an order that is neither rising nor falling: 7919 has no factor in common with the count.
    for (let step = 0; step < count; step += 1) {
      const slot = (step * 7919) % count;
      index.add({ start: slot * 2, end: slot * 2 + 1 });
    }
    for (let slot = 0; slot < count; slot += 1) {
      expect(index.firstEndingAfter(slot * 2)?.start).toBe(slot * 2);
      expect(index.firstEndingAfter(slot * 2 + 1)?.start).toBe(slot + 1 < count ? slot * 2 + 2 : undefined);
    }
  });

  it('refuses to remove what is not there', () => {
    const index = new SegmentIndex<Span>();
    index.add({ start: 0, end: 1 });
    expect(() => index.remove({ start: 0, end: 1 })).toThrow(AssertionFailed);
  });
});
