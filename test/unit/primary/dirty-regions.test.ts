import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { DirtyRegions } from '../../../src/primary/dirty-regions.ts';
import { RegionSequences } from '../../../src/primary/region-sequences.ts';
import { DirtyMap } from '../../../src/store/dirty-map.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { MemoryFiles } from '../../support/memory-files.ts';
import { memoryLog } from '../../support/memory-log.ts';
import { turns } from '../../support/memory-world.ts';

const REGION_SIZE = 4096;
const REGION_COUNT = 64;
const RUN = Buffer.alloc(16, 3);
const PATH = '/state/dirty';

/**
 * A mirror and a local disk that are where the test says, and regions of which all were written at sequence 0: in this
 * process, or `before` it.
 */
async function scene(activeMax = 8, written: 'in it' | 'before' = 'in it') {
  const files = new MemoryFiles();
  const clock = new ManualClock();
  const { log, lines } = memoryLog();
  const size = REGION_COUNT * REGION_SIZE - 1;
  const map = await DirtyMap.open(files, PATH, {
    size,
    regionSize: REGION_SIZE,
    trusted: true,
    invalidate: () => Promise.reject(new Failure('io-error', 'no state')),
  });
  const sequences = new RegionSequences(size, REGION_SIZE, 0);
  if (written === 'in it') sequences.note(0, size, 0);
  const state = {
    recorded: 0 as number | undefined,
    stays: new Set<number>(),
    durable: 0,
    syncFailed: false,
    busy: new Set<number>(),
    syncs: 0,
    sync: async (): Promise<void> => undefined,
  };
  const regions = new DirtyRegions(clock, log, map, 0, sequences, activeMax, {
    recorded: () => (state.recorded === undefined ? undefined : { run: RUN, sequence: state.recorded, checkpoint: 7 }),
    mustStay: (region) => state.stays.has(region),
    stayCount: () => state.stays.size,
    locallyDurable: () => state.durable,
    syncFailed: () => state.syncFailed,
    syncLocal: () => {
      state.syncs += 1;
      return state.sync();
    },
    isFree: (offset, length) => {
      expect([offset % REGION_SIZE, offset + length <= size]).toEqual([0, true]);
      return !state.busy.has(offset / REGION_SIZE);
    },
  });
  const set = (): number[] =>
    Array.from({ length: REGION_COUNT }, (_, region) => region).filter((region) => map.isSet(0, region));
  /** Writes regions one after the other, from sequence 1. */
  const write = (...written: number[]): void => {
    for (const [index, region] of written.entries()) sequences.note(region * REGION_SIZE, 1, index + 1);
  };
  /** What was started in the background has come to its end. */
  const pass = async (): Promise<void> => {
    clock.advance(1000);
    await turns(3);
  };
  return { files, clock, log, lines, map, sequences, state, regions, set, write, pass };
}

const all = Array.from({ length: REGION_COUNT }, (_, region) => region);
const allBut = (...left: number[]): number[] => all.filter((region) => !left.includes(region));

