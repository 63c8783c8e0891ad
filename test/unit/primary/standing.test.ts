/** When a mirror in order counts as streaming, and when as catching up. */
import { describe, expect, it } from 'vitest';
import { KIB } from '../../../src/base/units.ts';
import { FrameType } from '../../../src/link/frame.ts';
import { Standing } from '../../../src/primary/standing.ts';
import { memoryReplica } from '../../support/memory-replica.ts';
import { memoryWorld } from '../../support/memory-world.ts';

async function scene() {
  const world = memoryWorld();
  const { clock } = world;
  const { replica } = await memoryReplica(world, 1024 * KIB, { windowSize: 64 * KIB });
  const told: string[] = [];
  const standing: Standing = new Standing(
    clock,
    replica,
    (event) => told.push(event),
    () => standing.judge(),
  );
  standing.judge();
  expect(told).toEqual(['caught-up']);
  return {
    clock,
    standing,
    told,
    write: () => {
      replica.append(FrameType.WRITE, replica.sequence + 1, 0, 40 * KIB, Buffer.alloc(40 * KIB, 1));
      standing.judge();
    },
    apply: () => {
      replica.window.takeUnsent();
      replica.window.applied(replica.sequence);
      standing.judge();
    },
  };
}

describe('a mirror in order', () => {
  it('that lags is said to do so, though not at once after another change', async () => {
    const { clock, told, write } = await scene();
    clock.advance(500);
    write();
    expect(told).toEqual(['caught-up', 'lagging']);
  });

  it('that hangs right after it has caught up is found lagging, though nothing more happens', async () => {
    const { clock, told, write } = await scene();
    clock.advance(100);
    write();
    clock.advance(399);
    expect(told).toEqual(['caught-up']);
    clock.advance(1);
    expect(told).toEqual(['caught-up', 'lagging']);
  });

  it('that was late for a moment only has never lagged', async () => {
    const { clock, told, write, apply } = await scene();
    write();
    clock.advance(10);
    apply();
    clock.advance(1_000);
    expect(told).toEqual(['caught-up']);
  });

  it('is not judged any more when the session has ended, be it that a look was due or that somebody has not heard of the end', async () => {
    const due = await scene();
    due.write();
    due.standing.end();
    due.clock.advance(1_000);
    expect(due.told).toEqual(['caught-up']);
    const late = await scene();
    late.standing.end();
    late.write();
    late.clock.advance(1_000);
    late.standing.judge();
    expect(late.told).toEqual(['caught-up']);
  });
});
