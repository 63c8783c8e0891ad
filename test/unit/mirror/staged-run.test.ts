import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionFailed } from '../../../src/base/assert.ts';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { POINT_NAMES, type PointName } from '../../../src/io/points.ts';
import { MirrorImage } from '../../../src/mirror/image.ts';
import { DEFAULT_STAGING, type StagingRules } from '../../../src/mirror/image-state.ts';
import { objectionTo, offered } from '../../../src/mirror/session-start.ts';
import { MIRROR_STATE, type MirrorState } from '../../../src/store/mirror-state.ts';
import { decodeSlot, SLOT_SIZE } from '../../../src/store/record-file.ts';
import { type MemoryWorld, memoryWorld, turns } from '../../support/memory-world.ts';
import { beginning, crash, failing, HELLO, IMAGE, imageInStep, powerLoss, reopen, SIZE, STATE } from './fixtures.ts';

const failed = (code: string) => expect.objectContaining({ code });
const CONTINUE: StagingRules = { limit: undefined, overflow: 'continue' };
const STAGED = `${IMAGE}.twin/staging/data`;
const LOG = `${IMAGE}.twin/staging/log`;

const OLD = Buffer.alloc(SIZE, 1);
/** The old content with what `stageAll` brings. */
const NEW = Buffer.concat([
  Buffer.alloc(4096, 2),
  Buffer.alloc(4096, 0),
  OLD.subarray(8192, 20_000),
  Buffer.alloc(700, 3),
  OLD.subarray(20_700),
]);

function durable(world: MemoryWorld): Buffer {
  return world.files.file(IMAGE).disk.durableContent();
}

/** An image in step at 7, all of it 1, and durable so. */
async function imageAt7(world = memoryWorld(), rules?: StagingRules): Promise<MirrorImage> {
  const image = await MirrorImage.create(world, silentLog, '/mirrors', 'disk', HELLO, rules);
  await image.begin(HELLO, beginning('SEEDING'));
  await image.target.write(OLD, 0);
  await image.complete(1, 7);
  return image;
}

async function stageAll(image: MirrorImage, from = 7): Promise<void> {
  const { target } = image;
  await target.write(Buffer.alloc(4096, 2), 0);
  target.setApplied(from + 1);
  await target.zero(4096, 4096);
  target.setApplied(from + 2);
  await target.write(Buffer.alloc(700, 3), 20_000);
  target.setApplied(from + 3);
}

/** The newest whole state in the bytes of its file. */
function newestState(bytes: Buffer): MirrorState {
  const slots = [0, SLOT_SIZE].map((at) => decodeSlot(MIRROR_STATE.kind, bytes.subarray(at, at + SLOT_SIZE)));
  const newest = slots.filter((slot) => slot !== undefined).sort((a, b) => b.counter - a.counter)[0]!;
  return MIRROR_STATE.decode(newest.content);
}

/** A world whose process dies where `reached` says so: it throws, and every call after that does. */
class Dying {
  readonly world: MemoryWorld;
  readonly reached: PointName[] = [];
  #dieAt: PointName | undefined;

