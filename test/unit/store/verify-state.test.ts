import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SLOT_HEADER_SIZE, SLOT_SIZE } from '../../../src/store/record-file.ts';
import {
  CYCLE_RANGES_MAX,
  type CycleRange,
  decodeVerifyState,
  encodeVerifyState,
  shortOwner,
  type VerifyCycle,
  type VerifyState,
} from '../../../src/store/verify-state.ts';

const SIZE = 2 ** 40;
const corrupt = expect.objectContaining({ code: 'state-corrupt' });
const count = fc.maxSafeNat();
const owner = fc.option(fc.string({ minLength: 1, maxLength: 20 }), { nil: undefined });
const range: fc.Arbitrary<CycleRange> = fc
  .record({ offset: fc.nat(SIZE / 2), length: fc.nat(SIZE / 2), owner })
  .map(({ owner: name, ...rest }) => (name === undefined ? rest : { ...rest, owner: name }));
const cycle: fc.Arbitrary<VerifyCycle> = fc.record({
  beganMs: count,
  finishedMs: count,
  reached: fc.nat(SIZE),
  differingSize: count,
  repairedSize: count,
  unreadableSize: count,
  ranges: fc.array(range, { maxLength: 12 }),
  truncated: fc.boolean(),
});
const state: fc.Arbitrary<VerifyState> = fc.record({
  replicaId: fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes)),
  size: fc.constant(SIZE),
  cycle: fc.option(cycle, { nil: undefined }),
  last: fc.option(cycle, { nil: undefined }),
});

describe('the record of the periodic verification', () => {
  it('is read as it was written', () => {
    fc.assert(
      fc.property(state, (value) => {
        expect(decodeVerifyState(encodeVerifyState(value))).toEqual(value);
      }),
    );
  });

  it('is refused when it ends too early, goes on too long, or has a range outside the disk', () => {
    fc.assert(
      fc.property(state, fc.nat(), (value, chance) => {
        const bytes = encodeVerifyState(value);
        expect(() => decodeVerifyState(bytes.subarray(0, chance % bytes.length))).toThrow(corrupt);
        expect(() => decodeVerifyState(Buffer.concat([bytes, Buffer.alloc(1)]))).toThrow(corrupt);
      }),
    );
    const one = { beganMs: 1, finishedMs: 0, reached: 4096, differingSize: 1, repairedSize: 0, unreadableSize: 0 };
    const outside = { ...one, ranges: [{ offset: 4096, length: 1 }], truncated: false };
    const bytes = encodeVerifyState({ replicaId: Buffer.alloc(16), size: 4096, cycle: outside, last: undefined });
    expect(() => decodeVerifyState(bytes)).toThrow(corrupt);
  });

  it('has its fields where the table says, and always fits its slot', () => {
    const ranges = Array.from({ length: CYCLE_RANGES_MAX }, (_, index) => ({
      offset: index * 8192,
      length: 4096,
      owner: 'ü'.repeat(400),
    }));
    const full: VerifyCycle = {
      beganMs: 0x0102,
      finishedMs: 0x0304,
      reached: 0x0506,
      differingSize: 0x0708,
      repairedSize: 0x090a,
      unreadableSize: 0x0b0c,
      ranges,
      truncated: true,
    };
    const bytes = encodeVerifyState({ replicaId: Buffer.alloc(16, 7), size: SIZE, cycle: full, last: full });
    expect(bytes.length).toBeLessThanOrEqual(SLOT_SIZE - SLOT_HEADER_SIZE);
    expect(bytes.subarray(0, 16)).toEqual(Buffer.alloc(16, 7));
    expect(bytes.readUInt32LE(24)).toBe(3);
    expect([32, 40, 48, 56, 64, 72].map((at) => bytes.readUInt16LE(at))).toEqual([
      0x0102, 0x0304, 0x0506, 0x0708, 0x090a, 0x0b0c,
    ]);
    expect([bytes.readUInt16LE(80), bytes.readUInt16LE(82)]).toEqual([CYCLE_RANGES_MAX, 1]);
    const owners = decodeVerifyState(bytes).cycle!.ranges.filter((kept) => kept.owner !== undefined);
    expect(owners.length).toBe(5);
  });

  it('keeps the end of an owner that is too long', () => {
    expect(shortOwner('/short')).toBe('/short');
    const short = shortOwner(`/${'ä'.repeat(300)}/name`);
    expect(short).toMatch(/^…ä+\/name$/);
    expect(Buffer.byteLength(short)).toBeLessThanOrEqual(200);
  });
});
