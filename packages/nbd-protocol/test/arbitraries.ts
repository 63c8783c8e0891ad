import fc from 'fast-check';
import {
  Command,
  type ErrorCode,
  type Extent,
  encodeOption,
  encodeOptionExportName,
  encodeOptionGo,
  encodeOptionInfo,
  encodeOptionListMetaContext,
  encodeOptionReply,
  encodeOptionReplyAck,
  encodeOptionReplyError,
  encodeOptionReplyInfoDescription,
  encodeOptionReplyInfoExport,
  encodeOptionReplyInfoName,
  encodeOptionReplyMetaContext,
  encodeOptionReplyServer,
  encodeOptionSetMetaContext,
  encodeRequest,
  encodeSimpleReply,
  type HandshakeClientMessage,
  type HandshakeServerMessage,
  type Reply,
  ReplyEncoder,
  type Request,
} from '../src/index.ts';
import { join } from './support.ts';

/** A message and its bytes, as the encoders make them. */
export interface Sent<Message> {
  readonly message: Message;
  readonly bytes: Uint8Array;
}

const u16 = fc.nat(0xffff);
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const nonzero32 = fc.integer({ min: 1, max: 0xffffffff });
const u53 = fc.maxSafeNat();
const data = fc.uint8Array({ maxLength: 100 });
const text = fc.string({ unit: 'binary', maxLength: 40 }).filter((value) => !value.includes('\0'));
/** Options and replies that this package does not know. */
const unknown = fc.integer({ min: 100, max: 0x7fffffff });
const cookie = fc.record({ cookieHigh: u32, cookieLow: u32 });

/** Cuts for {@link cut}: ascending, some of them equal. */
export const cuts: fc.Arbitrary<(size: number) => number[]> = fc
  .array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 })
  .map((fractions) => (size) => fractions.map((fraction) => Math.floor(fraction * size)).toSorted((a, b) => a - b));

export const optionSent: fc.Arbitrary<Sent<HandshakeClientMessage>> = fc.oneof(
  text.map((name) => ({ message: { kind: 'option', option: 1, name } as const, bytes: encodeOptionExportName(name) })),
  fc.constantFrom<2 | 3 | 5 | 8 | 11>(2, 3, 5, 8, 11).map((option) => ({
    message: { kind: 'option', option } as const,
    bytes: encodeOption(option),
  })),
  fc
    .tuple(fc.constantFrom<6 | 7>(6, 7), text, fc.array(u16, { maxLength: 5 }))
    .map(([option, name, informationRequests]) => ({
      message: { kind: 'option', option, name, informationRequests } as const,
      bytes: (option === 6 ? encodeOptionInfo : encodeOptionGo)(name, informationRequests),
    })),
  fc
    .tuple(fc.constantFrom<9 | 10>(9, 10), text, fc.array(text, { maxLength: 5 }))
    .map(([option, exportName, queries]) => ({
      message: { kind: 'option', option, exportName, queries } as const,
      bytes: (option === 9 ? encodeOptionListMetaContext : encodeOptionSetMetaContext)(exportName, queries),
    })),
  fc.tuple(unknown, data).map(([option, body]) => ({
    message: { kind: 'unknown-option', option, data: body } as const,
    bytes: encodeOption(option, body),
  })),
);

export const optionReplySent: fc.Arbitrary<Sent<HandshakeServerMessage>> = fc.oneof(
  u32.map((option) => ({ message: { kind: 'ack', option } as const, bytes: encodeOptionReplyAck(option) })),
  fc.tuple(text, text).map(([name, description]) => ({
    message: { kind: 'server', option: 3, name, description } as const,
    bytes: encodeOptionReplyServer(name, description),
  })),
  fc.tuple(u32, u53, u16).map(([option, size, flags]) => ({
    message: { kind: 'info-export', option, size, flags } as const,
    bytes: encodeOptionReplyInfoExport(option, size, flags),
  })),
  fc.tuple(u32, text).map(([option, name]) => ({
    message: { kind: 'info-name', option, name } as const,
    bytes: encodeOptionReplyInfoName(option, name),
  })),
  fc.tuple(u32, text).map(([option, description]) => ({
    message: { kind: 'info-description', option, description } as const,
    bytes: encodeOptionReplyInfoDescription(option, description),
  })),
  fc.tuple(u32, u32, text).map(([option, contextId, name]) => ({
    message: { kind: 'meta-context', option, contextId, name } as const,
    bytes: encodeOptionReplyMetaContext(option, contextId, name),
  })),
  fc.tuple(u32, fc.integer({ min: 0x80000000, max: 0xffffffff }), text).map(([option, type, message]) => ({
    message: { kind: 'option-error', option, type, message } as const,
    bytes: encodeOptionReplyError(option, type, message),
  })),
  fc.tuple(u32, unknown, data).map(([option, type, body]) => ({
    message: { kind: 'unknown-reply', option, type, data: body } as const,
    bytes: encodeOptionReply(option, type, body),
  })),
);