  constructor() {
    const points = {
      reached: (name: PointName): void => {
        this.reached.push(name);
        if (name === this.#dieAt) throw new AssertionFailed('died');
      },
    };
    this.world = { ...memoryWorld(), points };
  }

  dieAt(point: PointName): void {
    this.#dieAt = point;
  }

  revive(): void {
    this.#dieAt = undefined;
  }
}

describe('a staged run', () => {
  it('leaves the image alone until it is complete, then it is in the image as a whole, durably', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    const { disk } = world.files.file(IMAGE);
    await image.begin(HELLO, beginning('RESCAN', 7));
    const before = disk.counts.write + disk.counts.zero;
    await stageAll(image);
    await image.target.record();
    await image.target.checkpoint(2, 10);
    expect(disk.counts.write + disk.counts.zero).toBe(before);
    expect(image.positions).toEqual({ applied: 7, durable: 7, recorded: 7, staged: 10, stagedSize: 4796 });
    const seen = Buffer.alloc(SIZE);
    await image.target.read(seen, 0);
    expect(seen.equals(NEW)).toBe(true);
    await image.complete(3, 12);
    expect(durable(world).equals(NEW)).toBe(true);
    expect(image.positions).toEqual({ applied: 12, durable: 12, recorded: 12, staged: 0, stagedSize: 0 });
    expect(image.state).toMatchObject({ recorded: 12, checkpoint: 3, consistent: true, committing: false });
    await turns(5);
    expect(await world.files.list(`${IMAGE}.twin/staging`)).toEqual([]);
    // What follows goes straight to the image again.
    await image.target.write(Buffer.alloc(512, 9), 0);
    expect(disk.content()[0]).toBe(9);
  });

  it('passes over barriers, and moves what is staged when that is durable', async () => {
    const image = await imageAt7();
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    expect(image.target.barrier()).toBeUndefined();
    expect([image.positions.staged, image.target.unrecorded]).toEqual([7, true]);
    await image.target.record();
    expect([image.positions.staged, image.target.unrecorded]).toEqual([10, false]);
    // A repair does not move on, and is recorded all the same.
    await image.target.write(Buffer.alloc(512, 5), 0);
    expect(image.target.unrecorded).toBe(true);
  });

  it('of another run tells its primary no positions of the image until it is complete', async () => {
    const image = await imageAt7();
    const other = { ...HELLO, run: Buffer.alloc(16, 9) };
    await image.begin(other, beginning('RESCAN', 3));
    expect(image.positions).toMatchObject({ applied: 0, durable: 0, recorded: 0, staged: 3 });
    await image.complete(1, 4);
    expect(image.positions).toMatchObject({ applied: 4, durable: 4, recorded: 4, staged: 0 });
    expect(image.state.run.equals(other.run)).toBe(true);
  });

  it('begins in the stream behind what is durable, and neither inside another nor while the image is seeded', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    await image.begin(HELLO, beginning('CATCH_UP', 7));
    await image.target.write(Buffer.alloc(512, 4), 512);
    image.target.setApplied(8);
    await image.stage(Buffer.alloc(16, 5), 8);
    expect([image.recorded, durable(world)[512]]).toEqual([8, 4]);
    await expect(image.stage(Buffer.alloc(16, 6), 8)).rejects.toEqual(failed('frame-invalid'));
    await image.target.write(Buffer.alloc(512, 6), 0);
    await image.complete(2, 20);
    expect([image.recorded, durable(world)[0], durable(world)[512]]).toEqual([20, 6, 4]);
    const seeded = await MirrorImage.create(memoryWorld(), silentLog, '/mirrors', 'disk', HELLO);
    await seeded.begin(HELLO, beginning('SEEDING'));
    await expect(seeded.stage(Buffer.alloc(16, 5), 0)).rejects.toEqual(failed('frame-invalid'));
  });

  it('with an id that was used before is another run all the same', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    for (const fill of [2, 3]) {
      await image.begin(HELLO, beginning('RESCAN', image.applied));
      await image.target.write(Buffer.alloc(512, fill), 0);
      await image.complete(fill, image.applied);
    }
    expect(durable(world)[0]).toBe(3);
  });
});

