import { describe, expect, it } from 'vitest';
import { AssertionFailed } from '../../../src/base/assert.ts';
import { silentLog } from '../../../src/base/log.ts';
import type { PointName } from '../../../src/io/points.ts';
import { MirrorImage } from '../../../src/mirror/image.ts';
import { DEFAULT_STAGING } from '../../../src/mirror/image-state.ts';
import { recoverImage } from '../../../src/mirror/recover.ts';
import { MIRROR_STATE } from '../../../src/store/mirror-state.ts';
import { openStateFile } from '../../../src/store/state-file.ts';
import { type MemoryWorld, memoryWorld } from '../../support/memory-world.ts';
import { beginning, crash, failing, HELLO, IMAGE, imageInStep, newImage, SIZE, STATE } from './fixtures.ts';

const failed = (code: string) => expect.objectContaining({ code });
const LOG = `${IMAGE}.twin/staging/log`;

function recover(world: MemoryWorld, dryRun = false) {
  return recoverImage(world, silentLog, IMAGE, dryRun);
}

const OTHER = '/backup/disk.img';

/** A copy of the image and its `.twin` folder, as `cp -a` makes it; with `modifiedNs`, with that time instead. */
async function copied(
  world: MemoryWorld,
  { size = Number.MAX_SAFE_INTEGER, modifiedNs }: { size?: number; modifiedNs?: bigint } = {},
): Promise<void> {
  for (const part of ['', '.twin/mirror', '.twin/staging/log', '.twin/staging/data']) {
    const data = await world.files.readFile(IMAGE + part, part === '' ? size : 2 ** 30);
    if (data === undefined) continue;
    world.files.put(OTHER + part, data);
    world.files.file(OTHER + part).modifiedNs = modifiedNs ?? world.files.file(IMAGE + part).modifiedNs;
  }
}

/** The copy as a mirror that serves its folder finds it. */
async function served(world: MemoryWorld): Promise<MirrorImage> {
  return (await MirrorImage.open(world, silentLog, '/backup', 'disk'))!;
}

/** Content of every file, to see that nothing was changed. */
async function everything(world: MemoryWorld): Promise<string[]> {
  const paths = [IMAGE, STATE, LOG, `${IMAGE}.twin/staging/data`];
  return Promise.all(paths.map(async (path) => (await world.files.readFile(path, 2 ** 30))?.toString('hex') ?? 'none'));
}

/** A mirror has opened the image and stopped: its state has the time that the image has now. */
async function touchedState(world: MemoryWorld): Promise<void> {
  const file = (await openStateFile(world.files, MIRROR_STATE, STATE))!;
  const { modifiedNs } = world.files.file(IMAGE);
  await file.write({ ...file.state, identity: { ...file.state.identity, modifiedNs } });
  await file.close();
}

/** A mirror that died at a point of a commit at 9 over an image at 3. */
async function diedAt(point: PointName): Promise<MemoryWorld> {
  let dying = false;
  const reached = (name: PointName): void => {
    if (dying && name === point) throw new AssertionFailed('died');
  };
  const world = { ...memoryWorld(), points: { reached } };
  const image = await MirrorImage.create(world, silentLog, '/mirrors', 'disk', HELLO);
  await image.begin(HELLO, beginning('SEEDING'));
  await image.target.write(Buffer.alloc(SIZE, 1), 0);
  await image.complete(1, 3);
  await image.begin({ ...HELLO, mapVersion: 6 }, beginning('RESCAN', 3));
  await image.target.write(Buffer.alloc(4096, 2), 0);
  world.clock.advance(1_000);
  dying = true;
  await expect(image.complete(2, 9)).rejects.toThrow('died');
  dying = false;
  world.clock.advance(60_000);
  world.files.losePower();
  return world;
}

