/** The opening of a session; the mirror's answers are played by hand. */
import { describe, expect, it } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { MIB } from '../../../src/base/units.ts';
import { Channel } from '../../../src/link/channel.ts';
import { encodeFrame, type Frame, FrameType } from '../../../src/link/frame.ts';
import {
  BeginKind,
  decodeBegin,
  decodeHello,
  encodeAck,
  encodeRescanPlace,
  encodeWelcome,
  NO_POSITIONS,
  type Welcome,
} from '../../../src/link/messages.ts';
import type { Own } from '../../../src/primary/decide.ts';
import { Ledger } from '../../../src/primary/ledger.ts';
import { open } from '../../../src/primary/opening.ts';
import { MemoryStream } from '../../support/memory-network.ts';
import { repeatableRandom, turns } from '../../support/memory-world.ts';
import { REPLICA_ID, type ReplicaOptions, RUN, replicaParts } from './replica-parts.ts';

const SIZE = 8 * MIB;
const OWN: Own = {
  generation: Buffer.alloc(16, 1),
  run: RUN,
  parentRun: NO_ID,
  parentSequence: 0,
  earlierRuns: [],
  size: SIZE,
  rescanAll: false,
};
const WELCOME: Welcome = {
  version: 2,
  consistent: true,
  fresh: false,
  seeded: true,
  replicaId: REPLICA_ID,
  generation: OWN.generation,
  run: RUN,
  parentRun: NO_ID,
  parentSequence: 0,
  resumeAfter: 3,
  recorded: 3,
  checkpoint: 0,
  size: SIZE,
  exact: true,
  mapVersion: 0,
  stagingId: NO_ID,
  stagedSequence: 0,
  stagedCheckpoint: 0,
  stagingRoom: 10 * MIB,
};

interface Scene {
  readonly own?: Partial<Own>;
  readonly stagingNeeded?: number;
  readonly start?: () => Promise<void>;
  readonly options?: Partial<ReplicaOptions>;
}

/** A primary at operation 5, of which the mirror has recorded 3, in the opening of a session. */
async function opening(scene: Scene = {}) {
  const parts = await replicaParts({ size: SIZE, windowSize: MIB, inOrder: true, ...scene.options });
  const { replica, write, world } = parts;
  for (let sequence = 1; sequence <= 5; sequence += 1) write(sequence * MIB, 1);
  while (replica.window.takeUnsent() !== undefined);
  replica.window.applied(5);
  replica.acknowledged(3, 3);
  // Until the marks of all this are written.
  await turns(10);
  const told: string[] = [];
  const start = scene.start ?? (() => Promise.resolve());
  const ledger = new Ledger([replica], 5, false, async () => {
    await start();
    told.push('recorded');
  });
  const [server, client] = MemoryStream.pair();
  const peer = new Channel(server, world.clock);
  const channel = new Channel(client, world.clock);
  const opened = open({
    channel,
    log: silentLog,
    random: repeatableRandom(),
    replica,
    ledger,
    introduction: { exportName: 'disk', volumeId: Buffer.alloc(16, 4), windowSize: MIB, mode: 'async' },
    own: { ...OWN, ...scene.own },
    stagingNeeded: scene.stagingNeeded ?? 0,
    staging: () => told.push('staging'),
    placed: (place) => told.push(`place ${place}`),
    moved: (event) => told.push(event),
  });
  opened.catch(() => undefined);
  const take = (): Promise<Frame> => peer.take(30_000);
  return { ...parts, peer, opened, told, ledger, hello: decodeHello(await take()), take };
}

type Opening = Awaited<ReturnType<typeof opening>>;

function welcome({ peer }: Opening, changes: Partial<Welcome> = {}): void {
  peer.send([encodeWelcome({ ...WELCOME, ...changes })]);
}

function ready({ peer }: Opening): void {
  peer.send([encodeAck(NO_POSITIONS)]);
}

/** Waits for the primary's request to compare and lets it; `before` that something else happens. */
async function admit({ peer, take }: Opening, before: () => void = () => undefined): Promise<void> {
  expect((await take()).type).toBe(FrameType.RESCAN_REQUEST);
  before();
  peer.send([encodeRescanPlace(0)]);
}

