import { describe, expect, it, onTestFinished } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { MIB } from '../../../src/base/units.ts';
import { digestOf } from '../../../src/io/digest.ts';
import { Channel } from '../../../src/link/channel.ts';
import { decodeDigestReply, encodeDigestRequest } from '../../../src/link/digests.ts';
import { encodeFrame, FRAME_COMPLETE, FRAME_REPAIR, type Frame, FrameType } from '../../../src/link/frame.ts';
import {
  type Begin,
  decodeAck,
  decodeRefused,
  decodeWelcome,
  encodeBegin,
  encodeHello,
  type Hello,
  type Positions,
  type Welcome,
} from '../../../src/link/messages.ts';
import type { StagingRules } from '../../../src/mirror/image-state.ts';
import type { Mirror } from '../../../src/mirror/mirror.ts';
import { openMirror } from '../../../src/mirror/open-mirror.ts';
import type { MirrorExportStatus } from '../../../src/mirror/status.ts';
import type { MemoryDisk } from '../../support/memory-disk.ts';
import { type MemoryWorld, memoryWorld, turns } from '../../support/memory-world.ts';
import { beginning, HELLO, IMAGE, SIZE } from './fixtures.ts';

const KEY = Buffer.alloc(16, 5);

/** A primary whose every word is the test's. */
class Scripted {
  readonly channel: Channel;
  readonly frames: Frame[] = [];
  reason: Failure | undefined;
  ended = false;

  private constructor(channel: Channel) {
    this.channel = channel;
  }

  static async connect(world: MemoryWorld): Promise<Scripted> {
    return new Scripted(new Channel(await world.network.connectLink(), world.clock));
  }

  static async hello(world: MemoryWorld, hello: Partial<Hello> = {}): Promise<Scripted> {
    const scripted = await Scripted.connect(world);
    scripted.channel.send([encodeHello({ ...HELLO, ...hello })]);
    return scripted;
  }

  async welcome(): Promise<Welcome> {
    return decodeWelcome(await this.channel.take(60_000));
  }

  /** The code of the refusal that is the answer. */
  async refusal(): Promise<string> {
    const frame = await this.channel.take(60_000);
    return frame.type === FrameType.REFUSED ? decodeRefused(frame).code : `frame ${frame.type}`;
  }

  /** The next place in the queue of rescans. */
  async place(): Promise<number> {
    return (await this.channel.take(60_000)).length;
  }

  requestRescan(): void {
    this.channel.send([encodeFrame(FrameType.RESCAN_REQUEST)]);
  }

  /** BEGIN, and from the first ACK on frames are collected. */
  async begin(begin: Begin): Promise<Positions> {
    this.channel.send([encodeBegin(begin)]);
    const first = await this.channel.take(60_000);
    if (first.type === FrameType.REFUSED) throw decodeRefused(first);
    this.channel.open({
      frame: (frame) => this.frames.push(frame),
      drain: () => undefined,
      closed: (reason) => {
        this.ended = true;
        this.reason = reason;
      },
    });
    return decodeAck(first);
  }

  write(sequence: number, offset: number, data: Buffer, flags = 0): void {
    const fields = { flags, sequence, offset, length: data.length, payload: data };
    this.channel.send([encodeFrame(FrameType.WRITE, fields)]);
  }

  checkpoint(number: number, sequence: number, complete = false): void {
    const flags = complete ? FRAME_COMPLETE : 0;
    this.channel.send([encodeFrame(FrameType.CHECKPOINT, { flags, sequence, offset: number })]);
  }

  ofType(type: number): Frame[] {
    return this.frames.filter((frame) => frame.type === type);
  }

  get position(): Positions {
    return decodeAck(this.ofType(FrameType.ACK).at(-1)!);
  }
}

async function running(
  options: { rescansMax?: number; world?: MemoryWorld; staging?: StagingRules } = {},
): Promise<{ world: MemoryWorld; mirror: Mirror }> {
  const world = options.world ?? memoryWorld();
  await world.files.makeDirectory('/mirrors');
  const mirror = await openMirror(world, silentLog, {
    directory: '/mirrors',
    listen: { kind: 'tcp', host: 'memory', port: 1 },
    tls: { keys: [] },
    ...(options.rescansMax === undefined ? {} : { rescansMax: options.rescansMax }),
    ...(options.staging === undefined ? {} : { staging: options.staging }),
  });
  onTestFinished(() => mirror.close());
  return { world, mirror };
}

