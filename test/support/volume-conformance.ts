import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { ALLOCATION_CONTEXT, EXTENT_ZERO, type Volume } from '../../src/volume/volume.ts';

interface VolumeUnderTest {
  readonly volume: Volume;
  /** Closes the volume and what it stands on. */
  close(): Promise<void>;
}

export interface ConformanceOptions {
  /** Makes an empty volume, all zeroes, of `size` bytes. */
  readonly make: (size: number) => Promise<VolumeUnderTest>;
  /** Runs of each property; fewer for slow volumes. */
  readonly runs?: number;
}

/** A mutation, its data made from `fill` so that shrinking stays readable. */
type Mutation =
  | { kind: 'write'; offset: number; length: number; fill: number; fua: boolean }
  | { kind: 'zero'; offset: number; length: number; allocate: boolean; fua: boolean }
  | { kind: 'trim'; offset: number; length: number; fua: boolean };

const SIZE = 64 * 1024 + 512;
const RUNS = 60;
/** All orders of these are tried: 24. */
const ORDERED_MAX = 4;

/** Every implementation of Volume passes this suite: it must behave like an array of bytes. */
export function describeVolumeConformance(name: string, options: ConformanceOptions): void {
  const runs = options.runs ?? RUNS;
  const open: VolumeUnderTest[] = [];
  const make = async (size: number): Promise<Volume> => {
    const made = await options.make(size);
    open.push(made);
    return made.volume;
  };

  describe(`${name} conforms to Volume`, () => {
    afterEach(async () => {
      for (const made of open.splice(0)) await made.close();
    });

    it('reads back what a model in memory holds, after any sequence of mutations', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(mutations(SIZE), { maxLength: 25 }), async (sequence) => {
          const volume = await make(SIZE);
          const model = Buffer.alloc(SIZE);
          for (const mutation of sequence) {
            const changed = await run(volume, mutation);
            if (changed) applyTo(model, mutation);
            const around = Math.max(0, mutation.offset - 700);
            const length = Math.min(SIZE, mutation.offset + mutation.length + 700) - around;
            const content = await readFrom(volume, around, length);
            expect(firstDifference(content, model.subarray(around, around + length))).toBeUndefined();
          }
          await volume.flush();
          expect(firstDifference(await readFrom(volume, 0, SIZE), model)).toBeUndefined();
        }),
        { numRuns: runs },
      );
    });

    it('keeps mutations in flight apart that do not overlap', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(mutations(4096), { minLength: 1, maxLength: 16 }), async (sequence) => {
          const volume = await make(SIZE);
          const model = Buffer.alloc(SIZE);
          const apart = sequence.map((mutation, index) => ({ ...mutation, offset: mutation.offset + index * 4096 }));
          const changed = await Promise.all(apart.map((mutation) => run(volume, mutation)));
          apart.forEach((mutation, index) => {
            if (changed[index]) applyTo(model, mutation);
          });
          expect(firstDifference(await readFrom(volume, 0, SIZE), model)).toBeUndefined();
        }),
        { numRuns: runs },
      );
    });

    it('answers extents that are consecutive, within the limits, and truthful about zeroes', async () => {
      const query = fc
        .tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: SIZE }), fc.integer({ min: 1, max: 6 }))
        .map(([offset, length, countMax]) => ({ offset, length: Math.min(length, SIZE - offset), countMax }));
      await fc.assert(
        fc.asyncProperty(fc.array(mutations(SIZE), { maxLength: 8 }), query, async (sequence, asked) => {
          const volume = await make(SIZE);
          for (const mutation of sequence) await run(volume, mutation);
          const extents = await volume.extents(ALLOCATION_CONTEXT, asked.offset, asked.length, asked.countMax);
          expect(extents.length).toBeGreaterThan(0);
          expect(extents.length).toBeLessThanOrEqual(asked.countMax);
          let offset = asked.offset;
          for (const extent of extents) {
            expect(extent.length).toBeGreaterThan(0);
            const content = await readFrom(volume, offset, extent.length);
            const saysZero = (extent.flags & EXTENT_ZERO) !== 0;
            expect(saysZero && !content.equals(Buffer.alloc(extent.length))).toBe(false);
            offset += extent.length;
          }
          expect(offset).toBeLessThanOrEqual(asked.offset + asked.length);
        }),
        { numRuns: runs },
      );
    });

    it('reaches the last byte', async () => {
      const volume = await make(SIZE);
      await volume.write(SIZE - 1, Uint8Array.of(0xa5), { fua: true });
      expect([...(await readFrom(volume, SIZE - 2, 2))]).toEqual([0, 0xa5]);
    });

    it('offers the context base:allocation and answers it for the whole volume', async () => {
      const volume = await make(SIZE);
      expect(volume.contexts).toContain(ALLOCATION_CONTEXT);
      const extents = await volume.extents(ALLOCATION_CONTEXT, 0, SIZE, 1024);
      expect(extents.reduce((sum, extent) => sum + extent.length, 0)).toBe(SIZE);
    });

    it('answers what is in flight before close returns', async () => {
      const volume = await make(SIZE);
      let answered = 0;
      const writes = Array.from({ length: 8 }, async () => {
        await volume.write(0, Buffer.alloc(512, 1), { fua: true });
        answered += 1;
      });
      await Promise.all([volume.close(), ...writes]);
      expect(answered).toBe(8);
      open.splice(0);
    });
  });
}

