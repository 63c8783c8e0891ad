import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ProtocolError } from '../src/index.ts';
import { decodeString, encodeMessage, encodeString } from '../src/strings.ts';
import { hex, utf8 } from './support.ts';

describe('strings', () => {
  test('come back as they were sent', () => {
    const texts = fc.string({ unit: 'binary', maxLength: 1000 }).filter((text) => !text.includes('\0'));
    fc.assert(
      fc.property(texts, (text) => {
        expect(decodeString(encodeString(text, 'text'), 'text')).toBe(text);
      }),
    );
  });

  test('messages are valid and short enough whatever the text', () => {
    const unit = fc.nat(0xffff).map((code) => String.fromCharCode(code));
    fc.assert(
      fc.property(fc.string({ unit, maxLength: 6000 }), (text) => {
        const bytes = encodeMessage(text);
        expect(bytes.length).toBeLessThanOrEqual(4096);
        const sent = new TextDecoder('utf-8', { ignoreBOM: true }).decode(utf8(text.replaceAll('\0', '')));
        expect(sent.startsWith(decodeString(bytes, 'message'))).toBe(true);
      }),
    );
  });

  test.each([
    ['a byte that begins nothing', 'ff'],
    ['a character that is cut', 'e282'],
    ['half of a surrogate pair', 'eda080'],
    ['an overlong form', 'c080'],
    ['a character above U+10FFFF', 'f4908080'],
    ['a NUL', '00'],
  ])('%s is refused', (_, bytes) => {
    expect(() => decodeString(hex(bytes), 'text')).toThrow(ProtocolError);
  });

  test('a byte order mark is kept', () => {
    expect(decodeString(hex('efbbbf61'), 'text')).toBe('\ufeffa');
  });

  test('what a peer would refuse is not encoded', () => {
    expect(() => encodeString('a\0', 'text')).toThrow(RangeError);
    expect(() => encodeString('\ud800', 'text')).toThrow(RangeError);
    expect(() => encodeString('a'.repeat(4097), 'text')).toThrow(RangeError);
    expect(encodeString('a'.repeat(4096), 'text')).toHaveLength(4096);
    expect(encodeString('😀', 'text')).toHaveLength(4);
  });
});
