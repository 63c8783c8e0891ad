/** Mutations over a dirty map: admitted when their regions are durably marked, and what a sync makes known. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { MIB } from '../../../src/base/units.ts';
import { Agreement, ASYNC } from '../../../src/primary/agreement.ts';
import { ClientLoad } from '../../../src/primary/client-load.ts';
import { DirtyRegions } from '../../../src/primary/dirty-regions.ts';
import { Ledger } from '../../../src/primary/ledger.ts';
import type { LocalDisk } from '../../../src/primary/local-disk.ts';
import { RegionSequences } from '../../../src/primary/region-sequences.ts';
import { ReplicatingVolume } from '../../../src/primary/replicating-volume.ts';
import { DirtyMap } from '../../../src/store/dirty-map.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { RangeLock } from '../../../src/volume/range-lock.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { MemoryFiles } from '../../support/memory-files.ts';

import { turns } from '../../support/memory-world.ts';

const REGION_SIZE = 4096;
const REGION_COUNT = 16;
const SIZE = REGION_COUNT * REGION_SIZE;
const RUN = Buffer.alloc(16, 3);
const PATH = '/state/dirty';
const PLAIN = { fua: false };
const ZEROES = { fua: false, allocate: false, fast: false };
const failed = (code: string) => expect.objectContaining({ code });
const all = Array.from({ length: REGION_COUNT }, (_, region) => region);

interface SceneOptions {
  readonly size?: number;
  readonly regionSize?: number;
  readonly started?: boolean;
  readonly start?: () => Promise<void>;
  readonly invalidate?: () => Promise<void>;
}

/** A volume over a disk and a map in which nothing is set. */
async function scene(options: SceneOptions = {}) {
  const size = options.size ?? SIZE;
  const files = new MemoryFiles();
  const map = await DirtyMap.open(files, PATH, {
    size,
    regionSize: options.regionSize ?? REGION_SIZE,
    trusted: true,
    invalidate: options.invalidate ?? (() => Promise.reject(new Failure('no-space', 'no state either'))),
  });
  await map.clear(
    0,
    Array.from({ length: map.regionCount }, (_, region) => region),
    { run: RUN, sequence: 0, checkpoint: 0 },
  );
  const disk = new MemoryDisk(size);
  const clock = new ManualClock();
  const sequences = new RegionSequences(size, map.regionSize, 0);
  const start = options.start ?? (() => Promise.resolve());
  const ledger = new Ledger([], 0, options.started ?? true, start, { map, sequences });
  const local: LocalDisk = { volume: new DiskVolume(disk), disk, lock: new RangeLock() };
  const agreement = new Agreement(clock, silentLog, ASYNC, () => ledger.sequence);
  const volume = new ReplicatingVolume(local, ledger, agreement, new ClientLoad(clock));
  const state = { recorded: 0 };
  const regions = new DirtyRegions(clock, silentLog, map, 0, sequences, 1, {
    recorded: () => ({ run: RUN, sequence: state.recorded, checkpoint: 0 }),
    mustStay: () => false,
    stayCount: () => 0,
    locallyDurable: () => ledger.locallyDurable,
    syncFailed: () => ledger.syncFailed,
    syncLocal: () => volume.syncLocal(),
    isFree: (offset, length) => local.lock.isFree(offset, length),
  });
  const set = (): number[] => all.filter((region) => map.isSet(0, region));
  return { files, map, disk, sequences, ledger, local, volume, regions, state, set };
}

