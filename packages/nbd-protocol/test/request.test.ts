import { describe, expect, test } from 'vitest';
import { Command, CommandFlag, ErrorCode, encodeRequest, LIMITS, type Request, RequestDecoder } from '../src/index.ts';
import { cut, decodeAll, hex, join, violation } from './support.ts';

const COOKIE = '01020304fedcba98';
const FLUSH = hex(`25609513 0000 0003 ${COOKIE} 0000000000000000 00000000`);
const EXTENDED_FLUSH = hex(`21e41c71 0000 0003 ${COOKIE} 0000000000000000 0000000000000000`);

function compact(): RequestDecoder {
  return new RequestDecoder({ extended: false });
}

function extended(payloadMax?: number): RequestDecoder {
  return new RequestDecoder(payloadMax === undefined ? { extended: true } : { extended: true, payloadMax });
}

/** Decodes one request and the FLUSH behind it, whatever the cut; gives the first. */
function faulty(decoder: () => RequestDecoder, request: string, payload: Uint8Array = new Uint8Array(0)): Request {
  const header = hex(request);
  const next = header[0] === 0x21 ? EXTENDED_FLUSH : FLUSH;
  const bytes = join(header, payload, next);
  const [first, ...others] = decodeAll(decoder(), bytes);
  expect(others).toMatchObject([{ command: Command.FLUSH, fault: undefined }]);
  for (const points of [[1], [header.length], [header.length + 1, bytes.length - next.length + 3]]) {
    expect(decodeAll(decoder(), ...cut(bytes, points))).toEqual([first, ...others]);
  }
  return first!;
}