describe('the active set', () => {
  it('is what was written last: the least recently written are cleared first, down to its size', async () => {
    const { state, regions, write, set, pass, map } = await scene(8);
    write(...all.map((region) => (region * 5) % REGION_COUNT));
    Object.assign(state, { recorded: REGION_COUNT, durable: REGION_COUNT });
    regions.reconcile();
    await pass();
    const last = all.map((region) => (region * 5) % REGION_COUNT).slice(-8);
    expect(set()).toEqual(last.sort((a, b) => a - b));
    expect(map.cleared(0)).toEqual({ run: RUN, sequence: REGION_COUNT, checkpoint: 7 });
    expect(state.syncs).toBe(0);
  });

  it('may be exceeded by an eighth before anything is cleared', async () => {
    const { state, regions, set, pass } = await scene(57);
    Object.assign(state, { recorded: 0, durable: 0 });
    regions.reconcile();
    await pass();
    expect(set().length).toBe(REGION_COUNT);
    const smaller = await scene(56);
    smaller.regions.reconcile();
    await smaller.pass();
    expect(smaller.set().length).toBe(56);
  });

  it('has as many of those written at one sequence as find room', async () => {
    const { state, regions, sequences, set, pass } = await scene(8);
    sequences.note(0, 10 * REGION_SIZE, 5);
    Object.assign(state, { recorded: 5, durable: 5 });
    regions.reconcile();
    await pass();
    expect(set().length).toBe(8);
    expect(set().every((region) => region < 10)).toBe(true);
  });

  it('is looked at once for all who ask, a moment later, and clears with one write', async () => {
    const { regions, files, pass, set, clock } = await scene(8);
    const { counts } = files.file(PATH).disk;
    const before = counts.sync;
    for (let count = 0; count < 50; count += 1) regions.reconcile();
    clock.advance(150);
    await turns(3);
    expect([set().length, counts.sync - before]).toEqual([REGION_COUNT, 0]);
    await pass();
    expect([set().length, counts.sync - before]).toEqual([8, 1]);
    regions.reconcile();
    await pass();
    expect(counts.sync - before).toBe(1);
  });

  it('is kept exact whatever was written in whatever order', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat(REGION_COUNT - 1), { minLength: 20, maxLength: 200, size: 'max' }),
        fc.integer({ min: 1, max: 40 }),
        async (written, activeMax) => {
          const { state, regions, write, set, pass, sequences } = await scene(activeMax);
          write(...written);
          Object.assign(state, { recorded: written.length, durable: written.length });
          regions.reconcile();
          await pass();
          const kept = set();
          expect(kept.length).toBe(activeMax);
          const newestCleared = Math.max(...allBut(...kept).map((region) => sequences.of(region)));
          for (const region of kept) expect(sequences.of(region)).toBeGreaterThanOrEqual(newestCleared);
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe('what nobody has written in this process', () => {
  it('is cleared before all else and does not count towards the active set, however large that may be', async () => {
    const { state, regions, write, set, pass, sequences } = await scene(32, 'before');
    write(5, 9, 5, 40);
    Object.assign(state, { recorded: 4, durable: 4 });
    regions.reconcile();
    await pass();
    expect(set()).toEqual([5, 9, 40]);
    expect(sequences.inUseCount).toBe(3);
  });

  it('is cleared as the comparison goes on, and what was written meanwhile stays', async () => {
    const { state, regions, write, set, pass } = await scene(32, 'before');
    for (const region of all) state.stays.add(region);
    write(60);
    Object.assign(state, { recorded: 1, durable: 1 });
    for (const region of all.slice(0, 40)) state.stays.delete(region);
    regions.reconcile();
    await pass();
    expect(set()).toEqual(all.slice(40));
    for (const region of all) state.stays.delete(region);
    regions.reconcile();
    await pass();
    expect(set()).toEqual([60]);
  });

  it('belongs to the active set once it has been written and cleared and written again', async () => {
    const { state, regions, map, sequences, set, write, pass } = await scene(2, 'before');
    write(1, 2, 3, 4);
    Object.assign(state, { recorded: 4, durable: 4 });
    regions.reconcile();
    await pass();
    expect([set(), sequences.inUseCount]).toEqual([[3, 4], 2]);
    await map.set(REGION_SIZE, 1);
    // Set, and not yet written: it is held.
    state.busy.add(1);
    regions.reconcile();
    await pass();
    sequences.note(REGION_SIZE, 1, 5);
    state.busy.delete(1);
    Object.assign(state, { recorded: 5, durable: 5 });
    regions.reconcile();
    await pass();
    expect(set()).toEqual([1, 4]);
  });

  it('costs no look at the regions once it is cleared', async () => {
    const { state, regions, write, set, pass } = await scene(32, 'before');
    write(5, 9);
    Object.assign(state, { recorded: 2, durable: 2 });
    regions.reconcile();
    await pass();
    expect(set()).toEqual([5, 9]);
    let looks = 0;
    state.stays.has = () => {
      looks += 1;
      return false;
    };
    for (let count = 0; count < 5; count += 1) {
      regions.reconcile();
      await pass();
    }
    expect(looks).toBe(0);
  });
});

describe('a region stays set', () => {
  it('while an operation on it is not recorded in the mirror’s image', async () => {
    const { state, regions, write, set } = await scene();
    write(1, 2, 3, 4);
    Object.assign(state, { recorded: 2, durable: 4 });
    await regions.settle();
    expect(set()).toEqual([3, 4]);
  });

  it('while it is not known where the mirror’s image stands', async () => {
    const { state, regions, set, pass } = await scene();
    Object.assign(state, { recorded: undefined, durable: 9 });
    regions.reconcile();
    await pass();
    await regions.settle();
    expect(set()).toEqual(all);
  });

  it('while an operation on it is not durable on the local disk, even after a sync was asked for', async () => {
    const { state, regions, write, set } = await scene();
    write(1, 2, 3, 4);
    Object.assign(state, { recorded: 4, durable: 2 });
    // It covers no more than what had taken effect when it began.
    state.sync = async () => {
      state.durable = 3;
    };
    await regions.settle();
    expect([set(), state.syncs]).toEqual([[4], 1]);
  });

  it('while something else says that it may differ', async () => {
    const { state, regions, set } = await scene();
    for (const region of [5, 60]) state.stays.add(region);
    await regions.settle();
    expect(set()).toEqual([5, 60]);
    state.stays.delete(5);
    await regions.settle();
    expect(set()).toEqual([60]);
  });

  it('while a mutation of it is under way that has no sequence yet', async () => {
    const { state, regions, set } = await scene();
    state.busy.add(63);
    await regions.settle();
    expect(set()).toEqual([63]);
  });

  it('when it is written, marked or held while the local disk is being synced', async () => {
    const { state, regions, sequences, set } = await scene();
    Object.assign(state, { recorded: 1, durable: -1 });
    state.sync = async () => {
      await turns(1);
      sequences.note(1 * REGION_SIZE, 1, 2);
      state.stays.add(2);
      state.busy.add(3);
      state.durable = 9;
    };
    await regions.settle();
    expect(set()).toEqual([1, 2, 3]);
  });

  it('when the mirror turns out to stand lower, while the local disk is being synced', async () => {
    const { state, regions, sequences, set } = await scene();
    for (const region of all) sequences.note(region * REGION_SIZE, 1, 5);
    Object.assign(state, { recorded: 5, durable: -1 });
    state.sync = async () => {
      Object.assign(state, { recorded: 4, durable: 5 });
    };
    await regions.settle();
    expect(set()).toEqual(all);
  });
});

describe('the sync of the local disk', () => {
  it('is asked for only where what is to be cleared needs it', async () => {
    const { state, regions, write, set, pass } = await scene(8);
    write(...all);
    // What was written last is not durable, but belongs to the active set.
    Object.assign(state, { recorded: REGION_COUNT, durable: REGION_COUNT - 8 });
    regions.reconcile();
    await pass();
    expect([set().length, state.syncs]).toEqual([8, 0]);
  });

  it('that fails leaves everything set, for good', async () => {
    const { state, regions, set, pass, lines } = await scene(8);
    state.durable = -1;
    state.sync = async () => {
      state.syncFailed = true;
      throw new Failure('io-error', 'injected');
    };
    regions.reconcile();
    await pass();
    expect([set(), state.syncs]).toEqual([all, 1]);
    expect(lines.some(({ level }) => level === 'warn')).toBe(true);
    state.durable = 9;
    regions.reconcile();
    await pass();
    await regions.settle();
    expect([set(), state.syncs]).toEqual([all, 1]);
  });
});

describe('clearing regions', () => {
  it('before a clean stop takes the active set too, and waits for what was under way', async () => {
    const { state, regions, set, clock } = await scene(8);
    state.durable = -1;
    let synced = (): void => undefined;
    state.sync = () =>
      new Promise((resolve) => {
        synced = resolve;
      });
    regions.reconcile();
    clock.advance(1000);
    const settled = regions.settle();
    await turns(2);
    expect([set(), state.syncs]).toEqual([all, 1]);
    state.durable = 0;
    synced();
    await settled;
    expect([set(), state.syncs]).toEqual([[], 1]);
  });

  it('is not looked for while all that is set must stay: that costs no look at the regions', async () => {
    const { state, regions, clock } = await scene(8);
    for (const region of all) state.stays.add(region);
    let looks = 0;
    state.stays.has = () => {
      looks += 1;
      return true;
    };
    for (let count = 0; count < 10; count += 1) {
      regions.reconcile();
      clock.advance(1000);
    }
    await turns(2);
    expect(looks).toBe(0);
  });

  it('that fails is said, and tried again with what comes next', async () => {
    const { regions, files, pass, map, lines } = await scene(8);
    const { disk } = files.file(PATH);
    disk.hook = (call) => {
      if (call === 'write') throw new Failure('no-space', 'injected');
    };
    regions.reconcile();
    await pass();
    expect(lines.filter(({ level }) => level === 'warn').length).toBe(1);
    expect(map.valid).toBe(true);
    disk.hook = undefined;
    await regions.settle();
    expect(map.count(0)).toBe(0);
    const again = await DirtyMap.open(files, PATH, {
      size: map.size,
      regionSize: REGION_SIZE,
      trusted: true,
      invalidate: async () => undefined,
    });
    expect(again.count(0)).toBe(0);
  });

  it('ends with the close', async () => {
    const { regions, set, pass } = await scene(8);
    regions.reconcile();
    await regions.close();
    await pass();
    regions.reconcile();
    await pass();
    expect(set()).toEqual(all);
  });

  it('does nothing where the map is invalid', async () => {
    const files = new MemoryFiles();
    const map = await DirtyMap.open(files, PATH, {
      size: 8 * REGION_SIZE,
      regionSize: REGION_SIZE,
      trusted: true,
      invalidate: async () => undefined,
    });
    await map.clear(0, [0], { run: RUN, sequence: 1, checkpoint: 1 });
    files.file(PATH).disk.hook = () => Promise.reject(new Failure('io-error', 'injected'));
    await map.set(0, 1);
    expect(map.valid).toBe(false);
    const { state, log, lines, clock, sequences } = await scene();
    const regions = new DirtyRegions(clock, log, map, 0, sequences, 1, {
      recorded: () => ({ run: RUN, sequence: 9, checkpoint: 7 }),
      mustStay: () => false,
      stayCount: () => 0,
      locallyDurable: () => 9,
      syncFailed: () => false,
      syncLocal: () => state.sync(),
      isFree: () => true,
    });
    regions.reconcile();
    clock.advance(1000);
    await regions.settle();
    expect([map.count(0), lines]).toEqual([8, []]);
  });
});