describe('a staged run whose session is lost', () => {
  it('is gone on with by the one that names it, and dropped for any other', async () => {
    for (const [id, sequence, kept] of [
      [4, 10, true],
      [4, 11, true],
      [5, 10, false],
    ] as const) {
      const world = memoryWorld();
      const image = await imageAt7(world);
      await image.begin(HELLO, beginning('RESCAN', 7));
      await stageAll(image);
      await image.sessionEnded(true);
      expect([offered(image.run, SIZE)?.staged, image.recorded]).toEqual([10, 7]);
      await image.begin(HELLO, { ...beginning('RESCAN', sequence), stagingId: Buffer.alloc(16, id) });
      expect(image.run?.stagedSize).toBe(kept ? 4796 : 0);
      await image.complete(5, 12);
      expect(durable(world).equals(kept ? NEW : OLD)).toBe(true);
    }
  });

  it('is never begun empty for a primary that goes on with it', async () => {
    const image = await imageAt7();
    await image.begin(HELLO, beginning('CATCH_UP_STAGED', 7));
    await stageAll(image);
    await image.sessionEnded(true);
    const position = image.positionFor(HELLO);
    const objection = (kind: 'RESCAN' | 'CATCH_UP_STAGED', sequence: number, id = 4, size = SIZE) => {
      const begin = { ...beginning(kind, sequence), stagingId: Buffer.alloc(16, id) };
      return objectionTo(begin, { ...HELLO, size }, image, position);
    };
    expect([objection('RESCAN', 10), objection('RESCAN', 11), objection('CATCH_UP_STAGED', 10)]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    // A new run is begun where the image is; this one is not there.
    expect([objection('RESCAN', 9, 5), objection('CATCH_UP_STAGED', 7, 5)]).toEqual([undefined, undefined]);
    const refused = 'a staged run that the mirror does not hold so';
    expect([objection('RESCAN', 9), objection('CATCH_UP_STAGED', 11), objection('CATCH_UP_STAGED', 7)]).toEqual([
      refused,
      refused,
      refused,
    ]);
    // One that was begun for a disk of another size is not offered either.
    expect(objection('RESCAN', 10, 4, SIZE + 512)).toBe(refused);
    expect(offered(image.run, SIZE + 512)).toBeUndefined();
    await expect(image.begin(HELLO, beginning('RESCAN', 9))).rejects.toThrow(AssertionFailed);
  });

  it('is not kept where the last of it found no room: what a primary is offered is all there', async () => {
    for (const found of ['before the link was lost', 'when it was']) {
      const world = memoryWorld();
      const image = await imageAt7(world, CONTINUE);
      await image.begin(HELLO, beginning('RESCAN', 7));
      // A repair, durable: the primary takes it for done. Then an operation of the stream.
      await image.target.write(Buffer.alloc(4096, 2), 0);
      await image.target.checkpoint(5, 7);
      await image.target.write(Buffer.alloc(4096, 9), 8192);
      image.target.setApplied(8);
      const log = world.files.file(LOG).disk;
      failing(log, 'write', 'no-space');
      if (found === 'before the link was lost') await image.target.record();
      await image.sessionEnded(true);
      log.hook = undefined;
      expect([offered(image.run, SIZE), image.run, await world.files.exists(LOG)]).toEqual([
        undefined,
        undefined,
        undefined,
      ]);
      expect([image.consistent, image.exact, image.recorded, durable(world).equals(OLD)]).toEqual([
        true,
        true,
        7,
        true,
      ]);
      // The next one has its net.
      await image.begin(HELLO, { ...beginning('RESCAN', 8), stagingId: Buffer.alloc(16, 5) });
      expect([image.run?.status.through, image.consistent]).toEqual([false, true]);
    }
  });

  it('is there after a restart and after a power loss, as it was last synced', async () => {
    for (const end of ['stop', 'crash', 'power'] as const) {
      const world = memoryWorld();
      const image = await imageAt7(world);
      await image.begin(HELLO, beginning('RESCAN', 7));
      await stageAll(image);
      await image.target.checkpoint(6, 10);
      await image.target.write(Buffer.alloc(4096, 8), 40_960);
      image.target.setApplied(11);
      if (end === 'stop') await image.close();
      else if (end === 'crash') crash(world);
      else world.files.losePower();
      const again = (await reopen(world))!;
      expect([again.run?.staged, again.run?.stagedCheckpoint]).toEqual([end === 'stop' ? 11 : 10, 6]);
      expect([again.recorded, again.consistent, again.exact]).toEqual([7, true, end === 'stop']);
      await again.begin(HELLO, beginning('RESCAN', again.run!.staged));
      await again.target.write(Buffer.alloc(4096, 8), 40_960);
      await again.complete(7, 11);
      const expected = Buffer.from(NEW);
      expected.fill(8, 40_960, 45_056);
      expect(durable(world).equals(expected)).toBe(true);
    }
  });

  it('is dropped, durably, before a session that goes straight to the image touches it', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    await image.sessionEnded(true);
    world.files.hook = (operation, path) => {
      if (operation === 'remove' && path === LOG) throw new Failure('state-unwritable', 'injected');
    };
    await expect(image.begin(HELLO, beginning('CATCH_UP', 7))).rejects.toEqual(failed('state-unwritable'));
    await expect(image.begin(HELLO, beginning('CATCH_UP', 7))).rejects.toEqual(failed('state-unwritable'));
    world.files.hook = undefined;
    await image.begin(HELLO, beginning('CATCH_UP', 7));
    expect(await world.files.exists(LOG)).toBeUndefined();
    expect(image.run).toBeUndefined();
  });

  it('lies over the image only as it was: one over another position is dropped at the opening', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    const state = (await world.files.readFile(STATE, 8192))!;
    await image.begin(HELLO, beginning('CATCH_UP', 7));
    image.target.setApplied(9);
    await image.stage(Buffer.alloc(16, 5), 9);
    await stageAll(image, 9);
    await image.target.record();
    // Somebody puts an older state back.
    world.files.losePower();
    world.files.put(STATE, state);
    const again = (await reopen(world))!;
    expect([again.run, again.recorded]).toEqual([undefined, 7]);
    expect(await world.files.exists(LOG)).toBeUndefined();
  });
});

/** What was staged is not removed until the function that is returned says so, each time. */
function holdSpace(world: MemoryWorld): () => void {
  const remove = world.files.remove.bind(world.files);
  let giveBack = (): void => undefined;
  world.files.remove = async (path) => {
    if (path === STAGED) await new Promise<void>((resolve) => (giveBack = resolve));
    return remove(path);
  };
  return () => giveBack();
}

