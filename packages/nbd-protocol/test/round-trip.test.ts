import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Decoder, ReplyDecoder, RequestDecoder } from '../src/index.ts';
import {
  chunkSent,
  cuts,
  optionReplySent,
  optionSent,
  requestSent,
  type Sent,
  simpleReplySent,
} from './arbitraries.ts';
import { atOptions, atReplies } from './golden-handshake.ts';
import { cut, decodeAll, join, named } from './support.ts';

const HALVES: readonly { name: string; decoder: () => Decoder<unknown>; sent: fc.Arbitrary<Sent<unknown>> }[] = [
  { name: 'options', decoder: () => atOptions(), sent: optionSent },
  { name: 'option replies', decoder: () => atReplies(), sent: optionReplySent },
  { name: 'requests', decoder: () => new RequestDecoder({ extended: false }), sent: requestSent(false) },
  { name: 'extended requests', decoder: () => new RequestDecoder({ extended: true }), sent: requestSent(true) },
  { name: 'simple replies', decoder: () => new ReplyDecoder({ mode: 'simple' }), sent: simpleReplySent },
  {
    name: 'structured replies',
    decoder: () => new ReplyDecoder({ mode: 'structured' }),
    sent: fc.oneof(simpleReplySent, chunkSent('structured')),
  },
  { name: 'extended replies', decoder: () => new ReplyDecoder({ mode: 'extended' }), sent: chunkSent('extended') },
];

describe('round trip', () => {
  test.each(named(HALVES))('%s come out as they went in, whatever the cuts', (_, { decoder, sent }) => {
    fc.assert(
      fc.property(fc.array(sent, { maxLength: 12 }), cuts, (messages, cutsOf) => {
        const bytes = join(...messages.map((each) => each.bytes));
        expect(decodeAll(decoder(), ...cut(bytes, cutsOf(bytes.length)))).toEqual(messages.map((each) => each.message));
      }),
      { numRuns: 500 },
    );
  });

  test('data of simple replies comes out as it went in, whatever the cuts and the order of requests', () => {
    const reads = fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 12 });
    fc.assert(
      fc.property(reads, cuts, (payloads, cutsOf) => {
        const bytes = join(
          ...payloads.flatMap((payload, index) => [
            Uint8Array.of(0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, index),
            payload,
          ]),
        );
        const decoder = new ReplyDecoder({ mode: 'simple', lengthOf: (_, index) => payloads[index]?.length });
        const replies = decodeAll(decoder, ...cut(bytes, cutsOf(bytes.length)));
        expect(replies.map((reply) => reply.kind === 'simple' && [...reply.payload])).toEqual(
          payloads.map((payload) => [...payload]),
        );
      }),
    );
  });
});
