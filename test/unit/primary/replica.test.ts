import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { FRAME_BARRIER, FRAME_REPAIR, FrameType } from '../../../src/link/frame.ts';
import { lagOf } from '../../../src/primary/lag.ts';
import { MirrorRegions } from '../../../src/primary/mirror-regions.ts';
import { Replica } from '../../../src/primary/replica.ts';
import { ENTRY_OVERHEAD_SIZE } from '../../../src/primary/window.ts';
import { turns } from '../../support/memory-world.ts';
import { ReplicaModel } from './replica-model.ts';
import { type ReplicaOptions, replicaParts } from './replica-parts.ts';

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
      // Found once: a rescan completed before an operation that its pass had read.
      { numRuns: 2000, examples: [[1_622_456_685, 752, true, 20]] },
    );
    // The property says nothing unless all of this happened, often.
    for (const [name, count] of Object.entries(seen)) {
      expect(count, name).toBeGreaterThan(100);
    }
  });
});

const SIZE = 8 * MIB;
const STAGED = Buffer.alloc(16, 7);

/** A replica, in step unless told otherwise, and what it told. A window takes `operations` writes of one byte. */
async function parts(operations = 100, options: Partial<ReplicaOptions> = {}) {
  const made = await replicaParts({
    size: SIZE,
    windowSize: operations * (ENTRY_OVERHEAD_SIZE + 1),
    inOrder: true,
    ...options,
  });
  const { replica } = made;
  const told: string[] = [];
  replica.listen({
    appended: () => told.push('appended'),
    mergedReady: () => told.push('mergedReady'),
    overran: () => told.push('overran'),
  });
  /** Everything that waits to be sent, as type, sequence and offset in MiB, and as if it had been sent. */
  const sent = (): [number, number, number][] => {
    const frames: [number, number, number][] = [];
    for (let entry = replica.window.takeUnsent(); entry !== undefined; entry = replica.window.takeUnsent()) {
      frames.push([entry.type, entry.sequence, entry.offset / MIB]);
      if (!entry.remark && entry.type !== FrameType.BARRIER) replica.sent(entry.sequence);
    }
    return frames;
  };
  /** The mirror has sent nothing but applied and recorded everything that was sent. */
  const record = (): void => {
    const { lastSequence } = replica.window;
    replica.window.applied(lastSequence);
    replica.acknowledged(lastSequence, 0);
  };
  return { ...made, told, sent, record };
}

function markedRegions({ marks }: { marks: { nextMarked(at: number, max: number): { offset: number } | undefined } }) {
  const regions: number[] = [];
  for (let region = 0; region < SIZE / MIB; region += 1) {
    if (marks.nextMarked(region * MIB, 1)?.offset === region * MIB) regions.push(region);
  }
  return regions;
}

