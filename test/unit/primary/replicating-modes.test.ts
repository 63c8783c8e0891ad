/** What the replicating layer lets its clients wait for, in each mode. agreement.test.ts has the policies. */
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import type { Mode, OnMirrorLoss } from '../../../src/base/mode.ts';
import { MIB } from '../../../src/base/units.ts';
import { FRAME_BARRIER, FrameType } from '../../../src/link/frame.ts';
import { Agreement } from '../../../src/primary/agreement.ts';
import { ClientLoad } from '../../../src/primary/client-load.ts';
import { Ledger } from '../../../src/primary/ledger.ts';
import type { Replica } from '../../../src/primary/replica.ts';
import { ReplicatingVolume } from '../../../src/primary/replicating-volume.ts';
import type { WindowEntry } from '../../../src/primary/window.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { RangeLock } from '../../../src/volume/range-lock.ts';
import type { ManualClock } from '../../support/manual-clock.ts';
import { MemoryDisk, type MemoryDiskCall, type MemoryDiskOptions } from '../../support/memory-disk.ts';
import { memoryReplica } from '../../support/memory-replica.ts';
import { type MemoryWorld, memoryWorld, turns } from '../../support/memory-world.ts';

const SIZE = MIB;
const TIMEOUT_MS = 10_000;
const PLAIN = { fua: false };
const FUA = { fua: true };
const SYNC_FAILED = 'io-error: a sync of memory failed: what was written may be lost';

/** A volume in a mode, with a mirror that counts and has acknowledged nothing. */
class Scene {
  readonly disk: MemoryDisk;
  readonly clock: ManualClock;
  readonly lock = new RangeLock();
  readonly replica: Replica;
  readonly agreement: Agreement;
  readonly volume: ReplicatingVolume;

  private constructor(world: MemoryWorld, replica: Replica, mode: Mode, onMirrorLoss: OnMirrorLoss, disk: MemoryDisk) {
    this.disk = disk;
    this.clock = world.clock;
    this.replica = replica;
    const ledger = new Ledger([this.replica], 0, true, () => Promise.resolve());
    const settings = { mode, mirrorTimeoutMs: TIMEOUT_MS, onMirrorLoss };
    this.agreement = new Agreement(this.clock, silentLog, settings, () => ledger.sequence);
    const local = { volume: new DiskVolume(this.disk), disk: this.disk, lock: this.lock };
    this.volume = new ReplicatingVolume(local, ledger, this.agreement, new ClientLoad(this.clock));
    this.agreement.counts(true);
  }

  static async make(
    mode: Mode,
    onMirrorLoss: OnMirrorLoss = 'continue',
    options: MemoryDiskOptions = {},
  ): Promise<Scene> {
    const world = memoryWorld();
    const { replica } = await memoryReplica(world, SIZE);
    return new Scene(world, replica, mode, onMirrorLoss, new MemoryDisk(SIZE, options));
  }

  /** What stands in the stream and was not looked at yet. */
  stream(): Pick<WindowEntry, 'type' | 'sequence' | 'flags'>[] {
    const entries: Pick<WindowEntry, 'type' | 'sequence' | 'flags'>[] = [];
    for (let entry = this.replica.window.takeUnsent(); entry; entry = this.replica.window.takeUnsent()) {
      const { type, sequence, flags } = entry;
      entries.push({ type, sequence, flags });
    }
    return entries;
  }

  /** Calls of one kind take until `let` is called. */
  delay(call: MemoryDiskCall): { let(): void } {
    let proceed = (): void => undefined;
    const gate = new Promise<void>((resolve) => {
      proceed = resolve;
    });
    this.disk.hook = (called) => (called === call ? gate : undefined);
    return { let: proceed };
  }

  fail(call: MemoryDiskCall): void {
    this.disk.hook = (called) => {
      if (called === call) throw new Failure('io-error', 'injected');
    };
  }
}

/** Whether it has been answered, and with what. */
function watch(pending: unknown): () => Promise<string> {
  let outcome = pending instanceof Promise ? 'waits' : 'answered at once';
  if (pending instanceof Promise)
    pending.then(
      (value) => {
        outcome = `answered${value === undefined ? '' : ` ${value}`}`;
      },
      (error: Failure) => {
        outcome = `${error.code}: ${error.message}`;
      },
    );
  return async () => {
    await turns(3);
    return outcome;
  };
}

const data = (fill = 1): Buffer => Buffer.alloc(4096, fill);

describe('in async', () => {
  it('a write makes no promise, and neither FLUSH nor FUA waits for the mirror', async () => {
    const { volume } = await Scene.make('async');
    expect(volume.write(0, data(), PLAIN)).toBeUndefined();
    await volume.flush();
    await volume.write(0, data(), FUA);
    await volume.zero(0, 4096, { fua: true, allocate: false, fast: false });
    expect(await volume.trim(0, 4096, FUA)).toBe(true);
  });
});

