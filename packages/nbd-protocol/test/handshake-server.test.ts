import { describe, expect, test } from 'vitest';
import { HandshakeFlag, HandshakeServerDecoder, LIMITS, Option } from '../src/index.ts';
import { atOptions } from './golden-handshake.ts';
import { cut, decodeAll, hex, join, utf8, violation } from './support.ts';

/** An option header in front of data of another length, if need be. */
function option(number: number, data: Uint8Array, length = data.length): Uint8Array {
  return join(hex(`49484156454f5054 ${word(number)} ${word(length)}`), data);
}

function word(value: number): string {
  return value.toString(16).padStart(8, '0');
}

const NEXT = option(Option.LIST, new Uint8Array(0));
const NEXT_MESSAGE = { kind: 'option', option: Option.LIST };

describe('client flags', () => {
  test('a flag that is not known ends the connection', () => {
    expect(violation(new HandshakeServerDecoder(), hex('00000004'))).toBe('bad-flags');
    expect(violation(new HandshakeServerDecoder(), hex('80000003'))).toBe('bad-flags');
  });

  test('a flag that was not offered ends the connection', () => {
    const flags = HandshakeFlag.FIXED_NEWSTYLE;
    expect(violation(new HandshakeServerDecoder({ flags }), hex('00000003'))).toBe('bad-flags');
    expect(decodeAll(new HandshakeServerDecoder({ flags }), hex('00000001'))).toHaveLength(1);
  });
});