describe('a replica without a session', () => {
  it('that a clean stop vouched for keeps operations and marks nothing', async () => {
    const { replica, told, write, sent } = await parts();
    write(0, MIB);
    expect([replica.keeping, replica.inOrder, replica.marks.count, replica.sequence]).toEqual([true, true, 0, 1]);
    expect(told).toEqual(['appended']);
    expect(sent()).toEqual([[FrameType.WRITE, 1, 0]]);
  });

  it('that nobody vouched for marks what the dirty map holds, and operations', async () => {
    const { replica, map, sequences, world } = await parts();
    await map.set(2 * MIB, 1);
    const other = new Replica(world.clock, new MirrorRegions(map, 0, sequences), replica.backlog, {
      sequence: 0,
      checkpoint: 0,
      inOrder: false,
    });
    expect([other.keeping, markedRegions(other)]).toEqual([false, [2]]);
    other.append(FrameType.WRITE, 1, 3 * MIB, 1, Uint8Array.of(1));
    other.barrier();
    expect(markedRegions(other)).toEqual([2, 3]);
    expect(other.window.hasUnsent).toBe(false);
  });

  it('of which the map says nothing yet marks everything', async () => {
    const { replica } = await parts(100, { inOrder: false });
    expect([replica.keeping, replica.marks.markedSize]).toEqual([false, SIZE]);
    expect(replica.behindSinceMs).toBeDefined();
  });

  it('gives up order at the first operation without room, and marks it and all that the window held', async () => {
    const { replica, told, write } = await parts(2);
    write(0, 1);
    write(2 * MIB, 1);
    expect(told).toEqual(['appended', 'appended']);
    write(4 * MIB + 5, 1);
    expect(told.slice(2)).toEqual(['overran']);
    expect([replica.keeping, replica.window.usedSize, markedRegions(replica)]).toEqual([false, 0, [0, 2, 4]]);
    write(6 * MIB, 1);
    expect([replica.marks.count, told.length]).toEqual([4, 3]);
  });

  it('marks, where order is given up, also what has left the window for a staged run that is not in the image', async () => {
    const { replica, write, sent } = await parts(3);
    replica.beginCatchUp(0, STAGED);
    write(MIB, 1);
    write(2 * MIB, 1);
    sent();
    replica.window.applied(2);
    replica.acknowledged(0, 2);
    expect(replica.backlog.baseSequence).toBe(2);
    replica.loseOrder();
    expect(markedRegions(replica)).toEqual([1, 2]);
  });

  it('takes a range of which nothing is known for overrun', async () => {
    const { replica, told } = await parts();
    replica.uncertain(1, MIB, 2 * MIB);
    expect([replica.keeping, markedRegions(replica), told]).toEqual([false, [1, 2], ['overran']]);
  });

  it('allows no gap between sequences', async () => {
    const { replica } = await parts();
    expect(() => replica.append(FrameType.ZERO, 2, 0, 1, undefined)).toThrow('no gaps');
  });

  it('puts the end of an epoch on the operation, or behind it, once', async () => {
    const { replica, write } = await parts();
    write(0, 1, true);
    expect(replica.window.takeUnsent()).toMatchObject({ type: FrameType.WRITE, flags: FRAME_BARRIER });
    write(0, 1);
    expect(replica.window.takeUnsent()).toMatchObject({ type: FrameType.WRITE, flags: 0 });
    replica.barrier();
    replica.barrier();
    expect(replica.window.takeUnsent()).toMatchObject({ type: FrameType.BARRIER, sequence: 2 });
    expect(replica.window.hasUnsent).toBe(false);
  });

  it('gives up order where a barrier finds no room: the epochs on both sides of it must not become one', async () => {
    const { replica, told, write, world } = await parts(1, { spoolSize: 32 * MIB });
    world.files.hook = (_operation, path) => {
      if (path.startsWith('/state/spool/')) throw new Failure('io-error', 'injected');
    };
    write(0, 1);
    // Enough that it is written to the disk.
    for (let count = 0; count < 8; count += 1) write(MIB, MIB, false, new Uint8Array(MIB));
    await turns(10);
    // What is in the spool can still be had from memory, but nothing more is taken in.
    expect([replica.keeping, replica.backlog.isInWindow]).toEqual([true, false]);
    replica.barrier();
    expect([replica.keeping, told.at(-1), markedRegions(replica)]).toEqual([false, 'overran', [0, 1]]);
  });

  it('gives up order, and compares what was in it, when the spool cannot be read back', async () => {
    const { replica, told, write, sent, record, world } = await parts(1, { spoolSize: 32 * MIB });
    write(0, 1);
    for (let count = 0; count < 8; count += 1) write((1 + (count % 2) * 2) * MIB, MIB, false, new Uint8Array(MIB));
    await turns(10);
    for (const name of await world.files.list('/state/spool')) {
      world.files.file(`/state/spool/${name}`).disk.hook = (call) => {
        if (call === 'read') throw new Failure('io-error', 'injected');
      };
    }
    expect(sent()).toEqual([[FrameType.WRITE, 1, 0]]);
    record();
    await turns(10);
    expect([replica.keeping, told.at(-1), markedRegions(replica)]).toEqual([false, 'overran', [1, 3]]);
  });

  it('comes out of the spool in order, and tells that there is something to send', async () => {
    const { replica, told, write, sent, record } = await parts(2, { spoolSize: 2 * MIB });
    for (const region of [0, 1, 2, 3]) write(region * MIB, 1);
    expect(sent()).toEqual([
      [FrameType.WRITE, 1, 0],
      [FrameType.WRITE, 2, 1],
    ]);
    expect([replica.isPast(2), replica.isPast(3), replica.streamSequence, replica.sequence]).toEqual([
      true,
      false,
      2,
      4,
    ]);
    const before = told.length;
    record();
    await turns(10);
    expect(told.length).toBeGreaterThan(before);
    expect(sent()[0]).toEqual([FrameType.WRITE, 3, 2]);
    for (let round = 0; round < 5 && !replica.isPast(4); round += 1) {
      record();
      await turns(10);
    }
    sent();
    expect([replica.isPast(4), replica.streamSequence, replica.keeping]).toEqual([true, 4, true]);
  });
});