/** A primary that has seeded its image and streams. */
async function streaming(world: MemoryWorld, hello: Partial<Hello> = {}): Promise<Scripted> {
  const primary = await Scripted.hello(world, hello);
  await primary.welcome();
  primary.requestRescan();
  while ((await primary.place()) > 0);
  await primary.begin(beginning('SEEDING'));
  primary.checkpoint(1, 0, true);
  await turns();
  return primary;
}

/** New volumes that ask for a place, one after the other. */
async function queueUp(world: MemoryWorld, names: readonly string[]): Promise<Scripted[]> {
  const all: Scripted[] = [];
  for (const exportName of names) {
    const one = await Scripted.hello(world, { exportName, volumeId: Buffer.from(exportName.padEnd(16)) });
    await one.welcome();
    one.requestRescan();
    await turns();
    all.push(one);
  }
  return all;
}

function imageDisk(world: MemoryWorld): MemoryDisk {
  return world.files.file(IMAGE).disk;
}

function statusOf(mirror: Mirror): MirrorExportStatus {
  return mirror.status().exports[0]!;
}

describe('a session with the mirror', () => {
  it('seeds a new image, streams, is recorded within 200 ms, and resumes where it was', async () => {
    const { world, mirror } = await running();
    const primary = await Scripted.hello(world);
    expect(await primary.welcome()).toMatchObject({ fresh: true, consistent: false, seeded: false, size: 0 });
    primary.requestRescan();
    expect(await primary.place()).toBe(0);
    const first = await primary.begin(beginning('SEEDING', 10));
    expect(first).toEqual({ received: 10, applied: 10, durable: 10, recorded: 10, staged: 0, stagedSize: 0 });
    expect(statusOf(mirror)).toMatchObject({ state: 'seeding', consistent: false });
    primary.checkpoint(1, 10, true);
    await turns();
    expect(primary.ofType(FrameType.CHECKPOINT_DONE)).toMatchObject([{ sequence: 10, offset: 1 }]);
    primary.write(11, 512, Buffer.alloc(512, 7));
    await turns();
    world.clock.advance(5);
    await turns();
    expect(primary.position).toMatchObject({ received: 11, applied: 11, recorded: 10 });
    world.clock.advance(200);
    await turns();
    expect(primary.position).toMatchObject({ received: 11, applied: 11, durable: 11, recorded: 11 });
    expect(imageDisk(world).content()[512]).toBe(7);
    expect(statusOf(mirror)).toMatchObject({
      state: 'streaming',
      consistent: true,
      applied: 11,
      primary: 'memory-client',
    });
    primary.channel.close();
    await turns();

    const next = await Scripted.hello(world);
    expect(await next.welcome()).toMatchObject({
      fresh: false,
      consistent: true,
      seeded: true,
      resumeAfter: 11,
      checkpoint: 1,
    });
    expect(await next.begin(beginning('CATCH_UP', 11))).toMatchObject({ applied: 11, recorded: 11 });
  });

  it('survives a restart of the mirror', async () => {
    const { world, mirror } = await running();
    const primary = await streaming(world);
    primary.write(1, 0, Buffer.alloc(512, 1));
    await turns();
    await mirror.close();
    await turns();
    expect(primary.reason?.code).toBe('mirror-shutting-down');
    expect(world.files.openCount).toBe(0);
    const again = await running({ world });
    expect(statusOf(again.mirror)).toMatchObject({ state: 'waiting', applied: 1, recorded: 1, consistent: true });
    const next = await Scripted.hello(world);
    expect(await next.welcome()).toMatchObject({ resumeAfter: 1, consistent: true });
  });

  it('answers digests of a pass and checks at their place of the stream', async () => {
    const { world } = await running();
    const primary = await streaming(world);
    const block = Buffer.alloc(4096, 3);
    primary.channel.send([encodeDigestRequest(0, SIZE, 4096)]);
    primary.write(1, 4096, block);
    primary.channel.send([encodeFrame(FrameType.PASS, { sequence: 1, payload: KEY })]);
    for (const fill of [3, 4]) {
      const payload = digestOf(Buffer.alloc(4096, fill), KEY, 4096);
      primary.channel.send([encodeFrame(FrameType.CHECK, { sequence: 1, offset: 4096, length: 4096, payload })]);
    }
    await turns();
    const reply = decodeDigestReply(primary.ofType(FrameType.DIGEST_REPLY)[0]!, SIZE);
    expect([...reply.zero].flatMap((zero, index) => (zero === 1 ? [] : [index]))).toEqual([1]);
    expect(Buffer.from(reply.digests.subarray(16, 32)).equals(digestOf(block, KEY, 4096, 4096))).toBe(true);
    expect(primary.ofType(FrameType.CHECK_RESULT)).toMatchObject([
      { flags: 1, offset: 4096, length: 4096 },
      { flags: 0, offset: 4096, length: 4096 },
    ]);
  });

  it('is refused for a check without a pass, too long, or outside the image', async () => {
    for (const [pass, offset, length] of [
      [false, 0, 4096],
      [true, 0, MIB + 1],
      [true, SIZE, 4096],
      [true, 0, 0],
    ] as const) {
      const { world } = await running();
      const primary = await streaming(world);
      if (pass) primary.channel.send([encodeFrame(FrameType.PASS, { payload: KEY })]);
      primary.channel.send([encodeFrame(FrameType.CHECK, { offset, length, payload: Buffer.alloc(16) })]);
      await turns();
      expect(primary.reason?.code).toBe('frame-invalid');
    }
  });

  it('stops reading while too much waits for the disk, and goes on', async () => {
    const { world } = await running();
    const primary = await streaming(world, { size: MIB });
    const server = world.network.links.at(-1)!;
    let letGo = (): void => undefined;
    imageDisk(world).hook = () =>
      new Promise((resolve) => {
        letGo = resolve;
      });
    for (let sequence = 1; sequence <= 40; sequence += 1) primary.write(sequence, 0, Buffer.alloc(MIB, sequence));
    await turns(100);
    expect(server.isPaused).toBe(true);
    expect(server.bytesRead).toBeLessThan(36 * MIB);
    imageDisk(world).hook = undefined;
    letGo();
    await turns(200);
    expect(server.isPaused).toBe(false);
    expect(imageDisk(world).content()[0]).toBe(40);
  });

  it('whose disk fails tells the primary, which resumes after what was recorded', async () => {
    const { world, mirror } = await running();
    const primary = await streaming(world);
    primary.write(1, 0, Buffer.alloc(512, 1));
    await turns();
    world.clock.advance(200);
    await turns();
    imageDisk(world).hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'bad')) : undefined);
    primary.write(2, 512, Buffer.alloc(512, 2));
    primary.channel.send([encodeFrame(FrameType.BARRIER, { sequence: 2 })]);
    await turns();
    expect(primary.reason?.code).toBe('mirror-io-error');
    expect(statusOf(mirror)).toMatchObject({
      state: 'failed',
      problem: { code: 'mirror-io-error' },
      // What is on the medium is a legal crash state, as after a power cut.
      consistent: true,
      exact: false,
    });
    imageDisk(world).hook = undefined;
    const next = await Scripted.hello(world);
    expect(await next.welcome()).toMatchObject({ resumeAfter: 1, recorded: 1, exact: false });
    await expect(next.begin(beginning('CATCH_UP', 1, 2))).rejects.toEqual(
      expect.objectContaining({ code: 'frame-invalid' }),
    );
    const staged = await Scripted.hello(world);
    await staged.welcome();
    await staged.begin(beginning('CATCH_UP_STAGED', 1, 2));
    expect(statusOf(mirror).problem).toBeUndefined();
    staged.write(2, 512, Buffer.alloc(512, 3));
    await turns();
    expect(imageDisk(world).content()[512]).toBe(2);
    staged.checkpoint(1, 2, true);
    await turns();
    expect(imageDisk(world).content()[512]).toBe(3);
    expect(statusOf(mirror)).toMatchObject({ state: 'streaming', exact: true, applied: 2, recorded: 2 });
  });
});

