import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Failure, isFailure } from '../../../src/base/failure.ts';
import { Overlay, type OverlayRange } from '../../../src/store/overlay.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';

const SIZE = 64 * 1024 + 100;

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
            expect(target.equals(model.content.subarray(step.offset, step.offset + length))).toBe(true);
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

  it('refuses what would pass its limit before anything has changed, and says how much it would need', async () => {
    const file = new MemoryDisk(SIZE);
    const overlay = new Overlay(file, 8192);
    await overlay.write(0, pattern(8192, 1));
    const before = file.content();
    let failure: unknown;
    try {
      await overlay.write(8000, pattern(4096, 2));
    } catch (error) {
      failure = error;
    }
    expect(isFailure(failure, 'staging-full')).toBe(true);
    expect((failure as Failure).message).toContain(`${8000 + 4096} bytes`);
    expect(file.content().equals(before)).toBe(true);
    expect([...overlay.ranges()]).toEqual([{ offset: 0, length: 8192, zero: false }]);
    // What lies there already may be written again.
    await overlay.write(4096, pattern(4096, 3));
  });
});
