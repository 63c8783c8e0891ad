import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionFailed } from '../../../src/base/assert.ts';
import { type RangeHold, RangeLock } from '../../../src/volume/range-lock.ts';

interface Asked {
  hold: RangeHold;
  granted: boolean;
  released: boolean;
}

function ask(lock: RangeLock, offset: number, length: number): Asked {
  const hold = lock.acquire(offset, length);
  const asked: Asked = { hold, granted: hold.ready === undefined, released: false };
  void hold.ready?.then(() => {
    asked.granted = true;
  });
  return asked;
}

function overlap(one: RangeHold, other: RangeHold): boolean {
  return one.offset < other.offset + other.length && other.offset < one.offset + one.length;
}

describe('RangeLock', () => {
  it('grants a free range without a promise', () => {
    const lock = new RangeLock();
    expect(lock.acquire(0, 4096).ready).toBeUndefined();
    expect(lock.acquire(4096, 4096).ready).toBeUndefined();
  });

  it('makes a range wait while one byte of it is held', async () => {
    const lock = new RangeLock();
    const first = ask(lock, 0, 4096);
    const second = ask(lock, 4095, 10);
    expect(second.granted).toBe(false);
    lock.release(first.hold);
    await second.hold.ready;
    expect(second.granted).toBe(true);
  });

  it('does not let a newcomer overtake a waiter that it overlaps', async () => {
    const lock = new RangeLock();
    const holder = ask(lock, 0, 10);
    const waiter = ask(lock, 0, 20);
    const newcomer = ask(lock, 10, 10);
    expect([waiter.granted, newcomer.granted]).toEqual([false, false]);
    lock.release(holder.hold);
    await waiter.hold.ready;
    expect(newcomer.granted).toBe(false);
    lock.release(waiter.hold);
    await newcomer.hold.ready;
  });

  it('says whether a range is free, waiters included', () => {
    const lock = new RangeLock();
    const holder = lock.acquire(0, 10);
    lock.acquire(5, 10);
    expect(lock.isFree(15, 5)).toBe(true);
    expect(lock.isFree(14, 5)).toBe(false);
    lock.release(holder);
    expect(lock.isFree(0, 5)).toBe(true);
    expect(lock.isFree(4, 2)).toBe(false);
  });

  it('refuses to release twice, and to release what still waits', () => {
    const lock = new RangeLock();
    const holder = lock.acquire(0, 10);
    const waiter = lock.acquire(0, 10);
    expect(() => lock.release(waiter)).toThrow(AssertionFailed);
    lock.release(holder);
    expect(() => lock.release(holder)).toThrow(AssertionFailed);
  });

  it('behaves like a model that compares every pair', async () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.tuple(fc.constant('acquire' as const), fc.nat(60), fc.integer({ min: 1, max: 20 })) },
      { weight: 2, arbitrary: fc.tuple(fc.constant('release' as const), fc.nat(1000), fc.constant(0)) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('observe' as const), fc.constant(0), fc.constant(0)) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 80 }), async (steps) => {
        const lock = new RangeLock();
        const all: Asked[] = [];
        const observed: { readonly live: readonly Asked[]; settled: boolean }[] = [];
        const check = async () => {
          await Promise.resolve();
          await Promise.resolve();
          const live = all.filter((asked) => !asked.released);
          live.forEach((asked, index) => {
            const blocked = live.slice(0, index).some((earlier) => overlap(earlier.hold, asked.hold));
            expect(asked.granted).toBe(!blocked);
          });
          for (let at = 0; at < 80; at += 1) {
            const free = !live.some((asked) => asked.hold.offset <= at && at < asked.hold.offset + asked.hold.length);
            expect(lock.isFree(at, 1)).toBe(free);
          }
          expect(lock.holdCount).toBe(live.length);
          for (const { live: before, settled } of observed) {
            expect(settled).toBe(before.every(({ released }) => released));
          }
        };
        for (const [kind, first, second] of steps) {
          if (kind === 'acquire') {
            all.push(ask(lock, first, second));
          } else if (kind === 'observe') {
            const observation = { live: all.filter(({ released }) => !released), settled: false };
            observed.push(observation);
            void lock.settled().then(() => {
              observation.settled = true;
            });
          } else {
            const held = all.filter((asked) => asked.granted && !asked.released);
            const chosen = held[first % Math.max(1, held.length)];
            if (chosen === undefined) continue;
            chosen.released = true;
            lock.release(chosen.hold);
          }
          await check();
        }
        for (let held = all.find((asked) => asked.granted && !asked.released); held !== undefined; ) {
          held.released = true;
          lock.release(held.hold);
          await check();
          held = all.find((asked) => asked.granted && !asked.released);
        }
        expect(lock.holdCount).toBe(0);
        expect(lock.isFree(0, 1000)).toBe(true);
      }),
      { numRuns: 200 },
    );
  });

  it('keeps one edge and one segment for each of thousands that queue for the same block', () => {
    const lock = new RangeLock();
    const holds = Array.from({ length: 5000 }, () => lock.acquire(4096, 4096));
    const edges = holds.reduce((sum, hold) => sum + (hold.followers?.length ?? 0), 0);
    const segments = holds.reduce((sum, hold) => sum + hold.segments.length, 0);
    expect(edges).toBe(4999);
    expect(segments).toBe(5000);
    for (const hold of holds) lock.release(hold);
    expect(lock.isFree(0, 2 ** 40)).toBe(true);
  });

  it('keeps a bounded number of edges when large and small ranges alternate', () => {
    const lock = new RangeLock();
    const holds = Array.from({ length: 4000 }, (_, index) =>
      index % 40 === 0 ? lock.acquire(0, 2 ** 32) : lock.acquire((index % 40) * 4096, 4096),
    );
    const edges = holds.reduce((sum, hold) => sum + (hold.followers?.length ?? 0), 0);
    expect(edges).toBeLessThan(3 * holds.length);
    for (const hold of holds) lock.release(hold);
    expect(lock.holdCount).toBe(0);
  });
});
