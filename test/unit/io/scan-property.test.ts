/** Scans against the plain way to do the same, for sizes and places at which it is easy to be wrong. */
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import { digestOf, digestUnits, isZero } from '../../../src/io/digest.ts';
import type { Disk } from '../../../src/io/disk.ts';
import { nodeFileSystem as files } from '../../../src/io/node-file-system.ts';
import { nodeScanPool } from '../../../src/io/node-scan-pool.ts';
import type { ScanPool, ScanRequest, ScanResult } from '../../../src/io/scan-pool.ts';
import { newScanResult } from '../../../src/io/scan-request.ts';
import { inlineScanPool } from '../../support/inline-scan-pool.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const KEY = Buffer.from('0123456789abcdef');
const UNITS = [4 * KIB, 64 * KIB, MIB] as const;
const STEP = 64 * KIB;
/** Disks that end inside of a unit, or right beside the edge of one; those that are less than a unit. */
const SIZES = [
  1,
  511,
  4095,
  4096,
  4097,
  65_535,
  65_537,
  MIB - 1,
  MIB,
  MIB + 1,
  2 * MIB + 4097,
  4 * MIB + 1,
  5 * MIB - 511,
] as const;

/** What a scan must say of this content. */
function plainScan(content: Buffer, { offset, length, unitSize, key }: ScanRequest): ScanResult {
  const result = newScanResult(length, unitSize);
  for (let at = offset, unit = 0; at < offset + length; at += unitSize, unit += 1) {
    const data = content.subarray(at, Math.min(at + unitSize, offset + length));
    if (data.equals(Buffer.alloc(data.length))) result.zero[unit] = 1;
    else result.digests.set(digestOf(data, key, at, unitSize), unit * 16);
  }
  return result;
}

function differenceOf(found: ScanResult, wanted: ScanResult): string | undefined {
  for (let unit = 0; unit < wanted.zero.length; unit += 1) {
    if (found.zero[unit] !== wanted.zero[unit]) return `unit ${unit}: zero ${found.zero[unit]}`;
    const digest = (result: ScanResult) => Buffer.from(result.digests.subarray(unit * 16, unit * 16 + 16));
    if (!digest(found).equals(digest(wanted))) return `unit ${unit}: digest`;
  }
  return found.zero.length === wanted.zero.length ? undefined : 'another number of units';
}

describe('a unit of zeroes with one byte that is not', () => {
  /** Whether the unit is told from one of zeroes, and by a digest of its own, with its byte at that place. */
  function isFound(unit: Buffer, at: number, value: number): boolean {
    unit[at] = value;
    const result = newScanResult(unit.length, unit.length);
    digestUnits(unit, 0, unit.length, KEY, result, 0);
    const found = !isZero(unit) && result.zero[0] === 0 && !result.digests.every((byte) => byte === 0);
    unit[at] = 0;
    return found;
  }

  it('is not zero at any place of 4 KiB', () => {
    const unit = Buffer.alloc(4 * KIB);
    const missed = Array.from({ length: unit.length }, (_, at) => at).filter((at) => !isFound(unit, at, 1));
    expect(missed).toEqual([]);
    expect(isZero(unit)).toBe(true);
  });

  it('is not zero at the edges of any step of 64 KiB, nor at any other place of 64 KiB and 1 MiB', () => {
    for (const unitSize of [64 * KIB, MIB]) {
      const unit = Buffer.alloc(unitSize);
      const edges = Array.from({ length: unitSize / STEP + 1 }, (_, step) => step * STEP).flatMap((edge) =>
        [-4096, -9, -8, -2, -1, 0, 1, 7, 8, 4096].map((shift) => edge + shift),
      );
      const inside = edges.filter((at) => at >= 0 && at < unitSize);
      expect(inside.filter((at) => !isFound(unit, at, 0x80))).toEqual([]);
      fc.assert(
        fc.property(fc.nat(unitSize - 1), fc.integer({ min: 1, max: 255 }), (at, value) => isFound(unit, at, value)),
        { numRuns: 300 },
      );
    }
  });

  it('is not zero in a unit that is short, or lies at an odd place of the memory', () => {
    const memory = Buffer.alloc(STEP * 2 + 64);
    const length = fc.oneof(fc.integer({ min: 1, max: 64 }), fc.integer({ min: STEP - 8, max: STEP * 2 }));
    fc.assert(
      fc.property(
        fc.nat(63),
        length,
        fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
        (shift, size, at) => {
          const unit = memory.subarray(shift, shift + size);
          // What lies beside it is none of its business.
          memory.fill(0xff);
          unit.fill(0);
          expect(isZero(unit)).toBe(true);
          unit[Math.floor(at * size)] = 1;
          expect(isZero(unit)).toBe(false);
        },
      ),
    );
  });
});