describe('a commit', () => {
  /** Stages everything and commits; rejects when the process dies or a call fails. */
  async function commit(world: MemoryWorld, seeded: () => void = () => undefined): Promise<void> {
    const image = await imageAt7(world);
    seeded();
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    await image.complete(3, 12);
  }

  it('passes these points in this order, each when its step is durable', async () => {
    const { world, reached } = new Dying();
    await commit(world);
    expect(reached.slice(reached.lastIndexOf('mirror-staging-begun'))).toEqual([
      'mirror-staging-begun',
      'mirror-session-recorded',
      'mirror-staging-synced',
      'mirror-space-reserved',
      'mirror-commit-recorded',
      'mirror-copy-begun',
      'mirror-copy-synced',
      'mirror-copy-recorded',
      'mirror-staging-removed',
    ]);
  });

  it('does not wait for the space of what it has copied; room, the next run and the end do', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    const giveBack = holdSpace(world);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    await image.complete(3, 12);
    expect(durable(world).equals(NEW)).toBe(true);
    expect(image.positions).toMatchObject({ recorded: 12, staged: 0 });
    expect(await world.files.list(`${IMAGE}.twin/staging`)).toEqual(['data']);
    expect(image.run).toBeUndefined();
    const settled: string[] = [];
    const note = (what: string) => () => void settled.push(what);
    void image.stagingRoom().then(note('room'));
    const begun = image.begin(HELLO, beginning('RESCAN', 12));
    void begun.then(note('begun'));
    await turns(20);
    expect(settled).toEqual([]);
    giveBack();
    await begun;
    expect(settled).toContain('room');
    await stageAll(image, 12);
    await image.complete(4, 16);
    const closed = image.close();
    void closed.then(note('closed'));
    await turns(20);
    expect(settled).not.toContain('closed');
    giveBack();
    await closed;
    expect((await powerLoss(world)).recorded).toBe(16);
  });

  it('waits for the space of what it has copied where that is much of what is free', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    const giveBack = holdSpace(world);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    world.files.free = 4 * image.run!.stagedSize;
    let done = false;
    const completed = image.complete(3, 12).then(() => {
      done = true;
    });
    await turns(50);
    expect([durable(world).equals(NEW), done]).toEqual([true, false]);
    giveBack();
    await completed;
    expect(await world.files.list(`${IMAGE}.twin/staging`)).toEqual([]);
  });

  it('stands where the space of what it has copied cannot be given back: that goes with the next run', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    const remove = world.files.remove.bind(world.files);
    let refused = 0;
    world.files.remove = async (path) => {
      if (path !== STAGED || refused > 0) return remove(path);
      refused += 1;
      throw new Failure('state-unwritable', 'refused');
    };
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    await image.complete(3, 12);
    expect(await world.files.list(`${IMAGE}.twin/staging`)).toEqual(['data']);
    await image.begin(HELLO, beginning('RESCAN', 12));
    expect(refused).toBe(1);
    await stageAll(image, 12);
    await image.complete(4, 16);
    await turns(5);
    expect(await world.files.list(`${IMAGE}.twin/staging`)).toEqual([]);
    expect(durable(world).equals(NEW)).toBe(true);
  });

  it('is all or nothing wherever the power goes', async () => {
    const outcomes: string[] = [];
    for (const point of POINT_NAMES.filter((name) => name.startsWith('mirror-'))) {
      const dying = new Dying();
      const died = await commit(dying.world, () => dying.dieAt(point)).then(
        () => false,
        () => true,
      );
      dying.revive();
      if (!died) continue;
      // Twice: a recovery is cut short as well.
      for (const again of ['mirror-copy-begun', 'mirror-copy-synced', 'mirror-copy-recorded', undefined] as const) {
        dying.world.files.losePower();
        if (again !== undefined) dying.dieAt(again);
        const image = await reopen(dying.world);
        await image?.finishCommit().catch(() => undefined);
        dying.revive();
      }
      const image = await powerLoss(dying.world);
      const content = durable(dying.world);
      const committed = content.equals(NEW);
      expect(committed || content.equals(OLD)).toBe(true);
      expect([image.consistent, image.recorded, image.committing]).toEqual([true, committed ? 12 : 7, false]);
      outcomes.push(`${point}: ${committed ? 'new' : 'old'}`);
    }
    expect(outcomes).toEqual([
      'mirror-session-recorded: old',
      'mirror-staging-begun: old',
      'mirror-staging-synced: old',
      'mirror-space-reserved: old',
      'mirror-commit-recorded: new',
      'mirror-copy-begun: new',
      'mirror-copy-synced: new',
      'mirror-copy-recorded: new',
      'mirror-staging-removed: new',
    ]);
  });

  it('is all or nothing whichever call to whichever file fails, now or after a restart', async () => {
    const paths = [IMAGE, STATE, STAGED, LOG];
    const seen = new Set<string>();
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...paths),
        fc.constantFrom('write' as const, 'zero' as const, 'sync' as const, 'reserve' as const, 'read' as const),
        fc.nat(6),
        fc.constantFrom('io-error' as const, 'no-space' as const),
        fc.constantFrom('go on' as const, 'crash' as const, 'power' as const),
        async (path, call, nth, code, then) => {
          const world = memoryWorld();
          const image = await imageAt7(world);
          await image.begin(HELLO, beginning('RESCAN', 7));
          let calls = 0;
          let broken = false;
          world.files.file(path).disk.hook = (made) => {
            if (made !== call) return undefined;
            calls += 1;
            if (calls !== nth + 1) return undefined;
            broken = true;
            return Promise.reject(new Failure(code, 'injected'));
          };
          let failure: unknown;
          try {
            await stageAll(image);
            await image.complete(3, 12);
          } catch (error) {
            if (!(error instanceof Failure)) throw error;
            failure = error;
          }
          const before = image.committing;
          let after: MirrorImage = image;
          if (then === 'go on') {
            for (const each of paths)
              if ((await world.files.exists(each)) === 'file') world.files.file(each).disk.hook = undefined;
            await image.sessionEnded(failure === undefined);
          } else if (then === 'crash') {
            crash(world);
            after = (await reopen(world))!;
          } else {
            after = await powerLoss(world);
          }
          const committing = after.committing;
          expect(committing && after.consistent).toBe(false);
          await after.finishCommit();
          const { disk } = world.files.file(IMAGE);
          const committed = after.recorded === 12;
          expect(after.recorded === 7 || committed).toBe(true);
          expect(disk.content().equals(committed ? NEW : OLD)).toBe(true);
          expect(after.consistent).toBe(true);
          expect(failure !== undefined || committed).toBe(true);
          expect(before && !committed).toBe(false);
          if (broken) seen.add(`${committed ? 'new' : 'old'}${before ? ', half' : ''}`);
        },
      ),
      { numRuns: 400 },
    );
    expect([...seen].sort()).toEqual(['new, half', 'old']);
  });

  it('that failed half way is never taken for consistent, and is finished by the next opening', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    const { disk } = world.files.file(IMAGE);
    disk.hook = (call) => (call === 'zero' ? Promise.reject(new Failure('io-error', 'injected')) : undefined);
    await expect(image.complete(3, 12)).rejects.toEqual(failed('io-error'));
    expect(disk.content().equals(OLD) || disk.content().equals(NEW)).toBe(false);
    expect([image.committing, image.consistent, image.state.consistent]).toEqual([true, false, true]);
    expect(image.reason).toContain('yet to be copied');
    await image.sessionEnded(false);
    await expect(image.finishCommit()).rejects.toEqual(failed('io-error'));
    expect(image.committing).toBe(true);
    // A stop does not vouch for it either.
    await image.close();
    disk.hook = undefined;
    const again = (await reopen(world))!;
    expect([again.committing, again.consistent]).toEqual([true, false]);
    await again.finishCommit();
    expect([again.consistent, again.exact, again.recorded]).toEqual([true, true, 12]);
    expect(durable(world).equals(NEW)).toBe(true);
  });

  it('found without what it needs is told aloud, and nothing of the image is believed', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    failing(world.files.file(IMAGE).disk, 'zero');
    await expect(image.complete(3, 12)).rejects.toEqual(failed('io-error'));
    crash(world);
    await world.files.remove(LOG);
    const again = (await reopen(world))!;
    expect([again.consistent, again.recorded, again.state.run]).toEqual([false, 0, Buffer.alloc(16)]);
    expect(again.reason).toContain('what it needs for that is gone');
  });

  it('whose files cannot be removed is not copied a second time over what came later', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    world.files.hook = (operation, path) => {
      if (operation === 'remove' && path === LOG) throw new Failure('state-unwritable', 'injected');
    };
    await expect(image.complete(3, 12)).rejects.toEqual(failed('state-unwritable'));
    await image.sessionEnded(false);
    world.files.losePower();
    // Not what happens, but what must not matter: the image went on.
    await world.files.file(IMAGE).disk.write(Buffer.alloc(512, 9), 0);
    const again = (await reopen(world))!;
    await again.finishCommit();
    expect([again.recorded, world.files.file(IMAGE).disk.content()[0]]).toEqual([12, 9]);
    expect(await world.files.exists(LOG)).toBeUndefined();
  });

  it('says how old its position is, however late it is copied', async () => {
    const dying = new Dying();
    const { world } = dying;
    const image = await imageAt7(world);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    world.clock.advance(1000);
    dying.dieAt('mirror-copy-begun');
    await expect(image.complete(3, 12)).rejects.toThrow('died');
    dying.revive();
    world.clock.advance(50_000);
    const again = await powerLoss(world);
    await again.finishCommit();
    await again.close();
    expect((await reopen(world))!.state.recordedAtMs).toBe(1000);
  });
});

