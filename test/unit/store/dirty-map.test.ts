import { describe, expect, it } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { Failure } from '../../../src/base/failure.ts';
import { GIB, MIB } from '../../../src/base/units.ts';
import type { PointName } from '../../../src/io/points.ts';
import { HEADER_SIZE, headerOffset } from '../../../src/store/dirty-header.ts';
import { DirtyMap, type DirtyMapOptions, dirtyMapPath } from '../../../src/store/dirty-map.ts';
import { PAGE_REGIONS, PAGE_SIZE } from '../../../src/store/dirty-page.ts';
import { MemoryFiles } from '../../support/memory-files.ts';
import { turns } from '../../support/memory-world.ts';
import { TOLD_PATH, ToldFile } from './told-file.ts';

const REGION_SIZE = 4096;
const REGION_COUNT = 2 * PAGE_REGIONS + 10;
const SIZE = REGION_COUNT * REGION_SIZE - 100;
const RUN = Buffer.alloc(16, 5);
const REPLICA = Buffer.alloc(16, 6);
const OPTIONS: DirtyMapOptions = {
  size: SIZE,
  regionSize: REGION_SIZE,
  trusted: true,
  invalidate: () => Promise.reject(new Failure('no-space', 'no state either')),
};
const failed = (code: string) => expect.objectContaining({ code });
const at = (sequence: number, checkpoint = 0) => ({ run: RUN, sequence, checkpoint });
const every = Array.from({ length: REGION_COUNT }, (_, region) => region);

function openOn(file: ToldFile, options: Partial<DirtyMapOptions> = {}): Promise<DirtyMap> {
  return DirtyMap.open(file.files, TOLD_PATH, { ...OPTIONS, ...options });
}

/** A map of one mirror in which only `regions` are set, and its disk, which finishes calls at once. */
async function mapWith(
  regions: readonly number[],
  options: Partial<DirtyMapOptions> = {},
): Promise<{ file: ToldFile; map: DirtyMap }> {
  const file = new ToldFile(undefined);
  const map = await openOn(file, options);
  await map.assignReplica(0, REPLICA);
  await map.clear(
    0,
    every.filter((region) => !regions.includes(region)),
    at(10, 3),
  );
  return { file, map };
}

function setRegions(map: DirtyMap, plane = 0): number[] {
  const regions: number[] = [];
  for (let region = map.nextSet(plane, 0); region >= 0; region = map.nextSet(plane, region + 1)) regions.push(region);
  expect(map.count(plane)).toBe(regions.length);
  return regions;
}

/** Marks one region by a range of one byte in it. */
const touch = (map: DirtyMap, region: number) => map.set(region * REGION_SIZE, 1);

/** Why it failed; undefined when it did not. */
function outcomeOf(work: unknown): Promise<unknown> {
  return Promise.resolve(work).then(
    () => undefined,
    (error: unknown) => error,
  );
}

/** What a power cut now leaves, everything written and not synced being lost. */
const afterCut = (file: ToldFile) => openOn(new ToldFile(file.cut(() => false)));

/** Ends calls until there is none. */
async function finishAll(file: ToldFile): Promise<void> {
  await turns(1);
  while (file.calls.length > 0) {
    file.tell();
    await turns(1);
  }
}

const page = (file: ToldFile, index: number) =>
  file.cache!.subarray(HEADER_SIZE + index * PAGE_SIZE, HEADER_SIZE + (index + 1) * PAGE_SIZE);

