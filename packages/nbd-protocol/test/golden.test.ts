import { describe, expect, test } from 'vitest';
import {
  type Decoder,
  HandshakeClientDecoder,
  HandshakeServerDecoder,
  ReplyDecoder,
  RequestDecoder,
} from '../src/index.ts';
import {
  atExportNameReply,
  atOptions,
  atReplies,
  CLIENT_FLAGS,
  EXPORT_NAME_REPLY,
  type Golden,
  GREETING,
  OPTION_REPLIES,
  OPTIONS,
  PADDED_EXPORT_NAME_REPLY,
} from './golden-handshake.ts';
import { type GoldenReply, REPLIES, REQUESTS } from './golden-transmission.ts';
import { cut, decodeAll, join, named } from './support.ts';

type Case = Golden<unknown> & { readonly decoder: () => Decoder<unknown>; readonly repeats: boolean };

function replyDecoder(golden: GoldenReply): Decoder<unknown> {
  return new ReplyDecoder({ mode: golden.mode, lengthOf: () => golden.length ?? 0 });
}

const CASES: readonly Case[] = [
  { ...CLIENT_FLAGS, decoder: () => new HandshakeServerDecoder(), repeats: false },
  ...OPTIONS.map((golden): Case => ({ ...golden, decoder: () => atOptions(), repeats: true })),
  { ...GREETING, decoder: () => new HandshakeClientDecoder(), repeats: false },
  ...OPTION_REPLIES.map((golden): Case => ({ ...golden, decoder: () => atReplies(), repeats: true })),
  { ...EXPORT_NAME_REPLY, decoder: () => atExportNameReply(true), repeats: false },
  { ...PADDED_EXPORT_NAME_REPLY, decoder: () => atExportNameReply(false), repeats: false },
  ...REQUESTS.map(
    (golden): Case => ({
      ...golden,
      decoder: () => new RequestDecoder({ extended: golden.extended }),
      repeats: golden.name !== 'DISC',
    }),
  ),
  ...REPLIES.map((golden): Case => ({ ...golden, decoder: () => replyDecoder(golden), repeats: true })),
];

describe('golden bytes', () => {
  test.each(named(CASES))('%s: decodes to what the specification says', (_, { bytes, message, decoder }) => {
    expect(decodeAll(decoder(), bytes)).toEqual([message]);
  });

  test.each(named(CASES.filter(({ encode }) => encode !== undefined)))(
    '%s: is encoded as the specification says',
    (_, { bytes, encode }) => {
      expect([...encode!()]).toEqual([...bytes]);
    },
  );

  test.each(named(CASES))('%s: decodes the same cut at every two points', (_, { bytes, message, decoder }) => {
    for (let first = 0; first <= bytes.length; first += 1) {
      for (let second = first; second <= bytes.length; second += 1) {
        expect(decodeAll(decoder(), ...cut(bytes, [first, second]))).toEqual([message]);
      }
    }
  });

  test.each(named(CASES))(
    '%s: decodes byte by byte, and not before its last byte',
    (_, { bytes, message, decoder }) => {
      const reader = decoder();
      expect(decodeAll(reader, ...cut(bytes.subarray(0, -1), [...bytes.keys()].slice(0, -1)))).toEqual([]);
      expect(decodeAll(reader, bytes.subarray(-1))).toEqual([message]);
      expect(reader.rest()).toHaveLength(0);
    },
  );

  test.each(named(CASES.filter(({ repeats }) => repeats)))(
    '%s: decodes three times in a row, cut at every point',
    (_, { bytes, message, decoder }) => {
      const thrice = join(bytes, bytes, bytes);
      for (let point = 0; point <= thrice.length; point += 1) {
        expect(decodeAll(decoder(), ...cut(thrice, [point]))).toEqual([message, message, message]);
      }
    },
  );

  test.each(named(CASES))('%s: leaves what follows it in rest', (_, { bytes, message, decoder }) => {
    const reader = decoder();
    const tail = Uint8Array.of(1, 2, 3);
    for (const chunk of cut(join(bytes, tail), [1, bytes.length - 1, bytes.length + 1])) reader.push(chunk);
    expect(reader.next()).toEqual(message);
    expect([...reader.rest()]).toEqual([...tail]);
  });
});