/** The dirty map can no longer be written. */
function breakMap({ world }: Opening): void {
  world.files.file('/state/dirty').disk.hook = (call) => {
    if (call === 'write' || call === 'sync') throw new Failure('io-error', 'injected');
  };
}

describe('the opening of a session', () => {
  it('says which disk this is, which run, and which version its dirty map has', async () => {
    const { hello, replica } = await opening();
    expect(hello).toMatchObject({
      ...{ generation: OWN.generation, run: RUN, parentRun: NO_ID, size: SIZE },
      mapVersion: replica.regions.version,
      exportName: 'disk',
    });
  });

  it('goes on in order where that is all that is needed', async () => {
    const scene = await opening();
    welcome(scene);
    expect(decodeBegin(await scene.take())).toMatchObject({
      ...{ kind: BeginKind.CATCH_UP, sequence: 3, stagingId: NO_ID },
    });
    ready(scene);
    expect(await scene.opened).toMatchObject({
      begun: { kind: 'catch-up', staged: false, mergedCheckpoint: undefined },
      replicaId: REPLICA_ID.toString('hex'),
      stagingRoom: 10 * MIB,
    });
    expect(scene.told).toEqual(['recorded', 'resumed']);
  });

  it('sends what may be in the image already as a staged run, which counts from before it says so', async () => {
    const scene = await opening();
    welcome(scene, { exact: false });
    const begin = decodeBegin(await scene.take());
    expect(begin).toMatchObject({ kind: BeginKind.CATCH_UP_STAGED, sequence: 3, sentMax: scene.replica.sentMax });
    expect([begin.stagingId, scene.replica.stagedRun.kind]).toEqual([scene.replica.stagedRun.id, 'catch-up']);
    expect(begin.stagingId.equals(NO_ID)).toBe(false);
    ready(scene);
    expect(await scene.opened).toMatchObject({ begun: { kind: 'catch-up', staged: true } });
    expect(scene.told).toEqual(['recorded', 'staging', 'resumed']);
  });

  it('uses nothing up before it is durable that the clean stop vouches for it no more', async () => {
    let record = (): void => undefined;
    const scene = await opening({
      start: () =>
        new Promise((resolve) => {
          record = resolve;
        }),
    });
    welcome(scene);
    await turns(5);
    expect(scene.told).toEqual([]);
    record();
    expect(decodeBegin(await scene.take()).kind).toBe(BeginKind.CATCH_UP);
    expect(scene.told).toEqual(['recorded', 'resumed']);
  });

  it('is given up where that cannot be recorded, and changes nothing', async () => {
    const scene = await opening({ start: () => Promise.reject(new Failure('no-space', 'full')) });
    welcome(scene);
    await expect(scene.opened).rejects.toMatchObject({ code: 'no-space' });
    expect([scene.told, scene.replica.inOrder, scene.replica.backlog.baseSequence]).toEqual([[], true, 3]);
  });

  it('asks before it compares, and compares in a staged run', async () => {
    const scene = await opening();
    scene.replica.marks.mark(7 * MIB, 1);
    welcome(scene);
    await admit(scene);
    const begin = decodeBegin(await scene.take());
    expect(begin).toMatchObject({ kind: BeginKind.RESCAN, sequence: 3, stagingId: scene.replica.stagedRun.id });
    expect([scene.replica.stagedRun.kind, scene.replica.comparing.isOpen]).toEqual(['rescan', true]);
    ready(scene);
    expect(await scene.opened).toMatchObject({ begun: { kind: 'compare', staged: true, scope: 'marked' } });
    expect(scene.told).toEqual(['recorded', 'scope-needed', 'rescan-admitted']);
  });

  it('of an older copy that --rescan lets through marks everything before the mirror is told a version', async () => {
    const scene = await opening({ own: { rescanAll: true } });
    const { regions, marks } = scene.replica;
    expect([regions.setCount < marks.regionCount, regions.versionTold < 1000]).toEqual([true, true]);
    welcome(scene, { mapVersion: 1000 });
    // A death here, before the comparison is let in, must not leave a map that passes for the one that the mirror knows.
    await admit(scene, () => {
      expect([regions.setCount, regions.version > 1000]).toEqual([marks.regionCount, true]);
    });
    expect(decodeBegin(await scene.take())).toMatchObject({ kind: BeginKind.RESCAN });
    ready(scene);
    expect(await scene.opened).toMatchObject({ begun: { kind: 'compare', scope: 'everything' } });
  });

  it('fills an image that holds nothing without a staged run, whatever room there is for one', async () => {
    const scene = await opening({ stagingNeeded: 20 * MIB });
    welcome(scene, { fresh: true, seeded: false, stagingRoom: 0 });
    await admit(scene);
    expect(decodeBegin(await scene.take())).toMatchObject({ kind: BeginKind.SEEDING, stagingId: NO_ID });
    ready(scene);
    expect(await scene.opened).toMatchObject({ begun: { kind: 'compare', staged: false, scope: 'everything' } });
    expect(scene.replica.stagedRun.kind).toBeUndefined();
    expect(scene.told).toEqual(['recorded', 'scope-needed', 'seeding-admitted']);
  });

  it('goes on with the staged run of the last session', async () => {
    const scene = await opening();
    const id = Buffer.alloc(16, 9);
    scene.replica.marks.mark(7 * MIB, 1);
    scene.replica.beginCompare('marks', 3, 0, 3, id);
    scene.replica.passCleared(0, SIZE, 5, 8);
    scene.replica.sessionEnded();
    welcome(scene, { stagingId: id, stagedSequence: 4, stagedCheckpoint: 8 });
    await admit(scene);
    expect(decodeBegin(await scene.take())).toMatchObject({ kind: BeginKind.RESCAN, sequence: 4, stagingId: id });
    expect([scene.replica.stagedRun.holds(7), scene.replica.marks.count]).toEqual([true, 0]);
  });

  it('compares nothing where the mirror has not the room that is known to be needed, and tries again when it has', async () => {
    const poor = await opening({ stagingNeeded: 20 * MIB });
    poor.replica.marks.mark(7 * MIB, 1);
    welcome(poor, { stagingRoom: 20 * MIB - 1 });
    await expect(poor.opened).rejects.toMatchObject({
      code: 'staging-full',
      message: expect.stringContaining('at least 20 MiB'),
    });
    expect(poor.told).toEqual(['recorded']);
    expect([poor.replica.comparing.isOpen, poor.replica.inOrder, poor.replica.keeping]).toEqual([false, false, true]);
    const rich = await opening({ stagingNeeded: 20 * MIB });
    rich.replica.marks.mark(7 * MIB, 1);
    welcome(rich, { stagingRoom: 20 * MIB });
    await admit(rich);
    expect(decodeBegin(await rich.take()).kind).toBe(BeginKind.RESCAN);
  });

  it('catches up whatever room for staging there is', async () => {
    const scene = await opening({ stagingNeeded: 20 * MIB });
    welcome(scene, { stagingRoom: 0 });
    expect(decodeBegin(await scene.take()).kind).toBe(BeginKind.CATCH_UP);
  });

  it('decides anew when its turn to compare has come: order may have been given up meanwhile', async () => {
    const scene = await opening();
    const { replica, write, take, peer } = scene;
    replica.marks.mark(7 * MIB, 1);
    welcome(scene);
    expect((await take()).type).toBe(FrameType.RESCAN_REQUEST);
    peer.send([encodeRescanPlace(2)]);
    await turns(3);
    expect(scene.told.at(-1)).toBe('place 2');
    replica.loseOrder();
    write(6 * MIB, 1);
    expect(replica.keeping).toBe(false);
    peer.send([encodeRescanPlace(0)]);
    // Not after 3, as had been decided before: the stream begins anew.
    expect(decodeBegin(await take())).toMatchObject({ kind: BeginKind.RESCAN, sequence: 6 });
    expect([replica.keeping, replica.comparing.isOpen]).toEqual([true, true]);
    // What the window had, what came while it waited, and what was marked before.
    expect([4, 5, 6, 7].map((region) => replica.marks.holds(region))).toEqual([true, true, true, true]);
    expect([0, 1, 2].map((region) => replica.marks.holds(region))).toEqual([false, false, false]);
  });

  it('takes nothing for clean while the dirty map is being set for a new replica', async () => {
    const scene = await opening({ own: { rescanAll: true } });
    const { replica, map, world, write } = scene;
    const held: (() => void)[] = [];
    const hold = (): void => {
      world.files.file('/state/dirty').disk.hook = (call) =>
        call === 'sync' ? new Promise((resolve) => held.push(resolve)) : undefined;
    };
    const stranger = Buffer.alloc(16, 77);
    welcome(scene, { replicaId: stranger, mapVersion: 1_000 });
    await admit(scene, hold);
    await turns(5);
    expect([replica.marks.count, replica.comparing.isOpen]).toEqual([8, false]);
    // A write, and a backlog that overruns, in the middle of it.
    write(0, 1);
    replica.loseOrder();
    for (let round = 0; round < 10; round += 1) {
      for (const go of held.splice(0)) go();
      await turns(2);
    }
    expect(decodeBegin(await scene.take())).toMatchObject({ kind: BeginKind.RESCAN, sequence: 6 });
    expect([replica.marks.count, replica.regions.replicaId]).toEqual([8, stranger]);
    expect(map.version).toBeGreaterThan(1_000);
    ready(scene);
    expect(await scene.opened).toMatchObject({ begun: { scope: 'everything' } });
  });

  it('compares everything where the dirty map cannot be set, once it is durable that this tells nothing', async () => {
    let told = 0;
    const scene = await opening({
      options: {
        invalidate: async () => {
          told += 1;
        },
      },
    });
    welcome(scene, { replicaId: Buffer.alloc(16, 77) });
    await admit(scene, () => breakMap(scene));
    expect(decodeBegin(await scene.take()).kind).toBe(BeginKind.RESCAN);
    expect([told, scene.replica.marks.count, scene.replica.regions.valid]).toEqual([1, 8, false]);
  });

  it('does not begin where not even that can be made durable, and everything stays marked', async () => {
    const scene = await opening({ options: { invalidate: () => Promise.reject(new Failure('io-error', 'injected')) } });
    welcome(scene, { replicaId: Buffer.alloc(16, 77) });
    await admit(scene, () => breakMap(scene));
    await expect(scene.opened).rejects.toMatchObject({ code: 'io-error' });
    expect([scene.replica.marks.count, scene.replica.comparing.isOpen]).toEqual([8, false]);
  });

  it('takes no position of a mirror that is ahead, and that follows because a human has said so', async () => {
    const scene = await opening({ own: { rescanAll: true } });
    welcome(scene, { resumeAfter: 99, recorded: 99, checkpoint: 50 });
    await admit(scene);
    expect(decodeBegin(await scene.take())).toMatchObject({ kind: BeginKind.RESCAN, sequence: 5 });
    scene.replica.passCleared(0, SIZE, 5, 1);
    scene.replica.comparing.complete();
    scene.replica.committed(5, 2);
    expect(scene.replica.marks.coverFrom(5, 2)).toBe(true);
  });

  it('refuses a map version at which nothing could be counted on', async () => {
    const scene = await opening();
    welcome(scene, { mapVersion: Number.MAX_SAFE_INTEGER });
    await expect(scene.opened).rejects.toMatchObject({ code: 'frame-invalid' });
  });

  it('tells what the mirror refuses with, at any point of it', async () => {
    const early = await opening();
    early.peer.refuse(new Failure('identity-refused', 'no'));
    await expect(early.opened).rejects.toMatchObject({ code: 'identity-refused' });
    const late = await opening();
    welcome(late);
    expect((await late.take()).type).toBe(FrameType.BEGIN);
    late.peer.refuse(new Failure('mirror-no-space', 'full'));
    await expect(late.opened).rejects.toMatchObject({ code: 'mirror-no-space' });
    const strange = await opening();
    strange.peer.send([encodeFrame(FrameType.PASS)]);
    await expect(strange.opened).rejects.toMatchObject({ code: 'peer-foreign' });
  });
});