describe('a mirror without room', () => {
  it('keeps the image as it is, drops the run, and says how much it has taken', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world, { limit: 4500, overflow: 'keep' });
    await image.begin(HELLO, beginning('RESCAN', 7));
    await expect(stageAll(image)).rejects.toMatchObject({
      code: 'staging-full',
      message: expect.stringMatching(/more than the 4096 bytes .* needs 4796 bytes/),
    });
    await image.sessionEnded(false);
    expect([image.run, image.consistent, image.exact, image.recorded]).toEqual([undefined, true, true, 7]);
    expect(durable(world).equals(OLD)).toBe(true);
    expect(await world.files.exists(LOG)).toBeUndefined();
    expect(await image.stagingRoom()).toBe(4500);
  });

  it('of the file system it is the same, whichever call of staging finds out', async () => {
    for (const [path, call] of [
      [STAGED, 'write'],
      [STAGED, 'sync'],
      [LOG, 'write'],
      [LOG, 'sync'],
    ] as const) {
      const world = memoryWorld();
      const image = await imageAt7(world);
      await image.begin(HELLO, beginning('RESCAN', 7));
      failing(world.files.file(path).disk, call, 'no-space');
      const staging = stageAll(image).then(() => image.target.record());
      await expect(staging).rejects.toEqual(failed('staging-full'));
      await image.sessionEnded(false);
      expect([image.run, image.consistent, image.recorded]).toEqual([undefined, true, 7]);
      expect(durable(world).equals(OLD)).toBe(true);
    }
  });

  it('for the copy keeps the run, tells what is missing, and commits when there is room', async () => {
    const world = memoryWorld();
    world.files.free = 10_000;
    const image = await imageAt7(world);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await image.target.zero(0, SIZE);
    await image.complete(1, 7);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    failing(world.files.file(IMAGE).disk, 'reserve', 'no-space');
    await expect(image.complete(3, 12)).rejects.toMatchObject({
      code: 'staging-full',
      message: expect.stringContaining('needs 4796 bytes'),
    });
    expect(image.committing).toBe(false);
    await image.sessionEnded(false);
    expect([image.run?.staged, image.consistent, image.recorded]).toEqual([12, true, 7]);
    // What is free, and what the run holds already, less what the image has yet to take.
    expect(await image.stagingRoom()).toBe(10_000);
    world.files.file(IMAGE).disk.hook = undefined;
    await image.begin(HELLO, beginning('RESCAN', 12));
    await image.complete(3, 12);
    expect([image.recorded, image.exact]).toEqual([12, true]);
    expect(durable(world)[20_000]).toBe(3);
  });

  it('that goes on marks the image first, copies what is staged, and is consistent at the end', async () => {
    for (const rules of [{ limit: 4500, overflow: 'continue' as const }, CONTINUE]) {
      const dying = new Dying();
      const { world } = dying;
      const image = await imageAt7(world, rules);
      const { disk } = world.files.file(IMAGE);
      await image.begin(HELLO, beginning('RESCAN', 7));
      if (rules.limit === undefined) {
        let writes = 0;
        world.files.file(STAGED).disk.hook = (call) => {
          if (call !== 'write') return undefined;
          writes += 1;
          return writes === 2 ? Promise.reject(new Failure('no-space', 'injected')) : undefined;
        };
      }
      let markedAtFirstByte: boolean | undefined;
      disk.hook = (call) => {
        if (call !== 'write') return undefined;
        const bytes = world.files.file(STATE).disk.durableContent();
        markedAtFirstByte ??= !newestState(bytes).consistent;
        return undefined;
      };
      await stageAll(image);
      disk.hook = undefined;
      expect(markedAtFirstByte).toBe(true);
      expect(image.state).toMatchObject({ consistent: false, recorded: 0, run: Buffer.alloc(16) });
      expect([image.consistent, image.run?.status.through]).toEqual([false, true]);
      expect(disk.content().equals(NEW)).toBe(true);
      // The positions that the primary is told do not go back.
      await image.target.record();
      expect(image.positions).toMatchObject({ applied: 7, recorded: 7, staged: 10, stagedSize: 0 });
      expect(await world.files.exists(LOG)).toBeUndefined();
      await image.complete(3, 12);
      expect(image.state).toMatchObject({ consistent: true, recorded: 12, checkpoint: 3, run: HELLO.run });
      const after = await powerLoss(world);
      expect([after.consistent, after.recorded]).toEqual([true, 12]);
      expect(durable(world).equals(NEW)).toBe(true);
    }
  });

  it('that goes on and is cut short has an image at no position', async () => {
    for (const end of ['session', 'power', 'stop'] as const) {
      const world = memoryWorld();
      const image = await imageAt7(world, { limit: 4500, overflow: 'continue' });
      await image.begin(HELLO, beginning('RESCAN', 7));
      await stageAll(image);
      await image.target.record();
      let after = image;
      if (end === 'session') await image.sessionEnded(true);
      else if (end === 'stop') {
        await image.close();
        after = (await reopen(world))!;
      } else after = await powerLoss(world);
      expect([after.consistent, after.run, after.recorded]).toEqual([false, undefined, 0]);
      expect(after.positionFor(HELLO)).toMatchObject({ consistent: false, resumeAfter: 0, run: Buffer.alloc(16) });
      await after.begin(HELLO, beginning('SEEDING', 12));
      await after.complete(4, 12);
      expect([after.consistent, after.recorded]).toEqual([true, 12]);
    }
  });

  it('that is found beside the stream goes on with the next frame, while nothing is written', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world, CONTINUE);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await image.target.write(Buffer.alloc(4096, 2), 0);
    failing(world.files.file(LOG).disk, 'write', 'no-space');
    await image.target.record();
    expect([image.state.consistent, image.positions.staged]).toEqual([true, 7]);
    await image.target.zero(4096, 4096);
    expect([image.state.consistent, world.files.file(IMAGE).disk.content()[0]]).toEqual([false, 2]);
    await image.target.write(Buffer.alloc(700, 3), 20_000);
    await image.complete(3, 12);
    expect(durable(world).equals(NEW)).toBe(true);
  });

  it.each(['in the stream', 'beside it'])(
    'never goes on with data that a failed sync may have lost, found %s, and begins anew without the net',
    async (found) => {
      const world = memoryWorld();
      const image = await imageAt7(world, CONTINUE);
      await image.begin(HELLO, beginning('RESCAN', 7));
      await stageAll(image);
      failing(world.files.file(STAGED).disk, 'sync', 'no-space');
      const finding = async (): Promise<void> => {
        if (found === 'in the stream') return image.complete(3, 12);
        await image.target.record();
        // What it has lost reads as it was before, from any moment on.
        await world.files.file(STAGED).disk.dropCache();
        await image.target.write(Buffer.alloc(512, 9), 512);
      };
      await expect(finding()).rejects.toEqual(failed('no-space'));
      await image.sessionEnded(false);
      expect([image.state.consistent, image.run, image.recorded]).toEqual([true, undefined, 7]);
      expect(durable(world).equals(OLD)).toBe(true);
      await image.begin(HELLO, beginning('RESCAN', 7));
      expect([image.run?.status.through, image.state.consistent]).toEqual([true, false]);
      await stageAll(image);
      await image.complete(3, 12);
      expect([image.state.consistent, image.recorded, durable(world).equals(NEW)]).toEqual([true, 12, true]);
      // The net is back for the next.
      await image.begin(HELLO, beginning('RESCAN', 12));
      expect([image.run?.status.through, image.state.consistent]).toEqual([false, true]);
    },
  );

  it('that goes on does so too when there is not even room to begin, with the image marked before its first byte', async () => {
    for (const operation of ['makeDirectory', 'replaceFile', 'openState', 'sync'] as const) {
      const world = memoryWorld();
      const keeping = await imageAt7(world);
      await keeping.begin(HELLO, beginning('RESCAN', 7));
      await keeping.target.record();
      crash(world);
      const full = (made: string, path: string): void => {
        if (made === operation && path.startsWith(`${IMAGE}.twin/staging`))
          throw new Failure('state-unwritable', 'injected', { cause: Object.assign(new Error(), { code: 'ENOSPC' }) });
        if (operation === 'sync' && path === STAGED && made === 'openState')
          queueMicrotask(() => failing(world.files.file(STAGED).disk, 'sync', 'no-space'));
      };
      const strict = (await reopen(world))!;
      world.files.hook = full;
      const other = { ...beginning('RESCAN', 7), stagingId: Buffer.alloc(16, 6) };
      await expect(strict.begin(HELLO, other)).rejects.toEqual(failed('staging-full'));
      await strict.close();
      const image = (await reopen(world, CONTINUE))!;
      expect([image.state.consistent, image.recorded]).toEqual([true, 7]);
      await image.begin(HELLO, other);
      expect(newestState(world.files.file(STATE).disk.durableContent())).toMatchObject({
        consistent: false,
        recorded: 0,
        run: Buffer.alloc(16),
      });
      expect([image.run?.status.through, image.run?.stagedSize]).toEqual([true, 0]);
      expect(image.positions.staged).toBe(7);
      // Nothing of a run is there to be taken up over an image that has gone on.
      expect(await world.files.exists(LOG)).toBeUndefined();
      await stageAll(image);
      await image.target.record();
      expect(image.positions.staged).toBe(10);
      world.files.hook = undefined;
      await image.complete(3, 12);
      expect([image.consistent, image.recorded, durable(world).equals(NEW)]).toEqual([true, 12, true]);
    }
  });

  it('that goes on and finds none for the copy either leaves its space behind, and ends well once the image fits', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world, { limit: 4500, overflow: 'continue' });
    const { disk } = world.files.file(IMAGE);
    await image.begin(HELLO, beginning('RESCAN', 7));
    failing(disk, 'write', 'no-space');
    await expect(stageAll(image)).rejects.toEqual(failed('no-space'));
    await image.sessionEnded(false);
    expect([image.state.consistent, image.run, image.recorded]).toEqual([false, undefined, 0]);
    expect(await world.files.list(`${IMAGE}.twin/staging`)).toEqual([]);
    // Not even now: still it does not begin to stage what would not fit again.
    await image.begin(HELLO, beginning('RESCAN', 12));
    expect(image.run?.status.through).toBe(true);
    await expect(image.target.write(Buffer.alloc(4096, 2), 0)).rejects.toEqual(failed('no-space'));
    await image.sessionEnded(false);
    disk.hook = undefined;
    await image.begin(HELLO, beginning('RESCAN', 12));
    await stageAll(image, 12);
    await image.complete(3, 15);
    const after = await powerLoss(world);
    expect([after.consistent, after.recorded, durable(world).equals(NEW)]).toEqual([true, 15, true]);
  });

  it.each([
    [DEFAULT_STAGING, 'staging-full', 7, OLD],
    [CONTINUE, undefined, 12, NEW],
  ])(
    'for the commit record goes on where it may: no record is found later (%o)',
    async (rules, code, position, content) => {
      const world = memoryWorld();
      const image = await imageAt7(world, rules);
      await image.begin(HELLO, beginning('RESCAN', 7));
      await stageAll(image);
      await image.target.record();
      world.files.hook = (operation, path) => {
        if (operation === 'replaceFile' && path === LOG) throw new Failure('no-space', 'injected');
      };
      const failure = await image.complete(3, 12).catch((error: unknown) => error);
      expect((failure as Failure | undefined)?.code).toBe(code);
      world.files.hook = undefined;
      await image.sessionEnded(failure === undefined);
      expect(await world.files.exists(LOG)).toBeUndefined();
      const after = await powerLoss(world, rules);
      expect([after.consistent, after.recorded]).toEqual([true, position]);
      expect(durable(world).equals(content)).toBe(true);
    },
  );

  it('that goes on tells its primary of any amount of room: none that it should wait for', async () => {
    const world = memoryWorld();
    world.files.free = 10;
    expect(await (await imageAt7(world)).stagingRoom()).toBe(10);
    const going = memoryWorld();
    going.files.free = 10;
    expect(await (await imageAt7(going, CONTINUE)).stagingRoom()).toBe(Number.MAX_SAFE_INTEGER);
  });

  it('whose staging fails otherwise keeps the image, also where it would go on', async () => {
    for (const call of ['write', 'sync'] as const) {
      const world = memoryWorld();
      const image = await imageAt7(world, CONTINUE);
      await image.begin(HELLO, beginning('RESCAN', 7));
      failing(world.files.file(STAGED).disk, call, 'io-error');
      await expect(stageAll(image).then(() => image.target.record())).rejects.toEqual(failed('io-error'));
      await image.sessionEnded(false);
      expect([image.consistent, image.run, image.recorded]).toEqual([true, undefined, 7]);
      expect(durable(world).equals(OLD)).toBe(true);
    }
  });
});

