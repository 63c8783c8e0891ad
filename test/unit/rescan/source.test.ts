import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { alignDown, GIB, KIB, MIB } from '../../../src/base/units.ts';
import { digestUnits } from '../../../src/io/digest.ts';
import type { ScanResult } from '../../../src/io/scan-pool.ts';
import { newScanResult } from '../../../src/io/scan-request.ts';
import type { DigestUnit } from '../../../src/link/digests.ts';
import { runsOfZeroes } from '../../../src/primary/runs-of-zeroes.ts';
import { type DifferingRange, type Range, runPass, type SourcePorts } from '../../../src/rescan/source.ts';
import { Marks } from '../../../src/store/marks.ts';
import { inlineScanPool } from '../../support/inline-scan-pool.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';

const KEY = Buffer.from('0123456789abcdef');
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A piece of disk content: data of one byte repeated, or zeroes that are written (no hole). */
interface Patch {
  readonly offset: number;
  readonly length: number;
  readonly fill: number;
}

function patches(size: number, maxLength: number): fc.Arbitrary<Patch[]> {
  const offset = fc.oneof(
    fc.nat(size - 1),
    fc.nat(Math.floor((size - 1) / 4096)).map((block) => block * 4096),
    fc.constant(size - 1),
    fc.constant(Math.floor((size - 1) / 4096) * 4096),
  );
  const length = fc.oneof(fc.constantFrom(1, 4096, 8192, 64 * KIB), fc.integer({ min: 1, max: 200_000 }));
  return fc.array(
    fc
      .record({ offset, length, fill: fc.nat(2) })
      .map((patch) => ({ ...patch, length: Math.min(patch.length, size - patch.offset) })),
    { maxLength },
  );
}

function diskWith(size: number, content: readonly Patch[]): MemoryDisk {
  const disk = new MemoryDisk(size);
  for (const patch of content) void disk.write(Buffer.alloc(patch.length, patch.fill), patch.offset);
  return disk;
}

/** Ports of a pass between two disks in memory; what differs is copied at once. Tests override what they are about. */
function portsBetween(
  local: MemoryDisk,
  remote: MemoryDisk,
  marks: Marks,
  more: Partial<SourcePorts> = {},
): SourcePorts {
  const scan = inlineScanPool();
  return {
    next: (offset, lengthMax) => marks.nextMarked(offset, lengthMax),
    seekData: (offset) => local.seekData(offset),
    scanLocal: (offset, length, unitSize) => scan.scan(local, { offset, length, unitSize, key: KEY }),
    scanRemote: (offset, length, unitSize) => scan.scan(remote, { offset, length, unitSize, key: KEY }),
    reached: () => undefined,
    differing: async (range) => copy(local, remote, range),
    unreadable: () => undefined,
    compared: () => undefined,
    seeding: false,
    pace: async () => undefined,
    stride: () => ({ batchSize: 32 * MIB, batches: 3 }),
    ended: () => false,
    ...more,
  };
}

function copy(from: MemoryDisk, to: MemoryDisk, range: Range): void {
  const data = Buffer.alloc(range.length);
  void from.read(data, range.offset);
  void to.write(data, range.offset);
}

/** Neighbours made one. */
function joined(ranges: readonly Range[]): Range[] {
  const result: { offset: number; length: number }[] = [];
  for (const { offset, length } of ranges) {
    const last = result.at(-1);
    if (last !== undefined && last.offset + last.length === offset) last.length += length;
    else result.push({ offset, length });
  }
  return result;
}

/** Ranges of the scope, in order. */
function scopeOf(marks: Marks): Range[] {
  const ranges: Range[] = [];
  for (let at = 0; ; ) {
    const range = marks.nextMarked(at, GIB);
    if (range === undefined) return joined(ranges);
    ranges.push(range);
    at = range.offset + range.length;
  }
}

/** `base` with the ranges taken from `other`. */
function spliced(base: Buffer, other: Buffer, ranges: readonly Range[]): Buffer {
  const result = Buffer.from(base);
  for (const { offset, length } of ranges) other.copy(result, offset, offset, offset + length);
  return result;
}

