import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { MirrorImage } from '../../../src/mirror/image.ts';
import { asMirrorFailure } from '../../../src/mirror/mirror-failure.ts';
import type { MemoryDisk } from '../../support/memory-disk.ts';
import { memoryWorld, turns } from '../../support/memory-world.ts';
import {
  beginning,
  crash,
  failing,
  HELLO,
  IMAGE,
  imageInStep,
  newImage,
  powerLoss,
  reopen,
  SIZE,
  STATE,
} from './fixtures.ts';

const failed = (code: string) => expect.objectContaining({ code });

/** Syncs of a disk, one after the other; each waits until the test lets it go. */
function holdSyncs(disk: MemoryDisk): { go(): void; fail(): void }[] {
  const held: { go(): void; fail(): void }[] = [];
  disk.hook = (call) => {
    if (call !== 'sync') return undefined;
    return new Promise<void>((go, reject) => {
      held.push({ go, fail: () => reject(new Failure('io-error', 'injected')) });
    });
  };
  return held;
}

describe('a new image', () => {
  it('is all holes, holds no position, and is durable with its state', async () => {
    const { world, image, disk } = await newImage();
    expect(disk.size).toBe(SIZE);
    expect(disk.seekData(0)).toBe(SIZE);
    expect(image.state).toMatchObject({ consistent: false, clean: false, seeded: false, recorded: 0, checkpoint: 0 });
    expect(image.consistent).toBe(false);
    const again = await powerLoss(world);
    expect(again.state).toEqual(image.state);
    expect(again.disk.size).toBe(SIZE);
  });

  it('that could not be made is unlocked and closed, and made anew by the next attempt', async () => {
    for (const failing of ['openDisk', 'syncDirectory', 'makeDirectory', 'replaceFile']) {
      const world = memoryWorld();
      world.files.hook = (operation) => {
        if (operation === failing) throw new Failure('no-space', 'injected');
      };
      await expect(MirrorImage.create(world, silentLog, '/mirrors', 'disk', HELLO)).rejects.toEqual(failed('no-space'));
      expect(world.files.openCount).toBe(0);
      world.files.hook = undefined;
      const image = (await reopen(world)) ?? (await MirrorImage.create(world, silentLog, '/mirrors', 'disk', HELLO));
      await image.begin(HELLO, beginning('SEEDING'));
      await image.close();
      expect(world.files.openCount).toBe(0);
    }
  });
});

