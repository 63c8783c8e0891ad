import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionFailed } from '../../../src/base/assert.ts';
import { Failure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import { Overlay, type OverlayRange } from '../../../src/store/overlay.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';

const SIZE = 64 * 1024 + 100;
/** The part of it that is whole blocks. */
const BLOCKS_SIZE = 64 * 1024;

/** What an overlay should be, byte by byte. */
class Model {
  readonly content: Buffer;
  /** Of each byte: 0 uncovered, 1 data, 2 zero. */
  readonly kinds = new Uint8Array(SIZE);

  constructor(below: Buffer) {
    this.content = Buffer.from(below);
  }

  write(offset: number, data: Uint8Array): void {
    this.content.set(data, offset);
    this.kinds.fill(1, offset, offset + data.length);
  }

  zero(offset: number, length: number): void {
    this.content.fill(0, offset, offset + length);
    this.kinds.fill(2, offset, offset + length);
  }

  ranges(): OverlayRange[] {
    const ranges: OverlayRange[] = [];
    for (let start = 0, end = 0; start < SIZE; start = end) {
      while (end < SIZE && this.kinds[end] === this.kinds[start]) end += 1;
      if (this.kinds[start] !== 0) ranges.push({ offset: start, length: end - start, zero: this.kinds[start] === 2 });
    }
    return ranges;
  }
}

type Step =
  | { readonly do: 'write' | 'zero' | 'read'; readonly offset: number; readonly length: number; readonly seed: number }
  | { readonly do: 'take' };

const ranged = fc.record({
  do: fc.constantFrom('write', 'zero', 'read'),
  // Aligned ones and those that are not; many that touch.
  offset: fc.oneof(
    fc.nat(SIZE - 1),
    fc.nat(15).map((block) => block * 4096),
    fc.nat(31).map((sector) => 8192 + sector * 512),
  ),
  length: fc.oneof(fc.constantFrom(1, 512, 4096, 8192, 16_384), fc.nat(20_000)),
  seed: fc.nat(250),
});
const steps: fc.Arbitrary<Step[]> = fc.array(fc.oneof({ weight: 8, arbitrary: ranged }, fc.constant({ do: 'take' })), {
  maxLength: 40,
}) as fc.Arbitrary<Step[]>;

function pattern(length: number, seed: number): Buffer {
  return Buffer.from(Array.from({ length }, (_, index) => 1 + ((seed + index) % 251)));
}

function laterWhen(slow: boolean): (() => Promise<void>) | undefined {
  return slow ? () => new Promise((resolve) => setImmediate(resolve)) : undefined;
}

describe('overlay', () => {
  it('is the same as bytes written over bytes, whatever is done in whatever order', async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.boolean(), fc.boolean(), async (todo, slow, canPunch) => {
        const file = new MemoryDisk(SIZE, { canPunch });
        const below = new MemoryDisk(SIZE);
        await below.write(pattern(SIZE, 77), 0);
        file.hook = laterWhen(slow);
        below.hook = laterWhen(slow);
        const overlay = new Overlay(file, SIZE);
        const model = new Model(below.content());
        const replayed = new Overlay(file, 0);
        const replay = (): void => {
          for (const range of overlay.takeChanges()) replayed.restore(range);
        };

        for (const step of todo) {
          if (step.do === 'take') {
            replay();
            continue;
          }
          const length = Math.min(step.length, SIZE - step.offset);
          if (step.do === 'write') {
            const data = pattern(length, step.seed);
            await overlay.write(step.offset, data);
            model.write(step.offset, data);
          } else if (step.do === 'zero') {
            await overlay.zero(step.offset, length);
            model.zero(step.offset, length);
          } else {
            const target = Buffer.alloc(length, 0xee);
            await overlay.read(target, step.offset, below);
            assert(target.equals(model.content.subarray(step.offset, step.offset + length)));
          }
        }
        replay();

        const expected = model.ranges();
        for (const each of [overlay, replayed]) {
          expect([...each.ranges()]).toEqual(expected);
          expect(each.rangeCount).toBe(expected.length);
          expect(each.dataSize).toBe(model.kinds.filter((kind) => kind === 1).length);
          expect(each.coveredSize).toBe(model.kinds.filter((kind) => kind !== 0).length);
          const all = Buffer.alloc(SIZE);
          await each.read(all, 0, below);
          expect(all.equals(model.content)).toBe(true);
        }
        expect(overlay.takeChanges()).toEqual([]);

        const told: number[] = [];
        await overlay.reserveIn(below);
        await overlay.copyInto(below, (size) => void told.push(size));
        expect(below.content().equals(model.content)).toBe(true);
        expect(told.at(-1) ?? 0).toBe(overlay.coveredSize);
      }),
      { numRuns: 150 },
    );
  });

  it('takes no space in its file but for blocks with data in them', async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (todo) => {
        const file = new MemoryDisk(BLOCKS_SIZE);
        const overlay = new Overlay(file, SIZE);
        for (const step of todo) {
          if (step.do !== 'write' && step.do !== 'zero') continue;
          const length = Math.min(step.length, BLOCKS_SIZE - step.offset);
          if (length <= 0) continue;
          if (step.do === 'write') await overlay.write(step.offset, pattern(length, step.seed));
          else await overlay.zero(step.offset, length);
        }
        for (let block = 0; block < 16; block += 1) {
          const used = file.seekData(block * 4096) < (block + 1) * 4096;
          const ranges = [...overlay.ranges()].filter((range) => !range.zero);
          const wanted = ranges.some(
            ({ offset, length }) => offset < (block + 1) * 4096 && offset + length > block * 4096,
          );
          expect(used).toBe(wanted);
        }
      }),
    );
  });

  it('refuses what would pass its limit before anything has changed, and says how much it would need', async () => {
    const file = new MemoryDisk(SIZE);
    const overlay = new Overlay(file, 8192);
    await overlay.write(0, pattern(8192, 1));
    const before = file.content();
    const failure = failureOf(() => overlay.write(8000, pattern(4096, 2)));
    expect(failure.code).toBe('staging-full');
    expect(failure.message).toContain(`needs ${8000 + 4096} bytes`);
    expect(file.content().equals(before)).toBe(true);
    expect([...overlay.ranges()]).toEqual([{ offset: 0, length: 8192, zero: false }]);
    // What lies there already may be written again, and zeroes cost nothing and make room.
    await overlay.write(4096, pattern(4096, 3));
    await overlay.zero(4096, SIZE - 4096);
    await overlay.write(8192, pattern(4096, 3));
    expect(overlay.dataSize).toBe(8192);
  });

  it('refuses more ranges than it may have, and only those', async () => {
    const overlay = new Overlay(new MemoryDisk(SIZE), SIZE, 4);
    for (const offset of [0, 8192, 16_384]) await overlay.write(offset, pattern(512, 1));
    // The fourth joins two of them, so there is room for one more, and one.
    await overlay.write(512, pattern(7680, 2));
    await overlay.write(24_576, pattern(512, 1));
    await overlay.write(32_768, pattern(512, 1));
    expect(overlay.rangeCount).toBe(4);
    const before = [...overlay.ranges()];
    expect(failureOf(() => overlay.write(40_960, pattern(512, 1))).code).toBe('staging-full');
    expect(failureOf(() => overlay.zero(100, 10)).code).toBe('staging-full');
    expect([...overlay.ranges()]).toEqual(before);
    // Those that add none.
    await overlay.write(100, pattern(10, 4));
    await overlay.write(25_088, pattern(512, 4));
    await overlay.zero(0, 8704);
    await overlay.write(0, pattern(SIZE, 1));
    expect(overlay.rangeCount).toBe(1);
  });

  it('takes what adds nothing although more was restored than it may have', async () => {
    const overlay = new Overlay(new MemoryDisk(SIZE), 1000, 2);
    for (const offset of [0, 8192, 16_384, 24_576]) overlay.restore({ offset, length: 4096, zero: false });
    await overlay.write(100, pattern(4096 - 100, 1));
    await overlay.zero(8192, 4096);
    expect([overlay.rangeCount, overlay.dataSize]).toEqual([4, 3 * 4096]);
    expect(failureOf(() => overlay.write(8192, pattern(1, 1))).code).toBe('staging-full');
    expect(failureOf(() => overlay.zero(40_960, 1)).code).toBe('staging-full');
  });

  it('gives everything as changed when more has changed here and there than it keeps apart', async () => {
    const overlay = new Overlay(new MemoryDisk(SIZE), SIZE, 4);
    await overlay.write(0, pattern(SIZE, 1));
    expect(overlay.takeChanges()).toEqual([{ offset: 0, length: SIZE, zero: false }]);
    const flip = async (offset: number): Promise<void> => {
      await overlay.zero(offset, 512);
      await overlay.write(offset, pattern(512, 2));
    };
    for (let offset = 4096; offset <= 4 * 4096; offset += 4096) await flip(offset);
    expect(overlay.takeChanges()).toHaveLength(4);
    for (let offset = 4096; offset <= 5 * 4096; offset += 4096) await flip(offset);
    expect(overlay.takeChanges()).toEqual([{ offset: 0, length: SIZE, zero: false }]);
    expect(overlay.takeChanges()).toEqual([]);
  });

  it('is unchanged by a write that fails, and shows new data only when it is in the file', async () => {
    const file = new MemoryDisk(SIZE);
    const below = new MemoryDisk(SIZE);
    await below.write(pattern(SIZE, 9), 0);
    const overlay = new Overlay(file, SIZE);
    let release: (error?: Failure) => void = () => undefined;
    file.hook = (call) => {
      if (call !== 'write') return;
      return new Promise((resolve, reject) => {
        release = (error) => (error === undefined ? resolve() : reject(error));
      });
    };
    const read = async (): Promise<Buffer> => {
      const target = Buffer.alloc(4096);
      await overlay.read(target, 4096, below);
      return target;
    };

    const failing = overlay.write(4096, pattern(4096, 50));
    expect((await read()).equals(below.content().subarray(4096, 8192))).toBe(true);
    release(new Failure('io-error', 'made by the test'));
    await expect(failing).rejects.toThrow('made by the test');
    expect(overlay.rangeCount).toBe(0);
    expect(overlay.takeChanges()).toEqual([]);

    const working = overlay.write(4096, pattern(4096, 50));
    expect((await read()).equals(below.content().subarray(4096, 8192))).toBe(true);
    expect(() => overlay.write(0, pattern(1, 1))).toThrow(AssertionFailed);
    expect(() => overlay.zero(0, 1)).toThrow(AssertionFailed);
    release();
    await working;
    expect((await read()).equals(pattern(4096, 50))).toBe(true);
    const again = overlay.zero(0, 1);
    expect(again).toBe(undefined);
  });

  it('reads as zeroes although the file’s space could not be given back', async () => {
    const file = new MemoryDisk(SIZE);
    const overlay = new Overlay(file, SIZE);
    await overlay.write(0, pattern(8192, 1));
    file.hook = (call) => {
      if (call === 'punch') throw new Failure('io-error', 'made by the test');
    };
    expect(failureOf(() => overlay.zero(0, 8192)).code).toBe('io-error');
    expect([...overlay.ranges()]).toEqual([{ offset: 0, length: 8192, zero: true }]);
    expect(overlay.dataSize).toBe(0);
  });

  it('finishes at once where its disks do, without a promise', () => {
    const overlay = new Overlay(new MemoryDisk(SIZE), SIZE);
    expect(overlay.write(10, pattern(4096, 1))).toBe(undefined);
    expect(overlay.zero(5000, 4096)).toBe(undefined);
    expect(overlay.read(Buffer.alloc(20_000), 0, new MemoryDisk(SIZE))).toBe(undefined);
  });

  it('is empty after clear, and its file as large as before and without data', async () => {
    const file = new MemoryDisk(SIZE);
    const overlay = new Overlay(file, SIZE);
    await overlay.write(0, pattern(SIZE, 1));
    await overlay.clear();
    expect([overlay.rangeCount, overlay.dataSize, overlay.coveredSize]).toEqual([0, 0, 0]);
    expect(overlay.takeChanges()).toEqual([]);
    expect(overlay.next(0)).toBe(undefined);
    expect(file.size).toBe(SIZE);
    expect(file.content().every((byte) => byte === 0)).toBe(true);
  });

  it('gives the range that goes on behind an offset, cut there', async () => {
    const overlay = new Overlay(new MemoryDisk(SIZE), SIZE);
    await overlay.write(1000, pattern(1000, 1));
    await overlay.zero(2000, 500);
    expect(overlay.next(0)).toEqual({ offset: 1000, length: 1000, zero: false });
    expect(overlay.next(1999)).toEqual({ offset: 1999, length: 1, zero: false });
    expect(overlay.next(2000)).toEqual({ offset: 2000, length: 500, zero: true });
    expect(overlay.next(2500)).toBe(undefined);
  });

  it('reserves exactly its data where it will be copied to', async () => {
    const overlay = new Overlay(new MemoryDisk(SIZE), SIZE);
    await overlay.write(1000, pattern(1000, 1));
    await overlay.zero(2000, 500);
    await overlay.write(9000, pattern(10, 1));
    const reserved: [number, number][] = [];
    const target = new MemoryDisk(SIZE);
    target.reserve = async (...range: number[]) => void reserved.push(range as [number, number]);
    await overlay.reserveIn(target);
    expect(reserved).toEqual([
      [1000, 1000],
      [9000, 10],
    ]);
  });

  it('copies large ranges in pieces, and waits for who is told of the progress', async () => {
    const size = 5 * MIB;
    const overlay = new Overlay(new MemoryDisk(size), size);
    const target = new MemoryDisk(size);
    await target.write(pattern(size, 3), 0);
    const wanted = target.content();
    await overlay.write(100, pattern(3 * MIB, 1));
    pattern(3 * MIB, 1).copy(wanted, 100);
    await overlay.zero(4 * MIB, MIB);
    wanted.fill(0, 4 * MIB);
    const told: number[] = [];
    let waiting = false;
    await overlay.copyInto(target, async (doneSize) => {
      assert(!waiting);
      waiting = true;
      told.push(doneSize);
      await new Promise((resolve) => setImmediate(resolve));
      waiting = false;
    });
    expect(told).toEqual([MIB, 2 * MIB, 3 * MIB, 4 * MIB]);
    expect(target.content().equals(wanted)).toBe(true);
    expect(target.seekData(4 * MIB)).toBe(size);
  });
});

/** What a call throws at once. */
function failureOf(call: () => unknown): Failure {
  try {
    call();
  } catch (error) {
    if (error instanceof Failure) return error;
    throw error;
  }
  throw new Error('it did not fail');
}
