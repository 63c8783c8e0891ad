import type { Allocate } from './byte-queue.ts';
import { EMPTY, getU16, getU32, getU64 } from './bytes.ts';
import { Magic, ReplyFlag, ReplyType, Size } from './constants.ts';
import { Decoder } from './decoder.ts';
import { ProtocolError } from './errors.ts';
import { getExtents } from './extents.ts';
import { LIMITS } from './limits.ts';
import {
  type ChunkEnvelope,
  isErrorChunk,
  type Reply,
  type ReplyChunk,
  type ReplyMode,
  type SimpleReply,
} from './reply.ts';
import { decodeString } from './strings.ts';

export interface ReplyDecoderOptions {
  readonly mode: ReplyMode;
  /** Most bytes of data in one chunk. */
  readonly payloadMax?: number;
  /**
   * How much data a simple reply brings, which it does not say itself: the length of the READ with this cookie, 0 for
   * any other request, undefined if no request with this cookie is in flight. Needed for READ in mode `simple`.
   */
  readonly lengthOf?: (cookieHigh: number, cookieLow: number) => number | undefined;
  readonly allocate?: Allocate;
}

/**
 * What a client receives during the transmission.
 *
 * `next` throws where the specification demands that the client disconnects: a chunk of an unknown type (but for
 * errors), inconsistent contents, a length above its limit, a form of reply that was not negotiated. Whether chunks fit
 * their request, and each other, is for the caller to judge.
 *
 * State: the header of the reply whose payload is under way.
 *
 * @see NBD spec, "Simple reply message", "Structured reply chunk message"
 */
export class ReplyDecoder extends Decoder<Reply> {
  readonly #mode: ReplyMode;
  readonly #payloadMax: number;
  readonly #lengthOf: ReplyDecoderOptions['lengthOf'];
  #simple: SimpleReply | undefined;
  #chunk: ChunkEnvelope | undefined;
  /** Bytes still to come of the reply under way. */
  #payloadSize = 0;
  /** Of an OFFSET_DATA chunk, once it has come. */
  #offset: number | undefined;

  constructor(options: ReplyDecoderOptions) {
    super(options.allocate);
    this.#mode = options.mode;
    this.#payloadMax = options.payloadMax ?? LIMITS.payload;
    this.#lengthOf = options.lengthOf;
  }

