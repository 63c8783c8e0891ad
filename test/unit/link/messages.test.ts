import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { FAILURES, Failure, type FailureCode } from '../../../src/base/failure.ts';
import { MODES } from '../../../src/base/mode.ts';
import { GIB, MIB } from '../../../src/base/units.ts';
import {
  DIGEST_COUNT_MAX,
  DIGEST_UNITS,
  decodeDigestReply,
  digestUnitOf,
  encodeDigestReply,
  encodeDigestRequest,
} from '../../../src/link/digests.ts';
import type { Frame, FrameTypeCode } from '../../../src/link/frame.ts';
import { encodeFrame, FrameDecoder, FrameType, HEADER_SIZE } from '../../../src/link/frame.ts';
import {
  BeginKind,
  decodeAck,
  decodeBegin,
  decodeHello,
  decodeRefused,
  decodeStage,
  decodeWelcome,
  EXPORT_NAME_SIZE_MAX,
  encodeAck,
  encodeBegin,
  encodeHello,
  encodeRefused,
  encodeRescanPlace,
  encodeWelcome,
  type Hello,
  isStaged,
  NO_POSITIONS,
  type Positions,
  VERSION_MAX,
  VERSION_MIN,
  type Welcome,
} from '../../../src/link/messages.ts';

function code(of: FailureCode): unknown {
  return expect.objectContaining({ code: of });
}

/** The frame that a peer sees. */
function received(bytes: Buffer): Frame {
  const decoder = new FrameDecoder();
  decoder.push(bytes);
  const frame = decoder.next();
  if (frame === undefined || !decoder.atBoundary) throw new Error('not one frame');
  return frame;
}

function payloadHex(bytes: Buffer): string {
  return bytes.subarray(HEADER_SIZE).toString('hex');
}

/** The same frame with another payload. */
function withPayload(type: FrameTypeCode, payload: Buffer): Frame {
  return received(encodeFrame(type, { payload }));
}

const id = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes));
const someId = id.filter((bytes) => !bytes.equals(NO_ID));
const number = fc.maxSafeNat();

const HELLO: Hello = {
  versionMin: 2,
  versionMax: 3,
  mode: 'sync',
  volumeId: Buffer.alloc(16, 0xa1),
  generation: Buffer.alloc(16, 0xa2),
  run: Buffer.alloc(16, 0xa3),
  parentRun: Buffer.alloc(16, 0xa4),
  parentSequence: 0x0c0d,
  size: 0x0102030405,
  windowSize: 0x1000,
  mapVersion: 0x0607,
  exportName: 'db/main',
};

const WELCOME: Welcome = {
  version: 2,
  consistent: true,
  fresh: false,
  seeded: true,
  replicaId: Buffer.alloc(16, 0xb1),
  generation: Buffer.alloc(16, 0xb2),
  run: Buffer.alloc(16, 0xb3),
  parentRun: Buffer.alloc(16, 0xb4),
  parentSequence: 0x0e0f,
  resumeAfter: 0x0a0b,
  recorded: 0x0a,
  checkpoint: 3,
  size: 0x0102030405,
  exact: true,
  mapVersion: 0x1011,
  stagingId: Buffer.alloc(16, 0xb5),
  stagedSequence: 0x1213,
  stagedCheckpoint: 0x1415,
  stagingRoom: 0x1617,
};

const BEGIN = { kind: BeginKind.RESCAN, sequence: 5, sentMax: 9, stagingId: Buffer.alloc(16, 0xc1) };
const POSITIONS: Positions = { received: 6, applied: 3, durable: 2, recorded: 1, staged: 5, stagedSize: 0x1_0000_0000 };