describe('a mutation', () => {
  it('touches the disk only when its regions are durably marked, and needs no promise once they are', async () => {
    const { volume, disk, files, set } = await scene();
    const mapDisk = files.file(PATH).disk;
    const before = mapDisk.counts.write;
    let synced = (): void => undefined;
    mapDisk.hook = (call) =>
      call === 'sync'
        ? new Promise((resolve) => {
            synced = resolve;
          })
        : undefined;
    const writing = volume.write(REGION_SIZE - 1, Buffer.alloc(2, 7), PLAIN);
    await turns(2);
    expect([disk.counts.write, mapDisk.counts.write]).toEqual([0, before + 1]);
    synced();
    await writing;
    expect([set(), disk.content()[REGION_SIZE]]).toEqual([[0, 1], 7]);
    expect(volume.write(0, Buffer.alloc(2 * REGION_SIZE, 8), PLAIN)).toBeUndefined();
  });

  it('of any kind is marked, and a flush or a read is not', async () => {
    const { volume, set } = await scene();
    await volume.read(Buffer.alloc(10), 0);
    await volume.flush();
    expect(set()).toEqual([]);
    await volume.zero(2 * REGION_SIZE, 10, ZEROES);
    await volume.trim(4 * REGION_SIZE, REGION_SIZE, PLAIN);
    await volume.write(6 * REGION_SIZE, Buffer.alloc(1), { fua: true });
    expect(set()).toEqual([2, 4, 6]);
  });

  it('fails, and the disk and the stream stay as they are, when no mark can be made durable', async () => {
    const { volume, disk, files, ledger, local } = await scene();
    files.file(PATH).disk.hook = (call) =>
      call === 'sync' ? Promise.reject(new Failure('io-error', 'bad')) : undefined;
    for (const mutation of [
      () => volume.write(0, Buffer.alloc(10, 1), PLAIN),
      () => volume.zero(0, 10, ZEROES),
      () => volume.trim(0, REGION_SIZE, PLAIN),
    ])
      await expect(mutation()).rejects.toEqual(failed('io-error'));
    expect([disk.counts.write, disk.counts.zero, disk.counts.punch, ledger.sequence]).toEqual([0, 0, 0, 0]);
    expect(local.lock.holdCount).toBe(0);
    files.file(PATH).disk.hook = undefined;
    await volume.write(0, Buffer.alloc(10, 1), PLAIN);
    expect(ledger.sequence).toBe(1);
  });

  it('goes on without the map once that is durably invalid', async () => {
    const { volume, files, map, ledger } = await scene({ invalidate: () => Promise.resolve() });
    files.file(PATH).disk.hook = () => Promise.reject(new Failure('io-error', 'bad'));
    await volume.write(0, Buffer.alloc(10, 1), PLAIN);
    expect(volume.write(5 * REGION_SIZE, Buffer.alloc(10, 1), PLAIN)).toBeUndefined();
    expect([map.valid, ledger.sequence]).toEqual([false, 2]);
  });

  it('waits for the run before its marks', async () => {
    let start = (): void => undefined;
    const { volume, files, set, disk } = await scene({
      started: false,
      start: () =>
        new Promise((resolve) => {
          start = resolve;
        }),
    });
    const before = files.file(PATH).disk.counts.write;
    const writing = volume.write(0, Buffer.alloc(10, 1), PLAIN);
    await turns(2);
    expect([files.file(PATH).disk.counts.write, disk.counts.write]).toEqual([before, 0]);
    start();
    await writing;
    expect(set()).toEqual([0]);
  });

  it('that waits for its mark keeps its place before one that overlaps and came later', async () => {
    const { volume, files, disk } = await scene();
    await volume.write(0, Buffer.alloc(1, 1), PLAIN);
    const first = volume.write(REGION_SIZE - 1, Buffer.alloc(2, 5), PLAIN);
    // Its own region is marked already.
    const second = volume.write(REGION_SIZE - 1, Buffer.alloc(1, 6), PLAIN);
    await Promise.all([first, second]);
    expect([...disk.content().subarray(REGION_SIZE - 1, REGION_SIZE + 1)]).toEqual([6, 5]);
    expect(files.file(PATH).disk.counts.sync).toBeGreaterThan(0);
  });

  it('that has begun and has no sequence yet keeps its marks', async () => {
    const { volume, disk, regions, set, ledger, state } = await scene();
    await volume.write(0, Buffer.alloc(2 * REGION_SIZE, 1), PLAIN);
    await volume.flush();
    state.recorded = 1;
    let written = (): void => undefined;
    disk.hook = (call) =>
      call === 'write'
        ? new Promise((resolve) => {
            written = resolve;
          })
        : undefined;
    const writing = volume.write(REGION_SIZE + 5, Buffer.alloc(5, 2), PLAIN);
    await regions.settle();
    expect(set()).toEqual([1]);
    written();
    await writing;
    expect(ledger.sequence).toBe(2);
    await regions.settle();
    // Not recorded yet.
    expect(set()).toEqual([1]);
    state.recorded = 2;
    await regions.settle();
    expect(set()).toEqual([]);
  });
});