describe('compact requests', () => {
  test('a wrong magic ends the connection at its last byte', () => {
    expect(decodeAll(compact(), hex('256095'))).toEqual([]);
    expect(violation(compact(), hex('25609514'))).toBe('bad-magic');
    expect(violation(compact(), hex('21e41c71'))).toBe('bad-magic');
    expect(violation(compact(), FLUSH, hex('12560953'), FLUSH)).toBe('bad-magic');
  });

  test.each([
    ['READ', 0, CommandFlag.DF],
    ['WRITE', 1, 0],
    ['FLUSH', 3, 0],
    ['TRIM', 4, 0],
    ['CACHE', 5, 0],
    ['WRITE_ZEROES', 6, CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO],
    ['BLOCK_STATUS', 7, CommandFlag.REQ_ONE],
  ])('%s may carry its own flags and FUA, and no other', (_, command, own) => {
    for (let bit = 1; bit < 0x10000; bit *= 2) {
      const bytes = encodeRequest({ command, flags: bit, cookieHigh: 1, cookieLow: 2, offset: 0, length: 0 }, false);
      const fault = (bit & (own | CommandFlag.FUA)) === 0 ? ErrorCode.EINVAL : undefined;
      expect(decodeAll(compact(), bytes)).toMatchObject([{ flags: bit, fault }]);
    }
  });

  test('FLUSH with an offset or a length is at fault', () => {
    expect(faulty(compact, `25609513 0000 0003 ${COOKIE} 0000000000000001 00000000`).fault).toBe(ErrorCode.EINVAL);
    expect(faulty(compact, `25609513 0000 0003 ${COOKIE} 0000000000000000 00000001`).fault).toBe(ErrorCode.EINVAL);
  });

  test('a READ that ends at 2^53 - 1 is fine, one that ends above is at fault', () => {
    const fine = hex(`25609513 0000 0000 ${COOKIE} 001ffffffffffffe 00000001`);
    expect(decodeAll(compact(), fine)).toMatchObject([{ offset: 2 ** 53 - 2, fault: undefined }]);
    const above = faulty(compact, `25609513 0000 0000 ${COOKIE} 001fffffffffffff 00000001`);
    expect(above).toMatchObject({ fault: ErrorCode.EINVAL, wideOffset: undefined });
  });

  test.each([
    ['READ', 0, ErrorCode.EINVAL],
    ['WRITE', 1, ErrorCode.ENOSPC],
    ['TRIM', 4, ErrorCode.EINVAL],
    ['WRITE_ZEROES', 6, ErrorCode.ENOSPC],
    ['BLOCK_STATUS', 7, ErrorCode.EINVAL],
  ])('%s at the last byte of 64 bits survives, with the error for a range beyond the export', (_, command, fault) => {
    const payload = command === Command.WRITE ? hex('01020304') : hex('');
    const request = faulty(compact, `25609513 0000 000${command} ${COOKIE} ffffffffffffffff 00000004`, payload);
    expect(request).toMatchObject({ fault, payload: undefined, wideOffset: 2n ** 64n - 1n });
    expect(request).toMatchObject({ cookieHigh: 0x01020304, cookieLow: 0xfedcba98, length: 4 });
  });

  test('a WRITE of the maximum is read, a longer one is skipped without a buffer and is at fault', () => {
    const sizes: number[] = [];
    const allocate = (size: number): Uint8Array => {
      sizes.push(size);
      return new Uint8Array(size);
    };
    const decoder = (): RequestDecoder => new RequestDecoder({ extended: false, payloadMax: 64, allocate });
    const data = new Uint8Array(65).fill(7);
    const fine = join(hex(`25609513 0000 0001 ${COOKIE} 0000000000000000 00000040`), data.subarray(1));
    expect(decodeAll(decoder(), ...cut(fine, [40]))).toMatchObject([{ payload: data.subarray(1), fault: undefined }]);
    expect(sizes).toEqual([64]);
    const request = faulty(decoder, `25609513 0000 0001 ${COOKIE} 0000000000000000 00000041`, data);
    expect(request).toMatchObject({ length: 65, payload: undefined, fault: ErrorCode.EINVAL });
    expect(sizes).toEqual([64]);
  });

  test('a WRITE above 64 MiB ends the connection at the header', () => {
    expect(decodeAll(compact(), hex(`25609513 0000 0001 ${COOKIE} 0000000000000000 04000000`))).toEqual([]);
    const header = hex(`25609513 0000 0001 ${COOKIE} 0000000000000000 04000001`);
    expect(decodeAll(compact(), header.subarray(0, 27))).toEqual([]);
    expect(violation(compact(), header)).toBe('too-large');
  });

  test('a WRITE above 64 MiB is read where the advertised maximum allows it', () => {
    const decoder = new RequestDecoder({ extended: false, payloadMax: LIMITS.payloadSkip + 8, allocate: lazily });
    expect(decodeAll(decoder, hex(`25609513 0000 0001 ${COOKIE} 0000000000000000 04000008`))).toEqual([]);
    const stricter = new RequestDecoder({ extended: false, payloadMax: LIMITS.payloadSkip + 8 });
    expect(violation(stricter, hex(`25609513 0000 0001 ${COOKIE} 0000000000000000 04000009`))).toBe('too-large');
  });

  test('a payload inside one chunk is a view of it, one that was cut has a buffer of its own', () => {
    const bytes = join(hex(`25609513 0000 0001 ${COOKIE} 0000000000000000 00000004`), hex('01020304'));
    const [whole] = decodeAll(compact(), bytes);
    expect(whole!.payload!.buffer).toBe(bytes.buffer);
    const [assembled] = decodeAll(compact(), bytes.subarray(0, 30), bytes.subarray(30));
    expect([...assembled!.payload!]).toEqual([1, 2, 3, 4]);
    expect(assembled!.payload!.buffer).not.toBe(bytes.buffer);
    expect(assembled!.payload!.buffer.byteLength).toBe(4);
  });

  test('a buffer of the wrong size from the caller is the caller’s mistake', () => {
    const decoder = new RequestDecoder({ extended: false, allocate: (size) => new Uint8Array(size + 1) });
    decoder.push(hex(`25609513 0000 0001 ${COOKIE} 0000000000000000 00000004 01`));
    expect(() => decoder.next()).toThrow(RangeError);
  });

  test('nothing is decoded after DISC', () => {
    const disc = hex(`25609513 0000 0002 ${COOKIE} 0000000000000000 00000000`);
    const decoder = compact();
    expect(decodeAll(decoder, join(disc, FLUSH, hex('ffff')), hex('ffffffff'))).toMatchObject([{ command: 2 }]);
    expect(decoder.rest()).toHaveLength(0);
  });

  test('DISC is never at fault, since it gets no reply', () => {
    const disc = hex(`25609513 ffff 0002 ${COOKIE} ffffffffffffffff ffffffff`);
    expect(decodeAll(compact(), disc)).toMatchObject([{ command: Command.DISC, fault: undefined }]);
    const extendedDisc = hex(`21e41c71 0020 0002 ${COOKIE} 0000000000000000 ffffffffffffffff`);
    expect(decodeAll(extended(), extendedDisc)).toMatchObject([{ command: Command.DISC, fault: undefined }]);
  });
});

function lazily(size: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(size));
}