describe('an image that is opened', () => {
  it('is not there until it is made', async () => {
    expect(await reopen(memoryWorld())).toBeUndefined();
  });

  it('without state, or whose file is gone after it was seeded, is nobody’s to overwrite', async () => {
    const stranger = memoryWorld();
    stranger.files.put(IMAGE, Buffer.alloc(SIZE));
    await expect(reopen(stranger)).rejects.toEqual(failed('image-foreign'));
    const { world, image } = await imageInStep();
    await image.close();
    await world.files.remove(IMAGE);
    await expect(reopen(world)).rejects.toEqual(failed('image-missing'));
    expect(world.files.openCount).toBe(0);
  });

  it('whose making was cut short is made anew', async () => {
    const missing = await newImage();
    await missing.world.files.remove(IMAGE);
    expect(await reopen(missing.world)).toBeUndefined();
    const empty = await newImage();
    empty.world.files.put(IMAGE, Buffer.alloc(0));
    expect(await reopen(empty.world)).toBeUndefined();
    expect(await empty.world.files.exists(IMAGE)).toBeUndefined();
  });

  it('that is locked leaves nothing open', async () => {
    const { world } = await imageInStep();
    const before = world.files.openCount;
    await expect(reopen(world)).rejects.toEqual(failed('disk-busy'));
    expect(world.files.openCount).toBe(before);
  });

  it('after a clean stop is where it was, and exact', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(7);
    await image.close();
    expect(world.files.openCount).toBe(0);
    const again = (await reopen(world))!;
    expect([again.applied, again.durable, again.recorded]).toEqual([7, 7, 7]);
    expect(again.consistent).toBe(true);
  });

  it('after a clean stop and a change behind our back holds no position', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(7);
    await image.close();
    world.files.file(IMAGE).modifiedNs += 1n;
    const again = (await reopen(world))!;
    expect([again.applied, again.durable, again.recorded]).toEqual([0, 0, 0]);
    expect(again.state).toMatchObject({ consistent: false, clean: false, run: Buffer.alloc(16), checkpoint: 0 });
    // And durably so.
    crash(world);
    expect((await powerLoss(world)).state).toEqual(again.state);
  });

  it('whose change cannot be written down leaves nothing open', async () => {
    const { world, image } = await imageInStep();
    await image.close();
    world.files.file(IMAGE).modifiedNs += 1n;
    world.files.file(STATE).disk.hook = () => {
      throw new Failure('io-error', 'injected');
    };
    await expect(reopen(world)).rejects.toEqual(failed('io-error'));
    expect(world.files.openCount).toBe(0);
  });

  it('after a crash is not known to be exact until a staged run has brought what may be in it again', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(3);
    await image.target.record();
    await image.target.write(Buffer.alloc(512, 8), 1024);
    image.target.setApplied(9);
    crash(world);
    const again = (await reopen(world))!;
    expect([again.applied, again.consistent, again.exact]).toEqual([3, true, false]);
    await again.begin(HELLO, beginning('CATCH_UP_STAGED', 3, 9));
    await again.target.write(Buffer.alloc(512, 9), 1024);
    await expect(again.complete(1, 8)).rejects.toEqual(failed('frame-invalid'));
    await again.complete(1, 9);
    expect([again.applied, again.recorded, again.consistent, again.exact]).toEqual([9, 9, true, true]);
    expect(world.files.file(IMAGE).disk.durableContent()[1024]).toBe(9);
  });

  it('after a crash with nothing beyond its position is exact when the primary says so', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(3);
    await image.target.record();
    crash(world);
    const again = (await reopen(world))!;
    expect(again.exact).toBe(false);
    await again.begin(HELLO, beginning('CATCH_UP', 3, 3));
    expect(again.exact).toBe(true);
  });

  it('is another file than it was: found out also after an unclean stop, whatever number the device has now', async () => {
    const { world, image } = await imageInStep();
    image.target.setApplied(3);
    await image.target.record();
    crash(world);
    const state = await world.files.readFile(STATE, 8192);
    const inode = world.files.file(IMAGE).inode;
    world.files.put(IMAGE, world.files.file(IMAGE).disk.content());
    Object.assign(world.files.file(IMAGE), { inode: inode.replace('memory', '8') });
    const moved = (await reopen(world))!;
    expect([moved.consistent, moved.recorded]).toEqual([true, 3]);
    await moved.close();
    world.files.put(STATE, state!);
    await world.files.remove(IMAGE);
    world.files.put(IMAGE, Buffer.alloc(SIZE));
    const replaced = (await reopen(world))!;
    expect([replaced.consistent, replaced.recorded, replaced.state.run]).toEqual([false, 0, Buffer.alloc(16)]);
    expect(replaced.reason).toContain('another file');
    // And only once: it is the image from now on.
    crash(world);
    const again = (await reopen(world))!;
    expect(again.state.identity.inode).toBe(world.files.file(IMAGE).inode);
  });
});