describe('a dirty map that is opened', () => {
  it('where there is none is made with everything set, durably, for no mirror yet', async () => {
    const file = new ToldFile(undefined);
    const map = await openOn(file);
    expect([map.found, map.versionFound, map.version, map.valid]).toEqual(['anew', 0, 1, true]);
    expect([map.regionCount, map.count(0), setRegions(map).length]).toEqual([REGION_COUNT, REGION_COUNT, REGION_COUNT]);
    expect(map.isSet(0, REGION_COUNT - 1)).toBe(true);
    expect([map.replicaId(0), map.cleared(0)]).toEqual([NO_ID, undefined]);
    expect(map.set(0, SIZE)).toBeUndefined();
    const again = await afterCut(file);
    expect([again.found, again.count(0)]).toEqual(['kept', REGION_COUNT]);
  });

  it('is as it was left: regions, mirror, cleared position, and a version higher than any before', async () => {
    const { file, map } = await mapWith([3, PAGE_REGIONS, REGION_COUNT - 1]);
    const again = await afterCut(file);
    expect(again.found).toBe('kept');
    expect(setRegions(again)).toEqual([3, PAGE_REGIONS, REGION_COUNT - 1]);
    expect([again.replicaId(0), again.cleared(0)]).toEqual([REPLICA, at(10, 3)]);
    expect([again.versionFound, again.version]).toEqual([map.version, map.version + 1]);
  });

  it('knows which versions a mirror may have been told, before it is told, and no others', async () => {
    const { file, map } = await mapWith([3]);
    await map.set(0, SIZE);
    expect((await afterCut(file)).versionTold).toBe(0);
    const telling = map.beginTelling();
    expect((await afterCut(file)).versionTold).toBe(0);
    await telling;
    expect((await afterCut(file)).versionTold).toBe(map.version);
    await map.clear(0, [5, PAGE_REGIONS + 1], at(20, 4));
    await map.set(5 * REGION_SIZE, 1);
    const { version } = map;
    expect((await afterCut(file)).versionTold).toBe(version);
    map.endTelling();
    await map.set((PAGE_REGIONS + 1) * REGION_SIZE, 1);
    expect(map.version).toBeGreaterThan(version);
    expect((await afterCut(file)).versionTold).toBe(version);
  });

  it('has a region per MiB unless told otherwise, and on large disks a million of them', async () => {
    const files = new MemoryFiles();
    const path = dirtyMapPath('/disk.img.twin');
    const { size: _size, regionSize: _regionSize, ...rest } = OPTIONS;
    const small = await DirtyMap.open(files, path, { ...rest, size: 64 * GIB + 1 });
    expect([path, small.regionSize, small.regionCount]).toEqual(['/disk.img.twin/dirty', MIB, 65_537]);
    expect(files.file(path).disk.size).toBe(HEADER_SIZE + 19 * PAGE_SIZE);
    const large = await DirtyMap.open(files, path, { ...rest, size: 1536 * GIB });
    expect([large.found, large.regionSize, large.regionCount]).toEqual(['anew', 2 * MIB, 768 * 1024]);
    expect(setRegions(large).length).toBe(768 * 1024);
  });

  it('takes a page that is not whole for all set, and the others for what they are', async () => {
    const { file } = await mapWith([3, REGION_COUNT - 1]);
    const content = file.cut(() => true);
    content[HEADER_SIZE + PAGE_SIZE + 300]! ^= 4;
    const map = await openOn(new ToldFile(content));
    expect(map.found).toBe('damaged');
    expect(setRegions(map)).toEqual([3, ...every.slice(PAGE_REGIONS, 2 * PAGE_REGIONS), REGION_COUNT - 1]);
    // None of its marks counts as cleared; for those of the others the position is known.
    expect(map.cleared(0)).toEqual(at(10, 3));
  });

  it('with no whole page has everything set and nothing cleared', async () => {
    const { file } = await mapWith([]);
    const content = file.cut(() => true);
    for (const index of [0, 1, 2]) content[HEADER_SIZE + index * PAGE_SIZE]! ^= 1;
    const map = await openOn(new ToldFile(content));
    expect([map.found, map.count(0), map.cleared(0)]).toEqual(['damaged', REGION_COUNT, undefined]);
  });

  it('takes a page that stands in another’s place for all set', async () => {
    const { file } = await mapWith([3]);
    page(file, 0).copy(page(file, 1));
    const map = await openOn(file);
    expect(setRegions(map)).toEqual([3, ...every.slice(PAGE_REGIONS, 2 * PAGE_REGIONS)]);
    const planes = new ToldFile(undefined);
    const two = await openOn(planes, { planeCount: 2 });
    await two.clear(0, every, at(1));
    page(planes, 0).copy(page(planes, 3));
    page(planes, 4).copy(page(planes, 1));
    const again = await openOn(planes, { planeCount: 2 });
    expect(setRegions(again, 0)).toEqual(every.slice(PAGE_REGIONS, 2 * PAGE_REGIONS));
    expect(again.count(1)).toBe(REGION_COUNT);
  });

  it('takes the pages of another mirror for all set, as after the newer header was spoiled', async () => {
    const { file, map } = await mapWith([]);
    await map.assignReplica(0, Buffer.alloc(16, 7));
    await map.clear(0, every, at(20));
    const content = file.cut(() => true);
    for (const counter of [0, 1]) {
      const spoiled = Buffer.from(content);
      spoiled[headerOffset(counter) + 40]! ^= 1;
      const again = await openOn(new ToldFile(spoiled));
      const isNewest = again.replicaId(0).equals(Buffer.alloc(16, 7));
      expect(again.count(0)).toBe(isNewest ? 0 : REGION_COUNT);
    }
  });

  const others: Record<string, { spoil?: (content: Buffer) => Buffer; options?: Partial<DirtyMapOptions> }> = {
    'both headers are spoiled': {
      spoil: (content) => {
        content[40]! ^= 1;
        content[headerOffset(1) + 40]! ^= 1;
        return content;
      },
    },
    'it is cut short': { spoil: (content) => content.subarray(0, content.length - 1) },
    'it is about a disk of another size': { options: { size: SIZE - REGION_SIZE } },
    'it has regions of another size': { options: { regionSize: REGION_SIZE * 2 } },
    'it has another number of planes': { options: { planeCount: 2 } },
    'it is not to be believed': { options: { trusted: false } },
  };
  for (const [when, { spoil, options }] of Object.entries(others)) {
    it(`is made anew with everything set where ${when}, and its version goes on`, async () => {
      const { file, map } = await mapWith([3]);
      const spoiled = new ToldFile((spoil ?? ((content) => content))(file.cut(() => true)));
      const again = await openOn(spoiled, options);
      expect([again.found, again.count(0), again.isSet(0, 0)]).toEqual(['anew', again.regionCount, true]);
      expect([again.replicaId(0), again.cleared(0)]).toEqual([NO_ID, undefined]);
      expect([again.versionFound, again.version]).toEqual([map.version, map.version + 1]);
      const later = await openOn(new ToldFile(spoiled.cut(() => false)), { ...options, trusted: true });
      expect([later.found, later.count(0)]).toEqual(['kept', later.regionCount]);
    });
  }

  it('that cannot be read, or is too large to be one, is made anew', async () => {
    const files = new MemoryFiles();
    files.put(TOLD_PATH, Buffer.alloc(100));
    files.hook = (operation) => {
      if (operation === 'readFile') throw new Failure('io-error', 'bad sector');
    };
    expect((await DirtyMap.open(files, TOLD_PATH, OPTIONS)).found).toBe('anew');
    expect((await openOn(new ToldFile(Buffer.alloc(5 * MIB)))).found).toBe('anew');
  });

  it('believes nothing that is in the kernel’s cache alone: it writes what it found, and syncs', async () => {
    const { file, map } = await mapWith([]);
    file.isPrompt = false;
    void Promise.resolve(touch(map, 3)).catch(() => undefined);
    await turns(1);
    // Written and not synced: then the process was killed.
    expect(file.tell()).toBe('write');
    await turns(1);
    file.kill(() => false);
    file.isPrompt = true;
    const again = await openOn(file);
    expect(again.isSet(0, 3)).toBe(true);
    expect(setRegions(await afterCut(file))).toEqual([3]);
  });

  it('that cannot be written is a failure', async () => {
    const { file } = await mapWith([3]);
    file.isPrompt = false;
    for (const [calls, code] of [
      [1, 'io-error'],
      [3, 'no-space'],
    ] as const) {
      const opening = outcomeOf(openOn(file));
      await turns(1);
      for (let count = 1; count < calls; count += 1) {
        file.tell();
        await turns(1);
      }
      file.tell(new Failure(code, 'injected'));
      expect(await opening).toEqual(failed('state-unwritable'));
    }
  });
});

