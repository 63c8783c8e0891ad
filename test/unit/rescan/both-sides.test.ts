/** Passes between two disks of odd lengths, and between real files whose bytes change while threads read them. */
import fs from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import type { Disk } from '../../../src/io/disk.ts';
import { nodeFileSystem as files } from '../../../src/io/node-file-system.ts';
import { nodeScanPool } from '../../../src/io/node-scan-pool.ts';
import type { ScanPool } from '../../../src/io/scan-pool.ts';
import { type Range, runPass, type SourcePorts } from '../../../src/rescan/source.ts';
import { Marks } from '../../../src/store/marks.ts';
import { inlineScanPool } from '../../support/inline-scan-pool.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const KEY = Buffer.from('0123456789abcdef');
const SIZES = [1, 511, 4095, 4096, 4097, 65_535, 65_537, MIB - 1, MIB, MIB + 1, 2 * MIB + 4097, 3 * MIB - 511] as const;

function portsOf(scan: ScanPool, local: Disk, remote: Disk, marks: Marks, differing: SourcePorts['differing']) {
  const scanOf = (disk: Disk) => (offset: number, length: number, unitSize: number) =>
    scan.scan(disk, { offset, length, unitSize, key: KEY });
  return {
    next: (offset, lengthMax) => marks.nextMarked(offset, lengthMax),
    seekData: (offset) => local.seekData(offset),
    scanLocal: scanOf(local),
    scanRemote: scanOf(remote),
    reached: () => undefined,
    differing,
    unreadable: () => expect.unreachable('a disk that can be read'),
    compared: () => undefined,
    seeding: false,
    pace: async () => undefined,
    stride: () => ({ batchSize: 32 * MIB, batches: 3 }),
    ended: () => false,
  } satisfies SourcePorts;
}

async function contentOf(disk: Disk): Promise<Buffer> {
  const content = Buffer.alloc(disk.size);
  await disk.read(content, 0);
  return content;
}

interface Patch {
  readonly at: number;
  readonly length: number;
  readonly fill: number;
}

/** Places as shares of the disk, its last byte among them; few, so that most of the disk is a hole on both sides. */
const patches = fc.array(
  fc.record({
    at: fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.constantFrom(0, 1)),
    length: fc.constantFrom(1, 512, 4096, 5000, 64 * KIB),
    fill: fc.nat(2),
  }),
  { maxLength: 4 },
);

async function put(disk: Disk, { at, length, fill }: Patch): Promise<void> {
  const offset = Math.floor(at * (disk.size - 1));
  await disk.write(Buffer.alloc(Math.min(length, disk.size - offset), fill), offset);
}

const WORLDS: readonly [string, (size: number) => Promise<Disk>, () => ScanPool][] = [
  ['files, in threads', (size) => files.openDisk(join(temporaryFolder(), 'disk'), { createSize: size }), nodeScanPool],
  ['disks in memory', async (size) => new MemoryDisk(size), inlineScanPool],
];

describe.each(WORLDS)('a pass between two %s', (_name, makeDisk, makePool) => {
  it('names all that differs and little else, whatever the length of the disk', async () => {
    const pool = makePool();
    onTestFinished(() => pool.close());
    for (const size of SIZES) {
      const marks = new Marks(size);
      marks.markAll();
      await fc.assert(
        fc.asyncProperty(patches, patches, patches, async (both, here, there) => {
          const [local, remote] = [await makeDisk(size), await makeDisk(size)];
          try {
            for (const patch of both) for (const disk of [local, remote]) await put(disk, patch);
            for (const patch of here) await put(local, patch);
            for (const patch of there) await put(remote, patch);
            const before = [await contentOf(local), await contentOf(remote)] as const;
            const named: Range[] = [];
            await runPass(
              portsOf(pool, local, remote, marks, async (range) => {
                named.push(range);
                const data = Buffer.alloc(range.length);
                await local.read(data, range.offset);
                await remote.write(data, range.offset);
              }),
            );
            expect((await contentOf(remote)).equals(before[0])).toBe(true);
            expect((await contentOf(local)).equals(before[0])).toBe(true);
            expect(named.every(({ offset, length }) => length > 0 && offset + length <= size)).toBe(true);
            // Nothing is named without a difference in it.
            for (const { offset, length } of named) {
              const [mine, its] = before.map((content) => content.subarray(offset, offset + length)) as [
                Buffer,
                Buffer,
              ];
              expect(mine.equals(its)).toBe(false);
            }
          } finally {
            await local.close();
            await remote.close();
          }
        }),
        { numRuns: 10 },
      );
    }
  });
});

describe('a pass between files while clients write', () => {
  /** What travels to the mirror, in order. */
  type Sent = { readonly offset: number; readonly data: Buffer } | 'pass';

  it('ends with equal files, whenever threads read which bytes on which side', async () => {
    const size = 6 * MIB + 1536;
    const pool = nodeScanPool({ threads: 2 });
    onTestFinished(() => pool.close());
    const seen = { writes: 0, repairs: 0, duringPass: 0 };
    await fc.assert(
      fc.asyncProperty(patches, patches, fc.nat(2 ** 31), async (here, there, seed) => {
        const folder = temporaryFolder();
        const local = await files.openDisk(join(folder, 'local'), { createSize: size });
        const remote = await files.openDisk(join(folder, 'remote'), { createSize: size });
        for (const patch of here) await put(local, patch);
        for (const patch of there) await put(remote, patch);
        const marks = new Marks(size);
        marks.markAll();
        let state = seed;
        const random = (limit: number): number => {
          state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
          return Math.floor((state / 2 ** 32) * limit);
        };
        const stream: Sent[] = [];
        let passReached = false;
        /** Takes effect and joins the stream in one go, as under the range lock. Few places, so that bytes come back to what they were. */
        const clientWrites = (): void => {
          const length = [512, 4096, 40_960, 200_000][random(4)]!;
          const offset = Math.min(random(12) * 530_000, size - length);
          const data = Buffer.alloc(length, random(3));
          fs.writeSync(local.descriptor!, data, 0, length, offset);
          stream.push({ offset, data });
          seen.writes += 1;
        };
        const mirrorApplies = (): void => {
          const next = stream.shift();
          if (next === 'pass') passReached = true;
          else if (next !== undefined) fs.writeSync(remote.descriptor!, next.data, 0, next.data.length, next.offset);
        };
        let over = false;
        const world = (async () => {
          while (!over) {
            for (let count = random(4); count > 0; count -= 1) clientWrites();
            for (let count = random(5); count > 0; count -= 1) mirrorApplies();
            seen.duringPass += passReached ? 1 : 0;
            await new Promise((resolve) => setImmediate(resolve));
          }
        })();
        stream.push('pass');
        const ports = portsOf(pool, local, remote, marks, async ({ offset, length }) => {
          const data = Buffer.alloc(length);
          fs.readSync(local.descriptor!, data, 0, length, offset);
          stream.push({ offset, data });
          seen.repairs += 1;
        });
        await runPass({
          ...ports,
          async scanRemote(...question) {
            while (!passReached) await new Promise((resolve) => setImmediate(resolve));
            return ports.scanRemote(...question);
          },
        });
        over = true;
        await world;
        while (stream.length > 0) mirrorApplies();
        const same = (await contentOf(local)).equals(await contentOf(remote));
        await local.close();
        await remote.close();
        expect(same).toBe(true);
      }),
      { numRuns: 25 },
    );
    expect(seen.writes).toBeGreaterThan(100);
    expect(seen.duringPass).toBeGreaterThan(25);
    expect(seen.repairs).toBeGreaterThan(10);
  });
});
