import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { isFailure } from '../../../src/base/failure.ts';
import { KIB } from '../../../src/base/units.ts';
import {
  CONTROL_PAYLOAD_SIZE_MAX,
  encodeFrame,
  FRAME_BARRIER,
  FRAME_COMPLETE,
  FRAME_REPAIR,
  type Frame,
  FrameDecoder,
  FrameType,
  type FrameTypeCode,
  HEADER_SIZE,
  PAYLOAD_SIZE_MAX,
  putHeader,
} from '../../../src/link/frame.ts';

const invalid = expect.objectContaining({ code: 'frame-invalid' });
const TYPES = Object.values(FrameType);

interface Fields {
  type: FrameTypeCode;
  flags: number;
  sequence: number;
  offset: number;
  length: number;
  payload: Buffer;
}

const fields: fc.Arbitrary<Fields> = fc.record({
  type: fc.constantFrom(...TYPES),
  flags: fc.nat(255),
  sequence: fc.maxSafeNat(),
  offset: fc.oneof(fc.nat(2 ** 31 - 1), fc.constant(2 ** 52)),
  length: fc.oneof(fc.nat(2 ** 31 - 1), fc.constant(2 ** 52 - 1)),
  payload: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
});

function encode(frame: Fields): Buffer {
  return encodeFrame(frame.type, frame);
}

function drain(decoder: FrameDecoder): Frame[] {
  const frames: Frame[] = [];
  for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) frames.push(frame);
  return frames;
}

/** Decodes a stream that arrives cut at the given points. */
function decodeCut(stream: Buffer, cuts: readonly number[]): Frame[] {
  const decoder = new FrameDecoder();
  const frames: Frame[] = [];
  let from = 0;
  for (const to of [...cuts, stream.length]) {
    decoder.push(Buffer.from(stream.subarray(from, to)));
    frames.push(...drain(decoder));
    from = to;
  }
  if (!decoder.atBoundary) throw new Error('bytes are left');
  return frames;
}

/** A header with the fields given, and a payload length that need not be true. */
function header(
  type: number,
  size: number,
  more: { reserved?: number; offset?: bigint; length?: bigint } = {},
): Buffer {
  const bytes = Buffer.alloc(HEADER_SIZE);
  bytes[0] = type;
  bytes.writeUInt16LE(more.reserved ?? 0, 2);
  bytes.writeUInt32LE(size, 4);
  bytes.writeBigUInt64LE(more.offset ?? 0n, 16);
  bytes.writeBigUInt64LE(more.length ?? 0n, 24);
  return bytes;
}

