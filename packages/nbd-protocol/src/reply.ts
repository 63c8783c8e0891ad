import { putU32, requireInteger, U32_MAX } from './bytes.ts';
import { Magic, type ReplyType, Size } from './constants.ts';
import type { Extent } from './extents.ts';

/** How the server answers, as negotiated: by no option, by STRUCTURED_REPLY, by EXTENDED_HEADERS. */
export type ReplyMode = 'simple' | 'structured' | 'extended';

export interface SimpleReply {
  readonly kind: 'simple';
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** 0, or one of {@link ErrorCode}; treat any other as EINVAL. */
  readonly error: number;
  /** What was read: a view of a pushed chunk, or a buffer of its own; empty if nothing was asked for. */
  readonly payload: Uint8Array;
}

interface ChunkHeader {
  readonly kind: 'chunk';
  /** The last chunk of the reply. */
  readonly done: boolean;
  /** Of {@link ReplyFlag}; ignore unknown ones. */
  readonly flags: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** With extended headers, the offset of the request; it is for the caller to compare. */
  readonly requestOffset: number | undefined;
}

export interface NoneChunk extends ChunkHeader {
  readonly type: typeof ReplyType.NONE;
}

export interface DataChunk extends ChunkHeader {
  readonly type: typeof ReplyType.OFFSET_DATA;
  readonly offset: number;
  /** At least one byte. A view of a pushed chunk, or a buffer of its own. */
  readonly payload: Uint8Array;
}

export interface HoleChunk extends ChunkHeader {
  readonly type: typeof ReplyType.OFFSET_HOLE;
  readonly offset: number;
  /** At least 1. */
  readonly length: number;
}

export interface BlockStatusChunk extends ChunkHeader {
  readonly type: typeof ReplyType.BLOCK_STATUS | typeof ReplyType.BLOCK_STATUS_EXT;
  readonly contextId: number;
  /** At least one. */
  readonly extents: readonly Extent[];
}

export interface ErrorChunk extends ChunkHeader {
  readonly type: typeof ReplyType.ERROR;
  /** Never 0. */
  readonly error: number;
  /** For a human; may be empty. */
  readonly message: string;
}

export interface ErrorOffsetChunk extends ChunkHeader {
  readonly type: typeof ReplyType.ERROR_OFFSET;
  readonly error: number;
  readonly message: string;
  readonly offset: number;
}

/** An error chunk of a type that this package does not know: the request failed. */
export interface UnknownErrorChunk extends Omit<ChunkHeader, 'kind'> {
  readonly kind: 'unknown-error';
  readonly type: number;
  readonly error: number;
  readonly message: string;
  /** The fields after the message. */
  readonly data: Uint8Array;
}

export type ReplyChunk =
  | NoneChunk
  | DataChunk
  | HoleChunk
  | BlockStatusChunk
  | ErrorChunk
  | ErrorOffsetChunk
  | UnknownErrorChunk;

export type Reply = SimpleReply | ReplyChunk;

const ERROR_BIT = 0x8000;

/** Whether a chunk type says that the request failed. */
export function isErrorChunk(type: number): boolean {
  return (type & ERROR_BIT) !== 0;
}

/** A chunk before its payload is read. */
export interface ChunkEnvelope extends Omit<ChunkHeader, 'kind'> {
  readonly type: number;
}

/**
 * A simple reply; after one without error to a READ, the data follows on the wire.
 *
 * ```text
 * offset  size  field
 *      0     4  magic, 0x67446698
 *      4     4  error, or 0
 *      8     8  cookie
 *     16        = Size.SIMPLE_REPLY
 * ```
 *
 * @param error 0 or one of {@link ErrorCode}
 * @see NBD spec, "Simple reply message"
 */
export function encodeSimpleReply(cookieHigh: number, cookieLow: number, error: number): Uint8Array {
  const bytes = new Uint8Array(Size.SIMPLE_REPLY);
  putSimpleReply(bytes, cookieHigh, cookieLow, error);
  return bytes;
}

export function putSimpleReply(bytes: Uint8Array, cookieHigh: number, cookieLow: number, error: number): void {
  requireInteger(error, U32_MAX, 'error');
  putU32(bytes, 0, Magic.SIMPLE_REPLY);
  putU32(bytes, 4, error);
  putU32(bytes, 8, cookieHigh);
  putU32(bytes, 12, cookieLow);
}
