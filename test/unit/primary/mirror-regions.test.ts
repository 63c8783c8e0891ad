import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import { MirrorRegions } from '../../../src/primary/mirror-regions.ts';
import { RegionSequences } from '../../../src/primary/region-sequences.ts';
import { DirtyMap } from '../../../src/store/dirty-map.ts';
import { type MemoryWorld, memoryWorld } from '../../support/memory-world.ts';

const SIZE = 8 * MIB;
const RUN = Buffer.alloc(16, 2);
const FIRST = Buffer.alloc(16, 3);
const SECOND = Buffer.alloc(16, 4);

async function opened(world: MemoryWorld = memoryWorld(), trusted = true) {
  const map = await DirtyMap.open(world.files, '/state/dirty', {
    size: SIZE,
    trusted,
    invalidate: async () => undefined,
  });
  const sequences = new RegionSequences(SIZE, map.regionSize, 0);
  return { world, map, sequences, regions: new MirrorRegions(map, 0, sequences) };
}

function setOf(regions: MirrorRegions): number[] {
  const found: number[] = [];
  regions.forEachSet((region) => found.push(region));
  return found;
}

/** About FIRST, with nothing set. */
async function inStep() {
  const made = await opened();
  await made.regions.begin(FIRST, 0);
  const all = Array.from({ length: made.map.regionCount }, (_, region) => region);
  await made.map.clear(0, all, { run: RUN, sequence: 0, checkpoint: 0 });
  return made;
}

describe('the dirty map, as one replica sees it', () => {
  it('is about nobody at first, and everything is set', async () => {
    const { regions } = await opened();
    expect(regions.replicaId.equals(Buffer.alloc(16))).toBe(true);
    expect([setOf(regions).length, regions.setCount, regions.cleared]).toEqual([8, 8, undefined]);
  });

  it('is about a replica from the moment that everything is set for it, durably', async () => {
    const { world, map, regions } = await inStep();
    expect([regions.setCount, regions.cleared]).toMatchObject([0, { sequence: 0 }]);
    await regions.begin(SECOND, 0);
    expect([regions.replicaId, regions.setCount, regions.cleared]).toEqual([SECOND, 8, undefined]);
    await map.close();
    const again = await opened(world);
    expect([again.regions.replicaId.equals(SECOND), again.regions.setCount]).toEqual([true, 8]);
  });

  it('of the same replica is set again without forgetting where it was cleared', async () => {
    const { map, regions } = await inStep();
    await map.set(0, 1);
    await map.clear(0, [0], { run: RUN, sequence: 7, checkpoint: 2 });
    await regions.begin(FIRST, 0);
    expect([regions.setCount, regions.cleared]).toEqual([8, { run: RUN, sequence: 7, checkpoint: 2 }]);
  });

  it('gets a version above any that the replica has seen, durably', async () => {
    const { world, map, regions } = await inStep();
    await regions.begin(FIRST, 1_000);
    expect(regions.version).toBeGreaterThan(1_000);
    const { version } = regions;
    await map.close();
    const again = await opened(world);
    expect(again.regions.version).toBeGreaterThanOrEqual(version);
  });

  it('has told the replica what it did in sessions, of this process and those before, and nothing else', async () => {
    const { world, map, regions } = await inStep();
    await map.set(0, 1);
    expect([regions.version > 0, regions.versionTold]).toEqual([true, 0]);
    await regions.beginTelling();
    await map.set(MIB, 1);
    const last = regions.version;
    regions.told(last);
    regions.told(1);
    expect(regions.versionTold).toBe(last);
    regions.endTelling();
    await map.set(2 * MIB, 1);
    await map.close();
    const again = await opened(world);
    expect([again.regions.versionTold, again.regions.version > last]).toEqual([last, true]);
  });

  it('tells where an operation took effect after a sequence', async () => {
    const { map, sequences, regions } = await inStep();
    for (const [region, sequence] of [
      [1, 4],
      [2, 5],
      [6, 9],
    ] as const) {
      await map.set(region * MIB, 1);
      sequences.note(region * MIB, 1, sequence);
    }
    const writtenAfter = (sequence: number): number[] => {
      const found: number[] = [];
      regions.forEachAfter(sequence, (region) => found.push(region));
      return found;
    };
    expect([0, 4, 8, 9].map(writtenAfter)).toEqual([[1, 2, 6], [2, 6], [6], []]);
  });

  it('that cannot be written says that everything may differ', async () => {
    const { world, map, regions } = await inStep();
    expect(setOf(regions)).toEqual([]);
    world.files.file('/state/dirty').disk.hook = (call) => {
      if (call === 'write' || call === 'sync') throw new Failure('io-error', 'injected');
    };
    // What cannot be marked goes on once it is durable that the map tells nothing any more.
    await map.set(0, 1);
    expect([regions.valid, setOf(regions).length]).toEqual([false, 8]);
    const found: number[] = [];
    regions.forEachAfter(-1, (region) => found.push(region));
    expect(found.length).toBe(8);
  });
});