describe('a staged run in a session', () => {
  const ID = Buffer.alloc(16, 4);

  /** A mirror at 1 with a rescan of the same run under way, two operations and a repair staged. */
  async function rescanning(world: MemoryWorld): Promise<Scripted> {
    const first = await streaming(world);
    first.write(1, 0, Buffer.alloc(512, 1));
    await turns();
    first.channel.close();
    await turns();
    const primary = await Scripted.hello(world);
    expect(await primary.welcome()).toMatchObject({ resumeAfter: 1, exact: true, stagingId: Buffer.alloc(16) });
    primary.requestRescan();
    while ((await primary.place()) > 0);
    expect(await primary.begin(beginning('RESCAN', 1))).toMatchObject({ applied: 1, recorded: 1, staged: 1 });
    primary.write(2, 0, Buffer.alloc(512, 2));
    primary.channel.send([encodeFrame(FrameType.BARRIER, { sequence: 2 })]);
    primary.write(2, 8192, Buffer.alloc(4096, 3), FRAME_REPAIR);
    await turns();
    return primary;
  }

  it('leaves image and positions alone, tells what is staged within 200 ms, and is in the image with its end', async () => {
    const { world, mirror } = await running();
    const primary = await rescanning(world);
    const syncs = imageDisk(world).counts.sync;
    world.clock.advance(200);
    await turns();
    expect(imageDisk(world).counts.sync).toBe(syncs);
    expect(primary.position).toEqual({
      received: 2,
      applied: 1,
      durable: 1,
      recorded: 1,
      staged: 2,
      stagedSize: 4608,
    });
    expect(imageDisk(world).content()[0]).toBe(1);
    expect(statusOf(mirror)).toMatchObject({
      state: 'rescan',
      consistent: true,
      exact: true,
      staging: { size: 4608, limit: undefined, committed: false, through: false },
    });
    primary.checkpoint(7, 2, true);
    await turns(40);
    expect(primary.ofType(FrameType.CHECKPOINT_DONE)).toMatchObject([{ sequence: 2, offset: 7 }]);
    expect(primary.position).toMatchObject({ applied: 2, durable: 2, recorded: 2, staged: 0, stagedSize: 0 });
    expect([imageDisk(world).content()[0], imageDisk(world).content()[8192]]).toEqual([2, 3]);
    expect(statusOf(mirror)).toMatchObject({ state: 'streaming', staging: undefined, recordedAgeMs: 0 });
    // What follows is in order again, straight to the image.
    primary.write(3, 0, Buffer.alloc(512, 4));
    await turns();
    expect(imageDisk(world).content()[0]).toBe(4);
  });

  it('is digested and checked as the image seen through it', async () => {
    const { world } = await running();
    const primary = await rescanning(world);
    primary.channel.send([encodeFrame(FrameType.PASS, { sequence: 2, payload: KEY })]);
    primary.channel.send([encodeDigestRequest(0, SIZE, 4096)]);
    const payload = digestOf(Buffer.alloc(4096, 3), KEY, 8192);
    primary.channel.send([encodeFrame(FrameType.CHECK, { sequence: 2, offset: 8192, length: 4096, payload })]);
    await turns();
    const { zero, digests } = decodeDigestReply(primary.ofType(FrameType.DIGEST_REPLY)[0]!, SIZE);
    expect([zero[0], zero[1], zero[2]]).toEqual([0, 1, 0]);
    const first = Buffer.concat([Buffer.alloc(512, 2), Buffer.alloc(3584)]);
    expect(Buffer.from(digests.subarray(0, 16)).equals(digestOf(first, KEY, 0, 4096))).toBe(true);
    expect(primary.ofType(FrameType.CHECK_RESULT)).toMatchObject([{ flags: 1, offset: 8192 }]);
  });

  it('is kept when the link is lost, and gone on with, also by a mirror that was started anew', async () => {
    for (const restart of [false, true]) {
      const { world, mirror } = await running();
      const primary = await rescanning(world);
      primary.checkpoint(7, 2);
      await turns();
      primary.channel.destroy(new Failure('connection-lost', 'gone'));
      await turns();
      if (restart) {
        await mirror.close();
        await running({ world });
      }
      const rude = await Scripted.hello(world);
      await rude.welcome();
      rude.requestRescan();
      while ((await rude.place()) > 0);
      // What it relies on is not what is held: that is kept for who asks rightly.
      await expect(rude.begin(beginning('RESCAN', 1))).rejects.toEqual(
        expect.objectContaining({ code: 'frame-invalid' }),
      );
      await turns();
      const next = await Scripted.hello(world);
      expect(await next.welcome()).toMatchObject({
        resumeAfter: 1,
        exact: true,
        stagingId: ID,
        stagedSequence: 2,
        stagedCheckpoint: 7,
      });
      next.requestRescan();
      while ((await next.place()) > 0);
      expect(await next.begin(beginning('RESCAN', 2))).toMatchObject({ applied: 1, staged: 2, stagedSize: 4608 });
      next.checkpoint(8, 5, true);
      await turns(40);
      expect(imageDisk(world).content()[8192]).toBe(3);
      expect(next.position).toMatchObject({ applied: 5, recorded: 5 });
    }
  });

  it('begins in the stream with STAGE; another inside it is refused', async () => {
    const { world } = await running();
    const primary = await streaming(world);
    primary.write(1, 0, Buffer.alloc(512, 1));
    primary.channel.send([encodeFrame(FrameType.STAGE, { sequence: 1, payload: ID })]);
    primary.write(20, 512, Buffer.alloc(512, 2));
    primary.write(20, 1024, Buffer.alloc(512, 3), FRAME_REPAIR);
    await turns();
    expect([...imageDisk(world).content().subarray(0, 2000)].filter((byte) => byte > 1)).toEqual([]);
    primary.checkpoint(2, 30, true);
    primary.write(31, 0, Buffer.alloc(512, 9));
    await turns(40);
    const content = imageDisk(world).content();
    expect([content[0], content[512], content[1024]]).toEqual([9, 2, 3]);
    primary.channel.send([encodeFrame(FrameType.STAGE, { sequence: 31, payload: ID })]);
    primary.channel.send([encodeFrame(FrameType.STAGE, { sequence: 31, payload: Buffer.alloc(16, 5) })]);
    await turns();
    expect(primary.reason?.code).toBe('frame-invalid');
  });

  it('whose copy fails is finished before the next session is welcomed', async () => {
    const { world, mirror } = await running();
    const primary = await rescanning(world);
    imageDisk(world).hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'bad')) : undefined);
    primary.checkpoint(7, 2, true);
    await turns(40);
    expect(primary.reason?.code).toBe('mirror-io-error');
    expect(statusOf(mirror)).toMatchObject({ state: 'failed', committing: true, consistent: false, recorded: 1 });
    expect(await (await Scripted.hello(world)).refusal()).toBe('mirror-io-error');
    imageDisk(world).hook = undefined;
    const next = await Scripted.hello(world);
    expect(await next.welcome()).toMatchObject({ resumeAfter: 2, exact: true, consistent: true });
    expect(statusOf(mirror)).toMatchObject({ committing: false, consistent: true });
  });

  it('without room is told to the primary, with the room there is', async () => {
    const world = memoryWorld();
    await running({ world, staging: { limit: 4096, overflow: 'keep' } });
    const primary = await rescanning(world);
    expect(primary.reason).toMatchObject({ code: 'staging-full', message: expect.stringContaining('512 bytes') });
    const next = await Scripted.hello(world);
    expect(await next.welcome()).toMatchObject({ resumeAfter: 1, stagingRoom: 4096, stagingId: Buffer.alloc(16) });
    world.files.free = 100;
    const later = await Scripted.hello(world);
    expect(await later.welcome()).toMatchObject({ stagingRoom: 100 });
  });

  it('is the only way to compare an image that is consistent', async () => {
    const { world } = await running();
    (await streaming(world)).channel.close();
    await turns();
    const rude = await Scripted.hello(world);
    await rude.welcome();
    rude.requestRescan();
    while ((await rude.place()) > 0);
    await expect(rude.begin(beginning('SEEDING', 0))).rejects.toEqual(
      expect.objectContaining({ code: 'frame-invalid' }),
    );
  });
});