function firstDifference(a: Buffer, b: Buffer): number | undefined {
  return a.equals(b) ? undefined : a.findIndex((byte, index) => byte !== b[index]);
}

const SIZE = 5 * MIB + 1536;
const regions = fc.uniqueArray(fc.nat(5), { minLength: 1, maxLength: 6 });

function marksOf(size: number, marked: readonly number[]): Marks {
  const marks = new Marks(size);
  for (const region of marked) marks.mark(region * MIB, 1);
  return marks;
}

describe('a pass over two quiet disks', () => {
  it('makes them equal on the scope and touches nothing else', async () => {
    await fc.assert(
      fc.asyncProperty(
        patches(SIZE, 6),
        patches(SIZE, 3),
        patches(SIZE, 3),
        regions,
        fc.record({ seeding: fc.boolean(), narrow: fc.boolean() }),
        async (both, here, there, marked, { seeding, narrow }) => {
          const local = diskWith(SIZE, [...both, ...here]);
          const remote = diskWith(SIZE, [...both, ...there]);
          const marks = marksOf(SIZE, marked);
          const expected = spliced(remote.content(), local.content(), scopeOf(marks));
          const differing: Range[] = [];
          const compared: Range[] = [];
          const reached: number[] = [];
          await runPass(
            portsBetween(local, remote, marks, {
              seeding,
              stride: () => (narrow ? { batchSize: MIB, batches: 1 } : { batchSize: 32 * MIB, batches: 3 }),
              reached: (end) => reached.push(end),
              compared: (range) => compared.push(range),
              async differing(range) {
                differing.push(range);
                copy(local, remote, range);
              },
            }),
          );
          expect(firstDifference(remote.content(), expected)).toBeUndefined();
          // Everything is compared once, in order; what differs is told in order, in whole blocks of the disk.
          expect(joined(compared)).toEqual(scopeOf(marks));
          expect(reached).toEqual([...reached].sort((a, b) => a - b));
          const ends = differing.map(({ offset, length }) => offset + length);
          expect(differing.every(({ offset }, index) => offset % 4096 === 0 && offset >= (ends[index - 1] ?? 0))).toBe(
            true,
          );
          expect(ends.every((end) => end % 4096 === 0 || end === SIZE)).toBe(true);
        },
      ),
      { numRuns: 80 },
    );
  });

  it('finds a single byte, wherever it is: in zeroes, in data, on either side', async () => {
    const place = fc.oneof(
      fc.nat(SIZE - 1),
      fc.constantFrom(0, 4095, 4096, MIB - 1, SIZE - 1, SIZE - 1536, SIZE - 1537),
    );
    await fc.assert(
      fc.asyncProperty(place, fc.constantFrom(0, 9), fc.boolean(), fc.boolean(), async (at, fill, swap, hole) => {
        const plain = hole && fill === 0 ? new MemoryDisk(SIZE) : diskWith(SIZE, [{ offset: 0, length: SIZE, fill }]);
        const marked = diskWith(SIZE, [
          { offset: 0, length: SIZE, fill },
          { offset: at, length: 1, fill: 1 },
        ]);
        const [local, remote] = swap ? [plain, marked] : [marked, plain];
        const differing: Range[] = [];
        await runPass(
          portsBetween(local, remote, marksOf(SIZE, [0, 1, 2, 3, 4, 5]), {
            async differing(range) {
              differing.push(range);
            },
          }),
        );
        expect(differing.length).toBe(1);
        const [{ offset, length }] = differing as [Range];
        expect(offset <= at && at < offset + length).toBe(true);
        // Between two sides that hold data the difference is one block; where one holds only zeroes, its unit of 1 MiB.
        expect(length).toBeLessThanOrEqual(fill === 0 ? MIB : 4096);
        expect(differing[0]).toHaveProperty('remoteZero', fill === 0 && !swap);
      }),
      { numRuns: 60 },
    );
  });

  it('reads nothing here but what is sent, where it fills an empty mirror', async () => {
    const local = diskWith(SIZE, [
      { offset: 5000, length: 10, fill: 1 },
      { offset: 3 * MIB - 1, length: 2, fill: 1 },
    ]);
    const differing: DifferingRange[] = [];
    await runPass(
      portsBetween(local, new MemoryDisk(SIZE), marksOf(SIZE, [0, 1, 2, 3, 4, 5]), {
        seeding: true,
        scanLocal: () => Promise.reject(new Error('read')),
        async differing(range) {
          differing.push(range);
        },
      }),
    );
    expect(differing).toEqual([
      { offset: 0, length: MIB, remoteZero: true },
      { offset: 2 * MIB, length: 2 * MIB, remoteZero: true },
    ]);
  });

  it('takes equal disks for equal, holes against written zeroes too', async () => {
    const content = [{ offset: 70_000, length: 300_000, fill: 3 }];
    const local = diskWith(SIZE, content);
    const remote = diskWith(SIZE, [{ offset: 0, length: SIZE, fill: 0 }, ...content]);
    const differing: Range[] = [];
    await runPass(
      portsBetween(local, remote, marksOf(SIZE, [0, 1, 2, 3, 4, 5]), {
        async differing(range) {
          differing.push(range);
        },
      }),
    );
    expect(differing).toEqual([]);
  });

  it('goes over several batches and long holes, and settles a hole with few questions', async () => {
    const size = 100 * MIB + 512;
    const local = diskWith(size, [
      { offset: 66 * MIB + 5, length: 100, fill: 1 },
      { offset: size - 1, length: 1, fill: 1 },
    ]);
    const remote = diskWith(size, [
      { offset: 10 * MIB, length: 5 * MIB, fill: 2 },
      { offset: 80 * MIB - 1, length: 2, fill: 2 },
    ]);
    const marks = new Marks(size);
    marks.markAll();
    const asked: Range[] = [];
    const ports = portsBetween(local, remote, marks);
    await runPass({
      ...ports,
      scanRemote(offset, length, unit) {
        if (unit === MIB) asked.push({ offset, length });
        return ports.scanRemote(offset, length, unit);
      },
    });
    expect(firstDifference(remote.content(), local.content())).toBeUndefined();
    // Up to the data in one go, whole megabytes; then batches of 32 MiB.
    expect(asked).toEqual([
      { offset: 0, length: 66 * MIB },
      { offset: 66 * MIB, length: 32 * MIB },
      { offset: 98 * MIB, length: size - 98 * MIB },
    ]);
  });

  it('asks for the coarsest digests of a hole, however much of the one before differed', async () => {
    const size = 3 * GIB;
    const units = new Set<number>();
    const differing: Range[] = [];
    const answer = (length: number, unit: number, zero: 0 | 1): ScanResult => {
      const result = newScanResult(length, unit);
      result.zero.fill(zero);
      return result;
    };
    await runPass({
      ...portsBetween(new MemoryDisk(MIB), new MemoryDisk(MIB), new Marks(MIB)),
      next: (offset, lengthMax) =>
        offset >= size ? undefined : { offset, length: Math.min(lengthMax, size - offset) },
      seekData: () => size,
      stride: () => ({ batchSize: 32 * MIB, batches: 1 }),
      scanLocal: async (_offset, length, unit) => answer(length, unit, 1),
      scanRemote: async (_offset, length, unit) => {
        units.add(unit);
        return answer(length, unit, 0);
      },
      differing: async ({ offset, length }) => {
        differing.push({ offset, length });
      },
    });
    expect(joined(differing)).toEqual([{ offset: 0, length: size }]);
    expect([...units]).toEqual([MIB]);
  });

  it('asks no more than the mirror answers, for a disk that is one hole', async () => {
    const size = 50 * GIB + 512;
    const marks = new Marks(size);
    marks.markAll();
    const zero = async (_offset: number, length: number, unit: DigestUnit): Promise<ScanResult> => {
      const result = newScanResult(length, unit);
      result.zero.fill(1);
      return result;
    };
    const asked: Range[] = [];
    let open = 0;
    let openMax = 0;
    let compared = 0;
    await runPass({
      ...portsBetween(new MemoryDisk(1), new MemoryDisk(1), marks),
      seekData: () => size,
      scanLocal: zero,
      async scanRemote(offset, length, unit) {
        asked.push({ offset, length });
        open += 1;
        openMax = Math.max(openMax, open);
        await turn();
        open -= 1;
        return zero(offset, length, unit);
      },
      compared: (range) => {
        compared += range.length;
      },
    });
    expect(compared).toBe(size);
    expect(asked.length).toBe(51);
    expect(Math.max(...asked.map(({ length }) => length))).toBe(GIB);
    expect(openMax).toBe(32);
  });

  it('has as much data under way as batches full of it have, in however many they lie', async () => {
    // 1 MiB of data in every 64.
    const size = 64 * 256 * MIB;
    const marks = new Marks(size);
    marks.markAll();
    let open = 0;
    let openMax = 0;
    const read: Range[] = [];
    const paced: number[] = [];
    const run = async (strideSize: number): Promise<void> => {
      openMax = 0;
      read.length = 0;
      paced.length = 0;
      await runPass({
        ...portsBetween(new MemoryDisk(1), new MemoryDisk(1), marks),
        seekData: (offset) => {
          const piece = alignDown(offset, 64 * MIB);
          return offset < piece + MIB ? offset : piece + 64 * MIB;
        },
        scanLocal: async (offset, length, unit) => {
          if (offset % (64 * MIB) === 0) read.push({ offset, length });
          return newScanResult(length, unit);
        },
        async scanRemote(offset, length, unit) {
          const isData = offset % (64 * MIB) === 0;
          if (isData) open += 1;
          openMax = Math.max(openMax, open);
          await turn();
          if (isData) open -= 1;
          return newScanResult(length, unit);
        },
        pace: async (readSize) => void paced.push(readSize),
        stride: () => ({ batchSize: strideSize, batches: 3 }),
      });
      expect(read.length).toBe(256);
      expect(paced.reduce((sum, part) => sum + part, 0)).toBe(256 * MIB);
    };
    await run(32 * MIB);
    expect(openMax).toBeGreaterThan(10);
    await run(2 * MIB);
    expect(openMax).toBe(6);
  });
});

