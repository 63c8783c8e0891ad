import { getU32, getU64, putBigU64, putU16, putU32, putU64, requireInteger, U32_MAX } from './bytes.ts';
import { Command, CommandFlag, ErrorCode, Magic, Size } from './constants.ts';

/** A request as a server receives it. */
export interface Request {
  /** Of {@link Command}, or one that this package does not know. */
  readonly command: number;
  /** Of {@link CommandFlag}, as sent. */
  readonly flags: number;
  /** The cookie is opaque; it comes back in every reply to this request. */
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** Unless `fault` is set, `offset + length` is a safe integer. Whether it lies within the export is not checked. */
  readonly offset: number;
  /** Bytes of the export. With the payload form of BLOCK_STATUS, the effect length that the payload held. */
  readonly length: number;
  /** Of WRITE, unless `fault` is set: a view of a pushed chunk, or a buffer of its own. */
  readonly payload: Uint8Array | undefined;
  /** With the payload form of BLOCK_STATUS: the contexts asked about, none twice. */
  readonly contextIds?: readonly number[] | undefined;
  /** Nothing can be done but to answer with this error; a payload was skipped. */
  readonly fault?: ErrorCode | undefined;
  /** With a `fault`, an offset above 2^53 - 1 as it was sent; an extended reply must repeat it. */
  readonly wideOffset?: bigint | undefined;
}

/** What a request says apart from its payload. */
export interface RequestHeader {
  readonly command: number;
  /** PAYLOAD_LEN is added where it belongs. Default: none. */
  readonly flags?: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offset: number;
  /** With WRITE, the length of the payload that the caller sends after the header. */
  readonly length: number;
  /** BLOCK_STATUS with extended headers: ask about these contexts only. */
  readonly contextIds?: readonly number[] | undefined;
}

/**
 * A request, less the payload of a WRITE, which follows it on the wire.
 *
 * ```text
 * offset  size  field
 *      0     4  magic, 0x25609513
 *      4     2  command flags
 *      6     2  command
 *      8     8  cookie
 *     16     8  offset
 *     24     4  length
 *     28        = Size.REQUEST
 * ```
 *
 * With extended headers:
 *
 * ```text
 * offset  size  field
 *      0     4  magic, 0x21e41c71
 *      4     2  command flags
 *      6     2  command
 *      8     8  cookie
 *     16     8  offset
 *     24     8  length of the payload with PAYLOAD_LEN, otherwise of the effect
 *     32        = Size.EXTENDED_REQUEST
 * ```
 *
 * @throws RangeError on a field that does not fit
 * @see NBD spec, "Request message"
 */
export function encodeRequest(request: RequestHeader, extended: boolean): Uint8Array {
  const { command, flags = 0, contextIds } = request;
  requireInteger(command, 0xffff, 'command');
  requireInteger(flags, 0xffff, 'command flags');
  requireInteger(request.offset, Number.MAX_SAFE_INTEGER, 'offset');
  requireInteger(request.length, extended ? Number.MAX_SAFE_INTEGER : U32_MAX, 'length');
  if (contextIds !== undefined && !(extended && command === Command.BLOCK_STATUS)) {
    throw new RangeError('context ids belong to BLOCK_STATUS with extended headers');
  }
  const payload = contextIds === undefined ? undefined : encodeBlockStatusRequest(request.length, contextIds);
  const withPayload = extended && (command === Command.WRITE || payload !== undefined);
  const headerSize = extended ? Size.EXTENDED_REQUEST : Size.REQUEST;
  const bytes = new Uint8Array(headerSize + (payload?.length ?? 0));
  putU32(bytes, 0, extended ? Magic.EXTENDED_REQUEST : Magic.REQUEST);
  putU16(bytes, 4, withPayload ? flags | CommandFlag.PAYLOAD_LEN : flags);
  putU16(bytes, 6, command);
  putU32(bytes, 8, request.cookieHigh);
  putU32(bytes, 12, request.cookieLow);
  putU64(bytes, 16, request.offset);
  if (extended) putU64(bytes, 24, payload?.length ?? request.length);
  else putU32(bytes, 24, request.length);
  if (payload !== undefined) bytes.set(payload, headerSize);
  return bytes;
}