describe('a recovery beside a running mirror', () => {
  it('applies what was received, writes it down, and tells the position and what its primary had beyond', async () => {
    const { world, mirror } = await running();
    const primary = await streaming(world);
    primary.write(1, 0, Buffer.alloc(512, 1));
    await turns(2);
    const dry = await mirror.recover(IMAGE, true);
    expect(dry).toMatchObject({ dryRun: true, consistent: true, sequence: 0 });
    const report = await mirror.recover(IMAGE, false);
    expect(report).toMatchObject({
      image: IMAGE,
      sequence: 1,
      consistent: true,
      exact: true,
      staging: 'none',
      mirror: { primary: 'memory-client', lag: { operations: 0, bytes: 0 } },
    });
    expect(imageDisk(world).durableContent()[0]).toBe(1);
    await expect(mirror.recover('/mirrors/other.img', false)).rejects.toEqual(
      expect.objectContaining({ code: 'image-unknown' }),
    );
  });

  it('keeps a staged run that is not complete, and finishes one that is', async () => {
    const { world, mirror } = await running();
    const primary = await streaming(world);
    primary.channel.send([encodeFrame(FrameType.STAGE, { sequence: 0, payload: Buffer.alloc(16, 4) })]);
    primary.write(5, 0, Buffer.alloc(512, 2));
    await turns();
    expect(await mirror.recover(IMAGE, false)).toMatchObject({ staging: 'kept', sequence: 0, consistent: true });
    imageDisk(world).hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'bad')) : undefined);
    primary.checkpoint(2, 5, true);
    await turns(40);
    expect(await mirror.recover(IMAGE, true)).toMatchObject({ staging: 'finished', consistent: false });
    await expect(mirror.recover(IMAGE, false)).rejects.toEqual(expect.objectContaining({ code: 'io-error' }));
    imageDisk(world).hook = undefined;
    expect(await mirror.recover(IMAGE, false)).toMatchObject({ staging: 'finished', sequence: 5, consistent: true });
    expect(imageDisk(world).durableContent()[0]).toBe(2);
  });
});