describe('HELLO', () => {
  it('has these very bytes', () => {
    const bytes = encodeHello(HELLO);
    expect(bytes[0]).toBe(FrameType.HELLO);
    expect(payloadHex(bytes)).toBe(
      `4e42445457494e00${'0200'}${'0300'}${'02'}${'000000'}${'a1'.repeat(16)}${'a2'.repeat(16)}${'a3'.repeat(16)}` +
        `${'a4'.repeat(16)}${'0d0c000000000000'}${'0504030201000000'}${'0010000000000000'}${'0706000000000000'}` +
        `${'0700'}${Buffer.from('db/main').toString('hex')}`,
    );
  });

  it('names each mode by its own byte and refuses others', () => {
    const bytes = MODES.map((mode) => encodeHello({ ...HELLO, mode })[HEADER_SIZE + 12]);
    expect([MODES, bytes]).toEqual([
      ['async', 'flush', 'sync'],
      [0, 1, 2],
    ]);
    for (const unknown of [3, 255]) {
      const payload = Buffer.from(received(encodeHello(HELLO)).payload);
      payload[12] = unknown;
      expect(() => decodeHello(withPayload(FrameType.HELLO, payload))).toThrow(code('frame-invalid'));
    }
  });

  it('comes back from its bytes', () => {
    const hello = fc.record({
      versionMin: fc.integer({ min: 0, max: 2 }),
      versionMax: fc.integer({ min: 2, max: 65_535 }),
      mode: fc.constantFrom(...MODES),
      volumeId: id,
      generation: id,
      run: id,
      parentRun: id,
      parentSequence: number,
      size: number.map((size) => Math.max(1, size)),
      windowSize: number,
      mapVersion: number,
      exportName: fc.string({ unit: fc.constantFrom('a', '/', '\u00e9', '\u20ac', '\u{1f4be}', '\0'), maxLength: 60 }),
    });
    fc.assert(
      fc.property(hello, (any) => {
        expect(decodeHello(received(encodeHello(any)))).toEqual(any);
      }),
    );
  });

  it('from something else is refused as foreign', () => {
    const good = received(encodeHello(HELLO)).payload;
    expect(() => decodeHello(withPayload(FrameType.WELCOME, good))).toThrow(code('peer-foreign'));
    expect(() => decodeHello(withPayload(FrameType.HELLO, Buffer.alloc(0)))).toThrow(code('peer-foreign'));
    expect(() => decodeHello(withPayload(FrameType.HELLO, good.subarray(0, 11)))).toThrow(code('peer-foreign'));
    for (let at = 0; at < 8; at += 1) {
      const spoiled = Buffer.from(good);
      spoiled[at]! ^= 0x20;
      expect(() => decodeHello(withPayload(FrameType.HELLO, spoiled))).toThrow(code('peer-foreign'));
    }
  });

  it('without a common version is refused as such, whatever stands behind the versions', () => {
    for (const [min, max] of [
      [VERSION_MAX + 1, VERSION_MAX + 1],
      [0, VERSION_MIN - 1],
      [65_535, 65_535],
      [3, 0],
    ] as const) {
      const payload = Buffer.from(received(encodeHello({ ...HELLO, versionMin: min, versionMax: max })).payload);
      expect(() => decodeHello(withPayload(FrameType.HELLO, payload))).toThrow(code('peer-version'));
      // A later version may lay out the rest otherwise.
      expect(() => decodeHello(withPayload(FrameType.HELLO, payload.subarray(0, 12)))).toThrow(code('peer-version'));
    }
  });

  it('of another length, with size zero or impossible numbers is refused', () => {
    const good = received(encodeHello(HELLO)).payload;
    for (let length = 12; length < good.length; length += 1) {
      expect(() => decodeHello(withPayload(FrameType.HELLO, good.subarray(0, length)))).toThrow(code('frame-invalid'));
    }
    expect(() => decodeHello(withPayload(FrameType.HELLO, Buffer.concat([good, Buffer.of(0)])))).toThrow(
      code('frame-invalid'),
    );
    expect(() => decodeHello(received(encodeHello({ ...HELLO, size: 0 })))).toThrow(code('frame-invalid'));
    for (const offset of [80, 88, 96, 104]) {
      const spoiled = Buffer.from(good);
      spoiled.writeBigUInt64LE(2n ** 53n, offset);
      expect(() => decodeHello(withPayload(FrameType.HELLO, spoiled))).toThrow(code('frame-invalid'));
    }
  });

  it('carries a name of 255 bytes and no longer', () => {
    const longest = { ...HELLO, exportName: `${'é'.repeat(127)}x` };
    expect(decodeHello(received(encodeHello(longest)))).toEqual(longest);
    expect(EXPORT_NAME_SIZE_MAX).toBe(255);
    expect(() => encodeHello({ ...HELLO, exportName: 'x'.repeat(256) })).toThrow('within its limit');
    const payload = Buffer.concat([received(encodeHello({ ...HELLO, exportName: '' })).payload, Buffer.alloc(256, 65)]);
    payload.writeUInt16LE(256, 112);
    expect(() => decodeHello(withPayload(FrameType.HELLO, payload))).toThrow(code('frame-invalid'));
  });
});