describe('setting marks', () => {
  it('takes one write and one sync for all who wait, whatever page and plane', async () => {
    const file = new ToldFile(undefined);
    const map = await openOn(file, { planeCount: 2 });
    for (const plane of [0, 1]) await map.clear(plane, every, at(1));
    Object.assign(file.counts, { write: 0, sync: 0 });
    expect(map.covers(0, 1)).toBe(false);
    await Promise.all([touch(map, 0), touch(map, 1), touch(map, PAGE_REGIONS + 1), map.set(0, 3 * REGION_SIZE)]);
    expect(file.counts).toEqual({ write: 2, sync: 1 });
    const again = await openOn(new ToldFile(file.cut(() => false)), { planeCount: 2 });
    for (const plane of [0, 1]) expect(setRegions(again, plane)).toEqual([0, 1, 2, PAGE_REGIONS + 1]);
    expect(map.covers(0, 3 * REGION_SIZE)).toBe(true);
    expect(touch(map, 1)).toBeUndefined();
  });

  it('sets every region that the range touches, and no other', async () => {
    const { map } = await mapWith([]);
    await map.set(2 * REGION_SIZE - 1, REGION_SIZE + 2);
    await map.set(SIZE - 1, 1);
    expect(setRegions(map)).toEqual([1, 2, 3, REGION_COUNT - 1]);
  });

  it('waits for the sync, and who comes meanwhile shares the next group', async () => {
    const { file, map } = await mapWith([]);
    Object.assign(file.counts, { write: 0, sync: 0 });
    file.isPrompt = false;
    const done: string[] = [];
    const set = (name: string, region: number) => Promise.resolve(touch(map, region)).then(() => done.push(name));
    const all = [set('a', 1), set('b', 2)];
    await turns(1);
    all.push(set('c', 3), set('d', PAGE_REGIONS), set('same as a', 1));
    expect([file.tell(), map.isSet(0, 1)]).toEqual(['write', false]);
    await turns(1);
    all.push(set('e', 4));
    expect([done, file.tell()]).toEqual([[], 'sync']);
    await turns(1);
    // Its mark was under way already.
    expect(done.sort()).toEqual(['a', 'b', 'same as a']);
    expect([map.isSet(0, 1), map.isSet(0, 3)]).toEqual([true, false]);
    await finishAll(file);
    await Promise.all(all);
    expect(file.counts).toEqual({ write: 2, sync: 2 });
    expect(setRegions(await afterCut(file))).toEqual([1, 2, 3, 4, PAGE_REGIONS]);
  });

  it('gives each group a version of its own, known once it is durable', async () => {
    const { file, map } = await mapWith([]);
    const before = map.version;
    file.isPrompt = false;
    const setting = Promise.resolve(touch(map, 1));
    await turns(1);
    file.tell();
    await turns(1);
    expect(map.version).toBe(before);
    file.tell();
    await setting;
    expect(map.version).toBe(before + 1);
    file.isPrompt = true;
    await map.clear(0, [1], at(11));
    expect(map.version).toBe(before + 2);
    expect((await afterCut(file)).versionFound).toBe(before + 2);
  });

  it('says at which point it is', async () => {
    const reached: PointName[] = [];
    const { map } = await mapWith([5], { points: { reached: (name) => reached.push(name) } });
    reached.length = 0;
    await touch(map, 1);
    expect(reached).toEqual(['primary-marks-written']);
    await map.clear(0, [1, 5], at(12));
    expect(reached).toEqual(['primary-marks-written', 'primary-marks-cleared']);
  });
});