describe('the queue of rescans', () => {
  it('lets the next one in when a rescan is complete, while its session streams on', async () => {
    const { world } = await running({ rescansMax: 1 });
    const first = await Scripted.hello(world, { exportName: 'first' });
    await first.welcome();
    first.requestRescan();
    expect(await first.place()).toBe(0);
    const others = await Promise.all(
      ['second', 'third'].map(async (exportName) => {
        const other = await Scripted.hello(world, { exportName, volumeId: Buffer.from(exportName.padEnd(16)) });
        await other.welcome();
        other.requestRescan();
        return other;
      }),
    );
    expect(await Promise.all(others.map((other) => other.place()))).toEqual([1, 2]);
    await first.begin(beginning('SEEDING'));
    first.checkpoint(1, 0, false);
    await turns();
    first.checkpoint(2, 0, true);
    expect(await Promise.all(others.map((other) => other.place()))).toEqual([0, 1]);
    expect(first.channel.ended).toBe(false);
    others[0]!.channel.destroy(new Failure('connection-lost', 'gone'));
    expect(await others[1]!.place()).toBe(0);
  });

  it('is shown: how many run and wait, and the place of each, before there is an image too', async () => {
    const { world, mirror } = await running({ rescansMax: 1 });
    await queueUp(world, ['first', 'second', 'third']);
    const shown = () => mirror.status().exports.map(({ name, state, queuePlace }) => [name, state, queuePlace]);
    expect(mirror.status().rescans).toEqual({ limit: 1, running: 1, stuck: 0, waiting: 2 });
    expect(shown()).toEqual([
      ['second', 'queued', 1],
      ['third', 'queued', 2],
    ]);
    const { image, size, consistent, primary } = mirror.status().exports[0]!;
    expect([image, size, consistent, primary]).toEqual(['/mirrors/second.img', 0, false, 'memory-client']);
  });

  it('is left by a primary that died without a word, where it waits and where it holds a place', async () => {
    const { world, mirror } = await running({ rescansMax: 1 });
    for (const exportName of ['first', 'second']) {
      // No channel at this end: nobody answers pings, or sends any.
      const dead = await world.network.connectLink();
      dead.receive({ data: () => undefined, drain: () => undefined, end: () => undefined, close: () => undefined });
      const hello = { ...HELLO, exportName, volumeId: Buffer.from(exportName.padEnd(16)) };
      dead.write([encodeHello(hello), encodeFrame(FrameType.RESCAN_REQUEST)]);
      await turns();
    }
    const [third] = await queueUp(world, ['third']);
    expect(await third!.place()).toBe(2);
    expect(mirror.status().rescans).toMatchObject({ running: 1, waiting: 2 });
    for (let seconds = 0; seconds < 20; seconds += 1) {
      world.clock.advance(1_000);
      await turns();
    }
    expect(await third!.place()).toBeLessThanOrEqual(1);
    expect(mirror.status().rescans).toMatchObject({ running: 1, waiting: 0 });
  });

  it('goes on past a rescan that hangs though its primary lives, but not past one that gets on', async () => {
    const { world, mirror } = await running({ rescansMax: 1 });
    const [first, second] = await queueUp(world, ['first', 'second']);
    expect([await first!.place(), await second!.place()]).toEqual([0, 1]);
    await first!.begin(beginning('SEEDING'));
    const pass = async (ms: number, action = () => {}) => {
      for (let passed = 0; passed < ms; passed += 2_000) {
        world.clock.advance(2_000);
        action();
        await turns(5);
      }
    };
    await pass(150_000, () => first!.write(0, 0, Buffer.alloc(512, 1), FRAME_REPAIR));
    expect(mirror.status().rescans).toEqual({ limit: 1, running: 1, stuck: 0, waiting: 1 });
    // What its clients write meanwhile is not the rescan.
    let sequence = 0;
    await pass(150_000, () => {
      sequence += 1;
      first!.write(sequence, 0, Buffer.alloc(512, 1));
    });
    expect(mirror.status().rescans).toEqual({ limit: 1, running: 2, stuck: 1, waiting: 0 });
    expect(await second!.place()).toBe(0);
    expect(first!.ended).toBe(false);
  });

  it('does not hold up a catch-up, and one who asks for a place and then catches up gives it back', async () => {
    const { world, mirror } = await running({ rescansMax: 1 });
    (await streaming(world)).channel.close();
    await turns();
    const [holder] = await queueUp(world, ['holder']);
    expect(await holder!.place()).toBe(0);
    const back = await Scripted.hello(world);
    await back.welcome();
    expect(await back.begin(beginning('CATCH_UP'))).toMatchObject({ applied: 0 });
    back.channel.close();
    holder!.channel.destroy(new Failure('connection-lost', 'gone'));
    await turns();
    const changed = await Scripted.hello(world);
    await changed.welcome();
    changed.requestRescan();
    expect(await changed.place()).toBe(0);
    await changed.begin(beginning('CATCH_UP'));
    expect(mirror.status().rescans).toMatchObject({ running: 0 });
  });

  it('is not passed by: a rescan without admission is refused, as is a position that the image does not have', async () => {
    const { world } = await running({ rescansMax: 1 });
    const rude = await Scripted.hello(world);
    await rude.welcome();
    await expect(rude.begin(beginning('SEEDING'))).rejects.toEqual(expect.objectContaining({ code: 'frame-invalid' }));
    (await streaming(world)).channel.close();
    await turns();
    for (const begin of [beginning('CATCH_UP', 1), beginning('RESCAN', 0)]) {
      const wrong = await Scripted.hello(world);
      await wrong.welcome();
      await expect(wrong.begin(begin)).rejects.toEqual(expect.objectContaining({ code: 'frame-invalid' }));
    }
    const grown = await Scripted.hello(world, { size: SIZE + 512 });
    await grown.welcome();
    await expect(grown.begin(beginning('CATCH_UP', 0))).rejects.toEqual(
      expect.objectContaining({ code: 'frame-invalid' }),
    );
  });
});

