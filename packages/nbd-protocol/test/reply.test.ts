import { describe, expect, test } from 'vitest';
import {
  type BlockStatusChunk,
  ErrorCode,
  type Extent,
  LIMITS,
  ReplyDecoder,
  ReplyEncoder,
  type ReplyMode,
  ReplyType,
  StateFlag,
} from '../src/index.ts';
import { TARGET } from './golden-transmission.ts';
import { decodeAll, hex, join, violation } from './support.ts';

const COOKIE = '01020304fedcba98';
const OFFSET = '0000000100002000';

/** The header of a structured or an extended chunk, and the payload. */
function chunk(type: number, length: number, payload = '', flags = 1, extended = false): Uint8Array {
  const head = `${flags.toString(16).padStart(4, '0')} ${type.toString(16).padStart(4, '0')} ${COOKIE}`;
  return extended
    ? hex(`6e8a278c ${head} ${OFFSET} ${length.toString(16).padStart(16, '0')} ${payload}`)
    : hex(`668e33ef ${head} ${length.toString(16).padStart(8, '0')} ${payload}`);
}

function decoderOf(mode: ReplyMode): ReplyDecoder {
  return new ReplyDecoder({ mode });
}

describe('magic', () => {
  test.each([
    ['simple', 'a structured reply', '668e33ef'],
    ['simple', 'an extended reply', '6e8a278c'],
    ['structured', 'an extended reply', '6e8a278c'],
    ['extended', 'a simple reply', '67446698'],
    ['extended', 'a structured reply', '668e33ef'],
    ['structured', 'the magic of old', '96744668'],
  ] as const)('in mode %s %s ends the connection at the fourth byte', (mode, _, magic) => {
    expect(decodeAll(decoderOf(mode), hex(magic).subarray(0, 3))).toEqual([]);
    expect(violation(decoderOf(mode), hex(magic))).toBe('bad-magic');
  });
});

describe('simple replies', () => {
  const OK = hex(`67446698 00000000 ${COOKIE}`);

  test('are asked about once, by their cookie', () => {
    const asked: number[][] = [];
    const lengthOf = (high: number, low: number): number => {
      asked.push([high, low]);
      return 4;
    };
    const decoder = new ReplyDecoder({ mode: 'simple', lengthOf });
    expect(decodeAll(decoder, OK, hex('0102'), hex('0304'))).toMatchObject([{ payload: hex('01020304') }]);
    expect(asked).toEqual([[0x01020304, 0xfedcba98]]);
  });

  test('to no request end the connection', () => {
    const decoder = new ReplyDecoder({ mode: 'simple', lengthOf: () => undefined });
    expect(violation(decoder, OK)).toBe('unexpected');
  });

  test('to READ end the connection once structured replies were negotiated', () => {
    expect(violation(new ReplyDecoder({ mode: 'structured', lengthOf: () => 1 }), OK)).toBe('unexpected');
    expect(decodeAll(new ReplyDecoder({ mode: 'structured', lengthOf: () => 0 }), OK)).toHaveLength(1);
  });
});

