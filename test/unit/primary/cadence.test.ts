import { expect, it } from 'vitest';
import { Cadence } from '../../../src/primary/cadence.ts';
import { ManualClock } from '../../support/manual-clock.ts';

const HOUR_MS = 3_600_000;

it('a first cycle begins soon after the start, spread over a tenth of the period', () => {
  const clock = new ManualClock();
  expect(new Cadence(clock, HOUR_MS, 0).dueInMs(undefined)).toBe(0);
  expect(new Cadence(clock, 1000, 0.5).dueInMs(undefined)).toBe(50);
});

it('the spread is five minutes at most', () => {
  const cadence = new Cadence(new ManualClock(), 1000 * HOUR_MS, 0.999);
  expect(cadence.dueInMs(undefined)).toBeCloseTo(0.999 * 300_000);
});

it('the next one begins a period after the last one began', () => {
  const clock = new ManualClock();
  clock.advance(10 * HOUR_MS);
  const cadence = new Cadence(clock, 4 * HOUR_MS, 0);
  expect(cadence.dueInMs(9 * HOUR_MS)).toBe(3 * HOUR_MS);
  clock.advance(3 * HOUR_MS);
  expect(cadence.dueInMs(9 * HOUR_MS)).toBe(0);
});

it('one that has been due since long waits for its spread only', () => {
  const clock = new ManualClock();
  clock.advance(100 * HOUR_MS);
  expect(new Cadence(clock, HOUR_MS, 0.5).dueInMs(HOUR_MS)).toBe(150_000);
});

it('a clock that was put back delays it by a period at most', () => {
  expect(new Cadence(new ManualClock(), HOUR_MS, 0).dueInMs(1000 * HOUR_MS)).toBe(HOUR_MS);
});