describe('who may write to an export', () => {
  it('is the newest session of the same run, once the one before has left the disk', async () => {
    const { world } = await running();
    const first = await streaming(world);
    let letGo = (): void => undefined;
    imageDisk(world).hook = (call) =>
      call === 'write'
        ? new Promise((resolve) => {
            letGo = resolve;
          })
        : undefined;
    first.write(1, 0, Buffer.alloc(512, 1));
    await turns();
    const second = await Scripted.hello(world);
    let welcomed = false;
    const welcome = second.welcome().then((answer) => {
      welcomed = true;
      return answer;
    });
    await turns();
    expect([first.ended, welcomed]).toEqual([true, false]);
    letGo();
    expect(await welcome).toMatchObject({ resumeAfter: 1 });
  });

  it('is not another run of the same volume while the first answers, and is once it does not', async () => {
    const { world } = await running();
    const first = await streaming(world);
    const clone = await Scripted.hello(world, { run: Buffer.alloc(16, 77) });
    expect(await clone.refusal()).toBe('image-busy');
    expect(first.ended).toBe(false);
    // The first one falls silent: what it would answer never leaves its host.
    first.channel.pauseReading();
    const second = await Scripted.hello(world, { run: Buffer.alloc(16, 77) });
    const welcome = second.welcome();
    await turns();
    world.clock.advance(5_000);
    expect(await welcome).toMatchObject({ resumeAfter: 0 });
    await turns();
    expect(first.ended || first.channel.ended).toBe(true);
  });

  it('is never another volume, generation, or a disk smaller than the image', async () => {
    const { world } = await running();
    const first = await streaming(world);
    const other = { volumeId: Buffer.alloc(16, 66) };
    expect(await (await Scripted.hello(world, other)).refusal()).toBe('name-taken');
    first.channel.close();
    await turns();
    expect(await (await Scripted.hello(world, other)).refusal()).toBe('image-foreign');
    expect(await (await Scripted.hello(world, { generation: Buffer.alloc(16, 9) })).refusal()).toBe('generation-newer');
    expect(await (await Scripted.hello(world, { size: SIZE - 512 })).refusal()).toBe('image-larger');
    expect(await (await Scripted.hello(world)).welcome()).toMatchObject({ resumeAfter: 0 });
  });

  it('is told by its identity and by the name of the export', async () => {
    const { world } = await running();
    for (const exportName of ['', '../x', 'a.twin', 'a//b', '.hidden', 'a\0b', 'x'.repeat(255)]) {
      expect(await (await Scripted.hello(world, { exportName })).refusal()).toBe('name-invalid');
    }
    world.network.identity = 'web';
    expect(await (await Scripted.hello(world, { exportName: 'db' })).refusal()).toBe('identity-refused');
    expect(await (await Scripted.hello(world, { exportName: 'website' })).refusal()).toBe('identity-refused');
    expect(await (await Scripted.hello(world, { exportName: 'web/disk' })).welcome()).toMatchObject({ fresh: true });
  });

  it('is nobody that does not open a session as a primary does', async () => {
    const { world } = await running();
    const wrong = await Scripted.connect(world);
    wrong.channel.send([encodeFrame(FrameType.PASS)]);
    expect(await wrong.refusal()).toBe('peer-foreign');
    expect(await (await Scripted.hello(world, { versionMin: 9, versionMax: 9 })).refusal()).toBe('peer-version');
    const silent = await Scripted.connect(world);
    await turns();
    const answer = silent.refusal();
    world.clock.advance(10_000);
    await expect(answer).rejects.toEqual(expect.objectContaining({ code: 'connection-lost' }));
  });
});