describe('reply chunks', () => {
  test.each([
    ['NONE with a payload', 'bad-length', chunk(ReplyType.NONE, 1)],
    ['NONE that is not the last', 'bad-flags', chunk(ReplyType.NONE, 0, '', 0)],
    ['OFFSET_DATA without data', 'bad-length', chunk(ReplyType.OFFSET_DATA, 8)],
    ['OFFSET_HOLE that is short', 'bad-length', chunk(ReplyType.OFFSET_HOLE, 11)],
    ['OFFSET_HOLE that is long', 'bad-length', chunk(ReplyType.OFFSET_HOLE, 13)],
    ['BLOCK_STATUS without extents', 'bad-length', chunk(ReplyType.BLOCK_STATUS, 4)],
    ['BLOCK_STATUS with part of an extent', 'bad-length', chunk(ReplyType.BLOCK_STATUS, 16)],
    ['BLOCK_STATUS_EXT without extended headers', 'unexpected', chunk(ReplyType.BLOCK_STATUS_EXT, 24)],
    ['ERROR that is short', 'bad-length', chunk(ReplyType.ERROR, 5)],
    ['ERROR_OFFSET that is short', 'bad-length', chunk(ReplyType.ERROR_OFFSET, 13)],
    ['an unknown error that is short', 'bad-length', chunk(0x8003, 5)],
    ['type 3', 'unexpected', chunk(3, 0)],
    ['type 0x7fff', 'unexpected', chunk(0x7fff, 0)],
    ['BLOCK_STATUS with extended headers', 'unexpected', chunk(ReplyType.BLOCK_STATUS, 12, '', 1, true)],
    ['BLOCK_STATUS_EXT without extents', 'bad-length', chunk(ReplyType.BLOCK_STATUS_EXT, 8, '', 1, true)],
    ['BLOCK_STATUS_EXT with part of an extent', 'bad-length', chunk(ReplyType.BLOCK_STATUS_EXT, 32, '', 1, true)],
  ] as const)('%s ends the connection at the header', (_, code, bytes) => {
    const mode = bytes[0] === 0x6e ? 'extended' : 'structured';
    expect(decodeAll(decoderOf(mode), bytes.subarray(0, -1))).toEqual([]);
    expect(violation(decoderOf(mode), bytes)).toBe(code);
  });

  test.each([
    ['a hole of no bytes', 'bad-value', chunk(2, 12, '0000000000000000 00000000')],
    ['a hole above 2^53 - 1', 'too-large', chunk(2, 12, '0020000000000000 00000001')],
    ['data above 2^53 - 1', 'too-large', chunk(1, 9, '0020000000000000')],
    ['an extent of no bytes', 'bad-value', chunk(5, 12, '00000001 00000000 00000000')],
    ['an error of 0', 'bad-value', chunk(0x8001, 6, '00000000 0000')],
    ['a message longer than its chunk', 'bad-length', chunk(0x8001, 7, '00000005 0002 61')],
    ['a message that leaves no offset', 'bad-length', chunk(0x8002, 14, '00000005 0001 61 00000000000000')],
    ['a message longer than an unknown error', 'bad-length', chunk(0x8fff, 6, '00000005 0001')],
    ['a message that is not UTF-8', 'bad-string', chunk(0x8001, 7, '00000005 0001 ff')],
    ['a message with a NUL', 'bad-string', chunk(0x8001, 7, '00000005 0001 00')],
    ['an error above 2^53 - 1', 'too-large', chunk(0x8002, 14, '00000005 0000 0020000000000000')],
    [
      'a wide extent of no bytes',
      'bad-value',
      chunk(6, 24, '00000001 00000001 0000000000000000 0000000000000000', 1, true),
    ],
    [
      'a wide extent above 2^53 - 1',
      'too-large',
      chunk(6, 24, '00000001 00000001 0020000000000000 0000000000000000', 1, true),
    ],
    [
      'a count of extents that does not fit',
      'bad-length',
      chunk(6, 24, '00000001 00000002 0000000000001000 0000000000000000', 1, true),
    ],
  ] as const)('%s ends the connection', (_, code, bytes) => {
    expect(violation(decoderOf(bytes[0] === 0x6e ? 'extended' : 'structured'), bytes)).toBe(code);
  });

  test.each([
    ['data', ReplyType.OFFSET_DATA, 8 + LIMITS.payload, 1, false],
    ['extents', ReplyType.BLOCK_STATUS, 4 + 8 * LIMITS.extents, 8, false],
    ['an error', ReplyType.ERROR, 6 + 2 * 4096, 1, false],
    ['an unknown error', 0xffff, 6 + 2 * 4096, 1, false],
    ['wide data', ReplyType.OFFSET_DATA, 8 + LIMITS.payload, 1, true],
    ['wide extents', ReplyType.BLOCK_STATUS_EXT, 8 + 16 * LIMITS.extents, 16, true],
  ])('%s at the limit are waited for, above it refused at the header', (_, type, max, step, extended) => {
    const mode = extended ? 'extended' : 'structured';
    expect(decodeAll(decoderOf(mode), chunk(type, max, '', 1, extended))).toEqual([]);
    expect(violation(decoderOf(mode), chunk(type, max + step, '', 1, extended))).toBe('too-large');
    expect(violation(decoderOf(mode), chunk(type, 0xffffffff, '', 1, extended))).toBe('too-large');
  });

  test('payloadMax bounds the data of a chunk', () => {
    const decoder = (): ReplyDecoder => new ReplyDecoder({ mode: 'structured', payloadMax: 2 });
    expect(decodeAll(decoder(), chunk(1, 10, `${OFFSET} 0102`))).toHaveLength(1);
    expect(violation(decoder(), chunk(1, 11))).toBe('too-large');
  });

  test('a message of 4096 bytes is read, one of 4097 is refused', () => {
    const error = (size: number): Uint8Array =>
      chunk(0x8001, 6 + size, `00000005 ${size.toString(16).padStart(4, '0')} ${'61'.repeat(size)}`);
    expect(decodeAll(decoderOf('structured'), error(4096))).toMatchObject([{ message: 'a'.repeat(4096) }]);
    expect(violation(decoderOf('structured'), error(4097))).toBe('too-large');
  });
});

