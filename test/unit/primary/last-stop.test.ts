import { describe, expect, it } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { MIB } from '../../../src/base/units.ts';
import type { Disk } from '../../../src/io/disk.ts';
import { type LastStop, openLastStop } from '../../../src/primary/last-stop.ts';
import { PRIMARY_STATE, type PrimaryState } from '../../../src/store/primary-state.ts';
import { readStateFile } from '../../../src/store/state-file.ts';
import { memoryLog } from '../../support/memory-log.ts';
import { type MemoryWorld, memoryWorld } from '../../support/memory-world.ts';

const PATH = '/disk.img';
const STATE = '/disk.img.twin';
const SIZE = 2 * MIB;

interface Scene {
  readonly world: MemoryWorld;
  readonly disk: Disk;
  readonly lines: readonly { level: string; message: string }[];
  open(disk?: Disk): Promise<LastStop>;
}

async function scene(): Promise<Scene> {
  const world = memoryWorld();
  world.files.put(PATH, Buffer.alloc(SIZE));
  await world.files.makeDirectory(STATE);
  const disk = await world.files.openDisk(PATH, { lock: 'exclusive' });
  const { log, lines } = memoryLog();
  return { world, disk, lines, open: (other = disk) => openLastStop(world, log, other, STATE) };
}

/** One start, which left this state. */
async function stoppedWith(changes: Partial<PrimaryState>): Promise<Scene & { before: PrimaryState }> {
  const made = await scene();
  const stop = await made.open();
  const before = {
    ...stop.file.state,
    mapValid: true,
    sequence: 41,
    checkpoint: 7,
    clearedCheckpoint: 5,
    identity: await made.disk.identity(),
    ...changes,
  };
  await stop.file.write(before);
  await stop.file.close();
  return { ...made, before };
}

/** What the medium holds: what the next start finds if this one is killed now. */
async function recorded({ world }: Scene, stop: LastStop): Promise<PrimaryState> {
  await stop.file.close();
  const { disk } = world.files.file(`${STATE}/primary`);
  expect(disk.durableContent().equals(disk.content())).toBe(true);
  return (await readStateFile(world.files, PRIMARY_STATE, `${STATE}/primary`))!;
}

/** Somebody writes to the disk behind our back. */
function modify(world: MemoryWorld): void {
  world.files.file(PATH).modifiedNs += 1n;
}

const CLEAN = { clean: true, inOrder: true, spoolBase: 38 };