describe('clearing marks', () => {
  it('is in force at once, and durable on return, with the position on every page that it touched', async () => {
    const { file, map } = await mapWith([1, 2, PAGE_REGIONS]);
    file.isPrompt = false;
    const clearing = map.clear(0, [1, PAGE_REGIONS], at(20, 2));
    expect([map.isSet(0, 1), map.isSet(0, 2), map.count(0)]).toEqual([false, true, 1]);
    await finishAll(file);
    await clearing;
    const again = await afterCut(file);
    expect(setRegions(again)).toEqual([2]);
    expect(again.cleared(0)).toEqual(at(20, 3));
    const content = file.cut(() => false);
    for (const index of [0, 1]) expect(content.readBigUInt64LE(HEADER_SIZE + index * PAGE_SIZE + 56)).toBe(20n);
    expect(content.readBigUInt64LE(HEADER_SIZE + 2 * PAGE_SIZE + 56)).toBe(10n);
  });

  it('keeps the highest position of a run, and lets a newer run take its place', async () => {
    const { file, map } = await mapWith([1, 2, 3]);
    await map.clear(0, [1], at(20, 5));
    await map.clear(0, [2], at(15, 6));
    expect(map.cleared(0)).toEqual(at(20, 6));
    const newer = { run: Buffer.alloc(16, 9), sequence: 2, checkpoint: 1 };
    await map.clear(0, [3], newer);
    expect(map.cleared(0)).toEqual(newer);
    expect((await afterCut(file)).cleared(0)).toEqual(newer);
  });

  it('of a region that is set again before the clear is written leaves it set', async () => {
    const { file, map } = await mapWith([1]);
    file.isPrompt = false;
    const clearing = map.clear(0, [1], at(11));
    const setting = touch(map, 1);
    await finishAll(file);
    await Promise.all([clearing, setting]);
    expect(map.isSet(0, 1)).toBe(true);
    expect(setRegions(await afterCut(file))).toEqual([1]);
  });

  it('of a region that is set again while the clear is being written is written before the mark', async () => {
    const { file, map } = await mapWith([1]);
    file.isPrompt = false;
    const clearing = map.clear(0, [1], at(11));
    await turns(1);
    const setting = Promise.resolve(touch(map, 1));
    let isSet = false;
    void setting.then(() => {
      isSet = true;
    });
    expect([file.tell(), file.calls.length]).toEqual(['write', 0]);
    await turns(1);
    file.tell();
    await clearing;
    await turns(1);
    expect([isSet, setRegions(await afterCut(file))]).toEqual([false, []]);
    await finishAll(file);
    await setting;
    expect([map.isSet(0, 1), setRegions(await afterCut(file))]).toEqual([true, [1]]);
  });

  it('while a range with that region waits for another mark makes it wait for both', async () => {
    const { file, map } = await mapWith([1]);
    file.isPrompt = false;
    let whenSet: boolean[] = [];
    const setting = Promise.resolve(map.set(REGION_SIZE, 2 * REGION_SIZE)).then(() => {
      whenSet = [map.isSet(0, 1), map.isSet(0, 2)];
    });
    await turns(1);
    const clearing = map.clear(0, [1], at(11));
    await finishAll(file);
    await Promise.all([setting, clearing]);
    expect(whenSet).toEqual([true, true]);
    expect(setRegions(await afterCut(file))).toEqual([1, 2]);
  });

  it('that fails leaves the region neither set nor clear: the next mark there is written', async () => {
    const { file, map } = await mapWith([1]);
    file.isPrompt = false;
    const clearing = outcomeOf(map.clear(0, [1], at(11)));
    await turns(1);
    file.tell(new Failure('io-error', 'injected'));
    expect(await clearing).toEqual(failed('io-error'));
    expect([map.isSet(0, 1), map.valid]).toEqual([false, true]);
    expect(setRegions(await afterCut(file))).toEqual([1]);
    const setting = touch(map, 1);
    expect(setting).toBeInstanceOf(Promise);
    await finishAll(file);
    await setting;
    expect([map.isSet(0, 1), setRegions(await afterCut(file))]).toEqual([true, [1]]);
  });

  it('that failed is written with the next group', async () => {
    const { file, map } = await mapWith([1, 2]);
    file.isPrompt = false;
    const clearing = outcomeOf(map.clear(0, [1], at(11)));
    await turns(1);
    file.tell();
    await turns(1);
    file.tell(new Failure('io-error', 'injected'));
    expect(await clearing).toEqual(failed('io-error'));
    const setting = touch(map, PAGE_REGIONS);
    await finishAll(file);
    await setting;
    expect(setRegions(await afterCut(file))).toEqual([2, PAGE_REGIONS]);
  });

  it('is refused for a region that is not durably set', async () => {
    const { map } = await mapWith([]);
    await expect(map.clear(0, [1], at(11))).rejects.toThrow('only a region that is durably set is cleared');
  });
});

