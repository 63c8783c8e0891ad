import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GIB, MIB } from '../../../src/base/units.ts';
import { FRAME_BARRIER, FRAME_REPAIR, FrameType } from '../../../src/link/frame.ts';
import { Replica } from '../../../src/primary/replica.ts';
import { ENTRY_OVERHEAD_SIZE } from '../../../src/primary/window.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { ReplicaModel } from './replica-model.ts';

function generator(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

describe('a replica', () => {
  it('knows every difference, and the mirror is always a past of the primary, through breaks, crashes and rescans', async () => {
    const seen: Record<string, number> = {};
    const load = fc.constantFrom(100, 100, 50, 20, 8);
    await fc.assert(
      fc.asyncProperty(
        fc.nat(2 ** 31),
        fc.integer({ min: 1, max: 1500 }),
        fc.boolean(),
        load,
        async (seed, steps, inStep, percent) => {
          const model = await ReplicaModel.make(generator(seed), inStep, percent);
          for (let count = 0; count < steps; count += 1) model.step();
          model.settle();
          for (const [name, count] of Object.entries(model.seen)) seen[name] = (seen[name] ?? 0) + count;
          expect(model.image).toEqual(model.local);
        },
      ),
      { numRuns: 2000 },
    );
    // The property says nothing unless all of this happened, often.
    for (const [name, count] of Object.entries(seen)) {
      expect(count, name).toBeGreaterThan(100);
    }
  });
});

const SIZE = 8 * MIB;

/** In step, with a window that takes `operations` writes of one byte, and what it told. */
function inStep(operations = 100) {
  const clock = new ManualClock();
  const replica = new Replica(clock, SIZE, operations * (ENTRY_OVERHEAD_SIZE + 1), 0, 0, true);
  const told: string[] = [];
  replica.listen({ appended: () => told.push('appended'), overran: () => told.push('overran') });
  const write = (offset: number, length: number, barrier = false): void => {
    replica.append(FrameType.WRITE, replica.sequence + 1, offset, length, Uint8Array.of(1), barrier);
  };
  /** Everything that waits to be sent, as type, sequence and offset in MiB. */
  const sent = (): [number, number, number][] => {
    const frames: [number, number, number][] = [];
    for (let entry = replica.window.takeUnsent(); entry !== undefined; entry = replica.window.takeUnsent()) {
      frames.push([entry.type, entry.sequence, entry.offset / MIB]);
    }
    return frames;
  };
  return { clock, replica, told, write, sent };
}

describe('a replica without a session', () => {
  it('that a clean stop vouched for keeps operations and marks nothing', () => {
    const { replica, told, write, sent } = inStep();
    write(0, MIB);
    expect([replica.keeping, replica.marks.count, replica.sequence]).toEqual([true, 0, 1]);
    expect(told).toEqual(['appended']);
    expect(sent()).toEqual([[FrameType.WRITE, 1, 0]]);
  });

  it('that nobody vouched for marks everything, and operations again', () => {
    const replica = new Replica(new ManualClock(), SIZE, GIB, 0, 0, false);
    expect([replica.keeping, replica.marks.markedSize]).toEqual([false, SIZE]);
    const snapshot = replica.marks.beginPass();
    replica.append(FrameType.WRITE, 1, 3 * MIB, 1, Uint8Array.of(1), false);
    replica.marks.clearThrough(0, SIZE, 1, 1);
    expect(snapshot.count).toBe(8);
    expect(replica.marks.nextMarked(0, GIB)).toEqual({ offset: 3 * MIB, length: MIB });
    replica.barrier();
    expect(replica.window.hasUnsent).toBe(false);
  });

  it('gives up order at the first operation without room, and marks it and all that the window held', () => {
    const { replica, told, write } = inStep(2);
    write(0, 1);
    write(2 * MIB, 1);
    expect(told).toEqual(['appended', 'appended']);
    write(4 * MIB + 5, 1);
    expect(told.slice(2)).toEqual(['overran']);
    expect([replica.keeping, replica.window.usedSize, replica.marks.count]).toEqual([false, 0, 3]);
    for (const region of [0, 2, 4]) expect(replica.marks.nextMarked(region * MIB, 1)?.offset).toBe(region * MIB);
    write(6 * MIB, 1);
    expect([replica.marks.count, told.length]).toEqual([4, 3]);
  });

  it('takes a range of which nothing is known for overrun', () => {
    const { replica, told } = inStep();
    replica.uncertain(MIB, 2 * MIB);
    expect([replica.keeping, replica.marks.count, told]).toEqual([false, 2, ['overran']]);
  });

  it('allows no gap between sequences', () => {
    const { replica } = inStep();
    expect(() => replica.append(FrameType.ZERO, 2, 0, 1, undefined, false)).toThrow('no gaps');
  });

  it('puts the end of an epoch on the operation, or behind it, once', () => {
    const { replica, write } = inStep();
    write(0, 1, true);
    expect(replica.window.takeUnsent()).toMatchObject({ type: FrameType.WRITE, flags: FRAME_BARRIER });
    write(0, 1);
    replica.barrier();
    replica.barrier();
    expect(replica.window.takeUnsent()).toMatchObject({ type: FrameType.WRITE, flags: 0 });
    expect(replica.window.takeUnsent()).toMatchObject({ type: FrameType.BARRIER, sequence: 2 });
    expect(replica.window.hasUnsent).toBe(false);
  });
});

describe('a replica during a pass', () => {
  function passing(operations = 100) {
    const parts = inStep(operations);
    for (const region of [1, 2, 3, 6]) parts.replica.marks.mark(region * MIB, 1);
    parts.replica.beginPass();
    return parts;
  }

  it('leaves to it what lies wholly in regions still to be compared, and streams all else', () => {
    const { replica, write, sent } = passing();
    write(MIB, 3 * MIB);
    expect(sent()).toEqual([]);
    write(0, 1);
    write(3 * MIB + 5, MIB);
    write(6 * MIB, 2 * MIB);
    expect(sent()).toEqual([
      [FrameType.WRITE, 2, 0],
      [FrameType.WRITE, 3, 3 + 5 / MIB],
      [FrameType.WRITE, 4, 6],
    ]);
    expect(replica.sequence).toBe(4);
  });

  it('streams what touches the part that is being compared', () => {
    const { replica, write, sent } = passing();
    replica.passReached(2 * MIB);
    write(MIB, 1);
    write(2 * MIB - 1, 2);
    write(3 * MIB, 1);
    expect(sent().map(([, sequence]) => sequence)).toEqual([1, 2]);
  });

  it('leaves nothing behind an operation that it streamed: the pass could find equal what that one undoes', () => {
    const { write, sent } = passing();
    write(0, 2 * MIB);
    write(MIB, 1);
    write(2 * MIB, 1);
    expect(sent().map(([, sequence]) => sequence)).toEqual([1, 2]);
  });

  it('leaves what finds no room to the next pass, and keeps order otherwise', () => {
    const { replica, told, write } = passing(1);
    write(0, 1);
    write(5 * MIB, 1);
    expect([replica.keeping, replica.passOverruns]).toEqual([true, 1]);
    expect(told).not.toContain('overran');
    replica.marks.clearThrough(0, SIZE, 2, 1);
    expect(replica.marks.nextMarked(0, GIB)).toEqual({ offset: 5 * MIB, length: MIB });
    replica.beginPass();
    expect(replica.passOverruns).toBe(0);
  });

  it('leaves a barrier out that finds no room, whose operations were left to the pass', () => {
    const { replica, write } = passing(1);
    write(0, 1);
    const { usedSize } = replica.window;
    for (let count = 0; count < 1000; count += 1) {
      write(MIB, 1, true);
      replica.barrier();
    }
    expect(replica.window.usedSize).toBe(usedSize);
  });

  it('streams everything again when it is over, and gives up order again when there is no room', () => {
    const { replica, told, write, sent } = passing(2);
    replica.endPass();
    write(MIB, 1);
    expect(sent()).toEqual([[FrameType.WRITE, 1, 1]]);
    write(2 * MIB, 1);
    write(3 * MIB, 1);
    expect(told.at(-1)).toBe('overran');
    // What was marked again since the pass began is still known, until its last checkpoint is done.
    replica.marks.clearThrough(0, SIZE, 3, 1);
    expect(replica.marks.count).toBe(3);
  });

  it('puts remarks at their place of the stream, with the last sequence given out', () => {
    const { replica, write } = passing();
    write(0, 1);
    replica.remark(FrameType.WRITE, FRAME_REPAIR, MIB, 1, Uint8Array.of(2));
    write(0, 1);
    expect([1, 2, 3].map(() => replica.window.takeUnsent())).toMatchObject([
      { sequence: 1, remark: false },
      { sequence: 1, remark: true, flags: FRAME_REPAIR },
      { sequence: 2, remark: false },
    ]);
  });
});

describe('the lag of a replica', () => {
  it('is that of the window while it tells it all, and of the marks otherwise', () => {
    const { clock, replica, write } = inStep(2);
    expect(replica.lag).toEqual({ bytes: 0, ms: 0 });
    write(0, 4096);
    clock.advance(100);
    write(MIB, 512);
    clock.advance(50);
    expect(replica.lag).toEqual({ bytes: 4608, ms: 150 });
    replica.window.takeUnsent();
    replica.window.applied(1);
    expect(replica.lag).toEqual({ bytes: 512, ms: 50 });
    write(MIB, 512);
    expect(replica.lag).toEqual({ bytes: 2 * MIB, ms: 50 });
    clock.advance(1000);
    expect(replica.lag).toEqual({ bytes: 2 * MIB, ms: 1050 });
    replica.startKeeping();
    replica.beginPass();
    replica.marks.clearThrough(0, SIZE, 3, 1);
    replica.dropPass();
    replica.rescanned();
    expect(replica.lag).toEqual({ bytes: 0, ms: 0 });
  });
});