describe('readers of a staged run', () => {
  it('are waited for before its files go, and read the image once it holds the same', async () => {
    const world = memoryWorld();
    const image = await imageAt7(world);
    await image.begin(HELLO, beginning('RESCAN', 7));
    await stageAll(image);
    const { view } = image;
    const release = view.over!.hold();
    let done = false;
    const completing = image.complete(3, 12).then(() => {
      done = true;
    });
    await turns(20);
    expect([done, durable(world).equals(NEW)]).toEqual([false, true]);
    expect(image.view.over).toBeUndefined();
    const block = Buffer.alloc(4096);
    await view.over!.overlay.read(block, 0, view.disk);
    expect(block.equals(NEW.subarray(0, 4096))).toBe(true);
    release();
    await completing;
    expect(done).toBe(true);
  });
});

describe('the version of the primary’s map', () => {
  it('is durable before a session begins and before the next frame, and never goes down', async () => {
    const { world, image } = await imageInStep();
    await image.begin({ ...HELLO, mapVersion: 4 }, beginning('CATCH_UP'));
    expect((await powerLoss(world)).state.mapVersion).toBe(4);
    const again = (await reopenAfterPower(world))!;
    await again.begin({ ...HELLO, mapVersion: 3 }, beginning('CATCH_UP', 0, 0));
    await again.sawMapVersion(9);
    await again.sawMapVersion(6);
    expect((await powerLoss(world)).state.mapVersion).toBe(9);
  });

  it('becomes a lower one only when everything has been compared, not when that begins', async () => {
    const { world, image } = await imageInStep();
    await image.sawMapVersion(9);
    await image.begin({ ...HELLO, mapVersion: 3 }, beginning('RESCAN'));
    await image.sawMapVersion(5);
    expect(image.state.mapVersion).toBe(9);
    await image.complete(1, 0);
    expect(image.state.mapVersion).toBe(5);
    expect((await powerLoss(world)).state.mapVersion).toBe(5);
  });

  it('stays with what comes in order, staged or not', async () => {
    const { image } = await imageInStep();
    await image.sawMapVersion(9);
    await image.begin({ ...HELLO, mapVersion: 3 }, beginning('CATCH_UP_STAGED'));
    await image.complete(1, 0);
    await image.stage(Buffer.alloc(16, 8), 0);
    await image.complete(2, 0);
    expect(image.state.mapVersion).toBe(9);
  });
});

function reopenAfterPower(world: MemoryWorld): Promise<MirrorImage | undefined> {
  crash(world);
  return reopen(world);
}
