import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { MIB } from '../../../src/base/units.ts';
import { FRAME_BARRIER, FrameType } from '../../../src/link/frame.ts';
import { Agreement, type AgreementSettings, ASYNC } from '../../../src/primary/agreement.ts';
import { ClientLoad } from '../../../src/primary/client-load.ts';
import { Ledger } from '../../../src/primary/ledger.ts';
import { type LocalDisk, readLocked } from '../../../src/primary/local-disk.ts';
import type { Replica } from '../../../src/primary/replica.ts';
import { ReplicatingVolume } from '../../../src/primary/replicating-volume.ts';
import type { WindowEntry } from '../../../src/primary/window.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { RangeLock } from '../../../src/volume/range-lock.ts';
import { EXTENT_UNREPLICATED, UNREPLICATED_CONTEXT } from '../../../src/volume/volume.ts';
import type { ManualClock } from '../../support/manual-clock.ts';
import { MemoryDisk, type MemoryDiskCall } from '../../support/memory-disk.ts';
import { turns } from '../../support/memory-world.ts';
import { describeOrderingConformance, describeVolumeConformance } from '../../support/volume-conformance.ts';
import { replicaParts } from './replica-parts.ts';

const failed = (code: string) => expect.objectContaining({ code });
const PLAIN = { fua: false };

interface Parts {
  disk: MemoryDisk;
  replica: Replica;
  ledger: Ledger;
  local: LocalDisk;
  agreement: Agreement;
  clock: ManualClock;
  volume: ReplicatingVolume;
}

/** No dirty map stands in the way: that is in admitted.test.ts. */
async function replicating(
  size: number,
  options: {
    started?: boolean;
    windowSize?: number;
    clear?: () => Promise<void>;
    agreement?: Partial<AgreementSettings>;
  } = {},
): Promise<Parts> {
  const disk = new MemoryDisk(size);
  const { world, replica } = await replicaParts({ size, windowSize: options.windowSize ?? 256 * MIB, inOrder: true });
  const { clock } = world;
  const ledger = new Ledger([replica], 0, options.started ?? true, options.clear ?? (() => Promise.resolve()));
  const local: LocalDisk = { volume: new DiskVolume(disk), disk, lock: new RangeLock() };
  const settings = { ...ASYNC, ...options.agreement };
  const agreement = new Agreement(clock, silentLog, settings, () => ledger.sequence);
  const volume = new ReplicatingVolume(local, ledger, agreement, new ClientLoad(clock));
  return { disk, replica, ledger, local, agreement, clock, volume };
}

/** Everything that entered the stream. */
function streamOf(replica: Replica): WindowEntry[] {
  const entries: WindowEntry[] = [];
  for (let entry = replica.window.takeUnsent(); entry !== undefined; entry = replica.window.takeUnsent()) {
    entries.push(entry);
  }
  return entries;
}

/** What a mirror that applies the stream in order ends up with. */
function mirrored(entries: readonly WindowEntry[], size: number): Buffer {
  const image = Buffer.alloc(size);
  for (const { type, offset, length, data } of entries) {
    if (type === FrameType.WRITE) image.set(data!, offset);
    if (type === FrameType.ZERO) image.fill(0, offset, offset + length);
  }
  return image;
}

/** Each mutation takes some turns, different ones, and is torn in two halves. */
function tearing(disk: MemoryDisk): void {
  let calls = 0;
  disk.tearDelayed = true;
  disk.hook = (call) => {
    if (call === 'sync' || call === 'read') return undefined;
    calls += 1;
    return calls % 4 === 0 ? undefined : turns(calls % 4 === 1 ? 3 : 1);
  };
}

const quick = {
  make: async (size: number) => {
    const { volume, disk } = await replicating(size);
    return {
      volume,
      close: async () => {
        await volume.close();
        await disk.close();
      },
    };
  },
};
const slow = {
  make: async (size: number) => {
    const { volume, disk } = await replicating(size, { started: false });
    tearing(disk);
    return {
      volume,
      close: async () => {
        await volume.close();
        await disk.close();
      },
    };
  },
};

