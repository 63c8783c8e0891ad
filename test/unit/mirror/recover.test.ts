import { describe, expect, it } from 'vitest';
import { AssertionFailed } from '../../../src/base/assert.ts';
import { silentLog } from '../../../src/base/log.ts';
import type { PointName } from '../../../src/io/points.ts';
import { MirrorImage } from '../../../src/mirror/image.ts';
import { recoverImage } from '../../../src/mirror/recover.ts';
import { type MemoryWorld, memoryWorld } from '../../support/memory-world.ts';
import { beginning, crash, failing, HELLO, IMAGE, imageInStep, newImage, SIZE, STATE } from './fixtures.ts';

const failed = (code: string) => expect.objectContaining({ code });
const LOG = `${IMAGE}.twin/staging/log`;

function recover(world: MemoryWorld, dryRun = false) {
  return recoverImage(world, silentLog, IMAGE, dryRun);
}

/** Content of every file, to see that nothing was changed. */
async function everything(world: MemoryWorld): Promise<string[]> {
  const paths = [IMAGE, STATE, LOG, `${IMAGE}.twin/staging/data`];
  return Promise.all(paths.map(async (path) => (await world.files.readFile(path, 2 ** 30))?.toString('hex') ?? 'none'));
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

  it('that is another file than it was, or was changed, says so, and again', async () => {
    for (const change of ['replaced', 'changed'] as const) {
      const { world, image } = await imageInStep();
      await image.close();
      if (change === 'changed') world.files.file(IMAGE).modifiedNs += 1n;
      else {
        await world.files.remove(IMAGE);
        world.files.put(IMAGE, Buffer.alloc(SIZE));
      }
      const reason = expect.stringContaining(change === 'changed' ? 'was changed' : 'another file');
      expect(await recover(world, true)).toMatchObject({ consistent: false, exact: false, reason });
      expect(await recover(world)).toMatchObject({ consistent: false, reason });
      expect(await recover(world)).toMatchObject({ consistent: false });
    }
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