describe('extended requests', () => {
  const OFFSET = '0000000100002000';

  test('a compact request ends the connection', () => {
    expect(violation(extended(), FLUSH)).toBe('bad-magic');
  });

  test('WRITE without PAYLOAD_LEN has no payload and is at fault', () => {
    const request = faulty(extended, `21e41c71 0000 0001 ${COOKIE} ${OFFSET} 0000000000000004`);
    expect(request).toMatchObject({ fault: ErrorCode.EINVAL, payload: undefined, length: 4 });
  });

  test.each([
    ['READ', '0000'],
    ['FLUSH', '0003'],
    ['TRIM', '0004'],
    ['CACHE', '0005'],
    ['WRITE_ZEROES', '0006'],
    ['an unknown command', 'abcd'],
  ])('%s with a payload is at fault once the payload was skipped', (_, command) => {
    const request = faulty(extended, `21e41c71 0020 ${command} ${COOKIE} ${OFFSET} 0000000000000004`, hex('01020304'));
    expect(request).toMatchObject({ fault: ErrorCode.EINVAL, payload: undefined });
  });

  test.each([
    ['no context id', '0000000000000008', '0000000000001000'],
    ['half a context id', '000000000000000a', '0000000000001000 0000'],
    ['no effect length', '0000000000000004', '00001000'],
    ['a context id twice', '0000000000000010', '0000000000001000 00000001 00000001'],
    ['an effect length above 2^53 - 1', '000000000000000c', 'ffffffffffffffff 00000001'],
  ])('BLOCK_STATUS whose payload has %s is at fault', (_, length, payload) => {
    const request = faulty(extended, `21e41c71 0020 0007 ${COOKIE} ${OFFSET} ${length}`, hex(payload));
    expect(request.fault).toBe(ErrorCode.EINVAL);
  });

  test('BLOCK_STATUS with PAYLOAD_LEN and no payload at all is at fault', () => {
    const request = faulty(extended, `21e41c71 0020 0007 ${COOKIE} ${OFFSET} 0000000000000000`);
    expect(request.fault).toBe(ErrorCode.EINVAL);
  });

  test('BLOCK_STATUS of contexts may end at 2^53 - 1: the length of its payload is no length of the export', () => {
    const last = hex(`21e41c71 0020 0007 ${COOKIE} 001ffffffffffffe 000000000000000c 0000000000000001 00000001`);
    expect(decodeAll(extended(), last)).toMatchObject([{ fault: undefined, offset: 2 ** 53 - 2, length: 1 }]);
  });

  test('1024 context ids are read, 1025 are skipped and at fault', () => {
    const ids = (count: number): Uint8Array =>
      encodeRequest(
        {
          command: Command.BLOCK_STATUS,
          cookieHigh: 0,
          cookieLow: 0,
          offset: 0,
          length: 512,
          contextIds: Array.from({ length: count }, (_, index) => index),
        },
        true,
      );
    expect(decodeAll(extended(), ids(LIMITS.contextIds))).toMatchObject([{ fault: undefined, length: 512 }]);
    expect(decodeAll(extended(), ids(LIMITS.contextIds + 1), EXTENDED_FLUSH)).toMatchObject([
      { fault: ErrorCode.EINVAL, contextIds: undefined },
      { command: Command.FLUSH },
    ]);
  });

  test('an offset or length above 2^53 - 1 without payload is at fault and keeps the offset for the reply', () => {
    const offset = faulty(extended, `21e41c71 0000 0004 ${COOKIE} 8000000000000001 0000000000001000`);
    expect(offset).toMatchObject({ fault: ErrorCode.EINVAL, wideOffset: 2n ** 63n + 1n });
    const length = faulty(extended, `21e41c71 0000 0006 ${COOKIE} ${OFFSET} ffffffffffffffff`);
    expect(length).toMatchObject({ fault: ErrorCode.ENOSPC, wideOffset: undefined, offset: 0x1_0000_2000 });
  });

  test('any payload above the maximum ends the connection at the header', () => {
    for (const command of ['0000', '0001', '0007', 'abcd']) {
      const header = (length: string): Uint8Array => hex(`21e41c71 0020 ${command} ${COOKIE} ${OFFSET} ${length}`);
      expect(decodeAll(extended(4096), header('0000000000001000'))).toEqual([]);
      expect(decodeAll(extended(4096), header('0000000000001001').subarray(0, 31))).toEqual([]);
      expect(violation(extended(4096), header('0000000000001001'))).toBe('too-large');
      expect(violation(extended(4096), header('ffffffffffffffff'))).toBe('too-large');
    }
  });
});

describe('encoding requests', () => {
  const READ = { command: Command.READ, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };

  test('what the wire cannot hold is refused', () => {
    expect(() => encodeRequest({ ...READ, length: 2 ** 32 }, false)).toThrow(RangeError);
    expect(() => encodeRequest({ ...READ, offset: 2 ** 53 }, true)).toThrow(RangeError);
    expect(() => encodeRequest({ ...READ, offset: 0.5 }, true)).toThrow(RangeError);
    expect(() => encodeRequest({ ...READ, offset: -1 }, true)).toThrow(RangeError);
    expect(() => encodeRequest({ ...READ, command: 0x10000 }, false)).toThrow(RangeError);
    expect(() => encodeRequest({ ...READ, flags: 0x10000 }, false)).toThrow(RangeError);
  });

  test('context ids belong to BLOCK_STATUS with extended headers, and there is at least one', () => {
    const status = { ...READ, command: Command.BLOCK_STATUS };
    expect(() => encodeRequest({ ...status, contextIds: [1] }, false)).toThrow(RangeError);
    expect(() => encodeRequest({ ...READ, contextIds: [1] }, true)).toThrow(RangeError);
    expect(() => encodeRequest({ ...status, contextIds: [] }, true)).toThrow(RangeError);
    expect(() => encodeRequest({ ...status, contextIds: [2 ** 32] }, true)).toThrow(RangeError);
  });
});