describe('the stop of a mirror', () => {
  it('waits for nobody who has said nothing yet, and lets in nobody who says HELLO meanwhile', async () => {
    const { world, mirror } = await running();
    const first = await streaming(world);
    let letGo = (): void => undefined;
    imageDisk(world).hook = (call) =>
      call === 'write'
        ? new Promise((resolve) => {
            letGo = resolve;
          })
        : undefined;
    first.write(1, 0, Buffer.alloc(512, 1));
    const silent = await Scripted.connect(world);
    const late = await Scripted.connect(world);
    await turns();
    let closed = false;
    const closing = mirror.close().then(() => {
      closed = true;
    });
    late.channel.send([encodeHello({ ...HELLO, exportName: 'late' })]);
    expect(await late.refusal()).toBe('mirror-shutting-down');
    expect(await silent.refusal()).toBe('mirror-shutting-down');
    await turns();
    expect(closed).toBe(false);
    letGo();
    imageDisk(world).hook = undefined;
    await closing;
    await turns();
    expect(first.reason?.code).toBe('mirror-shutting-down');
    expect(world.files.openCount).toBe(0);
  });

  it('makes everything durable that was received, and the next start takes the directory', async () => {
    const { world, mirror } = await running();
    const primary = await streaming(world);
    for (let sequence = 1; sequence <= 50; sequence += 1)
      primary.write(sequence, sequence * 512, Buffer.alloc(512, sequence));
    await turns(2);
    await mirror.close();
    const disk = imageDisk(world);
    expect(disk.durableContent().equals(disk.content())).toBe(true);
    const again = await running({ world });
    const { applied } = statusOf(again.mirror);
    expect(disk.content()[applied * 512]).toBe(applied);
    expect(disk.content()[(applied + 1) * 512]).toBe(0);
  });
});

