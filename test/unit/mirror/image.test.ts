import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { asMirrorFailure, MirrorImage } from '../../../src/mirror/image.ts';
import type { MemoryDisk } from '../../support/memory-disk.ts';
import { type MemoryWorld, memoryWorld, turns } from '../../support/memory-world.ts';
import { beginning, crash, HELLO, IMAGE, imageInStep, newImage, reopen, SIZE, STATE } from './fixtures.ts';

const failed = (code: string) => expect.objectContaining({ code });

/** The image loses power: what is not durable is gone, and a new process opens it. */
async function powerLoss(world: MemoryWorld): Promise<MirrorImage> {
  for (const path of [IMAGE, STATE]) world.files.put(path, world.files.file(path).disk.durableContent());
  return (await reopen(world))!;
}

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
      await expect(MirrorImage.create(world, '/mirrors', 'disk', HELLO)).rejects.toEqual(failed('no-space'));
      expect(world.files.openCount).toBe(0);
      world.files.hook = undefined;
      const image = (await reopen(world)) ?? (await MirrorImage.create(world, '/mirrors', 'disk', HELLO));
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
    image.setApplied(7);
    await image.close();
    expect(world.files.openCount).toBe(0);
    const again = (await reopen(world))!;
    expect([again.applied, again.durable, again.recorded]).toEqual([7, 7, 7]);
    expect(again.consistent).toBe(true);
  });

  it('after a clean stop and a change behind our back holds no position', async () => {
    const { world, image } = await imageInStep();
    image.setApplied(7);
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

  it('after a crash is not known to be exact until the operations that may be in it have come again', async () => {
    const { world, image } = await imageInStep();
    image.setApplied(3);
    await image.record();
    image.setApplied(9);
    crash(world);
    const again = (await reopen(world))!;
    expect([again.applied, again.state.consistent, again.consistent]).toEqual([3, true, false]);
    await again.begin(HELLO, beginning('CATCH_UP', 3, 9));
    again.setApplied(8);
    expect(again.consistent).toBe(false);
    again.setApplied(9);
    expect(again.consistent).toBe(true);
  });

  it('after a crash with nothing beyond its position is exact when the primary says so', async () => {
    const { world, image } = await imageInStep();
    image.setApplied(3);
    await image.record();
    crash(world);
    const again = (await reopen(world))!;
    await again.begin(HELLO, beginning('CATCH_UP', 3, 3));
    expect(again.consistent).toBe(true);
  });
});