describe('what is known to be durable here', () => {
  it('is what had taken effect when a sync that succeeded was asked for', async () => {
    const { volume, ledger, disk } = await scene();
    expect(ledger.locallyDurable).toBe(-1);
    await volume.syncLocal();
    expect(ledger.locallyDurable).toBe(0);
    await volume.write(0, Buffer.alloc(1), PLAIN);
    let synced = (): void => undefined;
    disk.hook = (call) =>
      call === 'sync'
        ? new Promise((resolve) => {
            synced = resolve;
          })
        : undefined;
    const flushing = volume.flush();
    await turns(1);
    await volume.write(0, Buffer.alloc(1), PLAIN);
    expect(ledger.locallyDurable).toBe(0);
    synced();
    await flushing;
    expect([ledger.locallyDurable, ledger.sequence]).toEqual([1, 2]);
    disk.hook = undefined;
    await volume.write(0, Buffer.alloc(1), { fua: true });
    expect(ledger.locallyDurable).toBe(3);
    await volume.zero(0, 1, { ...ZEROES, fua: true });
    expect(ledger.locallyDurable).toBe(4);
  });

  it('grows no more after a failed sync, though a later one succeeded', async () => {
    const { volume, ledger, disk, regions, set, state } = await scene();
    await volume.write(0, Buffer.alloc(1), { fua: true });
    await volume.write(0, Buffer.alloc(1), PLAIN);
    disk.hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'bad')) : undefined);
    await expect(volume.flush()).rejects.toEqual(failed('io-error'));
    disk.hook = undefined;
    expect([ledger.syncFailed, ledger.locallyDurable]).toEqual([true, 1]);
    await ledger.sync(() => Promise.resolve());
    expect(ledger.locallyDurable).toBe(1);
    state.recorded = 2;
    await regions.settle();
    expect(set()).toEqual([0]);
  });

  it('counts a range whose content changed without an operation only from a later sync on', async () => {
    const { volume, ledger, sequences, disk, set, regions, map } = await scene({ size: 80 * MIB, regionSize: MIB });
    await volume.write(0, Buffer.alloc(1, 1), { fua: true });
    await volume.write(70 * MIB, Buffer.alloc(1, 1), { fua: true });
    let synced = (): void => undefined;
    disk.hook = (call) => {
      if (call === 'sync')
        return new Promise((resolve) => {
          synced = resolve;
        });
      if (call === 'zero') throw new Failure('io-error', 'injected');
      return undefined;
    };
    // A sync was under way already: nobody knows what it covered.
    const flushing = volume.flush();
    await expect(volume.zero(0, 66 * MIB, ZEROES)).rejects.toEqual(failed('io-error'));
    synced();
    await flushing;
    expect([ledger.sequence, ledger.locallyDurable, sequences.of(0)]).toEqual([3, 2, 3]);
    disk.hook = undefined;
    await volume.flush();
    expect(ledger.locallyDurable).toBe(3);
    expect([set().length, map.count(0)]).toEqual([REGION_COUNT, 67]);
    await regions.close();
  });
});

describe('marks of operations', () => {
  it('are on the medium until both sides hold them durably, whatever is cleared in between', async () => {
    const step = fc.record({
      kind: fc.constantFrom(
        'write' as const,
        'write' as const,
        'release' as const,
        'record' as const,
        'settle' as const,
      ),
      offset: fc.nat(SIZE - 1),
      length: fc.integer({ min: 1, max: 3 * REGION_SIZE }),
      isSlow: fc.boolean(),
    });
    const touched = (offset: number, length: number): number[] =>
      all.filter((region) => region * REGION_SIZE < offset + length && (region + 1) * REGION_SIZE > offset);
    const seen = { cleared: 0, slow: 0, checked: 0 };
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40, size: 'max' }), async (steps) => {
        const { volume, disk, regions, state, map, ledger, sequences, files } = await scene();
        let isSlow = false;
        const slow = new Set<() => void>();
        /** What the disk was given and has no sequence yet. */
        const begun = new Set<readonly number[]>();
        const operations: { sequence: number; syncs: number; regions: readonly number[] }[] = [];
        disk.hook = (call, offset, length) => {
          if (call !== 'write') return undefined;
          const mutation = touched(offset, length);
          begun.add(mutation);
          if (!isSlow) return undefined;
          seen.slow += 1;
          return new Promise((resolve) => slow.add(resolve));
        };
        const note = sequences.note.bind(sequences);
        sequences.note = (offset, length, sequence) => {
          const mutation = touched(offset, length);
          for (const other of begun) if (other.join() === mutation.join()) begun.delete(other);
          operations.push({ sequence, syncs: disk.counts.sync, regions: mutation });
          note(offset, length, sequence);
        };
        const release = async (): Promise<void> => {
          for (const resolve of slow) resolve();
          slow.clear();
          await turns(1);
        };
        const running: Promise<void>[] = [];
        for (const { kind, offset, length, ...drawn } of steps) {
          const size = Math.min(length, SIZE - offset);
          isSlow = drawn.isSlow;
          if (kind === 'write') running.push(Promise.resolve(volume.write(offset, Buffer.alloc(size, 1), PLAIN)));
          else if (kind === 'release') await release();
          else if (kind === 'record') state.recorded = ledger.sequence;
          else {
            const before = map.count(0);
            await regions.settle();
            seen.cleared += Math.max(0, before - map.count(0));
          }
          await turns(1);
          const medium = new MemoryFiles();
          medium.put(PATH, files.file(PATH).disk.durableContent());
          const left = await DirtyMap.open(medium, PATH, {
            size: SIZE,
            regionSize: REGION_SIZE,
            trusted: true,
            invalidate: () => Promise.resolve(),
          });
          const needed = new Set([...begun].flat());
          for (const operation of operations) {
            const isDurable = disk.counts.sync > operation.syncs;
            if (operation.sequence > state.recorded || !isDurable)
              for (const region of operation.regions) needed.add(region);
          }
          seen.checked += needed.size;
          expect([...needed].filter((region) => !left.isSet(0, region))).toEqual([]);
        }
        isSlow = false;
        while (running.length > 0 && (slow.size > 0 || begun.size > 0)) await release();
        await Promise.all(running);
      }),
      { numRuns: 60 },
    );
    expect(seen.cleared).toBeGreaterThan(50);
    expect(seen.slow).toBeGreaterThan(20);
    expect(seen.checked).toBeGreaterThan(1000);
  });
});