describeVolumeConformance('ReplicatingVolume', quick);
describeVolumeConformance('ReplicatingVolume over a disk that tears delayed writes', { ...slow, runs: 25 });
describeOrderingConformance('ReplicatingVolume over a disk that tears delayed writes', { ...slow, runs: 25 });

const SIZE = 64 * 1024;

/** Mutations of a small disk, many of which overlap. */
const mutations = fc.array(
  fc
    .record({
      kind: fc.constantFrom('write' as const, 'write' as const, 'zero' as const, 'trim' as const, 'flush' as const),
      offset: fc.oneof(
        fc.nat(SIZE - 1),
        fc.nat(15).map((page) => page * 4096),
      ),
      length: fc.oneof(fc.integer({ min: 1, max: 12_000 }), fc.constant(8192)),
      fill: fc.integer({ min: 1, max: 255 }),
      fua: fc.boolean(),
      gap: fc.nat(2),
    })
    .map((drawn) => ({ ...drawn, length: Math.min(drawn.length, SIZE - drawn.offset) })),
  { minLength: 1, maxLength: 16 },
);

describe('what enters the stream', () => {
  it('in its order makes a mirror equal, also when calls overlap, are torn, fail, and go partly wrong', async () => {
    const seen = { failures: 0, operations: 0 };
    await fc.assert(
      fc.asyncProperty(mutations, fc.nat(2 ** 31), fc.boolean(), async (taken, seed, failing) => {
        const { disk, replica, volume } = await replicating(SIZE, { started: seed % 2 === 0 });
        let state = seed;
        const random = (limit: number): number => {
          state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
          return Math.floor((state / 2 ** 32) * limit);
        };
        disk.tearDelayed = true;
        const fail = async (offset: number, length: number): Promise<never> => {
          await turns(random(3));
          // Some of it has got through, of this write or of nobody knows what.
          const hook = disk.hook;
          disk.hook = undefined;
          void disk.write(Buffer.alloc(Math.ceil(length / 2), random(3)), offset);
          disk.hook = hook;
          throw new Failure(random(2) === 0 ? 'io-error' : 'no-space', 'injected');
        };
        disk.hook = (call, offset, length) => {
          if (call === 'read' || call === 'sync') return undefined;
          if (failing && random(4) === 0) return fail(offset, length);
          return random(3) === 0 ? undefined : turns(random(4));
        };
        const running = taken.map(async ({ kind, offset, length, fill, fua, gap }, index) => {
          for (let count = 0; count < index * gap; count += 1) await Promise.resolve();
          if (kind === 'write') await volume.write(offset, Buffer.alloc(length, fill), { fua });
          else if (kind === 'zero') await volume.zero(offset, length, { fua, allocate: fill % 2 === 0, fast: false });
          else if (kind === 'trim') await volume.trim(offset, length, { fua });
          else await volume.flush();
        });
        const outcomes = await Promise.allSettled(running);
        await volume.idle();
        const entries = streamOf(replica);
        seen.operations += entries.length;
        seen.failures += outcomes.filter(({ status }) => status === 'rejected').length;
        const sequences = entries.filter(({ type }) => type !== FrameType.BARRIER).map(({ sequence }) => sequence);
        expect(sequences).toEqual(sequences.map((_, index) => index + 1));
        expect(mirrored(entries, SIZE).equals(disk.content())).toBe(true);
      }),
      { numRuns: 200 },
    );
    expect(seen.failures).toBeGreaterThan(50);
    expect(seen.operations).toBeGreaterThan(500);
  });

  it('is the very buffer that was written', async () => {
    const { replica, volume } = await replicating(SIZE);
    const data = Buffer.from('mine');
    expect(volume.write(0, data, PLAIN)).toBeUndefined();
    expect(streamOf(replica)[0]!.data).toBe(data);
  });

  it('has the end of an epoch on a mutation with FUA, and on the last before a flush', async () => {
    const { replica, volume } = await replicating(SIZE);
    await volume.write(0, Buffer.alloc(512, 1), { fua: true });
    await volume.write(0, Buffer.alloc(512, 2), PLAIN);
    const flushing = volume.flush();
    await turns(1);
    void volume.write(0, Buffer.alloc(512, 3), PLAIN);
    await flushing;
    await volume.zero(0, 512, { fua: true, allocate: false, fast: false });
    await volume.trim(4096, 4096, { fua: true });
    expect(streamOf(replica).map(({ type, sequence, flags }) => [type, sequence, flags])).toEqual([
      [FrameType.WRITE, 1, FRAME_BARRIER],
      [FrameType.WRITE, 2, FRAME_BARRIER],
      [FrameType.WRITE, 3, 0],
      [FrameType.ZERO, 4, FRAME_BARRIER],
      [FrameType.ZERO, 5, FRAME_BARRIER],
    ]);
  });

  it('is nothing for a trim that punched nothing, and for a fast zero that was refused', async () => {
    const { replica, volume, disk } = await replicating(SIZE);
    expect(await volume.trim(100, 100, PLAIN)).toBe(false);
    await expect(volume.zero(1, 100, { fua: false, allocate: false, fast: true })).rejects.toEqual(
      failed('not-supported'),
    );
    expect(streamOf(replica)).toEqual([]);
    expect(disk.counts.read).toBe(0);
  });

  it('comes only after the clean flag is durably clear, and nothing is written before', async () => {
    let clear = (): void => undefined;
    const { disk, replica, volume } = await replicating(SIZE, {
      started: false,
      clear: () =>
        new Promise((resolve) => {
          clear = resolve;
        }),
    });
    const first = volume.write(0, Buffer.alloc(512, 1), PLAIN);
    const second = volume.write(0, Buffer.alloc(512, 2), PLAIN);
    await turns(2);
    expect([disk.counts.write, replica.sequence]).toEqual([0, 0]);
    clear();
    await first;
    await second;
    expect(streamOf(replica).map(({ data }) => data![0])).toEqual([1, 2]);
    expect(disk.content()[0]).toBe(2);
  });

  it('is nothing when the clean flag cannot be cleared: the write fails, the disk is untouched', async () => {
    const { disk, replica, volume } = await replicating(SIZE, {
      started: false,
      clear: () => Promise.reject(new Failure('no-space', 'full')),
    });
    await expect(volume.write(0, Buffer.alloc(512, 1), PLAIN)).rejects.toEqual(failed('no-space'));
    expect([disk.counts.write, replica.sequence, disk.content()[0]]).toEqual([0, 0, 0]);
  });
});

