import { describe, expect, it } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { StagedRun } from '../../../src/primary/staged-run.ts';

const FIRST = Buffer.alloc(16, 1);
const SECOND = Buffer.alloc(16, 2);
const none = (): void => {
  throw new Error('nothing was mended');
};

describe('a staged run, as the primary remembers it', () => {
  it('is none at first, and the mirror holds none', () => {
    const run = new StagedRun(8);
    expect([run.id, run.kind, run.uncommittedCount]).toEqual([NO_ID, undefined, 0]);
    expect([run.isHeld(NO_ID, 0), run.isHeld(FIRST, 99)]).toEqual([false, false]);
  });

  it('is held by a mirror that has its id and every checkpoint that was relied on', () => {
    const run = new StagedRun(8);
    run.begin(FIRST, 'rescan', none);
    expect([run.isHeld(FIRST, 0), run.isHeld(SECOND, 0), run.isHeld(NO_ID, 0)]).toEqual([true, false, false]);
    run.mended(3, 7);
    run.mended(2, 5);
    expect([run.isHeld(FIRST, 6), run.isHeld(FIRST, 7), run.isHeld(FIRST, 8)]).toEqual([false, true, true]);
    expect([run.holds(2), run.holds(3), run.holds(4), run.uncommittedCount]).toEqual([true, true, false, 2]);
  });

  it('that gives way to another gives back what was mended in it, and relies on no checkpoint any more', () => {
    const run = new StagedRun(8);
    run.begin(FIRST, 'rescan', none);
    run.mended(0, 4);
    run.mended(7, 4);
    const lost: number[] = [];
    run.begin(SECOND, 'merged', (region) => lost.push(region));
    expect([lost, run.kind, run.uncommittedCount]).toEqual([[0, 7], 'merged', 0]);
    expect([run.isHeld(SECOND, 0), run.isHeld(FIRST, 9)]).toEqual([true, false]);
  });

  it('that gives way to none, as where the image is caught up in order, gives it back too', () => {
    const run = new StagedRun(8);
    run.begin(FIRST, 'catch-up', none);
    run.mended(5, 1);
    const lost: number[] = [];
    run.begin(undefined, 'catch-up', (region) => lost.push(region));
    expect([lost, run.id, run.kind]).toEqual([[5], NO_ID, undefined]);
  });

  it('leaves nothing behind once it is committed', () => {
    const run = new StagedRun(8);
    run.begin(FIRST, 'rescan', none);
    run.mended(1, 2);
    run.committed();
    expect([run.id, run.kind, run.uncommittedCount, run.holds(1), run.isHeld(FIRST, 9)]).toEqual([
      NO_ID,
      undefined,
      0,
      false,
      false,
    ]);
    run.begin(SECOND, 'rescan', none);
  });
});
