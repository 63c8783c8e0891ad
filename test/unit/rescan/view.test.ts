import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { systemClock } from '../../../src/io/clock.ts';
import { DIGEST_KEY_SIZE, digestUnits } from '../../../src/io/digest.ts';
import type { Disk } from '../../../src/io/disk.ts';
import { nodeFileSystem as files } from '../../../src/io/node-file-system.ts';
import { nodeScanPool } from '../../../src/io/node-scan-pool.ts';
import type { ScanPool, ScanRequest } from '../../../src/io/scan-pool.ts';
import { newScanResult } from '../../../src/io/scan-request.ts';
import { scanView, type View } from '../../../src/rescan/view.ts';
import { Overlay } from '../../../src/store/overlay.ts';
import { inlineScanPool } from '../../support/inline-scan-pool.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const KEY = Buffer.alloc(DIGEST_KEY_SIZE, 1);
const never = (): boolean => false;

/** A scan pool that remembers what it was asked, and of which disk. */
class WatchedPool implements ScanPool {
  readonly asked: { disk: Disk; request: ScanRequest }[] = [];
  readonly #pool: ScanPool;

  constructor(pool = inlineScanPool()) {
    this.#pool = pool;
  }

  scan(disk: Disk, request: ScanRequest) {
    this.asked.push({ disk, request });
    return this.#pool.scan(disk, request);
  }

  close(): Promise<void> {
    return this.#pool.close();
  }
}

interface Viewed {
  readonly disk: MemoryDisk;
  readonly data: MemoryDisk;
  readonly overlay: Overlay;
  readonly view: View;
  held: number;
}

function viewed(size: number, diskSize = size): Viewed {
  const disk = new MemoryDisk(diskSize);
  const data = new MemoryDisk(size);
  const overlay = new Overlay(data, size);
  const parts = { disk, data, overlay, held: 0 };
  const hold = () => {
    result.held += 1;
    return () => {
      result.held -= 1;
    };
  };
  const result: Viewed = { ...parts, view: { disk, size, over: { overlay, data, hold } } };
  return result;
}

/** What a reader of the view gets, as a disk of its own. */
async function flattened({ disk, overlay, view }: Viewed): Promise<MemoryDisk> {
  const flat = new MemoryDisk(view.size);
  const content = Buffer.alloc(view.size);
  await overlay.read(content, 0, disk);
  await flat.write(content, 0);
  return flat;
}

interface Opened {
  readonly disk: Disk;
  readonly data: Disk;
  readonly pool: ScanPool;
  close(): Promise<void>;
}

async function openMemory(diskSize: number, size: number): Promise<Opened> {
  const pool = inlineScanPool();
  return { disk: new MemoryDisk(diskSize), data: new MemoryDisk(size), pool, close: () => pool.close() };
}

const threads = nodeScanPool({ threads: 2 });
afterAll(() => threads.close());

async function openFiles(diskSize: number, size: number): Promise<Opened> {
  const folder = temporaryFolder();
  const disk = await files.openDisk(join(folder, 'disk'), { createSize: diskSize });
  const data = await files.openDisk(join(folder, 'data'), { createSize: size });
  const close = async (): Promise<void> => {
    await disk.close();
    await data.close();
  };
  return { disk, data, pool: threads, close };
}

const SIZE = 200 * KIB + 512;

const piece = fc
  .record({
    where: fc.constantFrom('disk' as const, 'overlay' as const, 'overlay' as const, 'zero' as const),
    block: fc.nat(50),
    blocks: fc.integer({ min: 1, max: 40 }),
    shift: fc.constantFrom(0, 0, 0, 512, 1, 4095),
    fill: fc.nat(3),
  })
  .map((drawn) => {
    const offset = Math.min(drawn.block * 4096 + drawn.shift, SIZE - 1);
    return { ...drawn, offset, length: Math.min(drawn.blocks * 4096, SIZE - offset) };
  });