describe('a mutation that fails', () => {
  function failing(disk: MemoryDisk, which: readonly MemoryDiskCall[]): void {
    disk.hook = (call) => {
      if (which.includes(call)) throw new Failure('io-error', 'injected');
    };
  }

  it('is answered with its error, and what the disk holds now is forwarded, zeroes as zeroes', async () => {
    const { disk, replica, volume } = await replicating(SIZE);
    await volume.write(4096, Buffer.alloc(4096, 7), PLAIN);
    streamOf(replica);
    failing(disk, ['write']);
    await expect(volume.write(0, Buffer.alloc(8192, 9), PLAIN)).rejects.toEqual(failed('io-error'));
    const entries = streamOf(replica);
    expect(entries.map(({ type, offset, length }) => [type, offset, length])).toEqual([
      [FrameType.ZERO, 0, 4096],
      [FrameType.WRITE, 4096, 4096],
    ]);
    expect(entries[1]!.data![0]).toBe(7);
  });

  it('and cannot be read back is shown as unreadable', async () => {
    const { disk, replica, volume } = await replicating(SIZE);
    failing(disk, ['write', 'read']);
    await expect(volume.write(0, Buffer.alloc(512, 9), PLAIN)).rejects.toEqual(failed('io-error'));
    expect(streamOf(replica)).toEqual([]);
    expect(replica.marks.unreadableSize).toBeGreaterThan(0);
  });

  it('over more than can be read back now gives order up, and the range is marked', async () => {
    const { disk, replica, volume } = await replicating(80 * MIB);
    failing(disk, ['zero']);
    await expect(volume.zero(MIB, 70 * MIB, { fua: false, allocate: false, fast: false })).rejects.toEqual(
      failed('io-error'),
    );
    expect(disk.counts.read).toBe(0);
    expect([replica.keeping, replica.marks.markedSize]).toEqual([false, 70 * MIB]);
  });

  it('lets the next one that overlaps come only when its range has been read back', async () => {
    const { disk, replica, volume } = await replicating(SIZE);
    let calls = 0;
    disk.hook = async (call) => {
      await turns(2);
      calls += 1;
      if (call === 'write' && calls === 1) throw new Failure('io-error', 'injected');
    };
    const first = volume.write(0, Buffer.alloc(512, 1), PLAIN);
    const second = volume.write(0, Buffer.alloc(512, 2), PLAIN);
    await expect(first).rejects.toEqual(failed('io-error'));
    await second;
    expect(streamOf(replica).map(({ type, data }) => [type, data?.[0]])).toEqual([
      [FrameType.ZERO, undefined],
      [FrameType.WRITE, 2],
    ]);
  });

  it('at the sync of a FUA has its effect in the stream, and fails', async () => {
    const { disk, replica, volume } = await replicating(SIZE);
    failing(disk, ['sync']);
    await expect(volume.write(0, Buffer.alloc(512, 1), { fua: true })).rejects.toEqual(failed('io-error'));
    expect(streamOf(replica)).toMatchObject([{ type: FrameType.WRITE, sequence: 1 }]);
    await expect(volume.flush()).rejects.toEqual(failed('io-error'));
  });
});