describe('WELCOME', () => {
  it('has these very bytes', () => {
    const bytes = encodeWelcome(WELCOME);
    expect(bytes[0]).toBe(FrameType.WELCOME);
    expect(payloadHex(bytes)).toBe(
      `${'0200'}${'0d00'}${'00000000'}${'b1'.repeat(16)}${'b2'.repeat(16)}${'b3'.repeat(16)}` +
        `${'b4'.repeat(16)}${'0f0e000000000000'}${'0b0a000000000000'}${'0a00000000000000'}${'0300000000000000'}${'0504030201000000'}` +
        `${'1110000000000000'}${'b5'.repeat(16)}${'1312000000000000'}${'1514000000000000'}${'1716000000000000'}`,
    );
    const none = { consistent: false, fresh: false, seeded: false, exact: false };
    const flags = (['consistent', 'fresh', 'seeded', 'exact'] as const).map((flag) =>
      payloadHex(encodeWelcome({ ...WELCOME, ...none, [flag]: true })).slice(4, 8),
    );
    expect(flags).toEqual(['0100', '0200', '0400', '0800']);
  });

  it('comes back from its bytes', () => {
    const welcome = fc.record({
      version: fc.constant(2),
      consistent: fc.boolean(),
      fresh: fc.boolean(),
      seeded: fc.boolean(),
      replicaId: id,
      generation: id,
      run: id,
      parentRun: id,
      parentSequence: number,
      resumeAfter: number,
      recorded: number,
      checkpoint: number,
      size: number,
      exact: fc.boolean(),
      mapVersion: number,
      stagingId: id,
      stagedSequence: number,
      stagedCheckpoint: number,
      stagingRoom: number,
    });
    fc.assert(
      fc.property(welcome, (any) => {
        expect(decodeWelcome(received(encodeWelcome(any)))).toEqual(any);
      }),
    );
  });

  it('is refused when it is something else, of another version or impossible; a refusal is passed on', () => {
    const good = received(encodeWelcome(WELCOME)).payload;
    expect(() => decodeWelcome(withPayload(FrameType.ACK, good))).toThrow(code('peer-foreign'));
    expect(() => decodeWelcome(withPayload(FrameType.WELCOME, good.subarray(0, 159)))).toThrow(code('peer-foreign'));
    for (const version of [0, 1, 3, 65_535]) {
      expect(() => decodeWelcome(received(encodeWelcome({ ...WELCOME, version })))).toThrow(code('peer-version'));
    }
    for (const offset of [72, 80, 88, 96, 104, 112, 136, 144, 152]) {
      const spoiled = Buffer.from(good);
      spoiled.writeBigUInt64LE(2n ** 53n, offset);
      expect(() => decodeWelcome(withPayload(FrameType.WELCOME, spoiled))).toThrow(code('frame-invalid'));
    }
    expect(() => decodeWelcome(received(encodeRefused('image-larger', 'too large')))).toThrow(code('image-larger'));
  });
});