describe('a mark that cannot be made durable', () => {
  it('fails those who wait for it where nothing else can be made durable either, and is tried again', async () => {
    const { file, map } = await mapWith([]);
    file.isPrompt = false;
    const both = Promise.allSettled([touch(map, 1), touch(map, 2)]);
    await turns(1);
    file.tell(new Failure('no-space', 'injected'));
    const outcomes = await both;
    for (const outcome of outcomes) {
      expect(outcome).toEqual({ status: 'rejected', reason: failed('io-error') });
    }
    expect([map.valid, map.isSet(0, 1)]).toEqual([true, false]);
    const again = touch(map, 1);
    await finishAll(file);
    await again;
    expect([map.isSet(0, 1), map.isSet(0, 2)]).toEqual([true, true]);
    expect(setRegions(await afterCut(file))).toEqual([1, 2]);
  });

  it('at a failed sync is not held for durable by a later sync: its page is written again', async () => {
    const { file, map } = await mapWith([]);
    file.isPrompt = false;
    const first = outcomeOf(touch(map, 1));
    await turns(1);
    file.tell();
    await turns(1);
    file.tell(new Failure('io-error', 'injected'));
    expect(await first).toEqual(failed('io-error'));
    const other = touch(map, PAGE_REGIONS);
    await finishAll(file);
    await other;
    expect(map.isSet(0, 1)).toBe(true);
    expect(setRegions(await afterCut(file))).toEqual([1, PAGE_REGIONS]);
  });

  it('lets writes go on without the map once it is durably invalid, and nothing is written to it any more', async () => {
    let asked = 0;
    let invalidated = (): void => undefined;
    const { file, map } = await mapWith([5], {
      invalidate: () => {
        asked += 1;
        return new Promise((resolve) => {
          invalidated = resolve;
        });
      },
    });
    file.isPrompt = false;
    let isDone = false;
    const setting = Promise.resolve(touch(map, 1)).then(() => {
      isDone = true;
    });
    await turns(1);
    file.tell(new Failure('io-error', 'injected'));
    await turns(1);
    const meanwhile = Promise.resolve(touch(map, 2));
    expect([asked, isDone, map.valid]).toEqual([1, false, true]);
    invalidated();
    await Promise.all([setting, meanwhile]);
    expect([isDone, map.valid, map.covers(0, SIZE), file.calls.length]).toEqual([true, false, true, 0]);
    expect(touch(map, 3)).toBeUndefined();
    await map.clear(0, [5], at(11));
    await map.setAll(0);
    expect([file.calls.length, asked]).toEqual([0, 1]);
  });
});

