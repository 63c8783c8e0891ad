import type { Allocate } from './byte-queue.ts';
import { putU16, putU32, putU64, requireInteger, U32_MAX } from './bytes.ts';
import { type ErrorCode, Magic, ReplyFlag, ReplyType, Size } from './constants.ts';
import { countEncodable, type Extent, putExtents } from './extents.ts';
import { LIMITS } from './limits.ts';
import { putSimpleReply, type ReplyMode } from './reply.ts';
import { putOffset, type Request } from './request.ts';
import { encodeMessage } from './strings.ts';

/** What a reply repeats of its request. */
export type ReplyTarget = Pick<Request, 'cookieHigh' | 'cookieLow' | 'offset' | 'wideOffset'>;

export interface ReplyEncoderOptions {
  readonly mode: ReplyMode;
  /**
   * Gives the place where a header, or a whole reply without data, is written: exactly `size` bytes, any content.
   * Default: successive pieces of 16 KiB slabs, so that replies made one after the other lie side by side.
   */
  readonly allocate?: Allocate;
}

const SLAB_SIZE = 16_384;

/**
 * What a server sends during the transmission. Each method returns the bytes to send, which are not written to again;
 * data follows its header on the wire and is never copied.
 *
 * In mode `simple` there is nothing but {@link ok}, {@link error} and a {@link dataHeader} for the whole request; what
 * has no such form throws a RangeError, as does a value that does not fit: both are the caller's mistake.
 *
 * @see NBD spec, "Simple reply message", "Structured reply chunk message"
 */
export class ReplyEncoder {
  readonly mode: ReplyMode;
  readonly #headerSize: number;
  readonly #allocate: Allocate | undefined;
  #slab: Uint8Array = new Uint8Array(0);
  #slabAt = 0;

  constructor(options: ReplyEncoderOptions) {
    this.mode = options.mode;
    this.#headerSize = options.mode === 'extended' ? Size.EXTENDED_REPLY : Size.STRUCTURED_REPLY;
    this.#allocate = options.allocate;
  }

  /** The whole reply to a request that succeeded and asked for no data. Valid for every command but READ. */
  ok(request: ReplyTarget): Uint8Array {
    return this.mode === 'simple' ? this.#simple(request, 0) : this.none(request);
  }

  /**
   * The last chunk of the reply to a request that failed, or all of it. The message is for a human: it is cut if too
   * long, and left out in mode `simple`.
   */
  error(request: ReplyTarget, error: ErrorCode, message = ''): Uint8Array {
    requireInteger(error - 1, U32_MAX - 1, 'error less 1');
    if (this.mode === 'simple') return this.#simple(request, error);
    const text = encodeMessage(message);
    const bytes = this.#chunk(request, ReplyType.ERROR, Size.ERROR + text.length, 0, true);
    this.#putError(bytes, error, text);
    return bytes;
  }

  /**
   * An error at one place of the request.
   *
   * ```text
   * offset  size  field
   *      0     4  error
   *      4     2  length of the message, n
   *      6        = Size.ERROR
   *      6     n  message
   *  6 + n     8  offset
   * 14 + n        = Size.ERROR_OFFSET, less the message
   * ```
   */
  errorOffset(request: ReplyTarget, error: ErrorCode, offset: number, done: boolean, message = ''): Uint8Array {
    requireInteger(error - 1, U32_MAX - 1, 'error less 1');
    const text = encodeMessage(message);
    const bytes = this.#chunk(request, ReplyType.ERROR_OFFSET, Size.ERROR_OFFSET + text.length, 0, done);
    this.#putError(bytes, error, text);
    this.#putU64(bytes, this.#headerSize + Size.ERROR + text.length, offset);
    return bytes;
  }

  /** The last chunk, when the chunks before it have said everything. */
  none(request: ReplyTarget): Uint8Array {
    return this.#chunk(request, ReplyType.NONE, 0, 0, true);
  }

  /**
   * What precedes `length` bytes of data on the wire. For no data, a NONE chunk, and `done` must be set.
   *
   * ```text
   * offset  size  field
   *      0     8  offset
   *      8        = Size.OFFSET_DATA
   *      8        data
   * ```
   *
   * In mode `simple` the data must be all that the request asked for, and `done`.
   */
  dataHeader(request: ReplyTarget, offset: number, length: number, done: boolean): Uint8Array {
    if (this.mode === 'simple') {
      if (!done || offset !== request.offset) throw new RangeError('a simple reply carries all of the data');
      return this.#simple(request, 0);
    }
    if (length === 0 && done) return this.none(request);
    requireInteger(length - 1, U32_MAX - Size.OFFSET_DATA - 1, 'length of the data less 1');
    const bytes = this.#chunk(request, ReplyType.OFFSET_DATA, Size.OFFSET_DATA, length, done);
    this.#putU64(bytes, this.#headerSize, offset);
    return bytes;
  }