describe('recovering an image', () => {
  it('that was stopped cleanly changes nothing and tells its exact position and age', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(7);
    world.clock.advance(5_000);
    await image.close();
    world.clock.advance(90_000);
    const before = await everything(world);
    const dry = await recover(world, true);
    expect(await everything(world)).toEqual(before);
    expect(dry).toMatchObject({
      image: IMAGE,
      size: SIZE,
      run: HELLO.run.toString('hex'),
      sequence: 7,
      recordedAtMs: 5_000,
      ageMs: 90_000,
      consistent: true,
      exact: true,
      staging: 'none',
      dryRun: true,
    });
    expect(await recover(world)).toEqual({ ...dry, dryRun: false });
    // The position is as old as before, and its primary goes on in order.
    expect(await recover(world)).toEqual({ ...dry, dryRun: false });
    expect(world.files.openCount).toBe(0);
  });

  it('after a crash is a legal crash state, not exact', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(7);
    await image.target.record();
    image.target.setApplied(9);
    crash(world);
    for (const dryRun of [true, false]) {
      expect(await recover(world, dryRun)).toMatchObject({ sequence: 7, consistent: true, exact: false });
    }
    expect((await MirrorImage.open(world, silentLog, '/mirrors', 'disk'))!.exact).toBe(false);
  });

  it('drops a staged run that is not complete: the image is as it was before it', async () => {
    const world = await diedAt('mirror-space-reserved');
    const before = await everything(world);
    const dry = await recover(world, true);
    expect(await everything(world)).toEqual(before);
    expect(dry).toMatchObject({ sequence: 3, consistent: true, staging: 'dropped', mapVersion: 6 });
    expect(await recover(world)).toEqual({ ...dry, dryRun: false });
    expect(await world.files.exists(LOG)).toBeUndefined();
    expect(world.files.file(IMAGE).disk.content().equals(Buffer.alloc(SIZE, 1))).toBe(true);
    expect(await recover(world)).toMatchObject({ staging: 'none' });
  });

  it('finishes a staged run that is complete, wherever it was cut short, and tells the age of its commit', async () => {
    for (const point of [
      'mirror-commit-recorded',
      'mirror-copy-begun',
      'mirror-copy-synced',
      'mirror-copy-recorded',
    ] as const) {
      const world = await diedAt(point);
      const before = await everything(world);
      const dry = await recover(world, true);
      expect(await everything(world)).toEqual(before);
      const expected = {
        sequence: 9,
        consistent: true,
        exact: true,
        staging: 'finished',
        recordedAtMs: 1_000,
        ageMs: 60_000,
      };
      expect(dry).toMatchObject(expected);
      expect(await recover(world)).toMatchObject(expected);
      const content = Buffer.alloc(SIZE, 1).fill(2, 0, 4096);
      expect(world.files.file(IMAGE).disk.durableContent().equals(content)).toBe(true);
      expect(await recover(world)).toMatchObject({ sequence: 9, exact: true, staging: 'none' });
    }
  });

  it('that cannot be finished stays as it is, for the next attempt', async () => {
    const world = await diedAt('mirror-commit-recorded');
    failing(world.files.file(IMAGE).disk, 'write');
    await expect(recover(world)).rejects.toEqual(failed('io-error'));
    expect(world.files.openCount).toBe(0);
    world.files.file(IMAGE).disk.hook = undefined;
    expect(await recover(world)).toMatchObject({ sequence: 9, consistent: true, staging: 'finished' });
  });

  it('that was never filled, or half, says that it must not be used', async () => {
    const { world, image } = await newImage();
    await image.begin(HELLO, beginning('SEEDING'));
    await image.close();
    for (const dryRun of [true, false]) {
      expect(await recover(world, dryRun)).toMatchObject({
        consistent: false,
        exact: false,
        reason: 'it was never filled completely',
      });
    }
  });

  it('that was changed, or is not all there, says so, and again', async () => {
    for (const change of ['was changed', 'has 4096 bytes'] as const) {
      const { world, image } = await imageInStep();
      await image.close();
      if (change === 'was changed') world.files.file(IMAGE).modifiedNs += 1n;
      else await world.files.file(IMAGE).disk.resize(4096);
      const reason = expect.stringContaining(change);
      expect(await recover(world, true)).toMatchObject({ consistent: false, exact: false, reason });
      expect(await recover(world)).toMatchObject({ consistent: false, reason });
      expect(await recover(world)).toMatchObject({ consistent: false });
    }
  });

  it('that is a copy says so, is what the original is, and is the image of a mirror afterwards', async () => {
    for (const end of ['stop', 'crash'] as const) {
      const { world, image } = await imageInStep();
      await image.target.write(Buffer.alloc(SIZE, 5), 0);
      image.target.setApplied(7);
      await image.target.record();
      if (end === 'stop') await image.close();
      else crash(world);
      world.files.file(IMAGE).modifiedNs = 9_876_543_210n;
      if (end === 'stop') await touchedState(world);
      await copied(world);
      const expected = { file: 'copy', sequence: 7, consistent: true, exact: end === 'stop', reason: undefined };
      const dry = await recoverImage(world, silentLog, OTHER, true);
      expect(dry).toMatchObject(expected);
      expect(await recoverImage(world, silentLog, OTHER, false)).toEqual({ ...dry, dryRun: false });
      expect(await recoverImage(world, silentLog, OTHER, false)).toMatchObject({ ...expected, file: 'same' });
      const serving = await served(world);
      expect([serving.consistent, serving.exact, serving.recorded]).toEqual([true, end === 'stop', 7]);
      expect(serving.state.replicaId.equals(image.state.replicaId)).toBe(true);
    }
  });

  it('that is a copy with whole seconds is believed when the power goes after it was taken over', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(7);
    await image.close();
    world.files.file(IMAGE).modifiedNs = 9_876_543_210n;
    await touchedState(world);
    await copied(world, { modifiedNs: 9_000_000_000n });
    const opened = await MirrorImage.open(world, silentLog, '/backup', 'disk', DEFAULT_STAGING, true);
    expect([opened!.file, opened!.consistent, opened!.exact]).toEqual(['copy', true, true]);
    world.files.losePower();
    const after = await served(world);
    expect([after.consistent, after.exact, after.recorded, after.reason]).toEqual([true, true, 7, undefined]);
  });

  it('that is a copy is taken up by a mirror only after it was recovered', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(7);
    await image.close();
    await copied(world);
    const serving = await served(world);
    expect([serving.consistent, serving.recorded, serving.reason]).toEqual([
      false,
      0,
      'the image is another file than it was',
    ]);
    await serving.close();
    // What the mirror has forgotten nobody can bring back.
    expect(await recoverImage(world, silentLog, OTHER, false)).toMatchObject({ consistent: false });
  });

  it('that is a copy finishes and drops staged runs as the original would', async () => {
    for (const [point, staging, sequence] of [
      ['mirror-copy-begun', 'finished', 9],
      ['mirror-copy-recorded', 'finished', 9],
      ['mirror-space-reserved', 'dropped', 3],
    ] as const) {
      const world = await diedAt(point);
      await copied(world);
      const before = await everything(world);
      const expected = { file: 'copy', staging, sequence, consistent: true };
      expect(await recoverImage(world, silentLog, OTHER, true)).toMatchObject(expected);
      expect(await recoverImage(world, silentLog, OTHER, false)).toMatchObject(expected);
      const content = Buffer.alloc(SIZE, 1).fill(sequence === 9 ? 2 : 1, 0, 4096);
      // Also what nobody but the copying program has written.
      expect(world.files.file(OTHER).disk.durableContent().equals(content)).toBe(true);
      expect(await world.files.exists(`${OTHER}.twin/staging/log`)).toBeUndefined();
      expect((await served(world)).recorded).toBe(sequence);
      // The original is none of its business.
      expect(await everything(world)).toEqual(before);
    }
  });

  it('that is a copy and cannot be finished stays a copy to be finished, for whoever tries next', async () => {
    const world = await diedAt('mirror-commit-recorded');
    await copied(world);
    for (const call of ['sync', 'write'] as const) {
      failing(world.files.file(OTHER).disk, call);
      await expect(recoverImage(world, silentLog, OTHER, false)).rejects.toEqual(failed('io-error'));
      world.files.killProcess();
    }
    expect(await recoverImage(world, silentLog, OTHER, false)).toMatchObject({ sequence: 9, staging: 'finished' });
  });

  it('that is a copy with a time of its own can be used, and is another image to its primary', async () => {
    for (const [modifiedNs, file] of [
      [9_000_000_000n, 'copy'],
      [9_876_543_211n, 'copy-retimed'],
      [8_000_000_000n, 'copy-retimed'],
    ] as const) {
      const { world, image } = await imageInStep();
      image.target.setApplied(7);
      await image.close();
      world.files.file(IMAGE).modifiedNs = 9_876_543_210n;
      await touchedState(world);
      await copied(world, { modifiedNs });
      const kept = file === 'copy';
      const expected = { file, sequence: 7, consistent: true, exact: kept };
      expect(await recoverImage(world, silentLog, OTHER, true)).toMatchObject(expected);
      expect(await recoverImage(world, silentLog, OTHER, false)).toMatchObject(expected);
      const serving = await served(world);
      expect(serving.state.replicaId.equals(image.state.replicaId)).toBe(kept);
      expect([serving.consistent, serving.exact, serving.recorded]).toEqual([true, kept, 7]);
    }
  });

  it('that is a copy without its end, or without what a commit needs, must not be used', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(7);
    crash(world);
    await copied(world, { size: SIZE - 4096 });
    const short = { file: 'copy', consistent: false, reason: `the image has ${SIZE - 4096} bytes, and had ${SIZE}` };
    const half = await diedAt('mirror-copy-begun');
    await half.files.remove(LOG);
    await copied(half);
    const gone = { file: 'copy', consistent: false, reason: expect.stringContaining('needs for that is gone') };
    for (const dryRun of [true, false]) {
      expect(await recoverImage(world, silentLog, OTHER, dryRun)).toMatchObject(short);
      expect(await recoverImage(half, silentLog, OTHER, dryRun)).toMatchObject(gone);
    }
    expect(image.state.consistent).toBe(true);
  });

  it('that is a copy of parts of different instants is refused where the parts contradict each other', async () => {
    // The state from before a session, the staged run of after it.
    const world = await diedAt('mirror-commit-recorded');
    await copied(world);
    const { world: older, image } = await imageInStep();
    image.target.setApplied(2);
    await image.close();
    world.files.put(`${OTHER}.twin/mirror`, (await older.files.readFile(STATE, 2 ** 30))!);
    const reason = 'the staged run beside the image belongs to another state of it';
    for (const dryRun of [true, false]) {
      expect(await recoverImage(world, silentLog, OTHER, dryRun)).toMatchObject({ consistent: false, reason });
    }
    expect(world.files.file(OTHER).disk.content().equals(Buffer.alloc(SIZE, 1))).toBe(true);
  });

  it('is for images of a mirror that nobody has open', async () => {
    const world = memoryWorld();
    await expect(recover(world)).rejects.toEqual(failed('image-unknown'));
    world.files.put(IMAGE, Buffer.alloc(SIZE));
    await expect(recover(world)).rejects.toEqual(failed('image-unknown'));
    await expect(recoverImage(world, silentLog, '/mirrors/disk', false)).rejects.toEqual(failed('image-unknown'));
    const used = await imageInStep();
    for (const dryRun of [true, false]) {
      await expect(recover(used.world, dryRun)).rejects.toEqual(failed('disk-busy'));
    }
    await used.image.close();
    await used.world.files.remove(IMAGE);
    await expect(recover(used.world)).rejects.toEqual(failed('image-missing'));
    await expect(recover(used.world, true)).rejects.toEqual(failed('disk-missing'));
    expect(used.world.files.openCount).toBe(0);
  });
});