describe('the version of the dirty map', () => {
  it('is told in the very step in which the marks of it begin to count', async () => {
    const seen: boolean[] = [];
    const changes = { call: (): void => undefined };
    const { file, map } = await mapWith([], { changed: () => changes.call() });
    changes.call = () => seen.push(map.isSet(0, 1));
    file.isPrompt = false;
    const setting = Promise.resolve(touch(map, 1));
    await turns(1);
    file.tell();
    await turns(1);
    file.tell();
    while (seen.length === 0) {
      // Nobody may write there before the mirrors are told.
      expect(map.isSet(0, 1)).toBe(false);
      await Promise.resolve();
    }
    await setting;
    expect(seen).toEqual([true]);
  });

  it('is told with marks that failed at first and are made durable by a clear', async () => {
    const told: number[] = [];
    const { file, map } = await mapWith([2], { changed: (version) => told.push(version) });
    file.isPrompt = false;
    const setting = outcomeOf(touch(map, 1));
    await turns(1);
    file.tell(new Failure('io-error', 'injected'));
    expect(await setting).toEqual(failed('io-error'));
    told.length = 0;
    const clearing = map.clear(0, [2], at(11));
    await finishAll(file);
    await clearing;
    expect([map.isSet(0, 1), told]).toEqual([true, [map.version]]);
  });

  it('is not told when marks are only cleared', async () => {
    const told: number[] = [];
    const { map } = await mapWith([1, 2], { changed: (version) => told.push(version) });
    told.length = 0;
    await map.clear(0, [2], at(11));
    expect(told).toEqual([]);
  });
});