  /**
   * A range of a READ that is all zeroes.
   *
   * ```text
   * offset  size  field
   *      0     8  offset
   *      8     4  length of the hole
   *     12        = Size.OFFSET_HOLE
   * ```
   */
  hole(request: ReplyTarget, offset: number, length: number, done: boolean): Uint8Array {
    requireInteger(length - 1, U32_MAX - 1, 'length of the hole less 1');
    const bytes = this.#chunk(request, ReplyType.OFFSET_HOLE, Size.OFFSET_HOLE, 0, done);
    this.#putU64(bytes, this.#headerSize, offset);
    putU32(bytes, this.#headerSize + 8, length);
    return bytes;
  }

  /**
   * The status of the range that starts at the request's offset, in one context.
   *
   * ```text
   * offset  size  field
   *      0     4  metadata context id
   *      4        = Size.BLOCK_STATUS
   *      4        extents
   * ```
   *
   * With extended headers, as BLOCK_STATUS_EXT:
   *
   * ```text
   * offset  size  field
   *      0     4  metadata context id
   *      4     4  count of extents
   *      8        = Size.BLOCK_STATUS_EXT
   *      8        extents
   * ```
   *
   * At most 2^20 extents are sent. Without extended headers an extent of 4 GiB or more is cut to 4 GiB - 64 KiB and is
   * the last one sent. Either way the client asks again from where the reply ends.
   */
  blockStatus(request: ReplyTarget, contextId: number, extents: readonly Extent[], done: boolean): Uint8Array {
    requireInteger(contextId, U32_MAX, 'context id');
    if (extents.length === 0) throw new RangeError('a status needs at least one extent');
    const wide = this.mode === 'extended';
    const count = countEncodable(extents, wide, LIMITS.extents);
    const type = wide ? ReplyType.BLOCK_STATUS_EXT : ReplyType.BLOCK_STATUS;
    const start = wide ? Size.BLOCK_STATUS_EXT : Size.BLOCK_STATUS;
    const bytes = this.#chunk(request, type, start + count * (wide ? Size.EXTENT_EXT : Size.EXTENT), 0, done);
    putU32(bytes, this.#headerSize, contextId);
    if (wide) putU32(bytes, this.#headerSize + 4, count);
    putExtents(bytes, this.#headerSize + start, extents, count, wide);
    return bytes;
  }

  #simple(request: ReplyTarget, error: number): Uint8Array {
    const bytes = this.#reserve(Size.SIMPLE_REPLY);
    putSimpleReply(bytes, request.cookieHigh, request.cookieLow, error);
    return bytes;
  }

  /**
   * A structured reply chunk: its header, and room for the first `size` bytes of a payload of `size + dataSize`.
   *
   * ```text
   * offset  size  field
   *      0     4  magic, 0x668e33ef
   *      4     2  flags
   *      6     2  type
   *      8     8  cookie
   *     16     4  length of the payload
   *     20        = Size.STRUCTURED_REPLY
   * ```
   *
   * With extended headers:
   *
   * ```text
   * offset  size  field
   *      0     4  magic, 0x6e8a278c
   *      4     2  flags
   *      6     2  type
   *      8     8  cookie
   *     16     8  offset of the request
   *     24     8  length of the payload
   *     32        = Size.EXTENDED_REPLY
   * ```
   */
  #chunk(request: ReplyTarget, type: number, size: number, dataSize: number, done: boolean): Uint8Array {
    if (this.mode === 'simple') throw new RangeError('this reply needs structured replies or extended headers');
    const bytes = this.#reserve(this.#headerSize + size);
    putU32(bytes, 0, this.mode === 'extended' ? Magic.EXTENDED_REPLY : Magic.STRUCTURED_REPLY);
    putU16(bytes, 4, done ? ReplyFlag.DONE : 0);
    putU16(bytes, 6, type);
    putU32(bytes, 8, request.cookieHigh);
    putU32(bytes, 12, request.cookieLow);
    if (this.mode === 'extended') {
      putOffset(bytes, 16, request);
      putU64(bytes, 24, size + dataSize);
    } else {
      putU32(bytes, 16, size + dataSize);
    }
    return bytes;
  }

  #putError(bytes: Uint8Array, error: number, text: Uint8Array): void {
    putU32(bytes, this.#headerSize, error);
    putU16(bytes, this.#headerSize + 4, text.length);
    bytes.set(text, this.#headerSize + Size.ERROR);
  }

  #putU64(bytes: Uint8Array, at: number, offset: number): void {
    requireInteger(offset, Number.MAX_SAFE_INTEGER, 'offset');
    putU64(bytes, at, offset);
  }

  #reserve(size: number): Uint8Array {
    if (this.#allocate !== undefined) return this.#allocate(size);
    if (size > SLAB_SIZE / 4) return new Uint8Array(size);
    if (this.#slabAt + size > this.#slab.length) {
      this.#slab = new Uint8Array(SLAB_SIZE);
      this.#slabAt = 0;
    }
    const bytes = this.#slab.subarray(this.#slabAt, this.#slabAt + size);
    this.#slabAt += size;
    return bytes;
  }
}