  protected override decode(): Reply | undefined {
    if (this.#simple === undefined && this.#chunk === undefined) this.#decodeHeader();
    if (this.#simple !== undefined) return this.#finishSimple(this.#simple);
    return this.#chunk === undefined ? undefined : this.#finishChunk(this.#chunk);
  }

  #decodeHeader(): void {
    if (!this.input.peek(4)) return;
    const magic = getU32(this.input.head, this.input.at);
    if (magic === Magic.SIMPLE_REPLY && this.#mode !== 'extended') this.#decodeSimple();
    else if (magic === Magic.STRUCTURED_REPLY && this.#mode === 'structured') this.#decodeChunk(false);
    else if (magic === Magic.EXTENDED_REPLY && this.#mode === 'extended') this.#decodeChunk(true);
    else throw new ProtocolError('bad-magic', `a reply in mode ${this.#mode} begins with 0x${magic.toString(16)}`);
  }

  #decodeSimple(): void {
    const input = this.input;
    if (!input.peek(Size.SIMPLE_REPLY)) return;
    const error = getU32(input.head, input.at + 4);
    const cookieHigh = getU32(input.head, input.at + 8);
    const cookieLow = getU32(input.head, input.at + 12);
    const length = this.#lengthOf === undefined ? 0 : this.#lengthOf(cookieHigh, cookieLow);
    if (length === undefined) throw new ProtocolError('unexpected', 'a reply to no request');
    if (length > 0 && this.#mode === 'structured') {
      throw new ProtocolError('unexpected', 'a simple reply to READ though structured replies were negotiated');
    }
    input.skip(Size.SIMPLE_REPLY);
    this.#payloadSize = error === 0 ? length : 0;
    this.#simple = { kind: 'simple', cookieHigh, cookieLow, error, payload: EMPTY };
  }

  #finishSimple(reply: SimpleReply): SimpleReply | undefined {
    const payload = this.input.take(this.#payloadSize);
    if (payload === undefined) return undefined;
    this.#simple = undefined;
    return { ...reply, payload };
  }

  #decodeChunk(extended: boolean): void {
    const input = this.input;
    const size = extended ? Size.EXTENDED_REPLY : Size.STRUCTURED_REPLY;
    if (!input.peek(size)) return;
    const { head, at } = input;
    const flags = getU16(head, at + 4);
    const type = getU16(head, at + 6);
    const length = extended ? getU64(head, at + 24) : getU32(head, at + 16);
    checkChunk(type, flags, length, shapeOf(type, extended, this.#payloadMax));
    this.#chunk = {
      type,
      done: (flags & ReplyFlag.DONE) !== 0,
      flags,
      cookieHigh: getU32(head, at + 8),
      cookieLow: getU32(head, at + 12),
      requestOffset: extended ? getU64(head, at + 16) : undefined,
    };
    this.#payloadSize = length;
    this.#offset = undefined;
    input.skip(size);
  }

  #finishChunk(chunk: ChunkEnvelope): ReplyChunk | undefined {
    // Read apart from its data, so that a view or buffer of exactly the data comes out.
    if (chunk.type === ReplyType.OFFSET_DATA && this.#offset === undefined) {
      if (!this.input.peek(Size.OFFSET_DATA)) return undefined;
      this.#offset = getSafeU64(this.input.head, this.input.at, 'offset of the data');
      this.input.skip(Size.OFFSET_DATA);
      this.#payloadSize -= Size.OFFSET_DATA;
    }
    const payload = this.input.take(this.#payloadSize);
    if (payload === undefined) return undefined;
    this.#chunk = undefined;
    return decodePayload(chunk, payload, this.#offset);
  }
}

/** The payload of a chunk: a fixed part, then `countMin` to `countMax` times a unit. In bytes. */
interface ChunkShape {
  readonly fixed: number;
  readonly unit: number;
  readonly countMin: number;
  readonly countMax: number;
}

/**
 * Checks what the header of a chunk tells, before any of its payload is waited for.
 *
 * @see NBD spec, "Structured reply types"
 */
function checkChunk(type: number, flags: number, length: number, shape: ChunkShape): void {
  const count = (length - shape.fixed) / shape.unit;
  if (shape.countMax > 0 && count > shape.countMax) {
    throw new ProtocolError('too-large', `a chunk of type ${type} with ${length} bytes of payload`);
  }
  if (!Number.isInteger(count) || count < shape.countMin || count > shape.countMax) {
    throw new ProtocolError('bad-length', `a chunk of type ${type} with ${length} bytes of payload`);
  }
  if (type === ReplyType.NONE && (flags & ReplyFlag.DONE) === 0) {
    throw new ProtocolError('bad-flags', 'a chunk of type NONE is always the last');
  }
}

/** @throws ProtocolError `unexpected` on a type that is neither known nor an error, or belongs to the other mode */
function shapeOf(type: number, extended: boolean, payloadMax: number): ChunkShape {
  if (isErrorChunk(type)) {
    const fixed = type === ReplyType.ERROR_OFFSET ? Size.ERROR_OFFSET : Size.ERROR;
    return { fixed, unit: 1, countMin: 0, countMax: LIMITS.string + LIMITS.errorData };
  }
  if (type === ReplyType.NONE) return { fixed: 0, unit: 1, countMin: 0, countMax: 0 };
  if (type === ReplyType.OFFSET_DATA) return { fixed: Size.OFFSET_DATA, unit: 1, countMin: 1, countMax: payloadMax };
  if (type === ReplyType.OFFSET_HOLE) return { fixed: Size.OFFSET_HOLE, unit: 1, countMin: 0, countMax: 0 };
  if (type === ReplyType.BLOCK_STATUS && !extended) {
    return { fixed: Size.BLOCK_STATUS, unit: Size.EXTENT, countMin: 1, countMax: LIMITS.extents };
  }
  if (type === ReplyType.BLOCK_STATUS_EXT && extended) {
    return { fixed: Size.BLOCK_STATUS_EXT, unit: Size.EXTENT_EXT, countMin: 1, countMax: LIMITS.extents };
  }
  throw new ProtocolError('unexpected', `a chunk of type ${type}`);
}

function decodePayload(chunk: ChunkEnvelope, payload: Uint8Array, dataOffset: number | undefined): ReplyChunk {
  const { type } = chunk;
  if (isErrorChunk(type)) return decodeError(chunk, payload);
  switch (type) {
    case ReplyType.OFFSET_DATA:
      return { kind: 'chunk', ...chunk, type, offset: dataOffset!, payload };
    case ReplyType.OFFSET_HOLE: {
      const length = getU32(payload, 8);
      if (length === 0) throw new ProtocolError('bad-value', 'a hole of no bytes');
      return { kind: 'chunk', ...chunk, type, offset: getSafeU64(payload, 0, 'offset of the hole'), length };
    }
    case ReplyType.BLOCK_STATUS:
      return {
        kind: 'chunk',
        ...chunk,
        type,
        contextId: getU32(payload, 0),
        extents: getExtents(payload, Size.BLOCK_STATUS, false),
      };
    case ReplyType.BLOCK_STATUS_EXT: {
      const extents = getExtents(payload, Size.BLOCK_STATUS_EXT, true);
      if (extents.length !== getU32(payload, 4)) {
        throw new ProtocolError('bad-length', 'the count of extents does not fit the length of the chunk');
      }
      return { kind: 'chunk', ...chunk, type, contextId: getU32(payload, 0), extents };
    }
    default:
      return { kind: 'chunk', ...chunk, type: ReplyType.NONE };
  }
}

function decodeError(chunk: ChunkEnvelope, payload: Uint8Array): ReplyChunk {
  const { type } = chunk;
  const error = getU32(payload, 0);
  if (error === 0) throw new ProtocolError('bad-value', 'an error chunk without error');
  const messageEnd = Size.ERROR + getU16(payload, 4);
  const messageEndMax = type === ReplyType.ERROR_OFFSET ? payload.length - 8 : payload.length;
  if (messageEnd > messageEndMax) throw new ProtocolError('bad-length', 'an error message longer than its chunk');
  const message = decodeString(payload.subarray(Size.ERROR, messageEnd), 'error message');
  if (type === ReplyType.ERROR) return { kind: 'chunk', ...chunk, type, error, message };
  if (type === ReplyType.ERROR_OFFSET) {
    return {
      kind: 'chunk',
      ...chunk,
      type,
      error,
      message,
      offset: getSafeU64(payload, messageEnd, 'offset of the error'),
    };
  }
  return { kind: 'unknown-error', ...chunk, error, message, data: payload.subarray(messageEnd) };
}

function getSafeU64(bytes: Uint8Array, at: number, what: string): number {
  const value = getU64(bytes, at);
  if (value > Number.MAX_SAFE_INTEGER) throw new ProtocolError('too-large', `the ${what} is above 2^53 - 1`);
  return value;
}