describe('options', () => {
  test('a wrong magic ends the connection at its last byte', () => {
    expect(violation(atOptions(), hex('49484156454f5055'))).toBe('bad-magic');
  });

  test.each([
    ['LIST with data', option(Option.LIST, hex('00'))],
    ['STARTTLS with data', option(Option.STARTTLS, hex('00'))],
    ['STRUCTURED_REPLY with data', option(Option.STRUCTURED_REPLY, hex('00'))],
    ['EXTENDED_HEADERS with data', option(Option.EXTENDED_HEADERS, hex('00'))],
    ['EXPORT_NAME that is not UTF-8', option(Option.EXPORT_NAME, hex('ff'))],
    ['EXPORT_NAME with a NUL', option(Option.EXPORT_NAME, hex('6100'))],
    ['GO without anything', option(Option.GO, hex(''))],
    ['GO that ends within the length of the name', option(Option.GO, hex('000000'))],
    ['GO that ends within the name', option(Option.GO, hex('00000003 6162'))],
    ['GO whose name leaves no room for the count', option(Option.GO, hex('00000002 6162 00'))],
    ['GO with a name of 4 GiB', option(Option.GO, hex('ffffffff 6162 0000'))],
    ['GO with fewer requests than counted', option(Option.GO, hex('00000000 0002 0001'))],
    ['GO with more requests than counted', option(Option.GO, hex('00000000 0000 0001'))],
    ['INFO with half a request', option(Option.INFO, hex('00000000 0001 00'))],
    ['INFO with a name that is not UTF-8', option(Option.INFO, hex('00000001 80 0000'))],
    ['SET_META_CONTEXT without a count', option(Option.SET_META_CONTEXT, hex('00000000 000000'))],
    ['SET_META_CONTEXT with fewer queries than counted', option(Option.SET_META_CONTEXT, hex('00000000 00000001'))],
    ['LIST_META_CONTEXT with 2^32 - 1 queries', option(Option.LIST_META_CONTEXT, hex('00000000 ffffffff 00000000'))],
    ['a query longer than the option', option(Option.SET_META_CONTEXT, hex('00000000 00000001 00000002 61'))],
    ['data after the last query', option(Option.SET_META_CONTEXT, hex('00000000 00000000 00'))],
    ['a query with a NUL', option(Option.SET_META_CONTEXT, hex('00000000 00000001 00000001 00'))],
  ])('%s is told as invalid and the next option is read', (_, bytes) => {
    const [message, ...others] = decodeAll(atOptions(), bytes, NEXT);
    expect(message).toMatchObject({ kind: 'invalid-option', option: bytes[11], reason: expect.stringMatching(/\w/) });
    expect(others).toEqual([NEXT_MESSAGE]);
  });

  test('a name of 4096 bytes is read, one of 4097 is told as oversized', () => {
    const name = 'ü'.repeat(2048);
    expect(decodeAll(atOptions(), option(Option.EXPORT_NAME, utf8(name)))).toMatchObject([{ name }]);
    expect(decodeAll(atOptions(), option(Option.EXPORT_NAME, utf8(`${name}a`)), NEXT)).toEqual([
      { kind: 'oversized-option', option: Option.EXPORT_NAME, length: 4097 },
      NEXT_MESSAGE,
    ]);
  });

  test('1024 queries are read, 1025 are told as oversized', () => {
    const queries = (count: number): Uint8Array =>
      option(Option.SET_META_CONTEXT, join(hex(`00000000 ${word(count)}`), hex('00000002 613a'.repeat(count))));
    expect(decodeAll(atOptions(), queries(LIMITS.queries))).toMatchObject([{ kind: 'option' }]);
    expect(decodeAll(atOptions(), queries(LIMITS.queries + 1), NEXT)).toMatchObject([
      { kind: 'oversized-option' },
      NEXT_MESSAGE,
    ]);
  });

  test('data at the limit is read, data above it is skipped and told, in any cut', () => {
    const allocated: number[] = [];
    const allocate = (size: number): Uint8Array => {
      allocated.push(size);
      return new Uint8Array(size);
    };
    const limits = { optionDataMax: 100, optionSkipMax: 1000, allocate };
    const data = new Uint8Array(1000);
    expect(decodeAll(atOptions(limits), option(99, data.subarray(0, 100)))).toMatchObject([{ kind: 'unknown-option' }]);
    for (const size of [101, 1000]) {
      const bytes = join(option(99, data.subarray(0, size)), NEXT);
      for (const points of [[], [16], [17], [30, 60], [bytes.length - 17], [bytes.length - 8]]) {
        expect(decodeAll(atOptions(limits), ...cut(bytes, points))).toEqual([
          { kind: 'oversized-option', option: 99, length: size },
          NEXT_MESSAGE,
        ]);
      }
    }
    expect(allocated.filter((size) => size > 100 + 16)).toEqual([]);
  });

  test('data above the limit for skipping ends the connection at the header', () => {
    const header = option(99, new Uint8Array(0), LIMITS.optionSkip + 1);
    expect(decodeAll(atOptions(), header.subarray(0, 15))).toEqual([]);
    expect(violation(atOptions(), header)).toBe('too-large');
    expect(decodeAll(atOptions(), option(99, new Uint8Array(0), LIMITS.optionSkip))).toEqual([]);
  });

  test('after STARTTLS rest shows plain text that came with it, and the decoder goes on', () => {
    const decoder = atOptions();
    decoder.push(join(option(Option.STARTTLS, new Uint8Array(0)), NEXT.subarray(0, 5)));
    expect(decoder.next()).toEqual({ kind: 'option', option: Option.STARTTLS });
    expect([...decoder.rest()]).toEqual([...NEXT.subarray(0, 5)]);
    expect(decodeAll(decoder, NEXT.subarray(5))).toEqual([NEXT_MESSAGE]);
    expect(decoder.rest()).toHaveLength(0);
  });

  test('rest is exact in the middle of an option too', () => {
    const bytes = option(Option.EXPORT_NAME, utf8('a name'));
    for (let point = 0; point < bytes.length; point += 1) {
      const decoder = atOptions();
      expect(decodeAll(decoder, ...cut(bytes.subarray(0, point), [point >> 1]))).toEqual([]);
      expect([...decoder.rest()]).toEqual([...bytes.subarray(0, point)]);
    }
  });
});