describe('digests of a view', () => {
  it('are those of a disk with the same content, whatever covers what', async () => {
    const sources = new Set<string>();
    await fc.assert(
      fc.asyncProperty(
        fc.array(piece, { maxLength: 12 }),
        fc.constantFrom(4 * KIB, 64 * KIB, MIB),
        fc.constantFrom(SIZE, 96 * KIB, 64 * KIB + 100),
        async (pieces, unitSize, diskSize) => {
          const parts = viewed(SIZE, diskSize);
          for (const { where, offset, length, fill } of pieces) {
            if (where === 'zero') await parts.overlay.zero(offset, length);
            else if (where === 'overlay') await parts.overlay.write(offset, Buffer.alloc(length, fill));
            else if (offset < diskSize) {
              await parts.disk.write(Buffer.alloc(Math.min(length, diskSize - offset), fill), offset);
            }
          }
          const request = { offset: 0, length: SIZE, unitSize, key: KEY };
          const pool = new WatchedPool();
          const found = await scanView(parts.view, pool, new ManualClock(), request, never);
          const expected = await inlineScanPool().scan(await flattened(parts), request);
          expect([...found.zero]).toEqual([...expected.zero]);
          expect(Buffer.from(found.digests).equals(Buffer.from(expected.digests))).toBe(true);
          expect(parts.held).toBe(0);
          for (const { disk } of pool.asked) sources.add(disk === parts.disk ? 'disk' : 'data');
        },
      ),
      { numRuns: 200 },
    );
    expect([...sources].sort()).toEqual(['data', 'disk']);
  });

  it.each([
    ['files, in threads', openFiles],
    ['disks in memory', openMemory],
  ])('are those of a plain model of what is staged, at every size of units, of any part: %s', async (_name, open) => {
    const size = 3 * MIB + 65 * KIB + 511;
    const place = fc.oneof(
      fc.nat(size - 1),
      fc.nat(Math.floor((size - 1) / 4096)).map((block) => block * 4096),
      fc.constantFrom(0, 64 * KIB - 1, 64 * KIB, MIB - 1, MIB, 2 * MIB, 3 * MIB, size - 511, size - 1),
    );
    const length = fc.oneof(
      fc.constantFrom(1, 511, 4096, 64 * KIB, MIB, 2 * MIB),
      fc.integer({ min: 1, max: 300_000 }),
    );
    const step = fc.record({
      where: fc.constantFrom('disk' as const, 'staged' as const, 'staged' as const, 'zero' as const),
      place,
      length,
      fill: fc.nat(3),
    });
    const sources = new Set<string>();
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 10 }),
        fc.constantFrom(size, size, MIB + 4096, 70_000),
        fc.nat(1000),
        fc.nat(1000),
        async (steps, diskSize, first, last) => {
          const { disk, data, pool, close } = await open(diskSize, size);
          try {
            const overlay = new Overlay(data, size);
            // The disk below, and over it what is staged, which stays whatever happens to the disk then.
            const below = Buffer.alloc(size);
            const above = Buffer.alloc(size);
            const covered = new Uint8Array(size);
            for (const one of steps) {
              const end = Math.min(one.place + one.length, one.where === 'disk' ? diskSize : size);
              if (end <= one.place) continue;
              const bytes = Buffer.alloc(end - one.place, one.where === 'zero' ? 0 : one.fill);
              bytes.copy(one.where === 'disk' ? below : above, one.place);
              if (one.where === 'disk') await disk.write(bytes, one.place);
              else covered.fill(1, one.place, end);
              if (one.where === 'zero') await overlay.zero(one.place, bytes.length);
              else if (one.where === 'staged') await overlay.write(one.place, bytes);
            }
            const model = Buffer.from(below);
            for (let at = 0; at < size; at += 1) if (covered[at] === 1) model[at] = above[at]!;
            const view: View = { disk, size, over: { overlay, data, hold: () => () => undefined } };
            for (const unitSize of [4 * KIB, 64 * KIB, MIB]) {
              const count = Math.ceil(size / unitSize);
              const from = (first % count) * unitSize;
              const until = Math.min(size, from + (1 + (last % count)) * unitSize);
              for (const [offset, end] of [
                [0, size],
                [from, until],
              ] as const) {
                const request = { offset, length: end - offset, unitSize, key: KEY };
                const watched = new WatchedPool(pool);
                const found = await scanView(view, watched, systemClock, request, never);
                const wanted = newScanResult(request.length, unitSize);
                digestUnits(model.subarray(offset, end), offset, unitSize, KEY, wanted, 0);
                expect(Buffer.from(found.zero).equals(wanted.zero)).toBe(true);
                expect(Buffer.from(found.digests).equals(wanted.digests)).toBe(true);
                for (const asked of watched.asked) sources.add(asked.disk === disk ? 'disk' : 'data');
              }
            }
          } finally {
            await close();
          }
        },
      ),
      { numRuns: 60 },
    );
    expect([...sources].sort()).toEqual(['data', 'disk']);
  });

  it('read in the pool what lies in one place, in whole pieces, and put together here only what is mixed', async () => {
    const parts = viewed(16 * 64 * KIB);
    await parts.overlay.write(4 * 64 * KIB, Buffer.alloc(4 * 64 * KIB, 1));
    await parts.overlay.zero(8 * 64 * KIB, 4 * 64 * KIB);
    await parts.overlay.write(12 * 64 * KIB + 512, Buffer.alloc(512, 2));
    const pool = new WatchedPool();
    const request = { offset: 0, length: 16 * 64 * KIB, unitSize: 64 * KIB, key: KEY };
    const { zero } = await scanView(parts.view, pool, new ManualClock(), request, never);
    const asked = pool.asked.map(({ disk, request: { offset, length } }) => [
      disk === parts.disk ? 'disk' : 'data',
      offset / (64 * KIB),
      length / (64 * KIB),
    ]);
    expect(asked).toEqual([
      ['disk', 0, 4],
      ['data', 4, 4],
      ['disk', 13, 3],
    ]);
    expect([...zero]).toEqual([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1]);
  });

  it('let others run every 4 MiB of what is mixed, and stop when nobody waits any more', async () => {
    const parts = viewed(12 * MIB);
    for (let at = 0; at < 12 * MIB; at += MIB) await parts.overlay.write(at + 5, Buffer.alloc(1, 1));
    const clock = new ManualClock();
    const request = { offset: 0, length: 12 * MIB, unitSize: MIB, key: KEY };
    let done = false;
    let asked = 0;
    const scanning = scanView(parts.view, inlineScanPool(), clock, request, () => {
      asked += 1;
      return asked > 6;
    }).then(() => {
      done = true;
    });
    for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
    // Four units, then it waits for its turn.
    expect([asked, done]).toEqual([4, false]);
    clock.advance(0);
    await scanning;
    expect([asked, parts.held]).toEqual([7, 0]);
  });

  it('fail as the disk does, once everything under way has settled, and let go of the files', async () => {
    for (const broken of ['disk', 'data'] as const) {
      const parts = viewed(3 * 64 * KIB);
      await parts.overlay.write(64 * KIB, Buffer.alloc(64 * KIB, 1));
      await parts.overlay.write(2 * 64 * KIB, Buffer.alloc(1, 1));
      let settle = (): void => undefined;
      const slow = new Promise<void>((resolve) => {
        settle = resolve;
      });
      parts[broken].hook = (call) =>
        call === 'read' ? Promise.reject(new Failure('io-error', 'injected')) : undefined;
      const other = broken === 'disk' ? parts.data : parts.disk;
      other.hook = (call) => (call === 'read' ? slow : undefined);
      await parts.disk.write(Buffer.alloc(1, 1), 0);
      const request = { offset: 0, length: 3 * 64 * KIB, unitSize: 64 * KIB, key: KEY };
      let failed: unknown;
      const scanning = scanView(parts.view, inlineScanPool(), new ManualClock(), request, never).catch(
        (error: unknown) => {
          failed = error;
        },
      );
      for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
      // A failure that nobody has asked for yet does not count as one that nobody will: that would end the process.
      await new Promise((resolve) => setImmediate(resolve));
      expect([failed, parts.held]).toEqual([undefined, 1]);
      settle();
      await scanning;
      expect(failed).toMatchObject({ code: 'io-error' });
      expect(parts.held).toBe(0);
    }
  });
});