describe('a replica in a session', () => {
  it('keeps the epochs of what will reach the image after the rescan', async () => {
    const { replica, world, write } = await replicaParts({
      size: SIZE,
      windowSize: 64 * KIB,
      spoolSize: MIB,
      inOrder: true,
    });
    replica.beginCompare('marks', 0, 0, 0, Buffer.alloc(16, 7));
    replica.beginPass();
    for (let count = 0; count < 20; count += 1) write(count * 4096, 4096, false, Buffer.alloc(4096, 1));
    expect([replica.backlog.isInWindow, world.clock.nowMs()]).toEqual([false, 0]);
    replica.comparing.endPass();
    const sequence = replica.sequence;
    write(3 * MIB, 4096, false, Buffer.alloc(4096, 2));
    replica.barrier();
    write(4 * MIB, 4096, false, Buffer.alloc(4096, 3));
    let completed = false;
    const stream: [number, number, number][] = [];
    for (let round = 0; round < 200 && stream.at(-1)?.[1] !== replica.sequence; round += 1) {
      for (let entry = replica.window.takeUnsent(); entry !== undefined; entry = replica.window.takeUnsent()) {
        stream.push([entry.type, entry.sequence, entry.flags]);
        replica.window.applied(entry.sequence);
        replica.acknowledged(0, entry.sequence);
      }
      await turns(1);
      if (completed || !replica.isPast(sequence)) continue;
      completed = true;
      replica.comparing.complete();
      replica.remark(FrameType.CHECKPOINT, 0, 1, 0);
    }
    expect(stream.filter(([type]) => type !== FrameType.CHECKPOINT).slice(-2)).toEqual([
      [FrameType.WRITE, sequence + 1, FRAME_BARRIER],
      [FrameType.WRITE, sequence + 2, 0],
    ]);
  });

  it('takes up what found no room, and lies behind what is spooled, when the stream has got past it', async () => {
    const { replica, write } = await replicaParts({ size: SIZE, windowSize: 64 * KIB, spoolSize: MIB, inOrder: true });
    replica.beginCompare('marks', 0, 0, 0, Buffer.alloc(16, 7));
    for (let count = 0; count < 20; count += 1) write(count * 4096, 4096, false, Buffer.alloc(4096, 1));
    while (replica.comparing.overruns === 0) write(MIB, 4096, false, Buffer.alloc(4096, 2));
    expect(replica.comparing.leftOutThrough).toBe(replica.sequence);
    expect(replica.isPast(replica.comparing.leftOutThrough)).toBe(false);
    // The link is lost: what the next session has to wait for is the same.
    replica.sessionEnded();
    replica.beginCompare('marks', 0, 0, 0, Buffer.alloc(16, 8));
    expect(replica.isPast(replica.comparing.leftOutThrough)).toBe(false);
  });

  it('tells the version of the dirty map at its start, and each new one before the operation that relies on it', async () => {
    const { replica, map, write, sent } = await parts(100, { inOrder: true });
    await map.set(0, 1);
    // Outside of a session nobody is told: it is in the HELLO.
    replica.mapChanged(map.version);
    write(0, 1);
    replica.beginCatchUp(0, undefined);
    await map.set(MIB, 1);
    replica.mapChanged(map.version);
    write(MIB, 1);
    expect(replica.regions.versionTold).toBe(map.version);
    const { version } = map;
    const told: unknown[] = [];
    for (let entry = replica.window.takeUnsent(); entry !== undefined; entry = replica.window.takeUnsent()) {
      told.push([entry.type, entry.type === FrameType.MAP_VERSION ? entry.offset : entry.sequence]);
    }
    // The session says the version at its start in front of what the window has.
    expect(told).toEqual([
      [FrameType.WRITE, 1],
      [FrameType.MAP_VERSION, version],
      [FrameType.WRITE, 2],
    ]);
    replica.sessionEnded();
    replica.mapChanged(version + 5);
    expect([sent(), replica.regions.versionTold]).toEqual([[], version]);
  });

  it('catches up after the position, all of it again', async () => {
    const { replica, write, sent } = await parts();
    for (const region of [0, 1, 2]) write(region * MIB, 1);
    sent();
    replica.sessionEnded();
    replica.beginCatchUp(1, undefined);
    expect(sent().filter(([type]) => type === FrameType.WRITE)).toEqual([
      [FrameType.WRITE, 2, 1],
      [FrameType.WRITE, 3, 2],
    ]);
    expect([replica.sentMax, replica.stagedRun.kind]).toEqual([3, undefined]);
  });

  it('does not catch up what is not in order', async () => {
    const { replica } = await parts();
    replica.marks.mark(0, 1);
    expect(() => replica.beginCatchUp(0, undefined)).toThrow('only what is in order');
  });

  it('remembers what is mended in the view only, and marks it again when the mirror has lost the staged run', async () => {
    const { replica, sent } = await parts();
    replica.marks.mark(2 * MIB, 1);
    replica.beginCompare('marks', 0, 0, 0, STAGED);
    replica.passCleared(0, SIZE, 0, 5);
    expect([replica.marks.count, replica.stagedRun.holds(2), replica.inOrder]).toEqual([0, true, false]);
    expect(replica.marks.coverFrom(0, 0)).toBe(true);
    replica.sessionEnded();
    expect([replica.stagedRun.kind, replica.stagedRun.isHeld(STAGED, 5)]).toEqual(['rescan', true]);
    replica.beginCompare('marks', 0, 0, 0, Buffer.alloc(16, 8));
    expect([markedRegions(replica), replica.stagedRun.holds(2)]).toEqual([[2], false]);
    sent();
  });

  describe('that finds no room while the mirror completes a rescan', () => {
    async function cutShort() {
      const made = await parts(8, { spoolSize: 0 });
      const { replica, write, sent } = made;
      write(0, 1);
      sent();
      replica.sessionEnded();
      replica.beginCompare('marks', 0, 0, 0, Buffer.alloc(16, 7));
      replica.beginPass();
      sent();
      replica.window.applied(1);
      replica.comparing.passReached(8 * MIB);
      replica.passCleared(0, SIZE, replica.sequence, 5);
      replica.comparing.endPass();
      replica.marks.endPass();
      replica.comparing.complete();
      const { sequence } = replica;
      write(MIB, 1);
      while (!replica.comparing.isCutShort) write(2 * MIB, 1000, false, Buffer.alloc(1000, 1));
      made.told.length = 0;
      return { ...made, sequence };
    }

    it('leaves out all that follows, and keeps the session', async () => {
      const { replica, write, sent, told } = await cutShort();
      sent();
      const { lastSequence } = replica.window;
      write(3 * MIB, 1);
      replica.barrier();
      expect([sent(), replica.window.lastSequence, replica.keeping, told]).toEqual([[], lastSequence, true, []]);
      expect(markedRegions(replica)).toEqual(expect.arrayContaining([2, 3]));
    });

    it('leaves out all that follows a barrier that finds no room', async () => {
      const { replica, write, sent, told, world } = await parts(1, { spoolSize: 32 * MIB });
      replica.beginCompare('marks', 0, 0, 0, STAGED);
      replica.beginPass();
      replica.comparing.endPass();
      replica.marks.endPass();
      replica.comparing.complete();
      world.files.hook = (_operation, path) => {
        if (path.startsWith('/state/spool/')) throw new Failure('io-error', 'injected');
      };
      write(0, 1);
      // Enough that it is written to the disk.
      for (let count = 0; count < 8; count += 1) write(MIB, MIB, false, new Uint8Array(MIB));
      await turns(10);
      expect([replica.comparing.isCutShort, replica.keeping]).toEqual([false, true]);
      replica.barrier();
      const { lastSequence } = replica.window;
      write(2 * MIB, 1);
      expect([replica.comparing.isCutShort, replica.keeping, replica.window.lastSequence]).toEqual([
        true,
        true,
        lastSequence,
      ]);
      expect([told.includes('overran'), markedRegions(replica), sent().length > 0]).toEqual([false, [2], true]);
    });

    it('compares only what came after the completion, once that is done', async () => {
      const { replica, told, sequence } = await cutShort();
      replica.committed(sequence, 1);
      expect([replica.keeping, told, replica.recorded]).toEqual([false, [], sequence]);
      await turns(1);
      expect(told).toEqual(['overran']);
      expect(markedRegions(replica)).toEqual([1, 2]);
    });

    it('compares all that the mirror has not recorded, when the session ends before', async () => {
      const { replica } = await cutShort();
      replica.sessionEnded();
      expect([replica.keeping, markedRegions(replica)]).toEqual([false, [0, 1, 2]]);
    });
  });

  it('knows of nothing to be compared once the staged run is committed, and no older image will do', async () => {
    const { replica, write, sent } = await parts();
    replica.marks.mark(2 * MIB, 1);
    replica.beginCompare('marks', 0, 0, 0, STAGED);
    write(5 * MIB, 1);
    sent();
    replica.window.applied(1);
    replica.passCleared(0, SIZE, 1, 5);
    replica.comparing.complete();
    replica.committed(1, 6);
    expect([replica.inOrder, replica.recorded, replica.stagedRun.kind, replica.behindSinceMs]).toEqual([
      true,
      1,
      undefined,
      undefined,
    ]);
    expect([replica.marks.coverFrom(0, 6), replica.marks.coverFrom(1, 5), replica.marks.coverFrom(1, 6)]).toEqual([
      false,
      false,
      true,
    ]);
  });

  it('goes on with the rescan that the mirror has staged although order was given up: from now on', async () => {
    const { replica, write } = await parts(2);
    replica.marks.mark(2 * MIB, 1);
    replica.beginCompare('marks', 0, 0, 0, STAGED);
    replica.sessionEnded();
    for (const region of [4, 5, 6]) write(region * MIB, 1);
    expect(replica.keeping).toBe(false);
    expect(replica.resumeStaged(0)).toBe(3);
    expect([replica.keeping, replica.comparing.isOpen, markedRegions(replica)]).toEqual([true, true, [2, 4, 5, 6]]);
  });

  it('goes on with the rescan that the mirror has staged, in order where that is kept', async () => {
    const { replica, write, sent } = await parts();
    replica.marks.mark(2 * MIB, 1);
    replica.beginCompare('marks', 0, 0, 0, STAGED);
    write(4 * MIB, 1);
    write(5 * MIB, 1);
    sent();
    replica.sessionEnded();
    expect(replica.resumeStaged(1)).toBe(1);
    expect(sent().filter(([type]) => type === FrameType.WRITE)).toEqual([[FrameType.WRITE, 2, 5]]);
    expect([replica.comparing.isOpen, markedRegions(replica)]).toEqual([true, [2]]);
  });

  it('marks, where the stream begins anew, what the mirror may lack of the time since its position', async () => {
    const { replica, write, sent, record } = await parts(3);
    write(MIB, 1);
    write(2 * MIB, 1);
    sent();
    record();
    write(3 * MIB, 1);
    // The mirror says that it is at 1, but is asked to begin anew: 2 has left the window since.
    expect(replica.beginCompare('marks', 1, 0, undefined, STAGED)).toBe(3);
    expect(markedRegions(replica)).toEqual([2, 3]);
  });

  it('does not stand behind anything while a merged part is on its way', async () => {
    const { replica, sent, write } = await parts(100, { spoolSize: 2 * MIB });
    replica.beginCatchUp(0, undefined);
    write(0, 1);
    sent();
    expect(replica.isPast(1)).toBe(true);
    replica.beginMerged(STAGED, { end: 3 });
    expect([replica.isPast(0), replica.stagedRun.kind, replica.stagedRun.id]).toEqual([false, 'merged', STAGED]);
    replica.sessionEnded();
    // The run outlives the session, the part on its way does not.
    expect([replica.isPast(1), replica.stagedRun.kind]).toEqual([true, 'merged']);
  });

  it('remembers over sessions how far a merged part goes of which an open staged run may hold something', async () => {
    const { replica, sent, write } = await parts(100, { spoolSize: 2 * MIB });
    replica.beginCatchUp(0, STAGED);
    write(0, 1);
    sent();
    replica.beginMerged(undefined, { end: 7 });
    replica.sessionEnded();
    expect(replica.sentMax).toBe(7);
  });

  it('has nothing more to do with a merged part once the view holds it', async () => {
    const { replica, sent, write, record, told } = await parts(1, { spoolSize: 128 * KIB });
    replica.beginCatchUp(0, undefined);
    const block = new Uint8Array(16 * KIB).fill(9);
    for (let count = 0; count < 12; count += 1) {
      write((count % 3) * 16 * KIB, block.length, false, block);
      await turns(5);
    }
    expect([replica.keeping, replica.backlog.rung]).toEqual([true, 'merged']);
    sent();
    record();
    await turns(5);
    expect(told).toContain('mergedReady');
    const part = replica.backlog.nextMerged()!;
    replica.beginMerged(STAGED, part);
    replica.endMerged(part);
    replica.committed(part.end, 1);
    expect([replica.recorded, replica.backlog.baseSequence, replica.stagedRun.kind]).toEqual([
      part.end,
      part.end,
      undefined,
    ]);
    expect(replica.streamSequence).toBeGreaterThanOrEqual(part.end);
  });
});