describe('REFUSED', () => {
  it('has these very bytes', () => {
    expect(payloadHex(encodeRefused('usage', 'né'))).toBe(`${Buffer.from('usage\0né').toString('hex')}`);
  });

  it('brings code and message, of every failure there is', () => {
    for (const each of Object.keys(FAILURES) as FailureCode[]) {
      const failure = decodeRefused(received(encodeRefused(each, 'because')));
      expect([failure.code, failure.message]).toEqual([each, 'the peer says: because']);
    }
  });

  it('with an unknown code, or none, becomes frame-invalid and still tells the message', () => {
    for (const payload of ['__proto__\0why', 'toString\0why', 'why', '\0why']) {
      const failure = decodeRefused(withPayload(FrameType.REFUSED, Buffer.from(payload)));
      expect(failure.code).toBe('frame-invalid');
      expect(failure.message).toContain('why');
    }
  });

  it('brings no control characters to a terminal, and no more than 1024 bytes', () => {
    const failure = decodeRefused(received(encodeRefused('usage', '\u001b[31mred\nline\u009b\u007f')));
    expect(failure.message).toBe('the peer says: ?[31mred?line??');
    const long = decodeRefused(withPayload(FrameType.REFUSED, Buffer.from(`usage\0${'x'.repeat(60_000)}`)));
    expect(long.message.length).toBeLessThan(1100);
    expect(received(encodeRefused('usage', 'x'.repeat(5000))).payload.length).toBe(1024 + 6);
  });
});

describe('BEGIN, RESCAN_PLACE and ACK', () => {
  it('have these very bytes', () => {
    expect(encodeBegin(BEGIN).toString('hex')).toBe(
      `${'03'}${'01'}${'0000'}${'10000000'}${'0500000000000000'}${'0000000000000000'}${'0900000000000000'}${'c1'.repeat(16)}`,
    );
    expect(encodeRescanPlace(3).toString('hex')).toBe(
      `${'34'}${'00'}${'0000'}${'00000000'}${'0000000000000000'}${'0000000000000000'}${'0300000000000000'}`,
    );
    expect(payloadHex(encodeAck(POSITIONS))).toBe(
      `${'0600000000000000'}${'0300000000000000'}${'0200000000000000'}${'0100000000000000'}` +
        `${'0500000000000000'}${'0000000001000000'}`,
    );
    expect(payloadHex(encodeAck(NO_POSITIONS))).toBe('00'.repeat(48));
  });

  it('come back from their bytes', () => {
    const begin = fc.oneof(
      fc.record({
        kind: fc.constantFrom(BeginKind.CATCH_UP, BeginKind.SEEDING),
        sequence: number,
        sentMax: number,
        stagingId: fc.constant(NO_ID),
      }),
      fc.record({
        kind: fc.constantFrom(BeginKind.RESCAN, BeginKind.CATCH_UP_STAGED),
        sequence: number,
        sentMax: number,
        stagingId: someId,
      }),
    );
    fc.assert(
      fc.property(begin, (any) => {
        expect(decodeBegin(received(encodeBegin(any)))).toEqual(any);
      }),
    );
    const ack = fc.record({
      received: number,
      applied: number,
      durable: number,
      recorded: number,
      staged: number,
      stagedSize: number,
    });
    fc.assert(
      fc.property(ack, (any) => {
        expect(decodeAck(received(encodeAck(any)))).toEqual(any);
      }),
    );
  });

  it('are refused when anything does not fit', () => {
    const begin = received(encodeBegin(BEGIN));
    expect(() => decodeBegin({ ...begin, flags: 4 })).toThrow(code('frame-invalid'));
    expect(() => decodeBegin({ ...begin, type: FrameType.PING })).toThrow(code('frame-invalid'));
    for (const size of [0, 15, 17]) {
      expect(() => decodeBegin({ ...begin, payload: Buffer.alloc(size, 1) })).toThrow(code('frame-invalid'));
    }
    const ack = received(encodeAck(POSITIONS));
    expect(() => decodeAck({ ...ack, type: FrameType.CHECK })).toThrow(code('frame-invalid'));
    for (const size of [32, 47, 49]) {
      expect(() => decodeAck({ ...ack, payload: Buffer.alloc(size) })).toThrow(code('frame-invalid'));
    }
    for (let offset = 0; offset < 48; offset += 8) {
      const payload = Buffer.from(ack.payload);
      payload.writeBigUInt64LE(2n ** 53n, offset);
      expect(() => decodeAck({ ...ack, payload })).toThrow(code('frame-invalid'));
    }
  });

  it('name a staged run exactly where the kind of BEGIN begins one', () => {
    for (const kind of Object.values(BeginKind)) {
      const named = received(encodeBegin({ ...BEGIN, kind }));
      const unnamed = received(encodeBegin({ ...BEGIN, kind, stagingId: NO_ID }));
      const [right, wrong] = isStaged(kind) ? [named, unnamed] : [unnamed, named];
      expect(decodeBegin(right).kind).toBe(kind);
      expect(() => decodeBegin(wrong)).toThrow(code('frame-invalid'));
    }
    expect(BeginKind).toEqual({ CATCH_UP: 0, RESCAN: 1, SEEDING: 2, CATCH_UP_STAGED: 3 });
    expect(Object.values(BeginKind).map(isStaged)).toEqual([false, true, false, true]);
  });
});