describe('the opening of a mirror', () => {
  it('needs its directory, alone', async () => {
    const world = memoryWorld();
    const options = {
      directory: '/nowhere',
      listen: { kind: 'tcp', host: 'memory', port: 1 },
      tls: { keys: [] },
    } as const;
    await expect(openMirror(world, silentLog, options)).rejects.toEqual(
      expect.objectContaining({ code: 'directory-missing' }),
    );
    await running({ world });
    await expect(openMirror(world, silentLog, { ...options, directory: '/mirrors' })).rejects.toEqual(
      expect.objectContaining({ code: 'directory-busy' }),
    );
  });

  it('shows an image that cannot be opened with its problem, and serves the others', async () => {
    const { world, mirror } = await running();
    (await streaming(world)).channel.close();
    (await streaming(world, { exportName: 'other' })).channel.close();
    await turns();
    await mirror.close();
    world.files.put(`${IMAGE}.twin/mirror`, Buffer.alloc(8192));
    const again = await running({ world });
    const byName = new Map(again.mirror.status().exports.map((one) => [one.name, one]));
    expect(byName.get('disk')).toMatchObject({ state: 'failed', problem: { code: 'state-corrupt' } });
    expect(byName.get('other')).toMatchObject({ state: 'waiting', problem: undefined });
    expect(await (await Scripted.hello(world)).refusal()).toBe('state-corrupt');
    expect(await (await Scripted.hello(world, { exportName: 'other' })).welcome()).toMatchObject({ consistent: true });
  });
});