describe('a replica during a pass', () => {
  async function passing(operations = 100, options: Partial<ReplicaOptions> = {}) {
    const made = await parts(operations, options);
    for (const region of [1, 2, 3, 6]) made.replica.marks.mark(region * MIB, 1);
    made.replica.beginCompare('marks', 0, 0, 0, STAGED);
    // What the session began with.
    made.sent();
    made.record();
    return made;
  }

  it('leaves to it what lies wholly in regions still to be compared, and streams all else', async () => {
    const { replica, write, sent } = await passing();
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

  it('streams what touches the part that is being compared', async () => {
    const { replica, write, sent } = await passing();
    replica.comparing.passReached(2 * MIB);
    write(MIB, 1);
    write(2 * MIB - 1, 2);
    write(3 * MIB, 1);
    expect(sent().map(([, sequence]) => sequence)).toEqual([1, 2]);
  });

  it('leaves nothing behind an operation that it streamed: the pass could find equal what that one undoes', async () => {
    const { write, sent } = await passing();
    write(0, 2 * MIB);
    write(MIB, 1);
    write(2 * MIB, 1);
    expect(sent().map(([, sequence]) => sequence)).toEqual([1, 2]);
  });

  it('leaves nothing behind an operation that waits in the spool, of a pass before, either', async () => {
    const { replica, write, sent } = await passing(1, { spoolSize: 2 * MIB });
    write(0, 1);
    // Outside of what the pass compares, and no room in the window.
    write(5 * MIB, 1);
    write(7 * MIB, 1);
    expect(replica.backlog.isInWindow).toBe(false);
    replica.comparing.endPass();
    replica.marks.endPass();
    replica.marks.mark(5 * MIB, 1);
    replica.beginPass();
    const { spooledOperations } = replica.backlog.status;
    write(5 * MIB, 2);
    expect(replica.backlog.status.spooledOperations).toBe(spooledOperations + 1);
    // Where nothing in the spool touches the region it is left to the pass.
    write(2 * MIB, 1);
    expect(replica.backlog.status.spooledOperations).toBe(spooledOperations + 1);
    expect([replica.keeping, replica.comparing.overruns]).toEqual([true, 0]);
    expect(sent()).toEqual([[FrameType.WRITE, 1, 0]]);
  });

  it('leaves what finds no room to the next pass, and keeps order otherwise', async () => {
    const { replica, told, write } = await passing(1);
    write(0, 1);
    write(5 * MIB, 1);
    expect([replica.keeping, replica.comparing.overruns]).toEqual([true, 1]);
    expect(told).not.toContain('overran');
    replica.passCleared(0, SIZE, 2, 1);
    expect(markedRegions(replica)).toEqual([5]);
    replica.beginPass();
    expect(replica.comparing.overruns).toBe(0);
  });

  it('is not complete while something found no room', async () => {
    const { replica, write } = await passing(1);
    write(0, 1);
    write(5 * MIB, 1);
    replica.comparing.endPass();
    expect(() => replica.comparing.complete()).toThrow('everything since the last pass');
  });

  it('says nothing of epochs: what the mirror gets then reaches its image all at once', async () => {
    const { replica, write, sent } = await passing();
    write(MIB, 1, true);
    replica.barrier();
    write(0, 1);
    replica.barrier();
    expect(sent()).toEqual([[FrameType.WRITE, 2, 0]]);
    replica.comparing.endPass();
    replica.comparing.complete();
    replica.barrier();
    expect(sent()).toEqual([[FrameType.BARRIER, 2, 0]]);
  });

  it('streams everything again when it is over, and leaves what finds no room to another', async () => {
    const { replica, told, write, sent } = await passing(2);
    replica.comparing.endPass();
    write(MIB, 1);
    expect(sent()).toEqual([[FrameType.WRITE, 1, 1]]);
    write(2 * MIB, 1);
    write(3 * MIB, 1);
    expect([replica.keeping, replica.comparing.overruns, told.at(-1)]).toEqual([true, 1, 'appended']);
    // What was marked again since the pass began is still known, until its last checkpoint is done.
    replica.passCleared(0, SIZE, 3, 1);
    expect(markedRegions(replica)).toEqual([3]);
  });

  it('of a seeding clears for good: there is no view beside the image', async () => {
    const { replica } = await parts();
    replica.beginCompare('everything', undefined, 0, undefined, undefined);
    expect([replica.marks.count, replica.stagedRun.kind]).toEqual([8, undefined]);
    replica.passCleared(0, 4 * MIB, 0, 3);
    replica.sessionEnded();
    expect(markedRegions(replica)).toEqual([4, 5, 6, 7]);
    expect([replica.marks.coverFrom(0, 2), replica.marks.coverFrom(0, 3)]).toEqual([false, true]);
  });

  it('of what the dirty map holds adds that to what is marked here', async () => {
    const { replica, map } = await parts();
    await map.set(4 * MIB, 1);
    replica.marks.mark(0, 1);
    replica.beginCompare('map', undefined, 0, undefined, STAGED);
    expect(markedRegions(replica)).toEqual([0, 4]);
  });

  it('puts remarks at their place of the stream, with the last sequence given out', async () => {
    const { replica, write } = await passing();
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
  it('is that of the backlog while it tells it all, and of the marks otherwise', async () => {
    const { world, replica, write } = await parts(2);
    const { clock } = world;
    const lag = (): unknown => lagOf(replica, clock.nowMs());
    expect(lag()).toEqual({ bytes: 0, ms: 0 });
    write(0, 4096);
    clock.advance(100);
    write(MIB, 512);
    clock.advance(50);
    expect(lag()).toEqual({ bytes: 4608, ms: 150 });
    replica.window.takeUnsent();
    replica.window.applied(1);
    expect(lag()).toEqual({ bytes: 512, ms: 50 });
    write(MIB, 512);
    expect(lag()).toEqual({ bytes: 2 * MIB, ms: 50 });
    clock.advance(1000);
    expect(lag()).toEqual({ bytes: 2 * MIB, ms: 1050 });
    replica.beginCompare('marks', 0, 0, undefined, STAGED);
    replica.passCleared(0, SIZE, 3, 1);
    // The image lacks it as long as before: it is only staged.
    expect(lag()).toEqual({ bytes: 0, ms: 1050 });
    replica.comparing.endPass();
    replica.comparing.complete();
    replica.committed(3, 2);
    expect(lag()).toEqual({ bytes: 0, ms: 0 });
  });

  it('counts what is spooled', async () => {
    const { world, replica, write } = await parts(1, { spoolSize: 2 * MIB });
    write(0, 1);
    world.clock.advance(10);
    write(MIB, 1, false, new Uint8Array(1000));
    world.clock.advance(10);
    const { bytes, ms } = lagOf(replica, world.clock.nowMs());
    expect(bytes).toBeGreaterThanOrEqual(2);
    expect(ms).toBe(20);
  });
});