describe('a session of an image', () => {
  it('that resumes in the same process stays exact, though more was sent', async () => {
    const { image } = await imageInStep();
    image.target.setApplied(5);
    await image.begin(HELLO, beginning('CATCH_UP', 5, 9));
    expect(image.consistent).toBe(true);
  });

  it('clears the clean flag durably before anything is touched', async () => {
    const { world, image } = await imageInStep();
    await image.close();
    const again = (await reopen(world))!;
    expect(again.state.clean).toBe(true);
    await again.begin(HELLO, beginning('CATCH_UP'));
    crash(world);
    expect((await powerLoss(world)).state.clean).toBe(false);
  });

  it('of a seeding says durably that the image is not consistent, and at the end that it is', async () => {
    const { world, image } = await newImage();
    await image.begin(HELLO, beginning('SEEDING', 4));
    expect([image.applied, image.durable, image.recorded]).toEqual([4, 4, 4]);
    expect(image.consistent).toBe(false);
    const cut = await powerLoss(world);
    expect(cut.state).toMatchObject({ consistent: false, seeded: false, recorded: 4 });
    await cut.begin(HELLO, beginning('SEEDING', 4));
    await cut.target.write(Buffer.alloc(512, 7), 0);
    await cut.complete(9, 6);
    expect([cut.applied, cut.recorded, cut.consistent, cut.exact]).toEqual([6, 6, true, true]);
    const whole = await powerLoss(world);
    expect(whole.state).toMatchObject({ consistent: true, seeded: true, recorded: 6, checkpoint: 9 });
    expect(world.files.file(IMAGE).disk.content()[0]).toBe(7);
  });

  it('of a seeding that goes on, in the same run, keeps the checkpoint; in another, or further back, it does not', async () => {
    for (const [sequence, run, kept] of [
      [5, HELLO.run, 3],
      [8, HELLO.run, 3],
      [4, HELLO.run, 0],
      [5, Buffer.alloc(16, 9), 0],
    ] as const) {
      const { image } = await newImage();
      await image.begin(HELLO, beginning('SEEDING'));
      image.target.setApplied(5);
      await image.target.checkpoint(3, 5);
      await image.begin({ ...HELLO, run }, beginning('SEEDING', sequence));
      expect(image.state.checkpoint).toBe(kept);
      expect(image.state.run.equals(run)).toBe(true);
    }
  });

  it('reads what the medium holds once a sync has failed, also after a stop and a start on the same machine', async () => {
    for (const restart of [false, true]) {
      const { world, image, disk } = await newImage();
      await image.begin(HELLO, beginning('SEEDING', 4));
      await image.target.write(Buffer.alloc(512, 7), 0);
      // The link is lost; nothing was applied that counts. The next opening finds that the disk has lost the repair.
      failing(disk, 'sync');
      await expect(image.begin(HELLO, beginning('SEEDING', 4))).rejects.toEqual(failed('io-error'));
      disk.hook = undefined;
      expect([disk.content()[0], disk.durableContent()[0]]).toEqual([7, 0]);
      let next = image;
      if (restart) {
        await image.close();
        next = (await reopen(world))!;
      }
      await next.begin(HELLO, beginning('SEEDING', 4));
      expect(disk.content()[0]).toBe(0);
    }
  });

  it('keeps what is in the cache only where nothing was lost', async () => {
    const { world, image, disk } = await imageInStep();
    await image.target.write(Buffer.alloc(512, 7), 0);
    await image.begin(HELLO, beginning('CATCH_UP'));
    await image.close();
    const again = (await reopen(world))!;
    await again.begin(HELLO, beginning('RESCAN', 4));
    expect([disk.content()[0], disk.durableContent()[0]]).toEqual([7, 7]);
  });

  it('is at no position for another run from the same place while operations that nobody counts may be in it', async () => {
    const { world, image } = await imageInStep();
    const stop = { parentRun: HELLO.run, parentSequence: 3 };
    const first = { ...HELLO, ...stop, run: Buffer.alloc(16, 4) };
    const second = { ...HELLO, ...stop, run: Buffer.alloc(16, 5) };
    const positions = (seen: MirrorImage) => [first, second].map((hello) => seen.positionFor(hello).resumeAfter);
    image.target.setApplied(3);
    await image.target.record();
    await image.begin(first, beginning('CATCH_UP', 3));
    expect(positions(image)).toEqual([3, 3]);
    image.target.setApplied(5);
    const again = await powerLoss(world);
    expect(positions(again)).toEqual([3, 0]);
    expect(again.positionFor(second)).toMatchObject({ consistent: true, exact: false, run: Buffer.alloc(16) });
    await again.begin(first, beginning('CATCH_UP_STAGED', 3, 5));
    await again.complete(1, 5);
    expect(positions(again)).toEqual([5, 5]);
  });

  it('grows the image with the commit of a staged run, and not before; a seeding at once', async () => {
    const larger = { ...HELLO, size: SIZE + 8192 };
    const { world, image } = await imageInStep();
    await image.begin(larger, beginning('RESCAN'));
    await image.target.write(Buffer.alloc(512, 7), SIZE + 4096);
    expect([image.disk.size, image.target.size, image.view.size]).toEqual([SIZE, SIZE + 8192, SIZE + 8192]);
    await image.complete(1, 0);
    const grown = await powerLoss(world);
    expect(grown.disk.size).toBe(SIZE + 8192);
    expect(world.files.file(IMAGE).disk.content()[SIZE + 4096]).toBe(7);
    const fresh = await newImage();
    await fresh.image.begin(larger, beginning('SEEDING'));
    expect((await powerLoss(fresh.world)).disk.size).toBe(SIZE + 8192);
  });

  it('that could not begin has touched nothing but the state in memory', async () => {
    const { world, image, disk } = await imageInStep();
    world.files.file(STATE).disk.hook = () => {
      throw new Failure('no-space', 'injected');
    };
    await expect(image.begin(HELLO, beginning('CATCH_UP', 0))).rejects.toEqual(failed('no-space'));
    world.files.file(STATE).disk.hook = undefined;
    expect(disk.counts.write).toBe(0);
    expect((await powerLoss(world)).state).toMatchObject({ consistent: true, recorded: 0 });
  });
});