describe('a map that is not to be believed any more', () => {
  /** In which the next mark fails. `invalidate` is asked with what mirrors may have been told. */
  async function failing(options: Partial<DirtyMapOptions> = {}) {
    const calls: number[] = [];
    const told: { version: number; valid: boolean }[] = [];
    const changes = { call: (_version: number): void => undefined };
    const { file, map } = await mapWith([5], {
      invalidate: async (versionTold) => void calls.push(versionTold),
      changed: (version) => changes.call(version),
      ...options,
    });
    changes.call = (version) => told.push({ version, valid: map.valid });
    file.isPrompt = false;
    const fail = async (setting: unknown): Promise<unknown> => {
      const outcome = outcomeOf(setting);
      await turns(1);
      file.tell(new Failure('io-error', 'injected'));
      return outcome;
    };
    return { file, map, calls, told, fail };
  }

  it('has a version above all before it, which mirrors are told before anything is written without marks', async () => {
    const { file, map, calls, told, fail } = await failing();
    const telling = map.beginTelling();
    await finishAll(file);
    await telling;
    const before = map.version;
    told.length = 0;
    expect(await fail(touch(map, 1))).toBeUndefined();
    expect(map.version).toBeGreaterThan(before);
    // Durable, elsewhere, before it is told; and told in the step in which the map ceases to count.
    expect(calls).toEqual([map.version]);
    expect(told).toEqual([{ version: map.version, valid: false }]);
    // A session that begins later needs nothing more.
    map.endTelling();
    await map.beginTelling();
    expect([calls.length, file.calls.length]).toEqual([1, 0]);
  });

  it('that no mirror was told of is recorded as told when a session begins, and not before', async () => {
    const { map, calls, fail } = await failing();
    const toldBefore = map.versionTold;
    expect(await fail(touch(map, 1))).toBeUndefined();
    expect(calls).toEqual([toldBefore]);
    await map.beginTelling();
    expect(calls).toEqual([toldBefore, map.version]);
  });

  it('goes above a version that a mirror has seen, durably', async () => {
    const { map, calls, told, fail } = await failing();
    await fail(touch(map, 1));
    await map.beginTelling();
    map.raiseVersion(700);
    await map.setAll(0);
    expect(map.version).toBeGreaterThan(700);
    expect([calls.at(-1), told.at(-1)?.version]).toEqual([map.version, map.version]);
  });

  it('is still above what mirrors were told where that cannot be made durable: a session does not begin', async () => {
    let isBroken = false;
    const { map, fail } = await failing({
      invalidate: () => (isBroken ? Promise.reject(new Failure('no-space', 'injected')) : Promise.resolve()),
    });
    await fail(touch(map, 1));
    isBroken = true;
    await expect(map.beginTelling()).rejects.toEqual(failed('io-error'));
    expect([map.valid, touch(map, 3)]).toEqual([false, undefined]);
    isBroken = false;
    await map.beginTelling();
  });

  it('is made anew above the version that mirrors were told meanwhile', async () => {
    const { file, map } = await mapWith([5]);
    const told = map.version + 900;
    const again = await openOn(new ToldFile(file.cut(() => false)), { trusted: false, versionTold: told });
    expect(again.versionTold).toBe(told);
    expect(again.version).toBeGreaterThan(told);
    expect(again.count(0)).toBe(REGION_COUNT);
    // And says so by itself from then on.
    await again.beginTelling();
    expect(again.versionTold).toBe(told);
  });
});