describe('in mode async', () => {
  it('a client never waits for the window, however full, nor for a mirror that is away', async () => {
    const { replica, volume } = await replicating(SIZE, { windowSize: 1024 });
    for (let count = 0; count < 1000; count += 1) {
      // Answered in the same turn: nothing was waited for.
      expect(volume.write((count % 100) * 512, Buffer.alloc(512, 1), PLAIN)).toBeUndefined();
    }
    await volume.flush();
    expect([replica.keeping, replica.sequence]).toEqual([false, 1000]);
    expect(replica.window.usedSize).toBeLessThanOrEqual(1024);
  });

  it('a client waits for a block that a rescan reads, and no longer', async () => {
    const { local, volume, disk } = await replicating(SIZE);
    let read = (): void => undefined;
    disk.hook = (call) =>
      call === 'read'
        ? new Promise((resolve) => {
            read = resolve;
          })
        : undefined;
    let seen = -1;
    const reading = readLocked(local, 0, 4096, (data) => {
      seen = data[0]!;
    });
    const inside = volume.write(100, Buffer.alloc(10, 1), PLAIN);
    expect(volume.write(4096, Buffer.alloc(10, 1), PLAIN)).toBeUndefined();
    await turns(1);
    expect(disk.content()[100]).toBe(0);
    read();
    await reading;
    await inside;
    expect([seen, disk.content()[100]]).toEqual([0, 1]);
  });
});

describe('extents of a replicating volume', () => {
  it('show what the mirror does not have yet, beside those of the volume below', async () => {
    const { volume, replica } = await replicating(SIZE);
    await volume.write(4096, Buffer.alloc(4096, 1), PLAIN);
    expect(volume.contexts).toContain(UNREPLICATED_CONTEXT);
    expect(await volume.extents(UNREPLICATED_CONTEXT, 0, SIZE, 10)).toEqual([
      { length: 4096, flags: 0 },
      { length: 4096, flags: EXTENT_UNREPLICATED },
      { length: SIZE - 8192, flags: 0 },
    ]);
    streamOf(replica);
    replica.window.applied(1);
    replica.acknowledged(1, 1);
    expect(await volume.extents(UNREPLICATED_CONTEXT, 0, SIZE, 10)).toEqual([{ length: SIZE, flags: 0 }]);
  });
});

describe('a block that a rescan reads again', () => {
  it('is let go when it cannot be read', async () => {
    const { local, disk } = await replicating(SIZE);
    disk.hook = () => Promise.reject(new Failure('io-error', 'injected'));
    await expect(readLocked(local, 0, 4096, () => undefined)).rejects.toEqual(failed('io-error'));
    expect(local.lock.holdCount).toBe(0);
  });
});