describe('in flush', () => {
  it('a write makes no promise', async () => {
    const { volume } = await Scene.make('flush');
    expect(volume.write(0, data(), PLAIN)).toBeUndefined();
  });

  it('a FLUSH starts both syncs at once and is answered when both are done, whichever is first', async () => {
    for (const mirrorFirst of [true, false]) {
      const scene = await Scene.make('flush');
      void scene.volume.write(0, data(), PLAIN);
      const local = scene.delay('sync');
      const flush = watch(scene.volume.flush());
      await turns(1);
      expect(scene.stream()).toEqual([{ type: FrameType.WRITE, sequence: 1, flags: FRAME_BARRIER }]);
      expect(scene.disk.counts.sync).toBe(1);
      const steps = [(): void => scene.agreement.acknowledged(1, 1), local.let];
      if (!mirrorFirst) steps.reverse();
      steps[0]!();
      expect(await flush()).toBe('waits');
      steps[1]!();
      expect(await flush()).toBe('answered');
    }
  });

  it('a FLUSH whose local sync fails, fails, whatever the mirror has, and leaves nothing waiting', async () => {
    for (const acknowledged of [1, 0]) {
      const scene = await Scene.make('flush');
      void scene.volume.write(0, data(), PLAIN);
      scene.fail('sync');
      const flush = watch(scene.volume.flush());
      scene.agreement.acknowledged(acknowledged, acknowledged);
      expect(await flush()).toBe(SYNC_FAILED);
      expect(scene.agreement.status!.waiting).toBe(0);
    }
  });

  it('a FLUSH of something applied but not durable there waits', async () => {
    const scene = await Scene.make('flush');
    void scene.volume.write(0, data(), PLAIN);
    const flush = watch(scene.volume.flush());
    scene.agreement.acknowledged(1, 0);
    expect(await flush()).toBe('waits');
  });

  it('FLUSHes of many connections share one barrier and one acknowledgement', async () => {
    const scene = await Scene.make('flush');
    void scene.volume.write(0, data(), PLAIN);
    const flushes = Array.from({ length: 10 }, () => watch(scene.volume.flush()));
    await turns(1);
    expect(scene.stream()).toEqual([{ type: FrameType.WRITE, sequence: 1, flags: FRAME_BARRIER }]);
    scene.agreement.acknowledged(1, 1);
    for (const flush of flushes) expect(await flush()).toBe('answered');
  });

  it('what comes while the local disk syncs shares the next sync and its barrier, behind all that was answered', async () => {
    const scene = await Scene.make('flush');
    const local = scene.delay('sync');
    const first = watch(scene.volume.flush());
    await turns(1);
    expect(scene.stream()).toEqual([{ type: FrameType.BARRIER, sequence: 0, flags: 0 }]);
    const later = [1, 2, 3].map((value) => watch(scene.volume.write(0, data(value), value === 2 ? FUA : PLAIN)));
    later.push(watch(scene.volume.flush()));
    void scene.volume.write(0, data(4), PLAIN);
    await turns(1);
    expect(scene.stream().map(({ flags }) => flags)).toEqual([0, 0, 0, 0]);
    scene.agreement.acknowledged(0, 0);
    expect(await first()).toBe('waits');
    local.let();
    expect(await first()).toBe('answered');
    await turns(1);
    expect([scene.stream(), scene.disk.counts.sync]).toEqual([[{ type: FrameType.BARRIER, sequence: 4, flags: 0 }], 2]);
    expect(await Promise.all(later.map((request) => request()))).toEqual([
      'answered at once',
      'waits',
      'answered at once',
      'waits',
    ]);
    scene.agreement.acknowledged(4, 4);
    expect(await Promise.all([later[1]!(), later[3]!()])).toEqual(['answered', 'answered']);
  });
});

