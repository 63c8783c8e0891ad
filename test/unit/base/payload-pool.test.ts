import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PayloadPool, POOLED_SIZE_MIN } from '../../../src/base/payload-pool.ts';
import { KIB, MIB } from '../../../src/base/units.ts';

describe('a pool of payload buffers', () => {
  it('never lends a buffer that somebody has, whatever is taken, given, given twice, or given from elsewhere', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ size: fc.integer({ min: 1, max: 200 * KIB }), give: fc.nat(20), twice: fc.boolean() })),
        (steps) => {
          const pool = new PayloadPool(300 * KIB);
          const held: Buffer[] = [];
          for (const { size, give, twice } of steps) {
            const taken = pool.take(size);
            expect(taken.length).toBe(size);
            expect(held.filter(({ buffer }) => buffer === taken.buffer)).toEqual([]);
            held.push(taken);
            pool.give(Buffer.alloc(size));
            const [given] = held.splice(give, 1);
            if (given === undefined) continue;
            pool.give(given);
            if (twice) pool.give(given);
          }
        },
      ),
    );
  });

  it('lends what it was given, also for a size that is a little smaller', () => {
    const pool = new PayloadPool(MIB);
    const { buffer } = pool.take(64 * KIB);
    pool.give(Buffer.from(buffer));
    const again = pool.take(60 * KIB);
    expect([again.buffer === buffer, again.length]).toEqual([true, 60 * KIB]);
    expect(pool.take(64 * KIB).buffer).not.toBe(buffer);
  });

  it('does not stay full of what nobody takes any more', () => {
    const pool = new PayloadPool(64 * KIB);
    pool.give(pool.take(64 * KIB));
    const small = pool.take(16 * KIB);
    pool.give(small);
    expect(pool.take(16 * KIB).buffer).toBe(small.buffer);
  });

  it('keeps no more than its limit, and nothing that is small or very large', () => {
    const pool = new PayloadPool(64 * KIB);
    const large = [pool.take(64 * KIB), pool.take(64 * KIB)];
    for (const each of large) pool.give(each);
    expect(large.map(({ buffer }) => buffer)).toContain(pool.take(64 * KIB).buffer);
    expect(large.map(({ buffer }) => buffer)).not.toContain(pool.take(64 * KIB).buffer);
    for (const size of [POOLED_SIZE_MIN - 1, 5 * MIB]) {
      const other = new PayloadPool(100 * MIB);
      const taken = other.take(size);
      other.give(taken);
      expect(other.take(size).buffer).not.toBe(taken.buffer);
    }
  });
});