/**
 * The payload form of BLOCK_STATUS.
 *
 * ```text
 * offset  size  field
 *      0     8  effect length
 *      8        = Size.BLOCK_STATUS_REQUEST
 * ```
 *
 * Then for each context:
 *
 * ```text
 * offset  size  field
 *      0     4  metadata context id
 *      4        = Size.CONTEXT_ID
 * ```
 */
function encodeBlockStatusRequest(length: number, contextIds: readonly number[]): Uint8Array {
  if (contextIds.length === 0) throw new RangeError('context ids must not be empty');
  const bytes = new Uint8Array(Size.BLOCK_STATUS_REQUEST + Size.CONTEXT_ID * contextIds.length);
  putU64(bytes, 0, length);
  for (const [index, contextId] of contextIds.entries()) {
    requireInteger(contextId, U32_MAX, 'context id');
    putU32(bytes, Size.BLOCK_STATUS_REQUEST + Size.CONTEXT_ID * index, contextId);
  }
  return bytes;
}

/** Reads the payload form of BLOCK_STATUS; undefined if an id is there twice. */
export function decodeBlockStatusRequest(bytes: Uint8Array): { length: number; contextIds: number[] } | undefined {
  const contextIds: number[] = [];
  for (let at: number = Size.BLOCK_STATUS_REQUEST; at < bytes.length; at += Size.CONTEXT_ID) {
    contextIds.push(getU32(bytes, at));
  }
  if (new Set(contextIds).size < contextIds.length) return undefined;
  return { length: getU64(bytes, 0), contextIds };
}

/** The flags that each command may carry, less PAYLOAD_LEN. */
const FLAGS_OF_COMMAND: readonly number[] = [
  /* READ */ CommandFlag.FUA | CommandFlag.DF,
  /* WRITE */ CommandFlag.FUA,
  /* DISC: gets no reply, so there is no error to answer with */ 0xffff,
  /* FLUSH */ CommandFlag.FUA,
  /* TRIM */ CommandFlag.FUA,
  /* CACHE */ CommandFlag.FUA,
  /* WRITE_ZEROES */ CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
  /* BLOCK_STATUS */ CommandFlag.FUA | CommandFlag.REQ_ONE,
];

/**
 * The error with which a server must answer a request that breaks a rule which does not depend on the export.
 *
 * @param payloadFlag CommandFlag.PAYLOAD_LEN where this request may and does carry it, otherwise 0
 * @see NBD spec, "Error values", "Command flags", "Request types"
 */
export function faultOf(
  command: number,
  flags: number,
  offset: number,
  length: number,
  payloadFlag: number,
): ErrorCode | undefined {
  // A command that is not known may have any flag.
  const allowed = command < FLAGS_OF_COMMAND.length ? FLAGS_OF_COMMAND[command]! : 0xffff & ~CommandFlag.PAYLOAD_LEN;
  if ((flags & ~(allowed | payloadFlag)) !== 0) return ErrorCode.EINVAL;
  if (command === Command.FLUSH && (offset !== 0 || length !== 0)) return ErrorCode.EINVAL;
  if (offset + length > Number.MAX_SAFE_INTEGER && command !== Command.DISC) {
    // Beyond the end of any export: the error that a write or a read there gets.
    return command === Command.WRITE || command === Command.WRITE_ZEROES ? ErrorCode.ENOSPC : ErrorCode.EINVAL;
  }
  return undefined;
}

/** Used by replies to repeat the offset of a request, which may be one that a number cannot hold. */
export function putOffset(bytes: Uint8Array, at: number, request: Pick<Request, 'offset' | 'wideOffset'>): void {
  if (request.wideOffset === undefined) putU64(bytes, at, request.offset);
  else putBigU64(bytes, at, request.wideOffset);
}