function decodeOne(bytes: Buffer, admitData = true): Frame | undefined {
  const decoder = new FrameDecoder();
  if (admitData) decoder.admitData();
  decoder.push(bytes);
  return decoder.next();
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe('a frame', () => {
  it('is laid out as the byte table says', () => {
    expect(HEADER_SIZE).toBe(32);
    const bytes = encodeFrame(FrameType.WRITE, {
      flags: FRAME_BARRIER | FRAME_REPAIR,
      sequence: 0x0102030405,
      offset: 0x1112131415,
      length: 3,
      payload: Buffer.from('abc'),
    });
    expect(bytes.toString('hex')).toBe(
      `${'10'}${'03'}${'0000'}${'03000000'}${'0504030201000000'}${'1514131211000000'}${'0300000000000000'}${'616263'}`,
    );
  });

  it('has the types and flags of the specification', () => {
    expect(FrameType).toEqual({
      HELLO: 1,
      WELCOME: 2,
      BEGIN: 3,
      REFUSED: 4,
      WRITE: 16,
      ZERO: 17,
      BARRIER: 18,
      PASS: 19,
      CHECKPOINT: 20,
      CHECK: 21,
      STAGE: 22,
      MAP_VERSION: 23,
      DIGEST_REQUEST: 32,
      RESCAN_REQUEST: 33,
      ACK: 48,
      CHECKPOINT_DONE: 49,
      CHECK_RESULT: 50,
      DIGEST_REPLY: 51,
      RESCAN_PLACE: 52,
      PING: 64,
      PONG: 65,
      GOODBYE: 66,
    });
    expect([FRAME_BARRIER, FRAME_REPAIR, FRAME_COMPLETE]).toEqual([1, 2, 4]);
  });

  it('has a header that putHeader writes at any place of a larger buffer, touching nothing else', () => {
    const target = Buffer.alloc(HEADER_SIZE + 16, 0xee);
    putHeader(target, 8, FrameType.ZERO, 1, 0, 7, 4096, 512);
    expect(target.subarray(8, 8 + HEADER_SIZE)).toEqual(
      encodeFrame(FrameType.ZERO, { flags: 1, sequence: 7, offset: 4096, length: 512 }),
    );
    expect(target.subarray(0, 8)).toEqual(Buffer.alloc(8, 0xee));
    expect(target.subarray(8 + HEADER_SIZE)).toEqual(Buffer.alloc(8, 0xee));
    expect(() => putHeader(target, 0, FrameType.WRITE, 0, PAYLOAD_SIZE_MAX + 1, 0, 0, 0)).toThrow('within its limit');
  });
});

describe('the frame decoder', () => {
  const stream: Fields[] = [
    { type: FrameType.HELLO, flags: 0, sequence: 0, offset: 0, length: 0, payload: Buffer.from('hello') },
    { type: FrameType.PING, flags: 0, sequence: 9, offset: 0, length: 4, payload: Buffer.alloc(0) },
    { type: FrameType.WRITE, flags: 1, sequence: 10, offset: 4096, length: 40, payload: Buffer.alloc(40, 7) },
    { type: FrameType.GOODBYE, flags: 0, sequence: 0, offset: 0, length: 0, payload: Buffer.alloc(0) },
  ];
  const bytes = Buffer.concat(stream.map(encode));

  it('gives the same frames wherever a stream is cut in two', () => {
    for (let cut = 0; cut <= bytes.length; cut += 1) expect(decodeCut(bytes, [cut])).toEqual(stream);
  });

  it('gives the same frames when bytes come one by one', () => {
    expect(
      decodeCut(
        bytes,
        Array.from(bytes, (_, index) => index),
      ),
    ).toEqual(stream);
  });

  it('gives back any frames, cut anywhere', () => {
    fc.assert(
      fc.property(fc.array(fields, { maxLength: 8 }), fc.array(fc.nat(2000), { maxLength: 12 }), (frames, cuts) => {
        const encoded = Buffer.concat(frames.map(encode));
        const points = cuts.map((cut) => Math.min(cut, encoded.length)).sort((a, b) => a - b);
        expect(decodeCut(encoded, points)).toEqual(frames);
      }),
    );
  });

  it('is at a boundary between frames only', () => {
    const decoder = new FrameDecoder();
    expect(decoder.atBoundary).toBe(true);
    for (const byte of encode(stream[2]!).subarray(0, -1)) {
      decoder.push(Buffer.of(byte));
      expect(decoder.next()).toBeUndefined();
      expect(decoder.atBoundary).toBe(false);
    }
    decoder.push(Buffer.of(7));
    expect(decoder.next()).toEqual(stream[2]);
    expect(decoder.atBoundary).toBe(true);
  });

  it('hands out views of a chunk that holds a payload whole, and copies of others once', () => {
    const chunk = encode(stream[2]!);
    const decoder = new FrameDecoder();
    decoder.push(chunk);
    expect(decoder.next()!.payload.buffer).toBe(chunk.buffer);
    const allocate = vi.spyOn(Buffer, 'allocUnsafeSlow');
    decoder.push(chunk.subarray(0, 40));
    expect(decoder.next()).toBeUndefined();
    for (let at = 40; at < chunk.length; at += 1) {
      decoder.push(chunk.subarray(at, at + 1));
      decoder.next();
    }
    expect(decoder.atBoundary).toBe(true);
    expect(allocate.mock.calls).toEqual([[64 * KIB]]);
  });

  it('knows its types and refuses all others at the header', () => {
    const accepted = Array.from({ length: 256 }, (_, type) => type).filter((type) => {
      try {
        return decodeOne(header(type, 0)) !== undefined;
      } catch (error) {
        if (!isFailure(error, 'frame-invalid')) throw error;
        return false;
      }
    });
    expect(accepted).toEqual(TYPES);
  });

  it('refuses a payload above the limit of its type as soon as the header is there', () => {
    for (const type of TYPES) {
      const large = type === FrameType.WRITE || type === FrameType.DIGEST_REPLY;
      const limit = large ? PAYLOAD_SIZE_MAX : CONTROL_PAYLOAD_SIZE_MAX;
      expect(decodeOne(header(type, limit)), `type ${type}`).toBeUndefined();
      expect(() => decodeOne(header(type, limit + 1)), `type ${type}`).toThrow(invalid);
      expect(() => decodeOne(header(type, 2 ** 32 - 1)), `type ${type}`).toThrow(invalid);
    }
    expect(PAYLOAD_SIZE_MAX).toBe(32 * 1024 * 1024);
    expect(CONTROL_PAYLOAD_SIZE_MAX).toBe(64 * 1024);
  });

  it('takes no large payload before the session is open', () => {
    for (const type of TYPES) {
      expect(decodeOne(header(type, CONTROL_PAYLOAD_SIZE_MAX), false)).toBeUndefined();
      expect(() => decodeOne(header(type, CONTROL_PAYLOAD_SIZE_MAX + 1), false)).toThrow(invalid);
    }
  });

  it('takes the largest write whole', () => {
    const decoder = new FrameDecoder();
    decoder.admitData();
    decoder.push(header(FrameType.WRITE, PAYLOAD_SIZE_MAX));
    const part = Buffer.alloc(PAYLOAD_SIZE_MAX / 4, 3);
    for (let index = 0; index < 4; index += 1) {
      expect(decoder.next()).toBeUndefined();
      decoder.push(part);
    }
    expect(decoder.next()!.payload.length).toBe(PAYLOAD_SIZE_MAX);
  });

  it('refuses reserved bits, numbers above 2^53-1, and ranges that end beyond', () => {
    expect(() => decodeOne(header(FrameType.PING, 0, { reserved: 1 }))).toThrow(invalid);
    expect(() => decodeOne(header(FrameType.PING, 0, { reserved: 0x8000 }))).toThrow(invalid);
    const most = 2n ** 53n - 1n;
    expect(() => decodeOne(header(FrameType.PING, 0, { offset: most + 1n }))).toThrow(invalid);
    expect(() => decodeOne(header(FrameType.PING, 0, { length: 2n ** 64n - 1n }))).toThrow(invalid);
    expect(() => decodeOne(header(FrameType.PING, 0, { offset: most, length: 1n }))).toThrow(invalid);
    expect(decodeOne(header(FrameType.PING, 0, { offset: most - 1n, length: 1n }))).toMatchObject({ length: 1 });
    const sequence = header(FrameType.PING, 0);
    sequence.writeBigUInt64LE(most + 1n, 8);
    expect(() => decodeOne(sequence)).toThrow(invalid);
  });

  it('meets random bytes and spoiled streams with frames or frame-invalid, never with more memory than its limit', () => {
    const garbage = fc.uint8Array({ maxLength: 400 }).map((random) => Buffer.from(random));
    const spoiled = fc
      .tuple(
        fc.array(fields, { minLength: 1, maxLength: 5 }),
        fc.array(fc.tuple(fc.nat(4000), fc.nat(255)), { maxLength: 4 }),
      )
      .map(([frames, changes]) => {
        const encoded = Buffer.concat(frames.map(encode));
        for (const [at, value] of changes) encoded[at % encoded.length] = value;
        return encoded;
      });
    const allocate = vi.spyOn(Buffer, 'allocUnsafeSlow');
    const outcomes = { frames: 0, refused: 0 };
    fc.assert(
      fc.property(fc.oneof(garbage, spoiled), fc.boolean(), fc.integer({ min: 1, max: 64 }), (input, open, step) => {
        const decoder = new FrameDecoder();
        if (open) decoder.admitData();
        try {
          for (let at = 0; at < input.length; at += step) {
            decoder.push(input.subarray(at, at + step));
            outcomes.frames += drain(decoder).length;
          }
        } catch (error) {
          if (!isFailure(error, 'frame-invalid')) throw error;
          outcomes.refused += 1;
        }
        const largest = Math.max(0, ...allocate.mock.calls.map(([size]) => size));
        allocate.mockClear();
        if (largest > (open ? PAYLOAD_SIZE_MAX : CONTROL_PAYLOAD_SIZE_MAX)) throw new Error(`allocated ${largest}`);
      }),
      { numRuns: 1000 },
    );
    expect(outcomes.frames).toBeGreaterThan(100);
    expect(outcomes.refused).toBeGreaterThan(100);
  });
});