describe('a session of an image', () => {
  it('that resumes in the same process stays exact, though more was sent', async () => {
    const { image } = await imageInStep();
    image.setApplied(5);
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

  it('of a rescan says durably that the image is not consistent, and at the end that it is', async () => {
    const { world, image } = await imageInStep();
    await image.begin(HELLO, beginning('RESCAN', 4));
    expect([image.applied, image.durable, image.recorded]).toEqual([4, 4, 4]);
    expect(image.consistent).toBe(false);
    crash(world);
    const cut = await powerLoss(world);
    expect(cut.state).toMatchObject({ consistent: false, seeded: true, recorded: 4 });
    await cut.begin(HELLO, beginning('RESCAN', 4));
    await cut.disk.write(Buffer.alloc(512, 7), 0);
    await cut.checkpoint(9, 6, true);
    expect([cut.applied, cut.recorded, cut.consistent]).toEqual([6, 6, true]);
    crash(world);
    const whole = await powerLoss(world);
    expect(whole.state).toMatchObject({ consistent: true, recorded: 6, checkpoint: 9 });
    expect(world.files.file(IMAGE).disk.content()[0]).toBe(7);
  });

  it('of a rescan that goes on, in the same run, keeps the checkpoint; in another, or further back, it does not', async () => {
    for (const [sequence, run, kept] of [
      [5, HELLO.run, 3],
      [8, HELLO.run, 3],
      [4, HELLO.run, 0],
      [5, Buffer.alloc(16, 9), 0],
    ] as const) {
      const { image } = await imageInStep();
      image.setApplied(5);
      await image.checkpoint(3, 5, false);
      await image.begin({ ...HELLO, run }, beginning('RESCAN', sequence));
      expect(image.state.checkpoint).toBe(kept);
      expect(image.state.run.equals(run)).toBe(true);
    }
  });

  it('reads what the medium holds once a sync has failed, also after a stop and a start on the same machine', async () => {
    for (const restart of [false, true]) {
      const { world, image, disk } = await imageInStep();
      await image.begin(HELLO, beginning('RESCAN', 4));
      await disk.write(Buffer.alloc(512, 7), 0);
      // The link is lost; nothing was applied that counts. The next opening finds that the disk has lost the repair.
      disk.hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'injected')) : undefined);
      await expect(image.begin(HELLO, beginning('RESCAN', 4))).rejects.toEqual(failed('io-error'));
      disk.hook = undefined;
      expect([disk.content()[0], disk.durableContent()[0]]).toEqual([7, 0]);
      let next = image;
      if (restart) {
        await image.close();
        next = (await reopen(world))!;
      }
      await next.begin(HELLO, beginning('RESCAN', 4));
      expect(disk.content()[0]).toBe(0);
    }
  });

  it('keeps what is in the cache only where nothing was lost', async () => {
    const { world, image, disk } = await imageInStep();
    await disk.write(Buffer.alloc(512, 7), 0);
    await image.begin(HELLO, beginning('RESCAN', 4));
    await image.close();
    const again = (await reopen(world))!;
    await again.begin(HELLO, beginning('RESCAN', 4));
    expect([disk.content()[0], disk.durableContent()[0]]).toEqual([7, 7]);
  });

  it('is not for another run from the same place while operations that nobody counts may be in it', async () => {
    const { world, image } = await imageInStep();
    const stop = { parentRun: HELLO.run, parentSequence: 3 };
    const first = { ...HELLO, ...stop, run: Buffer.alloc(16, 4) };
    const second = { ...HELLO, ...stop, run: Buffer.alloc(16, 5) };
    image.setApplied(3);
    await image.begin(first, beginning('CATCH_UP', 3, 0));
    expect([first, second].map((hello) => image.isConsistentFor(hello))).toEqual([true, true]);
    image.setApplied(5);
    crash(world);
    const again = await powerLoss(world);
    expect(again.applied).toBe(3);
    expect([first, second].map((hello) => again.isConsistentFor(hello))).toEqual([true, false]);
    await again.begin(first, beginning('CATCH_UP', 3, 5));
    again.setApplied(5);
    expect([first, second].map((hello) => again.isConsistentFor(hello))).toEqual([true, true]);
  });

  it('grows the image to the size of the disk, durably, with a hole', async () => {
    const { world, image } = await imageInStep();
    await image.begin({ ...HELLO, size: SIZE + 8192 }, beginning('RESCAN'));
    expect(image.disk.size).toBe(SIZE + 8192);
    crash(world);
    expect((await powerLoss(world)).disk.size).toBe(SIZE + 8192);
  });

  it('that could not begin has touched nothing but the state in memory', async () => {
    const { world, image, disk } = await imageInStep();
    world.files.file(STATE).disk.hook = () => {
      throw new Failure('no-space', 'injected');
    };
    await expect(image.begin(HELLO, beginning('RESCAN', 4))).rejects.toEqual(failed('no-space'));
    world.files.file(STATE).disk.hook = undefined;
    expect(disk.counts.write).toBe(0);
    crash(world);
    expect((await powerLoss(world)).state).toMatchObject({ consistent: true, recorded: 0 });
  });
});