/** For every volume but one that leaves the order of overlapping mutations to the layer above. */
export function describeOrderingConformance(name: string, options: ConformanceOptions): void {
  describe(`${name} orders what overlaps`, () => {
    it('lets overlapping mutations in flight take effect one after the other', async () => {
      const overlapping = fc.array(mutations(3000), { minLength: 2, maxLength: ORDERED_MAX });
      await fc.assert(
        fc.asyncProperty(overlapping, async (sequence) => {
          const made = await options.make(SIZE);
          const { volume } = made;
          const changed = await Promise.all(sequence.map((mutation) => run(volume, mutation)));
          const applied = sequence.filter((_, index) => changed[index]);
          const content = await readFrom(volume, 0, SIZE);
          await made.close();
          const outcomes = permutations(applied).map((order) => {
            const model = Buffer.alloc(SIZE);
            for (const mutation of order) applyTo(model, mutation);
            return model;
          });
          expect(outcomes.some((model) => model.equals(content))).toBe(true);
        }),
        { numRuns: options.runs ?? RUNS },
      );
    });
  });
}

/** Mutations inside [0, limit), every alignment, both aligned and odd. */
function mutations(limit: number): fc.Arbitrary<Mutation> {
  const byte = fc.nat(limit - 1);
  const aligned = fc.nat(Math.floor((limit - 1) / 512)).map((index) => index * 512);
  const offset = fc.oneof(byte, aligned);
  const length = fc.oneof(fc.integer({ min: 1, max: limit }), fc.constantFrom(1, 512, 4096, 8192));
  return fc
    .record({
      kind: fc.constantFrom('write' as const, 'zero' as const, 'trim' as const),
      offset,
      length,
      fill: fc.integer({ min: 1, max: 255 }),
      allocate: fc.boolean(),
      fua: fc.boolean(),
    })
    .map((drawn) => ({ ...drawn, length: Math.min(drawn.length, limit - drawn.offset) }));
}

/** Runs a mutation; false when it changed nothing (a trim that could not punch). */
async function run(volume: Volume, mutation: Mutation): Promise<boolean> {
  const { offset, length, fua } = mutation;
  if (mutation.kind === 'trim') return await volume.trim(offset, length, { fua });
  if (mutation.kind === 'zero') {
    await volume.zero(offset, length, { fua, fast: false, allocate: mutation.allocate });
  } else {
    await volume.write(offset, pattern(length, mutation.fill), { fua });
  }
  return true;
}

function applyTo(model: Buffer, mutation: Mutation): void {
  if (mutation.kind === 'write') pattern(mutation.length, mutation.fill).copy(model, mutation.offset);
  else model.fill(0, mutation.offset, mutation.offset + mutation.length);
}

/** Different at neighbouring bytes and for different fills, never zero. */
function pattern(length: number, fill: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let index = 0; index < length; index += 1) bytes[index] = 1 + ((fill + index * 7) % 255);
  return bytes;
}

async function readFrom(volume: Volume, offset: number, length: number): Promise<Buffer> {
  const target = Buffer.alloc(length, 0xee);
  await volume.read(target, offset);
  return target;
}

/** Where two buffers first differ, in words, or undefined: `toEqual` on large buffers is slow and prints megabytes. */
function firstDifference(actual: Buffer, expected: Buffer): string | undefined {
  if (actual.equals(expected)) return undefined;
  const index = actual.findIndex((byte, at) => byte !== expected[at]);
  return `at ${index}: read ${actual[index]}, the model has ${expected[index]}`;
}

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length <= 1) return [[...items]];
  return items.flatMap((item, index) => permutations(items.toSpliced(index, 1)).map((rest) => [item, ...rest]));
}