describe('a plane of the dirty map', () => {
  it('can be set as a whole, durably, and what was cleared stays known', async () => {
    const { file, map } = await mapWith([1]);
    await map.setAll(0);
    const again = await afterCut(file);
    expect([again.count(0), again.cleared(0), again.replicaId(0)]).toEqual([REGION_COUNT, at(10, 3), REPLICA]);
  });

  it('that is given to another mirror has everything set and nothing cleared, whenever the power is cut', async () => {
    const other = Buffer.alloc(16, 7);
    const { file, map } = await mapWith([1]);
    file.isPrompt = false;
    const assigning = map.assignReplica(0, other);
    expect(map.replicaId(0)).toEqual(NO_ID);
    for (let calls = 0; calls < 4; calls += 1) {
      await turns(1);
      for (const survive of [true, false]) {
        const left = await openOn(new ToldFile(file.cut(() => survive)));
        const isOld = left.replicaId(0).equals(REPLICA);
        expect(isOld || left.replicaId(0).equals(other)).toBe(true);
        // The marks of the old mirror, or more; of the new one, everything.
        expect(isOld ? left.isSet(0, 1) : left.count(0) === REGION_COUNT).toBe(true);
        expect(isOld || left.cleared(0) === undefined).toBe(true);
      }
      file.tell();
    }
    await assigning;
    const left = await afterCut(file);
    expect([left.replicaId(0), left.count(0), left.cleared(0)]).toEqual([other, REGION_COUNT, undefined]);
    expect([map.replicaId(0), map.cleared(0), map.count(0)]).toEqual([other, undefined, REGION_COUNT]);
  });

  it('that could not be given to another mirror tells of none', async () => {
    for (const calls of [0, 1, 2, 3]) {
      const { file, map } = await mapWith([1]);
      file.isPrompt = false;
      const assigning = outcomeOf(map.assignReplica(0, Buffer.alloc(16, 7)));
      await turns(1);
      for (let count = 0; count < calls; count += 1) {
        file.tell();
        await turns(1);
      }
      file.tell(new Failure('io-error', 'injected'));
      expect(await assigning).toEqual(failed('io-error'));
      expect([map.replicaId(0), map.count(0)]).toEqual([NO_ID, REGION_COUNT]);
      // So says the medium with the next write at the latest, where the header had been on its way.
      const other = map.setAll(0);
      await finishAll(file);
      await other;
      const left = await afterCut(file);
      expect([left.replicaId(0), left.count(0)]).toEqual([calls < 2 ? REPLICA : NO_ID, REGION_COUNT]);
      const again = map.assignReplica(0, Buffer.alloc(16, 8));
      await finishAll(file);
      await again;
      expect((await afterCut(file)).replicaId(0)).toEqual(Buffer.alloc(16, 8));
    }
  });

  it('is cleared without the others', async () => {
    const file = new ToldFile(undefined);
    const map = await openOn(file, { planeCount: 3 });
    await map.clear(1, every, at(4));
    expect([map.count(0), map.count(1), map.count(2)]).toEqual([REGION_COUNT, 0, REGION_COUNT]);
    expect([map.cleared(0), map.cleared(1)]).toEqual([undefined, at(4)]);
    expect([map.isSet(0, 7), map.isSet(1, 7), map.covers(7 * REGION_SIZE, 1)]).toEqual([true, false, false]);
  });
});

describe('closing the dirty map', () => {
  it('waits for what is being written', async () => {
    const { file, map } = await mapWith([]);
    file.isPrompt = false;
    const setting = Promise.resolve(touch(map, 1));
    let isClosed = false;
    const closing = map.close().then(() => {
      isClosed = true;
    });
    await turns(2);
    expect(isClosed).toBe(false);
    await finishAll(file);
    await Promise.all([setting, closing]);
    expect(setRegions(await afterCut(file))).toEqual([1]);
    await map.close();
  });
});