/** Requests that no server must refuse unseen. */
export function requestSent(extended: boolean): fc.Arbitrary<Sent<Request>> {
  const range = fc
    .tuple(u53, extended ? u53 : u32)
    .map(([offset, length]) => ({ offset, length: Math.min(length, Number.MAX_SAFE_INTEGER - offset) }));
  const plain = fc
    .tuple(cookie, range, fc.constantFrom(0, 4, 5, 6, 7, 1234), fc.boolean())
    .map(([ids, place, command, isFua]) =>
      requestOf({ ...ids, ...place, command, flags: isFua ? 1 : 0, payload: undefined }, extended),
    );
  const write = fc
    .tuple(cookie, fc.nat(2 ** 52), data)
    .map(([ids, offset, payload]) =>
      requestOf(
        { ...ids, offset, length: payload.length, command: Command.WRITE, flags: extended ? 0x20 : 0, payload },
        extended,
      ),
    );
  const status = fc
    .tuple(cookie, range, fc.uniqueArray(u32, { minLength: 1, maxLength: 5 }))
    .map(([ids, place, contextIds]) =>
      requestOf(
        { ...ids, ...place, command: Command.BLOCK_STATUS, flags: 0x20, payload: undefined, contextIds },
        extended,
      ),
    );
  return extended ? fc.oneof(plain, write, status) : fc.oneof(plain, write);
}

function requestOf(request: Request, extended: boolean): Sent<Request> {
  return {
    message: { contextIds: undefined, fault: undefined, wideOffset: undefined, ...request },
    bytes: join(encodeRequest(request, extended), request.payload ?? new Uint8Array(0)),
  };
}

export const simpleReplySent: fc.Arbitrary<Sent<Reply>> = fc.tuple(cookie, u32).map(([ids, error]) => ({
  message: { kind: 'simple', ...ids, error, payload: new Uint8Array(0) },
  bytes: encodeSimpleReply(ids.cookieHigh, ids.cookieLow, error),
}));

const target = fc.record({ cookieHigh: u32, cookieLow: u32, offset: u53 });

export function chunkSent(mode: 'structured' | 'extended'): fc.Arbitrary<Sent<Reply>> {
  const encoder = new ReplyEncoder({ mode });
  const wide = mode === 'extended';
  const extent: fc.Arbitrary<Extent> = wide
    ? fc.record({ length: fc.maxSafeNat().filter((length) => length > 0), flags: u32, flagsHigh: u32 })
    : fc.record({ length: fc.integer({ min: 1, max: 2 ** 32 - 65_536 }), flags: u32, flagsHigh: fc.constant(0) });
  const chunkOf = (to: { cookieHigh: number; cookieLow: number; offset: number }, done: boolean) =>
    ({
      kind: 'chunk',
      cookieHigh: to.cookieHigh,
      cookieLow: to.cookieLow,
      requestOffset: wide ? to.offset : undefined,
      done,
      flags: done ? 1 : 0,
    }) as const;
  return fc.oneof(
    target.map((to) => ({ message: { ...chunkOf(to, true), type: 0 } as const, bytes: encoder.none(to) })),
    fc
      .tuple(target, u53, fc.uint8Array({ minLength: 1, maxLength: 100 }), fc.boolean())
      .map(([to, offset, payload, done]) => ({
        message: { ...chunkOf(to, done), type: 1, offset, payload } as const,
        bytes: join(encoder.dataHeader(to, offset, payload.length, done), payload),
      })),
    fc.tuple(target, u53, nonzero32, fc.boolean()).map(([to, offset, length, done]) => ({
      message: { ...chunkOf(to, done), type: 2, offset, length } as const,
      bytes: encoder.hole(to, offset, length, done),
    })),
    fc
      .tuple(target, u32, fc.array(extent, { minLength: 1, maxLength: 6 }), fc.boolean())
      .map(([to, contextId, extents, done]) => ({
        message: { ...chunkOf(to, done), type: wide ? 6 : 5, contextId, extents } as const,
        bytes: encoder.blockStatus(to, contextId, extents, done),
      })),
    fc.tuple(target, nonzero32, text).map(([to, error, message]) => ({
      message: { ...chunkOf(to, true), type: 0x8001, error, message } as const,
      bytes: encoder.error(to, error as ErrorCode, message),
    })),
    fc.tuple(target, nonzero32, u53, text, fc.boolean()).map(([to, error, offset, message, done]) => ({
      message: { ...chunkOf(to, done), type: 0x8002, error, message, offset } as const,
      bytes: encoder.errorOffset(to, error as ErrorCode, offset, done, message),
    })),
  );
}