describe('what the last stop left', () => {
  it('none: a volume, a generation and a run are made, everything is to be compared', async () => {
    const { open } = await scene();
    const stop = await open();
    const { volumeId, generation, run, clean, mapValid } = stop.file.state;
    expect(new Set([volumeId, generation, run].map((id) => id.toString('hex'))).size).toBe(3);
    expect([clean, mapValid]).toEqual([false, false]);
    expect(stop).toMatchObject({
      lineage: { run, parentRun: NO_ID, parentSequence: 0 },
      earlierRuns: [],
      sequence: 0,
      checkpoint: 0,
      mapTrusted: false,
      spoolBase: undefined,
    });
  });

  it('clean, nobody wrote since: a new run goes on from it, and the map and the spool count', async () => {
    const { open, before } = await stoppedWith(CLEAN);
    const stop = await open();
    expect(stop).toMatchObject({
      lineage: { parentRun: before.run, parentSequence: 41 },
      earlierRuns: [before.run],
      sequence: 41,
      checkpoint: 7,
      clearedCheckpoint: 5,
      mapTrusted: true,
      spoolBase: 38,
    });
    expect(stop.lineage.run.equals(before.run)).toBe(false);
    // Nothing is recorded before something happens: a start that does nothing leaves the clean stop as it was.
    expect(stop.file.state).toEqual(before);
  });

  it('clean but not in order: the map counts, nothing is spooled', async () => {
    const { open } = await stoppedWith({ ...CLEAN, inOrder: false });
    expect(await open()).toMatchObject({ sequence: 41, mapTrusted: true, spoolBase: undefined });
  });

  it('clean, but the map could not be written: everything is to be compared', async () => {
    const { open } = await stoppedWith({ ...CLEAN, mapValid: false });
    expect(await open()).toMatchObject({ sequence: 41, mapTrusted: false });
  });

  it.each([
    ['was written to', ({ world }: Scene) => modify(world)],
    ['has another size', ({ disk }: Scene) => disk.resize(SIZE + 512)],
  ])('clean, but the disk %s since: neither map nor spool count, and it is said aloud', async (_what, change) => {
    const made = await stoppedWith(CLEAN);
    change(made);
    const stop = await made.open();
    expect(stop).toMatchObject({
      lineage: { parentRun: NO_ID, parentSequence: 0 },
      earlierRuns: [made.before.run],
      sequence: 0,
      checkpoint: 7,
      mapTrusted: false,
      spoolBase: undefined,
    });
    expect(made.lines.at(-1)).toMatchObject({ level: 'warn', message: expect.stringContaining('was changed while') });
    // Durably: whoever is killed now must not find a clean stop again, nor a map that it may trust.
    expect(await recorded(made, stop)).toMatchObject({ clean: false, mapValid: false, inOrder: false, sequence: 0 });
  });

  it('not clean: the map counts, the spool does not', async () => {
    const made = await stoppedWith({ clean: false, inOrder: true, spoolBase: 38 });
    const stop = await made.open();
    expect(stop).toMatchObject({
      lineage: { parentRun: NO_ID, parentSequence: 0 },
      earlierRuns: [made.before.run],
      sequence: 0,
      checkpoint: 7,
      mapTrusted: true,
      spoolBase: undefined,
    });
    expect(made.lines.at(-1)).toMatchObject({ level: 'info' });
    expect(await recorded(made, stop)).toMatchObject({ clean: false, mapValid: true, run: stop.lineage.run });
  });

  it('not clean, also when the file was written to since, by whom nobody knows: as any write of a crash', async () => {
    const made = await stoppedWith({ clean: false });
    modify(made.world);
    expect(await made.open()).toMatchObject({ mapTrusted: true });
  });

  it('not clean, and another file stands in its place: everything is to be compared', async () => {
    const made = await stoppedWith({ clean: false });
    await made.disk.close();
    made.world.files.put('/other.img', Buffer.alloc(SIZE));
    const other = await made.world.files.openDisk('/other.img', { lock: 'exclusive' });
    const stop = await made.open(other);
    expect(stop).toMatchObject({ mapTrusted: false, spoolBase: undefined });
    expect(made.lines.at(-1)).toMatchObject({ level: 'warn' });
    // The next start, unclean again, finds this very file.
    expect((await recorded(made, stop)).identity).toEqual(await other.identity());
  });

  it('not clean, and the map could not be written: everything is to be compared', async () => {
    const made = await stoppedWith({ clean: false, mapValid: false });
    const stop = await made.open();
    expect(stop.mapTrusted).toBe(false);
    expect(made.lines.at(-1)).toMatchObject({ level: 'warn', message: expect.stringContaining('not marked') });
  });

  it.each([CLEAN, { clean: false }])(
    'on a block device, which cannot tell of changes: %o counts for nothing',
    async (left) => {
      const made = await stoppedWith(left);
      const device = new Proxy(made.disk, {
        get: (disk, name) => (name === 'kind' ? 'block-device' : bound(disk, name)),
      });
      expect(await made.open(device)).toMatchObject({ sequence: 0, mapTrusted: false, spoolBase: undefined });
      expect(made.lines.at(-1)).toMatchObject({ level: 'info', message: expect.stringContaining('block device') });
    },
  );

  it.each([
    ['not clean: what the page cache holds is made durable, and read again', false, ['sync', 'dropCache', 'record']],
    ['clean, and changed since: what the page cache holds is made durable, and stays', true, ['sync', 'record']],
  ])('%s, before the new run is recorded', async (_what, clean, expected) => {
    const made = await stoppedWith({ clean });
    modify(made.world);
    const calls: string[] = [];
    const watched = new Proxy(made.disk, {
      get(disk, name) {
        if (name === 'sync' || name === 'dropCache') calls.push(String(name));
        return bound(disk, name);
      },
    });
    made.world.files.file(`${STATE}/primary`).disk.hook = (call) => {
      if (call === 'write') calls.push('record');
    };
    await made.open(watched);
    expect(calls.filter((call, index) => call !== calls[index - 1])).toEqual(expected);
  });

  it('not clean, and the disk cannot be synced: the start fails, and the next is as this one', async () => {
    const made = await stoppedWith({ clean: false });
    made.world.files.file(PATH).disk.hook = (call) => {
      if (call === 'sync') throw new Error('injected');
    };
    await expect(made.open()).rejects.toThrow('injected');
    made.world.files.file(PATH).disk.hook = undefined;
    expect(await made.open()).toMatchObject({ mapTrusted: true, earlierRuns: [made.before.run] });
  });

  it('again and again: the runs are remembered, newest first', async () => {
    const made = await stoppedWith({ clean: false });
    const runs = [made.before.run];
    for (let count = 0; count < 3; count += 1) {
      const stop = await made.open();
      expect(stop.earlierRuns).toEqual(runs);
      runs.unshift(stop.lineage.run);
      await stop.file.close();
    }
  });
});

function bound(disk: Disk, name: string | symbol): unknown {
  const value: unknown = Reflect.get(disk, name);
  return typeof value === 'function' ? value.bind(disk) : value;
}