describe('encoding replies', () => {
  const simple = new ReplyEncoder({ mode: 'simple' });
  const structured = new ReplyEncoder({ mode: 'structured' });
  const extended = new ReplyEncoder({ mode: 'extended' });
  const HOLE = StateFlag.HOLE | StateFlag.ZERO;

  function statusOf(mode: ReplyMode, bytes: Uint8Array): readonly Extent[] {
    const [message] = decodeAll(decoderOf(mode), bytes);
    return (message as BlockStatusChunk).extents;
  }

  test('a simple reply carries all of the data or none', () => {
    expect(() => simple.dataHeader(TARGET, TARGET.offset + 1, 1, true)).toThrow(RangeError);
    expect(() => simple.dataHeader(TARGET, TARGET.offset, 1, false)).toThrow(RangeError);
    expect(() => simple.none(TARGET)).toThrow(RangeError);
    expect(() => simple.hole(TARGET, 0, 1, true)).toThrow(RangeError);
    expect(() => simple.blockStatus(TARGET, 1, [{ length: 1, flags: 0 }], true)).toThrow(RangeError);
    expect(() => simple.errorOffset(TARGET, ErrorCode.EIO, 0, true)).toThrow(RangeError);
  });

  test('no data is a NONE chunk, since OFFSET_DATA has at least one byte', () => {
    expect(structured.dataHeader(TARGET, TARGET.offset, 0, true)).toEqual(structured.none(TARGET));
    expect(() => structured.dataHeader(TARGET, TARGET.offset, 0, false)).toThrow(RangeError);
  });

  test('values that the wire cannot hold are refused', () => {
    expect(() => structured.dataHeader(TARGET, TARGET.offset, 2 ** 32 - 8, true)).toThrow(RangeError);
    expect(() => structured.dataHeader(TARGET, 2 ** 53, 1, true)).toThrow(RangeError);
    expect(() => structured.hole(TARGET, 0, 0, true)).toThrow(RangeError);
    expect(() => structured.hole(TARGET, 0, 2 ** 32, true)).toThrow(RangeError);
    expect(() => structured.error(TARGET, 0 as ErrorCode)).toThrow(RangeError);
    expect(() => structured.blockStatus(TARGET, 1, [], true)).toThrow(RangeError);
    expect(() => structured.blockStatus(TARGET, 1, [{ length: 0, flags: 0 }], true)).toThrow(RangeError);
    expect(() => structured.blockStatus(TARGET, 1, [{ length: 1, flags: 0, flagsHigh: 1 }], true)).toThrow(RangeError);
  });

  test('a long message is cut after a whole character, and a NUL is left out', () => {
    const message = `a\0${'€'.repeat(2000)}`;
    const [reply] = decodeAll(decoderOf('structured'), structured.error(TARGET, ErrorCode.EIO, message));
    expect(reply).toMatchObject({ error: 5, message: `a${'€'.repeat(1365)}` });
    expect(extended.errorOffset(TARGET, ErrorCode.EIO, 0, true, message)).toHaveLength(32 + 14 + 4096);
  });

  test('without extended headers an extent of 4 GiB is cut and is the last', () => {
    const extents = [
      { length: 4096, flags: 0 },
      { length: 2 ** 32 - 65_536, flags: HOLE },
      { length: 2 ** 32, flags: 0 },
      { length: 4096, flags: HOLE },
    ];
    expect(statusOf('structured', structured.blockStatus(TARGET, 1, extents, true))).toMatchObject([
      ...extents.slice(0, 2),
      { length: 2 ** 32 - 65_536, flags: 0 },
    ]);
    expect(statusOf('extended', extended.blockStatus(TARGET, 1, extents, true))).toMatchObject(extents);
  });

  test.each(['structured', 'extended'] as const)('no more than 2^20 extents are sent in mode %s', (mode) => {
    const extents = Array.from({ length: LIMITS.extents + 1 }, (_, index) => ({ length: index + 1, flags: index & 1 }));
    const reply = new ReplyEncoder({ mode }).blockStatus(TARGET, 1, extents, true);
    const received = statusOf(mode, reply);
    expect(received).toHaveLength(LIMITS.extents);
    expect(received.at(-1)).toMatchObject(extents[LIMITS.extents - 1]!);
  });

  test('an extended reply repeats an offset above 2^53 - 1 as it was sent', () => {
    const reply = extended.error({ ...TARGET, wideOffset: 2n ** 63n + 1n }, ErrorCode.EINVAL);
    expect(reply.subarray(16, 24)).toEqual(hex('8000000000000001'));
  });

  test('replies lie side by side and are not written to again', () => {
    const encoder = new ReplyEncoder({ mode: 'simple' });
    const first = encoder.error(TARGET, ErrorCode.EIO);
    const copy = first.slice();
    const others = Array.from({ length: 5000 }, () => encoder.ok(TARGET));
    expect(first).toEqual(copy);
    expect(others[0]!.buffer).toBe(first.buffer);
    expect(others[0]!.byteOffset).toBe(first.byteOffset + first.length);
    const slabs = new Set(others.map((reply) => reply.buffer));
    expect(slabs.size).toBe(5);
    expect(new Set(others.map((reply) => join(reply).toString())).size).toBe(1);
  });

  test('the caller can say where replies are written', () => {
    const arena = new Uint8Array(100).fill(0xff);
    let end = 0;
    const allocate = (size: number): Uint8Array => {
      end += size;
      return arena.subarray(end - size, end);
    };
    const encoder = new ReplyEncoder({ mode: 'structured', allocate });
    const expected = join(structured.ok(TARGET), structured.hole(TARGET, 0, 512, true));
    encoder.ok(TARGET);
    encoder.hole(TARGET, 0, 512, true);
    expect(arena.subarray(0, end)).toEqual(expected);
  });
});