/** Numbers in [0, limit), the same for the same seed. */
function generator(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** Client writes, a stream that carries them to the mirror in order and late, and the pass, all interleaved. */
class BusyPair {
  readonly local: MemoryDisk;
  readonly remote: MemoryDisk;
  readonly #random: (limit: number) => number;
  readonly #stream: (Patch | 'pass' | { readonly offset: number; readonly data: Buffer })[] = [];
  #passReached = false;
  writes = 0;
  repairs = 0;

  constructor(local: MemoryDisk, remote: MemoryDisk, seed: number) {
    this.local = local;
    this.remote = remote;
    this.#random = generator(seed);
  }

  /** What may happen between any two steps of the pass. */
  tick(): void {
    while (this.#random(3) === 0) this.clientWrites();
    for (let count = this.#random(4); count > 0; count -= 1) this.mirrorApplies();
  }

  /** Few places and few values, so that a byte often comes back to what it was. */
  clientWrites(): void {
    const block = this.#random(24);
    const offset = (block < 12 ? block : 12 * 21 + block) * 20_480;
    if (offset >= this.local.size) return;
    const length = Math.min([4096, 512, 40_960, 100_000][this.#random(4)]!, this.local.size - offset);
    const patch = { offset, length, fill: this.#random(3) };
    void this.local.write(Buffer.alloc(length, patch.fill), offset);
    this.#stream.push(patch);
    this.writes += 1;
  }

  mirrorApplies(): void {
    const next = this.#stream.shift();
    if (next === undefined) return;
    if (next === 'pass') this.#passReached = true;
    else if ('data' in next) void this.remote.write(next.data, next.offset);
    else void this.remote.write(Buffer.alloc(next.length, next.fill), next.offset);
  }

  beginPass(): void {
    this.#stream.push('pass');
  }

  /** As the rescan does it, with the same shortcut for zeroes. */
  repair(range: DifferingRange): void {
    const data = Buffer.alloc(range.length);
    void this.local.read(data, range.offset);
    for (const run of runsOfZeroes(data, range.offset)) {
      if (run.zero && range.remoteZero) continue;
      this.#stream.push({ offset: range.offset + run.from, data: data.subarray(run.from, run.to) });
      this.repairs += 1;
    }
  }

  /** Repairs of an earlier pass that are still on their way, of blocks that have been written since, unstreamed. */
  staleRepairs(): void {
    for (let count = this.#random(4); count > 0; count -= 1) {
      this.#stream.push({ offset: this.#random(24) * 20_480, length: 40_960, fill: this.#random(3) });
    }
  }

  drain(): void {
    while (this.#stream.length > 0) this.mirrorApplies();
  }

  async untilPass(): Promise<void> {
    while (!this.#passReached) {
      this.tick();
      this.mirrorApplies();
      await Promise.resolve();
    }
  }

  /** Digests of a range, with the world going on between any two halves of a unit: reads are torn. */
  async scan(disk: MemoryDisk, offset: number, length: number, unit: DigestUnit): Promise<ScanResult> {
    const result = newScanResult(length, unit);
    for (let at = 0; at < length; at += unit) {
      const content = Buffer.alloc(Math.min(unit, length - at));
      const half = content.length >>> 1;
      void disk.read(content.subarray(0, half), offset + at);
      this.tick();
      void disk.read(content.subarray(half), offset + at + half);
      digestUnits(content, offset + at, unit, KEY, result, at / unit);
      if (this.#random(2) === 0) await Promise.resolve();
    }
    return result;
  }
}

describe('a pass while clients write and the stream lags', () => {
  it('ends with equal disks, wherever writes fall between the reads of the two sides', async () => {
    const seen = { writes: 0, repairs: 0 };
    await fc.assert(
      fc.asyncProperty(
        patches(SIZE, 4),
        patches(SIZE, 4),
        fc.nat(2 ** 31),
        fc.boolean(),
        async (here, there, seed, seeding) => {
          const pair = new BusyPair(diskWith(SIZE, here), diskWith(SIZE, there), seed);
          for (let count = 0; count < 5; count += 1) pair.clientWrites();
          pair.staleRepairs();
          pair.beginPass();
          const marks = marksOf(SIZE, [0, 1, 2, 3, 4, 5]);
          await runPass({
            next: (offset, lengthMax) => marks.nextMarked(offset, lengthMax),
            seekData: (offset) => pair.local.seekData(offset),
            scanLocal: (offset, length, unit) => pair.scan(pair.local, offset, length, unit),
            async scanRemote(offset, length, unit) {
              await pair.untilPass();
              return pair.scan(pair.remote, offset, length, unit);
            },
            reached: () => undefined,
            async differing(range) {
              pair.tick();
              pair.repair(range);
              pair.tick();
            },
            unreadable: () => undefined,
            compared: () => pair.tick(),
            seeding,
            pace: async () => undefined,
            stride: () => ({ batchSize: 32 * MIB, batches: 3 }),
            ended: () => false,
          });
          pair.drain();
          seen.writes += pair.writes;
          seen.repairs += pair.repairs;
          expect(firstDifference(pair.remote.content(), pair.local.content())).toBeUndefined();
        },
      ),
      { numRuns: 150 },
    );
    expect(seen.writes).toBeGreaterThan(1000);
    expect(seen.repairs).toBeGreaterThan(100);
  });
});

describe('a pass that meets trouble', () => {
  function withBadBlocks(disk: MemoryDisk, bad: readonly number[]): MemoryDisk {
    disk.hook = (call, offset, length) => {
      if (call === 'read' && bad.some((at) => at < offset + length && at + 4096 > offset)) {
        throw new Failure('io-error', 'a bad block');
      }
    };
    return disk;
  }

  it('names unreadable blocks and repairs all their neighbours', async () => {
    const blocks = fc.uniqueArray(fc.nat(Math.floor((SIZE - 1) / 4096)), { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(blocks, patches(SIZE, 4), patches(SIZE, 3), async (bad, here, there) => {
        const offsets = bad.map((block) => block * 4096);
        // The bad blocks are data, or nobody would read them.
        const filled = offsets.map((offset) => ({ offset, length: Math.min(4096, SIZE - offset), fill: 7 }));
        const local = diskWith(SIZE, [...here, ...filled]);
        const remote = diskWith(SIZE, there);
        const unreadable = offsets.map((offset) => ({ offset, length: Math.min(4096, SIZE - offset) }));
        const expected = spliced(local.content(), remote.content(), unreadable);
        withBadBlocks(local, offsets);
        const told: Range[] = [];
        const scan = inlineScanPool();
        await runPass(
          portsBetween(local, remote, marksOf(SIZE, [0, 1, 2, 3, 4, 5]), {
            unreadable: (range) => told.push(range),
            async differing(range) {
              // As the rescan does it: what cannot be read is left out.
              for (let at = range.offset; at < range.offset + range.length; at += 4096) {
                const length = Math.min(4096, range.offset + range.length - at);
                if (!offsets.includes(at)) copy(local, remote, { offset: at, length });
              }
            },
            scanRemote: (offset, length, unitSize) => scan.scan(remote, { offset, length, unitSize, key: KEY }),
          }),
        );
        expect(firstDifference(remote.content(), expected)).toBeUndefined();
        expect(joined(told.sort((a, b) => a.offset - b.offset))).toEqual(
          joined(unreadable.sort((a, b) => a.offset - b.offset)),
        );
      }),
      { numRuns: 40 },
    );
  });

  it('rejects when the mirror gives no digest, after everything in flight has settled', async () => {
    const local = diskWith(SIZE, [{ offset: 0, length: SIZE, fill: 1 }]);
    let inFlight = 0;
    const compared: Range[] = [];
    const pass = runPass(
      portsBetween(local, new MemoryDisk(SIZE), marksOf(SIZE, [0, 2, 4]), {
        async scanRemote(offset, length, unit) {
          inFlight += 1;
          await turn();
          if (offset !== 0) await turn();
          inFlight -= 1;
          if (offset === 2 * MIB) throw new Failure('connection-lost', 'gone');
          const result = newScanResult(length, unit);
          result.zero.fill(1);
          return result;
        },
        compared: (range) => compared.push(range),
      }),
    );
    await expect(pass).rejects.toEqual(expect.objectContaining({ code: 'connection-lost' }));
    expect(inFlight).toBe(0);
    expect(compared).toEqual([{ offset: 0, length: MIB }]);
  });

  it('rejects when the local disk fails otherwise than by a bad block, and when a repair fails', async () => {
    const local = diskWith(SIZE, [{ offset: 0, length: SIZE, fill: 1 }]);
    const marks = marksOf(SIZE, [0]);
    const remote = new MemoryDisk(SIZE);
    await expect(
      runPass(
        portsBetween(local, remote, marks, {
          scanLocal: () => Promise.reject(new Failure('shutting-down', 'closing')),
        }),
      ),
    ).rejects.toEqual(expect.objectContaining({ code: 'shutting-down' }));
    await expect(
      runPass(portsBetween(local, remote, marks, { differing: () => Promise.reject(new Failure('no-space', 'full')) })),
    ).rejects.toEqual(expect.objectContaining({ code: 'no-space' }));
  });

  it('stops with connection-lost before it repairs anything once the session has ended', async () => {
    const local = diskWith(SIZE, [{ offset: 0, length: SIZE, fill: 1 }]);
    const differing: Range[] = [];
    const pass = runPass(
      portsBetween(local, new MemoryDisk(SIZE), marksOf(SIZE, [0]), {
        ended: () => true,
        async differing(range) {
          differing.push(range);
        },
      }),
    );
    await expect(pass).rejects.toEqual(expect.objectContaining({ code: 'connection-lost' }));
    expect(differing).toEqual([]);
  });
});
