import { expect, it } from 'vitest';
import { StagingNeed } from '../../../src/primary/staging-need.ts';
import { ManualClock } from '../../support/manual-clock.ts';

it('a run that has taken all there was waits for more room, ten minutes at most', () => {
  const clock = new ManualClock();
  const need = new StagingNeed(clock);
  expect([need.size, need.binding]).toEqual([0, 0]);
  need.wasFull(1000, 1000);
  clock.advance(599_000);
  expect([need.size, need.binding]).toEqual([1001, 1001]);
  clock.advance(1_000);
  expect([need.size, need.binding]).toEqual([1001, 0]);
});

it('a run that found none though the mirror spoke of more is tried again after a minute', () => {
  const clock = new ManualClock();
  const need = new StagingNeed(clock);
  need.wasFull(1000, 2 ** 40);
  clock.advance(59_000);
  expect(need.binding).toBe(2 ** 40 + 1);
  clock.advance(1_000);
  expect(need.binding).toBe(0);
});

it('one that was met needs nothing', () => {
  const need = new StagingNeed(new ManualClock());
  need.wasFull(5, 5);
  need.wasMet();
  expect([need.size, need.binding]).toEqual([0, 0]);
});