describe('STAGE and MAP_VERSION', () => {
  it('have these very bytes', () => {
    expect(encodeFrame(FrameType.STAGE, { sequence: 7, payload: Buffer.alloc(16, 0xe1) }).toString('hex')).toBe(
      `${'16'}${'00'}${'0000'}${'10000000'}${'0700000000000000'}${'0000000000000000'}${'0000000000000000'}${'e1'.repeat(16)}`,
    );
    expect(encodeFrame(FrameType.MAP_VERSION, { sequence: 7, offset: 0x0809 }).toString('hex')).toBe(
      `${'17'}${'00'}${'0000'}${'00000000'}${'0700000000000000'}${'0908000000000000'}${'0000000000000000'}`,
    );
  });

  it('give the id of the staged run, which is refused when it is none or of another size', () => {
    fc.assert(
      fc.property(someId, (any) => {
        expect(decodeStage(received(encodeFrame(FrameType.STAGE, { payload: any })))).toEqual(any);
      }),
    );
    for (const payload of [NO_ID, Buffer.alloc(0), Buffer.alloc(15, 1), Buffer.alloc(17, 1)]) {
      expect(() => decodeStage(withPayload(FrameType.STAGE, payload))).toThrow(code('frame-invalid'));
    }
    expect(() => decodeStage(withPayload(FrameType.PASS, Buffer.alloc(16, 1)))).toThrow(code('frame-invalid'));
  });
});