describe('positions of an image', () => {
  it('move only forward within a session', async () => {
    const { image } = await imageInStep();
    image.setApplied(2);
    expect(() => image.setApplied(1)).toThrow('in order');
  });

  it('recorded waits for durable, and durable means what was applied when the sync began', async () => {
    const { image, disk } = await imageInStep();
    const held = holdSyncs(disk);
    image.setApplied(4);
    const recording = image.record();
    image.setApplied(6);
    await turns(1);
    expect([image.applied, image.durable, image.recorded]).toEqual([6, 0, 0]);
    held[0]!.go();
    await recording;
    expect([image.applied, image.durable, image.recorded]).toEqual([6, 4, 4]);
  });

  it('go back to the recorded one when a sync fails, and nothing proves more until a new session', async () => {
    const { image, disk } = await imageInStep();
    const held = holdSyncs(disk);
    image.setApplied(4);
    const first = image.barrier();
    const second = image.barrier();
    held[0]!.fail();
    await expect(first).rejects.toEqual(failed('io-error'));
    expect([image.applied, image.durable, image.recorded]).toEqual([0, 0, 0]);
    // The kernel tells of a lost page once: the next sync succeeds and means nothing.
    held[1]!.go();
    await expect(second).rejects.toEqual(failed('io-error'));
    image.setApplied(5);
    expect(image.applied).toBe(0);
    expect(() => image.checkSound()).toThrow(failed('io-error'));
    disk.hook = undefined;
    await image.begin(HELLO, beginning('CATCH_UP', 0, 5));
    image.checkSound();
    expect(image.consistent).toBe(false);
    image.setApplied(5);
    await image.barrier();
    expect([image.durable, image.consistent]).toEqual([5, true]);
  });

  it('let no checkpoint complete a rescan over a sync that failed', async () => {
    const { world, image, disk } = await newImage();
    await image.begin(HELLO, beginning('SEEDING'));
    const held = holdSyncs(disk);
    image.setApplied(1);
    const recording = image.record();
    const checkpoint = image.checkpoint(1, 2, true);
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
    image.setApplied(4);
    let letGo = (): void => undefined;
    world.files.file(STATE).disk.hook = (call) =>
      call === 'sync'
        ? new Promise<void>((resolve) => {
            letGo = resolve;
          })
        : undefined;
    const recording = image.record();
    await turns(1);
    image.setApplied(8);
    disk.hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'injected')) : undefined);
    await expect(image.barrier()).rejects.toEqual(failed('io-error'));
    letGo();
    await recording;
    expect([image.applied, image.durable, image.recorded]).toEqual([4, 4, 4]);
  });

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
        const settled = (work: Promise<void>): void => void work.catch(() => undefined);
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
            // The operation writes its own sequence.
            const data = Buffer.alloc(4);
            data.writeUInt32LE(sequence);
            await disk.write(data, (sequence % 16) * 4);
            image.setApplied(sequence);
          } else if (taken === 'barrier') {
            settled(image.barrier());
          } else if (taken === 'record') {
            settled(image.record());
          } else if (taken === 'checkpoint') {
            checkpoints += 1;
            settled(image.checkpoint(checkpoints, image.applied, false));
          } else if (taken === 'turn') {
            await turns(2);
          } else if (taken === 'failSync') {
            disk.hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'injected')) : undefined);
            settled(image.barrier());
            await turns(20);
            hook();
            await image.begin(HELLO, beginning('CATCH_UP', image.applied, sequence));
            sequence = image.applied;
          } else if (taken === 'power') {
            await turns(60);
            const { recorded } = image;
            world.files.file(IMAGE).disk.hook = undefined;
            crash(world);
            image = await powerLoss(world);
            if (image.recorded !== recorded) problems.push(`recorded ${image.recorded} for ${recorded}`);
            const content = world.files.file(IMAGE).disk.content();
            for (let past = Math.max(1, recorded - 15); past <= recorded; past += 1) {
              if (content.readUInt32LE((past % 16) * 4) < past) problems.push(`${past} of ${recorded} is lost`);
            }
            hook();
            await image.begin(HELLO, beginning('CATCH_UP', recorded, sequence));
            sequence = recorded;
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
    image.setApplied(1);
    await image.close();
    const again = await powerLoss(world);
    expect(again.state).toMatchObject({ clean: true, recorded: 1 });
    expect(world.files.file(IMAGE).disk.content()[512]).toBe(3);
  });

  it('of an image that holds more than its position does not vouch for it', async () => {
    const { world, image } = await imageInStep();
    image.setApplied(3);
    image.spoiled();
    expect(image.consistent).toBe(false);
    await image.close();
    expect((await reopen(world))!.consistent).toBe(false);
  });

  it('closes everything even when the last sync fails', async () => {
    const { world, image, disk } = await imageInStep();
    image.setApplied(3);
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
