import { describe, expect, test } from 'vitest';
import { encodeOptionReplyInfoBlockSize, HandshakeClientDecoder, LIMITS, OptionReply } from '../src/index.ts';
import { atExportNameReply, atReplies } from './golden-handshake.ts';
import { decodeAll, hex, join, violation } from './support.ts';

function reply(type: number, data: Uint8Array, length = data.length): Uint8Array {
  return join(hex(`0003e889045565a9 00000007 ${word(type)} ${word(length)}`), data);
}

function word(value: number): string {
  return value.toString(16).padStart(8, '0');
}

describe('greeting', () => {
  test('a server that is not NBD is refused after 8 bytes', () => {
    expect(violation(new HandshakeClientDecoder(), hex('4e42444d41474944'))).toBe('bad-magic');
  });

  test('a server that is not newstyle is refused after 16 bytes', () => {
    expect(violation(new HandshakeClientDecoder(), hex('4e42444d41474943 49484156454f5055'))).toBe('bad-magic');
    expect(violation(new HandshakeClientDecoder(), hex('4e42444d41474943 0000420281861253'))).toBe('unexpected');
  });

  test('unknown handshake flags are passed on', () => {
    const decoder = new HandshakeClientDecoder();
    expect(decodeAll(decoder, hex('4e42444d41474943 49484156454f5054 8001'))).toEqual([
      { kind: 'greeting', flags: 0x8001 },
    ]);
  });
});

describe('option replies', () => {
  test('a wrong magic ends the connection', () => {
    expect(violation(atReplies(), hex('0003e889045565aa'))).toBe('bad-magic');
  });

  test.each([
    ['ACK with data', 'bad-length', reply(OptionReply.ACK, hex(''), 1)],
    ['SERVER without a length', 'bad-length', reply(OptionReply.SERVER, hex('000000'))],
    ['SERVER with a name longer than the reply', 'bad-length', reply(OptionReply.SERVER, hex('00000002 61'))],
    ['SERVER with a name that is not UTF-8', 'bad-string', reply(OptionReply.SERVER, hex('00000001 ff'))],
    ['INFO without a type', 'bad-length', reply(OptionReply.INFO, hex('00'))],
    ['INFO EXPORT that is short', 'bad-length', reply(OptionReply.INFO, hex('0000 0000000000001000 00'))],
    ['INFO EXPORT that is long', 'bad-length', reply(OptionReply.INFO, hex('0000 0000000000001000 000100'))],
    ['INFO EXPORT above 2^53 - 1', 'too-large', reply(OptionReply.INFO, hex('0000 0020000000000000 0001'))],
    ['INFO NAME with a NUL', 'bad-string', reply(OptionReply.INFO, hex('0001 00'))],
    ['INFO BLOCK_SIZE that is short', 'bad-length', reply(OptionReply.INFO, hex('0003 00000001 00001000 020000'))],
    ['a minimum block size of 0', 'bad-value', reply(OptionReply.INFO, hex('0003 00000000 00001000 02000000'))],
    ['a minimum block size of 3', 'bad-value', reply(OptionReply.INFO, hex('0003 00000003 00001000 02000000'))],
    ['a minimum above 64 KiB', 'bad-value', reply(OptionReply.INFO, hex('0003 00020000 00020000 02000000'))],
    ['a preferred block size below 512', 'bad-value', reply(OptionReply.INFO, hex('0003 00000001 00000100 02000000'))],
    ['a preferred below the minimum', 'bad-value', reply(OptionReply.INFO, hex('0003 00001000 00000200 02000000'))],
    ['a maximum below the preferred', 'bad-value', reply(OptionReply.INFO, hex('0003 00000001 00001000 00000fff'))],
    ['META_CONTEXT without an id', 'bad-length', reply(OptionReply.META_CONTEXT, hex('000000'))],
    ['an error message that is not UTF-8', 'bad-string', reply(OptionReply.ERR_INVALID, hex('ff'))],
  ] as const)('%s ends the connection', (_, code, bytes) => {
    expect(violation(atReplies(), bytes)).toBe(code);
  });

  test.each([
    ['an error', OptionReply.ERR_POLICY, LIMITS.string],
    ['SERVER', OptionReply.SERVER, 4 + 2 * LIMITS.string],
    ['META_CONTEXT', OptionReply.META_CONTEXT, 4 + LIMITS.string],
    ['INFO', OptionReply.INFO, LIMITS.optionReplyData],
    ['an unknown reply', 77, LIMITS.optionReplyData],
  ])('%s at the limit is waited for, above it refused at the header', (_, type, max) => {
    expect(decodeAll(atReplies(), reply(type, hex(''), max))).toEqual([]);
    expect(violation(atReplies(), reply(type, hex(''), max + 1))).toBe('too-large');
    expect(violation(atReplies(), reply(type, hex(''), 0xffffffff))).toBe('too-large');
  });

  test('a name of 4096 bytes is read, one of 4097 is refused', () => {
    const server = (size: number): Uint8Array =>
      reply(OptionReply.SERVER, join(hex(word(size)), new Uint8Array(size).fill(0x61)));
    expect(decodeAll(atReplies(), server(4096))).toMatchObject([{ kind: 'server', name: 'a'.repeat(4096) }]);
    expect(violation(atReplies(), server(4097))).toBe('too-large');
  });

  test('block sizes that the specification forbids are not encoded', () => {
    const encode = (minimum: number, preferred: number, maximum: number): Uint8Array =>
      encodeOptionReplyInfoBlockSize(7, { minimum, preferred, maximum });
    expect(encode(1, 512, 0xffffffff)).toHaveLength(34);
    expect(encode(65_536, 65_536, 65_536)).toHaveLength(34);
    expect(() => encode(0, 512, 512)).toThrow(RangeError);
    expect(() => encode(1, 511, 512)).toThrow(RangeError);
    expect(() => encode(1024, 512, 1024)).toThrow(RangeError);
    expect(() => encode(1, 4096, 4095)).toThrow(RangeError);
    expect(() => encode(1, 4096, 2 ** 32)).toThrow(RangeError);
  });
});

describe('reply to EXPORT_NAME', () => {
  test('an export above 2^53 - 1 bytes is refused after 8 bytes', () => {
    expect(violation(atExportNameReply(true), hex('0020000000000000'))).toBe('too-large');
  });

  test('can only be expected once, after the greeting', () => {
    expect(() => new HandshakeClientDecoder().expectExportNameReply(true)).toThrow(RangeError);
    const decoder = atExportNameReply(true);
    expect(() => decoder.expectExportNameReply(true)).toThrow(RangeError);
  });

  test('is the last message: what follows belongs to the transmission', () => {
    const decoder = atExportNameReply(true);
    const transmission = hex('67446698 00000000 01020304fedcba98');
    expect(decodeAll(decoder, join(hex('0000000000001000 0001'), transmission))).toHaveLength(1);
    expect([...decoder.rest()]).toEqual([...transmission]);
  });
});