/** Something on a disk: data, or zeroes that are written, or a hole that is punched. */
interface Patch {
  readonly kind: 'data' | 'zeroes' | 'hole';
  readonly offset: number;
  readonly length: number;
  readonly fill: number;
}

function patchesOf(size: number): fc.Arbitrary<Patch[]> {
  const edges = fc
    .constantFrom(0, 4096, 4097, 65_535, 65_536, MIB - 1, MIB, size - 1)
    .map((at) => Math.min(at, size - 1));
  const offset = fc.oneof(fc.nat(size - 1), edges);
  const length = fc.oneof(fc.constantFrom(1, 4096, 64 * KIB, MIB), fc.integer({ min: 1, max: 3 * MIB }));
  const kind = fc.constantFrom('data' as const, 'data' as const, 'zeroes' as const, 'hole' as const);
  return fc.array(
    fc
      .record({ kind, offset, length, fill: fc.integer({ min: 1, max: 255 }) })
      .map((patch) => ({ ...patch, length: Math.min(patch.length, size - patch.offset) })),
    { maxLength: 6 },
  );
}

/** On the disk and in the plain content alike. Data is one byte that is not zero among zeroes, or filled throughout. */
async function apply(disk: Disk, content: Buffer, { kind, offset, length, fill }: Patch): Promise<void> {
  const data = Buffer.alloc(length, kind === 'data' && fill > 64 ? fill : 0);
  if (kind === 'data' && fill <= 64) data[(fill * 4099) % length] = fill;
  data.copy(content, offset);
  if (kind === 'hole') await disk.zero(offset, length, false);
  else await disk.write(data, offset);
}

const WORLDS: readonly [string, (size: number) => Promise<Disk>, () => ScanPool][] = [
  ['a file, in threads', (size) => files.openDisk(join(temporaryFolder(), 'disk'), { createSize: size }), nodeScanPool],
  ['a disk in memory', async (size) => new MemoryDisk(size), inlineScanPool],
];

describe.each(WORLDS)('a scan of %s', (_name, makeDisk, makePool) => {
  it('says of disks of any length what is there, at each unit size, from any unit on', async () => {
    const pool = makePool();
    onTestFinished(() => pool.close());
    for (const size of SIZES) {
      await fc.assert(
        fc.asyncProperty(patchesOf(size), fc.nat(1000), fc.nat(1000), async (patches, first, last) => {
          const disk = await makeDisk(size);
          try {
            const content = Buffer.alloc(size);
            for (const patch of patches) await apply(disk, content, patch);
            for (const unitSize of UNITS) {
              const count = Math.ceil(size / unitSize);
              const from = (first % count) * unitSize;
              // To the end of the disk, which may be inside of a unit, or to the end of one before.
              const until = Math.min(size, from + (1 + (last % count)) * unitSize);
              for (const [offset, end] of [
                [0, size],
                [from, size],
                [from, until],
              ] as const) {
                const request = { offset, length: end - offset, unitSize, key: KEY };
                expect(differenceOf(await pool.scan(disk, request), plainScan(content, request))).toBeUndefined();
              }
            }
          } finally {
            await disk.close();
          }
        }),
        { numRuns: 12 },
      );
    }
  });

  it('tells a short last unit from a whole one that begins with the same bytes', async () => {
    const pool = makePool();
    onTestFinished(() => pool.close());
    for (const unitSize of UNITS) {
      const short = await makeDisk(unitSize + 511);
      const whole = await makeDisk(unitSize * 2);
      for (const disk of [short, whole]) await disk.write(Buffer.from([1]), unitSize);
      const last = async (disk: Disk) => {
        const request = { offset: unitSize, length: disk.size - unitSize, unitSize, key: KEY };
        return Buffer.from((await pool.scan(disk, request)).digests).toString('hex');
      };
      expect(await last(short)).not.toBe(await last(whole));
      for (const disk of [short, whole]) await disk.close();
    }
  });
});
