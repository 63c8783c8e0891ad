import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type Allocate,
  type Decoder,
  HandshakeClientDecoder,
  HandshakeServerDecoder,
  LIMITS,
  ProtocolError,
  ReplyDecoder,
  type ReplyMode,
  RequestDecoder,
} from '../src/index.ts';
import {
  chunkSent,
  cuts,
  optionReplySent,
  optionSent,
  requestSent,
  type Sent,
  simpleReplySent,
} from './arbitraries.ts';
import { CLIENT_FLAGS, GREETING } from './golden-handshake.ts';
import { cut, join, named } from './support.ts';

const PAYLOAD_MAX = 300;
const OPTION_MAX = 200;
/** The most that any of the decoders below may ask for at once. */
const ALLOCATION_MAX = Math.max(
  PAYLOAD_MAX + 8,
  8 + 4 * LIMITS.contextIds,
  16 + OPTION_MAX,
  20 + LIMITS.optionReplyData,
  8 + 16 * LIMITS.extents,
);

interface Half {
  readonly name: string;
  readonly decoder: (allocate: Allocate) => Decoder<unknown>;
  readonly sent: fc.Arbitrary<Sent<unknown>>;
  /** What must come first. */
  readonly prologue: Uint8Array;
}

const NOTHING = new Uint8Array(0);

function replies(mode: ReplyMode, sent: fc.Arbitrary<Sent<unknown>>): Half {
  return {
    name: `replies in mode ${mode}`,
    decoder: (allocate) =>
      new ReplyDecoder({
        mode,
        payloadMax: PAYLOAD_MAX,
        allocate,
        lengthOf: (_, low) => (low % 7 === 0 ? low % 64 : 0),
      }),
    sent,
    prologue: NOTHING,
  };
}

const HALVES: readonly Half[] = [
  {
    name: 'options',
    decoder: (allocate) => new HandshakeServerDecoder({ optionDataMax: OPTION_MAX, optionSkipMax: 1000, allocate }),
    sent: optionSent,
    prologue: CLIENT_FLAGS.bytes,
  },
  {
    name: 'option replies',
    decoder: (allocate) => new HandshakeClientDecoder({ allocate }),
    sent: optionReplySent,
    prologue: GREETING.bytes,
  },
  {
    name: 'requests',
    decoder: (allocate) => new RequestDecoder({ extended: false, payloadMax: PAYLOAD_MAX, allocate }),
    sent: requestSent(false),
    prologue: NOTHING,
  },
  {
    name: 'extended requests',
    decoder: (allocate) => new RequestDecoder({ extended: true, payloadMax: PAYLOAD_MAX, allocate }),
    sent: requestSent(true),
    prologue: NOTHING,
  },
  replies('simple', simpleReplySent),
  replies('structured', fc.oneof(simpleReplySent, chunkSent('structured'))),
  replies('extended', chunkSent('extended')),
];

interface Outcome {
  readonly messages: unknown[];
  /** Of the violation with which it ended, or empty. */
  readonly code: string;
}

/** Everything that comes of these chunks. Throws if memory or time are not bounded by what was sent. */
function outcomeOf(half: Half, chunks: readonly Uint8Array[]): Outcome {
  const sentSize = chunks.reduce((total, chunk) => total + chunk.length, 0);
  // All but the last buffer were filled with bytes that came.
  let filledSize = 0;
  let lastSize = 0;
  const decoder = half.decoder((size) => {
    filledSize += lastSize;
    lastSize = size;
    assert(size <= ALLOCATION_MAX && filledSize <= sentSize);
    return new Uint8Array(size);
  });
  const messages: unknown[] = [];
  try {
    for (const chunk of chunks) {
      decoder.push(chunk);
      for (let message = decoder.next(); message !== undefined; message = decoder.next()) {
        messages.push(message);
        assert(messages.length <= sentSize, 'each message has at least one byte of its own');
      }
    }
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    return { messages, code: error.code };
  }
  return { messages, code: '' };
}

/** Changes to a valid stream: bytes overwritten, inserted, removed. */
const mutations = fc.array(
  fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    remove: fc.nat(4),
    insert: fc.oneof(
      fc.uint8Array({ maxLength: 4 }),
      fc.constantFrom(Uint8Array.of(0), Uint8Array.of(0xff), Uint8Array.of(0x7f, 0xff), Uint8Array.of(0, 0, 0, 0)),
    ),
  }),
  { maxLength: 4 },
);

function mutate(bytes: Uint8Array, changes: readonly { at: number; remove: number; insert: Uint8Array }[]): Uint8Array {
  return changes.reduce((current, { at, remove, insert }) => {
    const start = Math.floor(at * current.length);
    return join(current.subarray(0, start), insert, current.subarray(start + remove));
  }, bytes);
}

/** Changes that keep the length, so that what follows stays in step. */
const flips = fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(0xff)), { maxLength: 6 });

function flip(bytes: Uint8Array, changes: readonly (readonly [at: number, value: number])[]): Uint8Array {
  const copy = bytes.slice();
  for (const [at, value] of changes) if (copy.length > 0) copy[Math.floor(at * (copy.length - 1))] = value;
  return copy;
}

describe('fuzz: any bytes give the same messages and the same violation in any cut, within the limits', () => {
  test.each(named(HALVES))('%s: random bytes', (_, half) => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.boolean(), cuts, (random, withPrologue, cutsOf) => {
        const bytes = withPrologue ? join(half.prologue, random) : random;
        expect(outcomeOf(half, cut(bytes, cutsOf(bytes.length)))).toEqual(outcomeOf(half, [bytes]));
      }),
      { numRuns: 500 },
    );
  });

  test.each(named(HALVES))('%s: valid streams with bytes changed', (_, half) => {
    fc.assert(
      fc.property(fc.array(half.sent, { maxLength: 8 }), flips, cuts, (sent, changes, cutsOf) => {
        const bytes = flip(join(half.prologue, ...sent.map((each) => each.bytes)), changes);
        expect(outcomeOf(half, cut(bytes, cutsOf(bytes.length)))).toEqual(outcomeOf(half, [bytes]));
      }),
      { numRuns: 1500 },
    );
  });

  test.each(named(HALVES))('%s: valid streams with bytes inserted and removed', (_, half) => {
    fc.assert(
      fc.property(fc.array(half.sent, { maxLength: 8 }), mutations, cuts, (sent, changes, cutsOf) => {
        const bytes = mutate(join(half.prologue, ...sent.map((each) => each.bytes)), changes);
        expect(outcomeOf(half, cut(bytes, cutsOf(bytes.length)))).toEqual(outcomeOf(half, [bytes]));
      }),
      { numRuns: 1500 },
    );
  });
});