describe.each(['flush', 'sync'] as const)('in %s', (mode) => {
  const MUTATIONS = {
    write: (volume: ReplicatingVolume) => volume.write(0, data(), FUA),
    zero: (volume: ReplicatingVolume) => volume.zero(0, 4096, { fua: true, allocate: false, fast: false }),
    trim: (volume: ReplicatingVolume) => volume.trim(0, 4096, FUA),
  };

  it.each(['write', 'zero', 'trim'] as const)(
    'a %s with FUA carries its barrier, is synced here, and waits until it is durable there, with its range free',
    async (kind) => {
      const scene = await Scene.make(mode);
      const request = watch(MUTATIONS[kind](scene.volume));
      expect(await request()).toBe('waits');
      expect(scene.stream()).toEqual([
        { type: kind === 'write' ? FrameType.WRITE : FrameType.ZERO, sequence: 1, flags: FRAME_BARRIER },
      ]);
      expect([scene.disk.counts.sync, scene.lock.holdCount]).toEqual([1, 0]);
      void scene.volume.write(0, data(2), PLAIN);
      expect(scene.stream()).toMatchObject([{ sequence: 2 }]);
      scene.agreement.acknowledged(2, 0);
      expect(await request()).toBe('waits');
      scene.agreement.acknowledged(2, 1);
      expect(await request()).toBe(kind === 'trim' ? 'answered true' : 'answered');
    },
  );

  it.each(['write', 'zero', 'trim'] as const)('a %s with FUA whose sync here fails, fails', async (kind) => {
    const scene = await Scene.make(mode);
    scene.fail('sync');
    const request = watch(MUTATIONS[kind](scene.volume));
    await turns(3);
    scene.agreement.acknowledged(1, 1);
    expect(await request()).toBe(SYNC_FAILED);
    expect(scene.agreement.status!.waiting).toBe(0);
  });

  it('a trim with FUA that could do nothing waits for nothing and syncs nothing', async () => {
    const scene = await Scene.make(mode, 'continue', { canPunch: false });
    expect(await watch(scene.volume.trim(0, 4096, FUA))()).toBe('answered false');
    expect([scene.stream(), scene.disk.counts.sync]).toEqual([[], 0]);
  });

  it('a mutation that fails here fails at once, and what it left behind goes to the mirror', async () => {
    for (const options of [PLAIN, FUA]) {
      const scene = await Scene.make(mode);
      scene.fail('write');
      expect(await watch(scene.volume.write(0, data(), options))()).toBe('io-error: injected');
      expect(scene.stream()).toMatchObject([{ sequence: 1 }]);
      expect(scene.agreement.status!.waiting).toBe(0);
    }
  });

  it('nothing is under way here while requests wait for the mirror, and a stop answers them with its reason', async () => {
    const scene = await Scene.make(mode);
    const requests = [
      watch(scene.volume.write(0, data(), FUA)),
      watch(scene.volume.zero(0, 4096, { fua: true, allocate: false, fast: false })),
      watch(scene.volume.flush()),
    ];
    await scene.volume.idle();
    for (const request of requests) expect(await request()).toBe('waits');
    scene.agreement.close();
    for (const request of requests) {
      expect(await request()).toBe('shutting-down: stopped before the mirror had it');
    }
  });

  it('a request that fails because the mirror is left out has taken effect here and stands in the stream', async () => {
    const scene = await Scene.make(mode, 'fail');
    const request = watch(scene.volume.write(0, data(7), FUA));
    scene.clock.advance(TIMEOUT_MS);
    await turns(3);
    scene.clock.advance(TIMEOUT_MS);
    expect(await request()).toBe('io-error: the mirror has been away or stuck for 10.0 s');
    expect(scene.stream()).toHaveLength(1);
    expect(scene.disk.durableContent()[0]).toBe(7);
  });
});

describe('in sync', () => {
  it('a write waits until the mirror has applied it, and its range is free meanwhile', async () => {
    const scene = await Scene.make('sync');
    const first = watch(scene.volume.write(0, data(1), PLAIN));
    const second = watch(scene.volume.write(0, data(2), PLAIN));
    expect([scene.lock.holdCount, scene.stream().map(({ sequence }) => sequence)]).toEqual([0, [1, 2]]);
    expect([await first(), await second()]).toEqual(['waits', 'waits']);
    scene.agreement.acknowledged(1, 0);
    expect([await first(), await second()]).toEqual(['answered', 'waits']);
    scene.agreement.acknowledged(2, 0);
    expect(await second()).toBe('answered');
  });

  it('a write that the disk does not finish at once waits by its own sequence', async () => {
    const scene = await Scene.make('sync');
    const slow = scene.delay('write');
    const first = watch(scene.volume.write(0, data(1), PLAIN));
    scene.disk.hook = undefined;
    const second = watch(scene.volume.write(8192, data(2), PLAIN));
    scene.agreement.acknowledged(1, 0);
    expect([await first(), await second()]).toEqual(['waits', 'answered']);
    slow.let();
    expect(await first()).toBe('waits');
    expect(scene.stream().map(({ sequence }) => sequence)).toEqual([1, 2]);
    scene.agreement.acknowledged(2, 0);
    expect(await first()).toBe('answered');
  });

  it('zeroes and trims wait likewise; a trim that did nothing does not', async () => {
    const scene = await Scene.make('sync');
    const zero = watch(scene.volume.zero(0, 4096, { fua: false, allocate: false, fast: false }));
    const trim = watch(scene.volume.trim(8192, 4096, PLAIN));
    const nothing = watch(scene.volume.trim(1, 512, PLAIN));
    expect([await zero(), await trim(), await nothing()]).toEqual(['waits', 'waits', 'answered false']);
    scene.agreement.acknowledged(2, 0);
    expect([await zero(), await trim()]).toEqual(['answered', 'answered true']);
  });

  it('32 writes in flight are all in the stream before the first is acknowledged, and one acknowledgement answers them', async () => {
    const scene = await Scene.make('sync');
    const writes = Array.from({ length: 32 }, (_, index) => watch(scene.volume.write(index * 4096, data(), PLAIN)));
    expect(scene.stream()).toHaveLength(32);
    scene.agreement.acknowledged(32, 0);
    for (const write of writes) expect(await write()).toBe('answered');
  });
});