describe('positions of an image', () => {
  it('move only forward within a session', async () => {
    const { image } = await imageInStep();
    image.target.setApplied(2);
    expect(() => image.target.setApplied(1)).toThrow('in order');
  });

  it('recorded waits for durable, and durable means what was applied when the sync began', async () => {
    const { image, disk } = await imageInStep();
    const held = holdSyncs(disk);
    image.target.setApplied(4);
    const recording = image.target.record();
    image.target.setApplied(6);
    await turns(1);
    expect([image.applied, image.durable, image.recorded]).toEqual([6, 0, 0]);
    held[0]!.go();
    await recording;
    expect([image.applied, image.durable, image.recorded]).toEqual([6, 4, 4]);
  });

  it('go back to the recorded one when a sync fails, and nothing proves more until a new session', async () => {
    const { image, disk } = await imageInStep();
    const held = holdSyncs(disk);
    image.target.setApplied(4);
    const first = image.target.barrier();
    const second = image.target.barrier();
    held[0]!.fail();
    await expect(first).rejects.toEqual(failed('io-error'));
    expect([image.applied, image.durable, image.recorded]).toEqual([0, 0, 0]);
    // The kernel tells of a lost page once: the next sync succeeds and means nothing.
    held[1]!.go();
    await expect(second).rejects.toEqual(failed('io-error'));
    image.target.setApplied(5);
    expect(image.applied).toBe(0);
    expect(() => image.target.checkSound()).toThrow(failed('io-error'));
    disk.hook = undefined;
    expect(image.exact).toBe(false);
    await image.begin(HELLO, beginning('CATCH_UP_STAGED', 0, 5));
    image.target.checkSound();
    await image.complete(1, 5);
    expect([image.durable, image.exact]).toEqual([5, true]);
  });

  it('let no checkpoint complete a rescan over a sync that failed', async () => {
    const { world, image, disk } = await newImage();
    await image.begin(HELLO, beginning('SEEDING'));
    const held = holdSyncs(disk);
    image.target.setApplied(1);
    const recording = image.target.record();
    const checkpoint = image.complete(1, 2);
    held[0]!.fail();
    await expect(recording).rejects.toEqual(failed('io-error'));
    held[1]!.go();
    await expect(checkpoint).rejects.toEqual(failed('io-error'));
    expect(image.state.consistent).toBe(false);
    crash(world);
    expect((await powerLoss(world)).state).toMatchObject({ consistent: false, seeded: false });
  });

  it('stay in order when a sync fails while an earlier position is being written down', async () => {
    const { world, image, disk } = await imageInStep();
    image.target.setApplied(4);
    let letGo = (): void => undefined;
    world.files.file(STATE).disk.hook = (call) =>
      call === 'sync'
        ? new Promise<void>((resolve) => {
            letGo = resolve;
          })
        : undefined;
    const recording = image.target.record();
    await turns(1);
    image.target.setApplied(8);
    disk.hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'injected')) : undefined);
    await expect(image.target.barrier()).rejects.toEqual(failed('io-error'));
    letGo();
    await recording;
    expect([image.applied, image.durable, image.recorded]).toEqual([4, 4, 4]);
  });

  /** The operation writes its own sequence. */
  async function apply(image: MirrorImage, sequence: number): Promise<void> {
    const data = Buffer.alloc(4);
    data.writeUInt32LE(sequence);
    await image.target.write(data, (sequence % 16) * 4);
    image.target.setApplied(sequence);
  }

  /** The primary sends again, as a staged run, what may be in the image already. */
  async function caughtUp(image: MirrorImage, sentMax: number): Promise<void> {
    const from = image.applied;
    await image.begin(HELLO, beginning('CATCH_UP_STAGED', from, sentMax));
    for (let sequence = from + 1; sequence <= sentMax; sequence += 1) await apply(image, sequence);
    await image.complete(image.state.checkpoint + 1, sentMax);
  }

  it('hold recorded <= durable <= applied, and after power loss the image has all that was recorded', async () => {
    const step = fc.constantFrom(
      'apply',
      'apply',
      'apply',
      'barrier',
      'record',
      'checkpoint',
      'turn',
      'failSync',
      'power',
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const parts = await imageInStep();
        const { world } = parts;
        let { image } = parts;
        const problems: string[] = [];
        let sequence = 0;
        let checkpoints = 1;
        const settled = (work: Promise<void> | undefined): void => void work?.catch(() => undefined);
        const hook = (): void => {
          // Each sync takes a turn; one after the other.
          let last = Promise.resolve();
          world.files.file(IMAGE).disk.hook = (call) => {
            if (call !== 'sync') return undefined;
            last = last.then(() => turns(1));
            return last;
          };
        };
        hook();
        for (const taken of steps) {
          const { disk } = world.files.file(IMAGE);
          if (taken === 'apply' && sequence === image.applied) {
            sequence += 1;
            await apply(image, sequence);
          } else if (taken === 'barrier') {
            settled(image.target.barrier());
          } else if (taken === 'record') {
            settled(image.target.record());
          } else if (taken === 'checkpoint') {
            checkpoints += 1;
            settled(image.target.checkpoint(checkpoints, image.applied));
          } else if (taken === 'turn') {
            await turns(2);
          } else if (taken === 'failSync') {
            disk.hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'injected')) : undefined);
            settled(image.target.barrier());
            await turns(20);
            hook();
            await caughtUp(image, sequence);
          } else if (taken === 'power') {
            await turns(60);
            const { recorded } = image;
            world.files.file(IMAGE).disk.hook = undefined;
            image = await powerLoss(world);
            if (image.recorded !== recorded) problems.push(`recorded ${image.recorded} for ${recorded}`);
            const content = world.files.file(IMAGE).disk.content();
            for (let past = Math.max(1, recorded - 15); past <= recorded; past += 1) {
              if (content.readUInt32LE((past % 16) * 4) < past) problems.push(`${past} of ${recorded} is lost`);
            }
            hook();
            await caughtUp(image, sequence);
          }
          const { recorded, durable, applied } = image;
          if (recorded > durable || durable > applied || applied > sequence)
            problems.push(`after ${taken}: ${recorded} ${durable} ${applied} ${sequence}`);
        }
        expect(problems).toEqual([]);
      }),
      { numRuns: 60 },
    );
  });
});

