import { describe, expect, it, onTestFinished } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { Failure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import type { ByteStream } from '../../../src/io/network.ts';
import { encodeFrame, FrameType } from '../../../src/link/frame.ts';
import type { Mirror } from '../../../src/mirror/mirror.ts';
import { openMirror } from '../../../src/mirror/open-mirror.ts';
import { Agreement, ASYNC } from '../../../src/primary/agreement.ts';
import { CheckpointNumbers } from '../../../src/primary/checkpoints.ts';
import { ClientLoad } from '../../../src/primary/client-load.ts';
import { DirtyRegions } from '../../../src/primary/dirty-regions.ts';
import { Ledger } from '../../../src/primary/ledger.ts';
import type { LocalDisk } from '../../../src/primary/local-disk.ts';
import { MirrorLink } from '../../../src/primary/mirror-link.ts';
import type { Replica } from '../../../src/primary/replica.ts';
import { ReplicatingVolume } from '../../../src/primary/replicating-volume.ts';
import type { SessionState, VerifyReport } from '../../../src/primary/status.ts';
import type { DirtyMap } from '../../../src/store/dirty-map.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { RangeLock } from '../../../src/volume/range-lock.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { type LogLine, memoryLog } from '../../support/memory-log.ts';
import { type MemoryWorld, turns } from '../../support/memory-world.ts';
import { type ReplicaParts, RUN, replicaParts } from './replica-parts.ts';

const SIZE = 6 * MIB + 1536;
const IMAGE = '/mirrors/disk.img';
const RETRY = { firstMs: 20, lastMs: 200, refusedMs: 60_000, behindMs: 1_000 };
const ADDRESS = { kind: 'tcp', host: 'memory', port: 1 } as const;

/** A primary's link and a mirror in one process, over a link in memory, with a clock moved by hand. */
class MemoryPair {
  readonly world: MemoryWorld;
  readonly disk = new MemoryDisk(SIZE);
  readonly map: DirtyMap;
  readonly regions: DirtyRegions;
  readonly replica: Replica;
  readonly volume: ReplicatingVolume;
  readonly link: MirrorLink;
  readonly lines: readonly LogLine[];
  readonly #log;
  readonly #ledger: Ledger;
  mirror: Mirror | undefined;
  #fill = 0;

  static async make(windowSize = 2 * MIB, spoolSize = 0): Promise<MemoryPair> {
    return new MemoryPair(windowSize, await replicaParts({ size: SIZE, windowSize, spoolSize, inOrder: false }));
  }

  private constructor(windowSize: number, { world, replica, map, sequences }: ReplicaParts) {
    const { disk } = this;
    const { log, lines } = memoryLog();
    this.world = world;
    this.map = map;
    this.replica = replica;
    this.lines = lines;
    this.#log = log;
    const ledger = new Ledger([replica], 0, true, () => Promise.resolve(), { map, sequences });
    this.#ledger = ledger;
    const local: LocalDisk = { volume: new DiskVolume(disk), disk, lock: new RangeLock() };
    const agreement = new Agreement(world.clock, log, ASYNC, () => ledger.sequence);
    this.volume = new ReplicatingVolume(local, ledger, agreement, new ClientLoad(world.clock));
    this.regions = new DirtyRegions(world.clock, log, map, 0, sequences, 4, {
      recorded: () => ({ run: RUN, sequence: replica.recorded, checkpoint: replica.marks.checkpoint }),
      mustStay: (region) => replica.marks.holds(region) || replica.stagedRun.holds(region),
      stayCount: () => Math.max(replica.marks.count, replica.stagedRun.uncommittedCount),
      locallyDurable: () => ledger.locallyDurable,
      syncFailed: () => ledger.syncFailed,
      syncLocal: () => ledger.sync(async () => local.volume.flush()),
      isFree: (offset, length) => local.lock.isFree(offset, length),
    });
    this.link = new MirrorLink(
      world,
      log,
      {
        address: ADDRESS,
        tls: { keys: [] },
        introduction: { exportName: 'disk', volumeId: Buffer.alloc(16, 1), windowSize },
        rescanLimit: { bytesPerSecond: undefined },
        rekeySize: 2 ** 40,
        rekeyIntervalMs: 2 ** 40,
        retry: RETRY,
      },
      {
        generation: Buffer.alloc(16, 2),
        run: RUN,
        parentRun: NO_ID,
        parentSequence: 0,
        earlierRuns: [],
        size: SIZE,
        rescanAll: false,
      },
      this.replica,
      local,
      new CheckpointNumbers(0),
      ledger,
      agreement,
      this.regions,
      new ClientLoad(world.clock),
    );
    onTestFinished(async () => {
      const stopping = Promise.all([this.link.stop(0), this.mirror?.close()]);
      await this.pump(() => false, 20);
      await stopping;
    });
  }

  async startMirror(): Promise<void> {
    await this.world.files.makeDirectory('/mirrors');
    this.mirror = await openMirror(this.world, this.#log, {
      directory: '/mirrors',
      listen: ADDRESS,
      tls: { keys: [] },
      rescansMax: 1,
    });
  }

  get state(): SessionState {
    return this.link.status().state;
  }

  get imageDisk(): MemoryDisk {
    return this.world.files.file(IMAGE).disk;
  }

  /** Writes something new somewhere. */
  async write(count = 1): Promise<void> {
    for (let index = 0; index < count; index += 1) {
      this.#fill += 1;
      const offset = (this.#fill * 777_777) % (SIZE - 8192);
      await this.volume.write(offset, Buffer.alloc(8192, 1 + (this.#fill % 250)), { fua: false });
    }
  }

  /** A write has failed, and nobody knows what the range holds now. */
  async uncertain(offset: number, length: number): Promise<void> {
    await this.map.set(offset, length);
    this.#ledger.uncertain(offset, length);
  }

  /** Lets time and everything else go on, until `done` or for `rounds`. */
  async pump(done: () => boolean, rounds = 2_000): Promise<boolean> {
    for (let round = 0; round < rounds; round += 1) {
      if (done()) return true;
      await turns(2);
      this.world.clock.advance(5);
    }
    return done();
  }

  /** Lets everything go on until the work is done. */
  async finish<T>(work: Promise<T>): Promise<T> {
    let done = false;
    const watched = work.finally(() => {
      done = true;
    });
    watched.catch(() => undefined);
    await this.pump(() => done);
    return watched;
  }

  async until(state: SessionState): Promise<void> {
    if (!(await this.pump(() => this.state === state)))
      throw new Error(`never ${state}: ${JSON.stringify(this.link.status())}`);
  }

  async untilInStep(): Promise<void> {
    const inStep = (): boolean => {
      const { state, lag, recorded } = this.link.status();
      return state === 'streaming' && lag.operations === 0 && recorded === this.replica.sequence;
    };
    if (!(await this.pump(inStep, 30_000))) throw new Error(`never in step: ${JSON.stringify(this.link.status())}`);
  }

  get identical(): boolean {
    return this.imageDisk.content().equals(this.disk.content());
  }

  static async inStep(): Promise<MemoryPair> {
    const pair = await MemoryPair.make();
    await pair.startMirror();
    pair.link.start();
    await pair.untilInStep();
    return pair;
  }
}

/** Links wait until the test lets them through. */
function holdLinks(pair: MemoryPair, where: 'connect' | 'accept'): () => void {
  const { network } = pair.world;
  let letThrough = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    letThrough = resolve;
  });
  const connect = network.connectLink.bind(network);
  network.connectLink = async () => {
    if (where === 'connect') await gate;
    return connect();
  };
  if (where === 'accept') {
    const deliver = network.deliver;
    network.deliver = (accept) => void gate.then(() => deliver(accept));
  }
  return letThrough;
}

/** Syncs of the image wait until the test lets them go. */
function holdSyncs(disk: MemoryDisk): () => void {
  const held: (() => void)[] = [];
  disk.hook = (call) => (call === 'sync' ? new Promise<void>((resolve) => held.push(resolve)) : undefined);
  return () => {
    disk.hook = undefined;
    for (const go of held) go();
  };
}

/** How to bring a pair to each state; returns how to let it go on. */
const BRING: Readonly<Record<SessionState, (pair: MemoryPair) => Promise<() => void>>> = {
  async offline(pair) {
    await pair.startMirror();
    return () => pair.link.start();
  },
  async connecting(pair) {
    await pair.startMirror();
    const release = holdLinks(pair, 'connect');
    pair.link.start();
    return release;
  },
  async negotiating(pair) {
    await pair.startMirror();
    const release = holdLinks(pair, 'accept');
    pair.link.start();
    return release;
  },
  async queued(pair) {
    await pair.startMirror();
    const other = await MemoryPair.make();
    const blocker = await occupyRescans(pair, other);
    pair.link.start();
    await pair.until('queued');
    return () => blocker.destroy();
  },
  async seeding(pair) {
    await pair.startMirror();
    let release = (): void => undefined;
    pair.world.files.hook = (operation, path) => {
      if (operation === 'syncDirectory' && path === '/mirrors') release = holdSyncs(pair.imageDisk);
    };
    pair.link.start();
    await pair.until('seeding');
    return () => release();
  },
  async rescan(pair) {
    await seeded(pair);
    await pair.uncertain(0, 1);
    await pair.until('behind');
    const release = holdSyncs(pair.imageDisk);
    await pair.until('rescan');
    return release;
  },
  async 'catch-up'(pair) {
    await seeded(pair);
    pair.world.network.links.at(-1)!.destroy();
    const release = holdSyncs(pair.imageDisk);
    await pair.until('catch-up');
    return release;
  },
  async streaming(pair) {
    await seeded(pair);
    return () => undefined;
  },
  async behind(pair) {
    await seeded(pair);
    await pair.uncertain(0, 1);
    await pair.until('behind');
    return () => undefined;
  },
  async refused(pair) {
    await pair.startMirror();
    pair.world.network.identity = 'stranger';
    pair.link.start();
    await pair.until('refused');
    return () => {
      pair.world.network.identity = 'nbdtwin';
    };
  },
};

async function seeded(pair: MemoryPair): Promise<void> {
  await pair.startMirror();
  pair.link.start();
  await pair.untilInStep();
}

/** Somebody else holds the only place for a rescan at the mirror. */
async function occupyRescans(pair: MemoryPair, other: MemoryPair): Promise<ByteStream> {
  const stream = await pair.world.network.connectLink();
  const { encodeHello } = await import('../../../src/link/messages.ts');
  stream.receive({ data: () => undefined, drain: () => undefined, end: () => undefined, close: () => undefined });
  stream.write([
    encodeHello({
      versionMin: 2,
      versionMax: 2,
      mode: 'async',
      volumeId: Buffer.alloc(16, 9),
      generation: Buffer.alloc(16, 9),
      run: Buffer.alloc(16, 9),
      parentRun: NO_ID,
      parentSequence: 0,
      size: other.disk.size,
      windowSize: 1,
      mapVersion: 0,
      exportName: 'other',
    }),
    encodeFrame(FrameType.RESCAN_REQUEST),
  ]);
  await turns(10);
  return stream;
}

describe('a link to a mirror', () => {
  it.each(Object.keys(BRING) as SessionState[])(
    'in state %s survives that the window overruns, and comes into step again',
    async (state) => {
      const pair = await MemoryPair.make();
      await pair.write(5);
      const release = await BRING[state](pair);
      await pair.pump(() => false, 5);
      expect(pair.state).toBe(state);
      await pair.write(3);
      await pair.uncertain(MIB, 2 * MIB);
      await pair.write(3);
      // Before the first session there is no order yet that could be given up.
      const overrun: SessionState = ['catch-up', 'streaming'].includes(state) ? 'behind' : state;
      expect(pair.state).toBe(overrun);
      await pair.pump(() => false, 5);
      await pair.write(3);
      release();
      if (state === 'refused') pair.world.clock.advance(60_000);
      await pair.untilInStep();
      expect(pair.identical).toBe(true);
      expect(pair.mirror!.status().exports.find(({ name }) => name === 'disk')).toMatchObject({ consistent: true });
    },
  );

  it.each(Object.keys(BRING) as SessionState[])(
    'in state %s survives that order is lost, as when the spool fails, and comes into step again',
    async (state) => {
      const pair = await MemoryPair.make();
      await pair.write(5);
      const release = await BRING[state](pair);
      await pair.pump(() => false, 5);
      expect(pair.state).toBe(state);
      await pair.write(3);
      pair.replica.loseOrder();
      await pair.write(3);
      expect(pair.replica.keeping).toBe(false);
      await pair.pump(() => false, 5);
      await pair.write(3);
      release();
      if (state === 'refused') pair.world.clock.advance(60_000);
      await pair.untilInStep();
      expect(pair.identical).toBe(true);
    },
  );

  it.each(Object.keys(BRING) as SessionState[])('in state %s can be stopped', async (state) => {
    const pair = await MemoryPair.make();
    const release = await BRING[state](pair);
    await pair.pump(() => false, 5);
    expect(pair.state).toBe(state);
    let stopped = false;
    const stop = pair.link.stop(0).then(() => {
      stopped = true;
    });
    release();
    await pair.pump(() => stopped);
    await stop;
    expect(pair.state).toBe('offline');
  });

  it('comes into step through losses at any moment, with writes all along', async () => {
    const pair = await MemoryPair.make(256 * KIB);
    await pair.write(20);
    await pair.startMirror();
    pair.link.start();
    for (let round = 0; round < 60; round += 1) {
      await pair.pump(() => false, (round * 7) % 23);
      await pair.write(round % 5);
      if (round % 3 === 0) pair.world.network.links.at(-1)?.destroy(new Failure('connection-lost', 'cut'));
      if (round % 10 === 5)
        await pair.volume.zero((round * 99_999) % MIB, 50_000, { fua: true, allocate: false, fast: false });
    }
    await pair.untilInStep();
    expect(pair.identical).toBe(true);
    expect(pair.link.status().sessions).toBeGreaterThan(5);
  });

  it('gets on with a rescan though the window overruns while the mirror copies what is complete, with no spool', async () => {
    const pair = await MemoryPair.make(64 * KIB, 0);
    await seeded(pair);
    await pair.write(20);
    await pair.until('behind');
    let release: (() => void) | undefined;
    expect(
      await pair.pump(() => {
        if (pair.replica.comparing.isCompleting) release ??= holdSyncs(pair.imageDisk);
        return release !== undefined;
      }),
    ).toBe(true);
    const placed = pair.replica.sequence;
    await pair.pump(() => false, 20);
    await pair.write(20);
    expect([pair.replica.comparing.isCutShort, pair.state]).toEqual([true, 'rescan']);
    release!();
    expect(await pair.pump(() => !pair.replica.keeping)).toBe(true);
    // The mirror has what was complete, and only what came after it is compared next.
    expect(pair.replica.recorded).toBeGreaterThanOrEqual(placed);
    await pair.untilInStep();
    expect(pair.identical).toBe(true);
  });

  it('drains what waits in the spool as fast as the mirror takes it: no timer stands between one window and the next', async () => {
    const epochs = 200;
    const pair = await MemoryPair.make(160 * KIB, 8 * MIB);
    await pair.startMirror();
    pair.link.start();
    await pair.untilInStep();
    // Each sync takes 20 ms, so that a window is received long before it is applied.
    pair.imageDisk.hook = (call) => (call === 'sync' ? turns(8) : undefined);
    for (let count = 0; count < epochs; count += 1) {
      await pair.write(2);
      await pair.volume.flush();
    }
    expect(pair.replica.backlog.rung).toBe('spool');
    const fromMs = pair.world.clock.nowMs();
    await pair.untilInStep();
    // Hardly more than the syncs; with the interval of 200 ms for each window it would be half as much again.
    expect(pair.world.clock.nowMs() - fromMs).toBeLessThan(epochs * 20 * 1.2);
    expect(pair.identical).toBe(true);
  });

  it('says the same trouble once, waits longer each time, and starts anew after a success', async () => {
    const pair = await MemoryPair.make();
    pair.link.start();
    await pair.pump(() => false, 400);
    const said = pair.lines.filter(({ level, message }) => level === 'warn' && message.includes('not connected'));
    expect(said.length).toBe(1);
    expect(pair.link.status()).toMatchObject({ state: 'offline', problem: { code: 'peer-unreachable' } });
    expect(pair.link.status().nextAttemptMs).toBeLessThanOrEqual(200);
    await pair.startMirror();
    await pair.untilInStep();
    expect(pair.link.status()).toMatchObject({ problem: undefined, nextAttemptMs: undefined });
  });

  it('verifies what it has in step, finds what was changed behind its back, and says where', async () => {
    const pair = await MemoryPair.inStep();
    await pair.write(30);
    const verify = (): Promise<VerifyReport> =>
      pair.link.inStep().verify({}, (session) => session.run(() => undefined));
    const clean = verify();
    await pair.write(10);
    expect(await pair.finish(clean)).toMatchObject({ differingSize: 0, ranges: [], truncated: false });
    await pair.untilInStep();
    await pair.imageDisk.write(Buffer.from('spoiled'), 3 * MIB + 4096 + 5);
    await pair.imageDisk.write(Buffer.from('spoiled'), SIZE - 7);
    const report = await pair.finish(verify());
    expect(report).toMatchObject({
      differingSize: 4096 + 1536,
      ranges: [
        { offset: 3 * MIB + 4096, length: 4096 },
        { offset: SIZE - 1536, length: 1536 },
      ],
    });
  });

  it('does not wait for ever with a verify whose session ends', async () => {
    const pair = await MemoryPair.inStep();
    await pair.imageDisk.write(Buffer.alloc(MIB, 9), 0);
    // The block is being written by a client when the session ends.
    pair.disk.hook = (call) => (call === 'read' ? turns(3) : undefined);
    let outcome: unknown;
    const verify = pair.link
      .inStep()
      .verify({}, (session) => session.run(() => undefined))
      .catch((error: unknown) => {
        outcome = error;
      });
    for (let count = 0; count < 12; count += 1) {
      await pair.pump(() => false, 1);
      if (count === 8) pair.world.network.links.at(-1)!.destroy();
    }
    await pair.pump(() => outcome !== undefined);
    await verify;
    expect(outcome).toMatchObject({ code: 'connection-lost' });
  });
});
