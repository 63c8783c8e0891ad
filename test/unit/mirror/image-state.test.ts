import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { ImageState } from '../../../src/mirror/image-state.ts';
import { MIRROR_STATE, type MirrorState } from '../../../src/store/mirror-state.ts';
import { openStateFile, type StateFile } from '../../../src/store/state-file.ts';
import type { MemoryWorld } from '../../support/memory-world.ts';
import { beginning, failing, HELLO, IMAGE, imageInStep, powerLoss, STATE } from './fixtures.ts';

const STAGING = `${IMAGE}.twin/staging`;

/** The state file of an image: its n-th write (from 1) fails, before or after it has reached the medium. */
async function stateOf(
  world: MemoryWorld,
  failing: number,
  when: 'before' | 'after' = 'before',
): Promise<StateFile<MirrorState>> {
  const file = (await openStateFile(world.files, MIRROR_STATE, STATE))!;
  let { state } = file;
  let count = 0;
  return {
    get state() {
      return state;
    },
    write: async (next) => {
      count += 1;
      if (count === failing && when === 'before') throw new Failure('state-unwritable', 'injected');
      await file.write(next);
      if (count === failing) throw new Failure('state-unwritable', 'injected');
      state = next;
    },
    close: () => file.close(),
  };
}

describe('the state of an image', () => {
  it('is what was written: a patch that could not be is in no later one', async () => {
    const { world } = await imageInStep();
    const state = new ImageState(world, await stateOf(world, 1));
    await expect(state.patch({ committing: true })).rejects.toMatchObject({ code: 'state-unwritable' });
    expect(state.now.committing).toBe(false);
    await state.patch({ mapVersion: 5 });
    expect(state.now).toMatchObject({ committing: false, mapVersion: 5 });
    expect((await powerLoss(world)).state).toMatchObject({ committing: false, mapVersion: 5 });
  });

  it('takes patches that come at once in their order, each with those before it that were written', async () => {
    const { world } = await imageInStep();
    const state = new ImageState(world, await stateOf(world, 2));
    const patches = [{ recorded: 3 }, { checkpoint: 9, recorded: 4 }, { mapVersion: 6 }].map((patch) =>
      state.patch(patch),
    );
    // Nothing is said before it is durable.
    expect(state.now).toMatchObject({ recorded: 0, mapVersion: 0 });
    const ends = await Promise.allSettled(patches);
    expect(ends.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(state.now).toMatchObject({ recorded: 3, checkpoint: 1, mapVersion: 6 });
    await state.close();
  });

  it('is made certain where a write that failed may have reached the medium', async () => {
    const { world } = await imageInStep();
    const state = new ImageState(world, await stateOf(world, 1, 'after'));
    await expect(state.patch({ recorded: 8 })).rejects.toMatchObject({ code: 'state-unwritable' });
    const onMedium = async () => (await openStateFile(world.files, MIRROR_STATE, STATE))!.state.recorded;
    expect([state.now.recorded, await onMedium()]).toEqual([0, 8]);
    await state.ensure();
    expect([state.now.recorded, await onMedium()]).toEqual([0, 0]);
    const { write } = world.files.file(STATE).disk.counts;
    await state.ensure();
    expect(world.files.file(STATE).disk.counts.write).toBe(write);
  });
});

describe('a state write that fails', () => {
  it('at the end of a copy leaves the staged run committed: it is copied again, and only then removed', async () => {
    const { world, image } = await imageInStep();
    await image.begin(HELLO, beginning('CATCH_UP_STAGED'));
    await image.target.write(Buffer.alloc(4096, 7), 0);
    image.target.setApplied(1);
    const { disk } = world.files.file(IMAGE);
    const state = world.files.file(STATE).disk;
    disk.hook = (call) => {
      if (call === 'sync' && image.committing) failing(state, 'write');
    };
    await expect(image.complete(2, 1)).rejects.toMatchObject({ code: 'io-error' });
    await image.sessionEnded(false);
    expect([image.committing, image.consistent]).toEqual([true, false]);
    // Neither who claims the image next nor `recover` may take it for copied.
    await expect(image.finishCommit()).rejects.toMatchObject({ code: 'io-error' });
    expect(await world.files.exists(`${STAGING}/log`)).toBe('file');
    disk.hook = undefined;
    state.hook = undefined;
    await image.finishCommit();
    expect([image.consistent, image.exact, image.recorded]).toEqual([true, true, 1]);
    const after = await powerLoss(world);
    expect([after.consistent, after.recorded, after.reason]).toEqual([true, 1, undefined]);
    expect(after.state).toMatchObject({ committing: false, checkpoint: 2 });
  });

  it('at the end of a run without a net leaves the image at no position, of this run or of another', async () => {
    const { world, image } = await imageInStep({ limit: 4096, overflow: 'continue' });
    image.target.setApplied(5000);
    await image.sessionEnded(true);
    const other = { ...HELLO, run: Buffer.alloc(16, 0x77) };
    await image.begin(other, beginning('RESCAN'));
    for (const offset of [0, 8192]) await image.target.write(Buffer.alloc(4096, 7), offset);
    expect(image.run!.status.through).toBe(true);
    const state = world.files.file(STATE).disk;
    failing(state, 'write');
    await expect(image.complete(1, 10)).rejects.toMatchObject({ code: 'io-error' });
    state.hook = undefined;
    await image.sessionEnded(false);
    expect([image.consistent, image.exact, image.applied, image.recorded]).toEqual([false, false, 0, 0]);
    expect(image.positionFor(other)).toMatchObject({ consistent: false, resumeAfter: 0, run: Buffer.alloc(16) });
    expect((await powerLoss(world)).positionFor(other)).toMatchObject({ consistent: false, resumeAfter: 0 });
  });

  it('at the beginning of a run without a net leaves the image what it was', async () => {
    const { world, image } = await imageInStep({ limit: 4096, overflow: 'continue' });
    image.target.setApplied(3);
    await image.sessionEnded(true);
    await image.begin(HELLO, beginning('RESCAN', 3));
    await image.target.write(Buffer.alloc(4096, 7), 0);
    const state = world.files.file(STATE).disk;
    failing(state, 'write');
    const refused = async () => image.target.write(Buffer.alloc(4096, 7), 8192);
    await expect(refused()).rejects.toMatchObject({ code: 'io-error' });
    state.hook = undefined;
    await image.sessionEnded(false);
    expect([image.consistent, image.exact, image.recorded, image.run]).toEqual([true, true, 3, undefined]);
    expect(world.files.file(IMAGE).disk.content().equals(Buffer.alloc(image.disk.size))).toBe(true);
    await image.close();
    const again = await powerLoss(world);
    expect([again.consistent, again.exact, again.recorded]).toEqual([true, true, 3]);
  });
});