describe('digest frames', () => {
  const size = 3 * GIB + 5 * 4096 + 512;

  it('have these very bytes', () => {
    expect(encodeDigestRequest(65_536, 131_072, 65_536).toString('hex')).toBe(
      `${'20'}${'01'}${'0000'}${'00000000'}${'0000000000000000'}${'0000010000000000'}${'0000020000000000'}`,
    );
    const request = received(encodeDigestRequest(0, 8192, 4096));
    const reply = encodeDigestReply(request, { zero: Uint8Array.of(1, 0), digests: Buffer.alloc(32, 0xd1) });
    expect(reply.toString('hex')).toBe(
      `${'33'}${'02'}${'0000'}${'22000000'}${'0000000000000000'}${'0000000000000000'}${'0020000000000000'}${'0100'}${'d1'.repeat(32)}`,
    );
  });

  it('come back from their bytes, for every unit and up to the end of the disk', () => {
    const part = fc
      .tuple(fc.constantFrom(...DIGEST_UNITS), fc.nat(3000), fc.integer({ min: 1, max: DIGEST_COUNT_MAX }))
      .map(([unit, index, count]) => {
        const offset = Math.min(index * unit, Math.floor((size - 1) / unit) * unit);
        return { unit, offset, length: Math.min(count * unit, size - offset) };
      });
    fc.assert(
      fc.property(part, fc.nat(255), ({ unit, offset, length }, fill) => {
        const request = received(encodeDigestRequest(offset, length, unit));
        expect(digestUnitOf(request, size)).toBe(unit);
        const count = Math.ceil(length / unit);
        const result = { zero: Buffer.alloc(count, fill & 1), digests: Buffer.alloc(count * 16, fill) };
        expect(decodeDigestReply(received(encodeDigestReply(request, result)), size)).toEqual(result);
      }),
      { numRuns: 30 },
    );
  });

  it('are refused when they do not ask for whole units of the disk, or for too many', () => {
    const ask = (offset: number, length: number, flags: number): number =>
      digestUnitOf(received(encodeFrame(FrameType.DIGEST_REQUEST, { flags, offset, length })), size);
    expect(ask(0, 1024 * MIB, 0)).toBe(MIB);
    expect(ask(size - 512, 512, 2)).toBe(4096);
    for (const [offset, length, flags] of [
      [0, 1025 * MIB, 0],
      [0, 4 * MIB + 4096, 2],
      [0, 0, 0],
      [0, MIB, 3],
      [0, MIB, 255],
      [4096, MIB, 0],
      [1, 4096, 2],
      [0, MIB - 1, 0],
      [0, 4095, 2],
      [size - 512, 4096, 2],
      [size, 4096, 2],
      [2 ** 52, 4096, 2],
    ] as const) {
      expect(() => ask(offset, length, flags), `${offset} ${length} ${flags}`).toThrow(code('frame-invalid'));
    }
  });

  it('with a reply of another length are refused', () => {
    const request = received(encodeDigestRequest(0, 8192, 4096));
    const reply = received(encodeDigestReply(request, { zero: Buffer.alloc(2), digests: Buffer.alloc(32) }));
    for (const length of [0, 33, 35, 2, 32]) {
      expect(() => decodeDigestReply({ ...reply, payload: Buffer.alloc(length) }, size)).toThrow(code('frame-invalid'));
    }
  });
});

describe('decoders of messages', () => {
  it('meet any frame with a message or a failure of the link', () => {
    const seen = new Set<string>();
    const good = [encodeHello(HELLO), encodeWelcome(WELCOME), encodeBegin(BEGIN), encodeAck(POSITIONS)];
    const payloads = fc.oneof(
      fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
      fc
        .tuple(fc.constantFrom(...good), fc.nat(100), fc.nat(255), fc.integer({ min: 0, max: 5 }))
        .map(([bytes, at, value, cut]) => {
          const payload = Buffer.from(bytes.subarray(HEADER_SIZE, bytes.length - cut));
          payload[at % payload.length] = value;
          return payload;
        }),
    );
    const header = fc.record({
      type: fc.constantFrom(...Object.values(FrameType)),
      flags: fc.nat(255),
      sequence: number,
      offset: fc.nat(2 ** 31 - 1),
      length: fc.nat(2 ** 31 - 1),
    });
    fc.assert(
      fc.property(header, payloads, (fields, payload) => {
        const frame = received(encodeFrame(fields.type, { ...fields, payload }));
        const decoders: ((frame: Frame) => unknown)[] = [decodeHello, decodeBegin, decodeAck, decodeStage];
        decoders.push((reply) => decodeDigestReply(reply, 2 ** 31));
        if (frame.type !== FrameType.REFUSED) decoders.push(decodeWelcome);
        for (const decode of decoders) {
          try {
            decode(frame);
          } catch (error) {
            if (!(error instanceof Failure)) throw error;
            seen.add(error.code);
          }
        }
        decodeRefused(frame);
      }),
      { numRuns: 500 },
    );
    // No other code; that each of them does come is shown above, where it does not depend on luck.
    expect(['frame-invalid', 'peer-foreign', 'peer-version']).toEqual(expect.arrayContaining([...seen]));
    expect(seen.size).toBeGreaterThan(0);
  });
});