describe('the clean stop of an image', () => {
  it('records what was applied, durably, with the identity of the file', async () => {
    const { world, image, disk } = await imageInStep();
    await disk.write(Buffer.alloc(512, 3), 512);
    image.target.setApplied(1);
    await image.close();
    const again = await powerLoss(world);
    expect(again.state).toMatchObject({ clean: true, recorded: 1 });
    expect(world.files.file(IMAGE).disk.content()[512]).toBe(3);
  });

  it('is believed after a power loss: the time of the image is on the medium before the state says it', async () => {
    const { world, image } = await imageInStep();
    await image.target.write(Buffer.alloc(4096, 7), 0);
    image.target.setApplied(1);
    await image.close();
    const again = await powerLoss(world);
    expect([again.consistent, again.exact, again.recorded, again.reason]).toEqual([true, true, 1, undefined]);
  });

  it('of an image that holds more than its position does not vouch for it', async () => {
    const { world, image, disk } = await imageInStep();
    image.target.setApplied(3);
    await image.target.record();
    failing(disk, 'write');
    await expect(image.target.write(Buffer.alloc(512), 0)).rejects.toEqual(failed('io-error'));
    disk.hook = undefined;
    expect([image.exact, image.consistent]).toEqual([false, true]);
    await image.close();
    expect((await reopen(world))!.exact).toBe(false);
  });

  it('after a session that failed beside the disk is where the image is, and not behind what it holds', async () => {
    for (const close of [true, false]) {
      const { world, image } = await imageInStep();
      await image.target.write(Buffer.alloc(4096, 7), 0);
      image.target.setApplied(1);
      await image.target.record();
      await image.target.write(Buffer.alloc(4096, 8), 0);
      image.target.setApplied(2);
      // A digest could not be read, or a frame made no sense.
      await image.sessionEnded(false);
      if (close) await image.close();
      const again = await powerLoss(world);
      expect([again.recorded, again.exact]).toEqual([2, close]);
      expect(world.files.file(IMAGE).disk.content()[0]).toBe(8);
    }
  });

  it('writes down what was applied where the end of the session could not', async () => {
    const { world, image } = await imageInStep();
    await image.target.write(Buffer.alloc(4096, 8), 0);
    image.target.setApplied(1);
    const state = world.files.file(STATE).disk;
    state.hook = (call) => {
      // Once: that of the session. The next succeeds.
      if (call !== 'write') return undefined;
      state.hook = undefined;
      return Promise.reject(new Failure('io-error', 'injected'));
    };
    await expect(image.sessionEnded(true)).rejects.toEqual(failed('io-error'));
    await image.close();
    const again = await powerLoss(world);
    expect([again.recorded, again.exact]).toEqual([1, true]);
  });

  it('closes everything even when the last sync fails', async () => {
    const { world, image, disk } = await imageInStep();
    image.target.setApplied(3);
    disk.hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'injected')) : undefined);
    await expect(image.close()).rejects.toEqual(failed('io-error'));
    expect(world.files.openCount).toBe(0);
    expect((await MirrorImage.open(world, silentLog, '/mirrors', 'disk'))!.recorded).toBe(0);
  });
});

describe('a failure of the mirror’s disk', () => {
  it('is told to the primary as the mirror’s, and others as they are', () => {
    expect(asMirrorFailure(new Failure('no-space', 'x'))).toEqual(failed('mirror-no-space'));
    expect(asMirrorFailure(new Failure('io-error', 'x'))).toEqual(failed('mirror-io-error'));
    expect(asMirrorFailure(new Failure('not-permitted', 'x'))).toEqual(failed('mirror-io-error'));
    expect(asMirrorFailure(new Failure('image-larger', 'x'))).toEqual(failed('image-larger'));
    expect(asMirrorFailure(Object.assign(new Error('EBADF'), { code: 'EBADF' }))).toEqual(failed('mirror-io-error'));
    expect(() => asMirrorFailure(new TypeError('a bug'))).toThrow('a bug');
  });
});
