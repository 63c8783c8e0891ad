import { type BlockSizes, complainAboutBlockSizes } from './block-sizes.ts';
import {
  concat,
  EMPTY,
  getU16,
  getU32,
  getU64,
  putBigU64,
  putU16,
  putU32,
  putU64,
  requireInteger,
  U32_MAX,
} from './bytes.ts';
import { Info, Magic, Option, OptionReply, Size } from './constants.ts';
import { ProtocolError } from './errors.ts';
import { LIMITS } from './limits.ts';
import { decodeString, encodeMessage, encodeString } from './strings.ts';

/** A reply to an option; `option` repeats that of the client. Only `ack` and `option-error` are final. */
export type OptionReplyMessage =
  | { readonly kind: 'ack'; readonly option: number }
  | { readonly kind: 'server'; readonly option: number; readonly name: string; readonly description: string }
  | { readonly kind: 'info-export'; readonly option: number; readonly size: number; readonly flags: number }
  | { readonly kind: 'info-name'; readonly option: number; readonly name: string }
  | { readonly kind: 'info-description'; readonly option: number; readonly description: string }
  | ({ readonly kind: 'info-block-size'; readonly option: number } & BlockSizes)
  /** To be ignored. */
  | { readonly kind: 'unknown-info'; readonly option: number; readonly info: number; readonly data: Uint8Array }
  | { readonly kind: 'meta-context'; readonly option: number; readonly contextId: number; readonly name: string }
  /** `type` is one of {@link OptionReply}, or another with bit 31. */
  | { readonly kind: 'option-error'; readonly option: number; readonly type: number; readonly message: string }
  | { readonly kind: 'unknown-reply'; readonly option: number; readonly type: number; readonly data: Uint8Array };

const ERROR_BIT = 0x8000_0000;

/** Whether a reply type says that the option failed. */
export function isOptionError(type: number): boolean {
  return type >= ERROR_BIT;
}

/**
 * A reply to any option but EXPORT_NAME.
 *
 * ```text
 * offset  size  field
 *      0     8  magic, 0x0003e889045565a9
 *      8     4  option that this answers
 *     12     4  reply type
 *     16     4  length of the data that follows
 *     20        = Size.OPTION_REPLY
 * ```
 *
 * @see NBD spec, "Fixed newstyle negotiation"
 */
export function encodeOptionReply(option: number, type: number, data: Uint8Array = EMPTY): Uint8Array {
  requireInteger(option, U32_MAX, 'option');
  requireInteger(type, U32_MAX, 'reply type');
  requireInteger(data.length, U32_MAX, 'length of reply data');
  const bytes = new Uint8Array(Size.OPTION_REPLY + data.length);
  putBigU64(bytes, 0, Magic.OPTION_REPLY);
  putU32(bytes, 8, option);
  putU32(bytes, 12, type);
  putU32(bytes, 16, data.length);
  bytes.set(data, Size.OPTION_REPLY);
  return bytes;
}

/** Success, and the end of the replies to this option. */
export function encodeOptionReplyAck(option: number): Uint8Array {
  return encodeOptionReply(option, OptionReply.ACK);
}

/** One export, in reply to LIST: length of the name in 4 bytes, the name, and the rest is the description. */
export function encodeOptionReplyServer(name: string, description = ''): Uint8Array {
  const nameBytes = encodeString(name, 'export name');
  const length = new Uint8Array(4);
  putU32(length, 0, nameBytes.length);
  const data = concat([length, nameBytes, encodeString(description, 'description')]);
  return encodeOptionReply(Option.LIST, OptionReply.SERVER, data);
}

/**
 * Size and flags of an export, which must precede the ACK of INFO and GO.
 *
 * ```text
 * offset  size  field
 *      0     2  information type, EXPORT
 *      2     8  size of the export
 *     10     2  transmission flags
 *     12        = Size.INFO_EXPORT
 * ```
 */
export function encodeOptionReplyInfoExport(option: number, size: number, flags: number): Uint8Array {
  requireInteger(size, Number.MAX_SAFE_INTEGER, 'size of the export');
  requireInteger(flags, 0xffff, 'transmission flags');
  const data = new Uint8Array(Size.INFO_EXPORT);
  putU16(data, 0, Info.EXPORT);
  putU64(data, 2, size);
  putU16(data, 10, flags);
  return encodeOptionReply(option, OptionReply.INFO, data);
}

/** The canonical name of an export. */
export function encodeOptionReplyInfoName(option: number, name: string): Uint8Array {
  return encodeInfoString(option, Info.NAME, encodeString(name, 'export name'));
}

/** A description of an export for a human. */
export function encodeOptionReplyInfoDescription(option: number, description: string): Uint8Array {
  return encodeInfoString(option, Info.DESCRIPTION, encodeString(description, 'description'));
}

function encodeInfoString(option: number, info: Info, text: Uint8Array): Uint8Array {
  const data = new Uint8Array(2 + text.length);
  putU16(data, 0, info);
  data.set(text, 2);
  return encodeOptionReply(option, OptionReply.INFO, data);
}

/**
 * ```text
 * offset  size  field
 *      0     2  information type, BLOCK_SIZE
 *      2     4  minimum block size
 *      6     4  preferred block size
 *     10     4  maximum payload size
 *     14        = Size.INFO_BLOCK_SIZE
 * ```
 *
 * @throws RangeError if the sizes are not what {@link BlockSizes} says
 */
export function encodeOptionReplyInfoBlockSize(option: number, sizes: BlockSizes): Uint8Array {
  const complaint = complainAboutBlockSizes(sizes);
  if (complaint !== undefined) throw new RangeError(complaint);
  const data = new Uint8Array(Size.INFO_BLOCK_SIZE);
  putU16(data, 0, Info.BLOCK_SIZE);
  putU32(data, 2, sizes.minimum);
  putU32(data, 6, sizes.preferred);
  putU32(data, 10, sizes.maximum);
  return encodeOptionReply(option, OptionReply.INFO, data);
}

/** A metadata context, its id in 4 bytes and its name. In reply to LIST_META_CONTEXT the id should be 0. */
export function encodeOptionReplyMetaContext(option: number, contextId: number, name: string): Uint8Array {
  requireInteger(contextId, U32_MAX, 'context id');
  const nameBytes = encodeString(name, 'context name');
  const data = new Uint8Array(4 + nameBytes.length);
  putU32(data, 0, contextId);
  data.set(nameBytes, 4);
  return encodeOptionReply(option, OptionReply.META_CONTEXT, data);
}

/** Failure, and the end of the replies to this option. The message is for a human and is cut if too long. */
export function encodeOptionReplyError(option: number, type: number, message = ''): Uint8Array {
  if (!isOptionError(type)) throw new RangeError(`reply type ${type} is not an error`);
  return encodeOptionReply(option, type, encodeMessage(message));
}

/** The most data that a reply of this type can have. */
export function optionReplyDataMax(type: number): number {
  if (isOptionError(type)) return LIMITS.string;
  switch (type) {
    case OptionReply.ACK:
      return 0;
    case OptionReply.SERVER:
      return 4 + 2 * LIMITS.string;
    case OptionReply.META_CONTEXT:
      return 4 + LIMITS.string;
    default:
      return LIMITS.optionReplyData;
  }
}

/**
 * Reads the data of a reply, all of which has arrived.
 *
 * @throws ProtocolError on data that this reply cannot have
 * @see NBD spec, "Option reply types"
 */
export function decodeOptionReply(option: number, type: number, data: Uint8Array): OptionReplyMessage {
  if (isOptionError(type)) {
    return { kind: 'option-error', option, type, message: decodeString(data, 'error message') };
  }
  switch (type) {
    case OptionReply.ACK:
      return { kind: 'ack', option };
    case OptionReply.SERVER:
      return decodeServer(option, data);
    case OptionReply.INFO:
      return decodeInfo(option, data);
    case OptionReply.META_CONTEXT:
      requireLength(data.length >= 4, 'META_CONTEXT', data);
      return {
        kind: 'meta-context',
        option,
        contextId: getU32(data, 0),
        name: decodeString(data.subarray(4), 'context name'),
      };
    default:
      return { kind: 'unknown-reply', option, type, data };
  }
}

function decodeServer(option: number, data: Uint8Array): OptionReplyMessage {
  requireLength(data.length >= 4 && data.length >= 4 + getU32(data, 0), 'SERVER', data);
  const nameEnd = 4 + getU32(data, 0);
  return {
    kind: 'server',
    option,
    name: decodeString(data.subarray(4, nameEnd), 'export name'),
    description: decodeString(data.subarray(nameEnd), 'description'),
  };
}

function decodeInfo(option: number, data: Uint8Array): OptionReplyMessage {
  requireLength(data.length >= 2, 'INFO', data);
  const info = getU16(data, 0);
  switch (info) {
    case Info.EXPORT:
      requireLength(data.length === Size.INFO_EXPORT, 'INFO EXPORT', data);
      return { kind: 'info-export', option, size: getExportSize(data, 2), flags: getU16(data, 10) };
    case Info.NAME:
      return { kind: 'info-name', option, name: decodeString(data.subarray(2), 'export name') };
    case Info.DESCRIPTION:
      return { kind: 'info-description', option, description: decodeString(data.subarray(2), 'description') };
    case Info.BLOCK_SIZE:
      return { kind: 'info-block-size', option, ...decodeBlockSizes(data) };
    default:
      return { kind: 'unknown-info', option, info, data: data.subarray(2) };
  }
}

function decodeBlockSizes(data: Uint8Array): BlockSizes {
  requireLength(data.length === Size.INFO_BLOCK_SIZE, 'INFO BLOCK_SIZE', data);
  const sizes = { minimum: getU32(data, 2), preferred: getU32(data, 6), maximum: getU32(data, 10) };
  const complaint = complainAboutBlockSizes(sizes);
  if (complaint !== undefined) throw new ProtocolError('bad-value', complaint);
  return sizes;
}

/** Reads the size of an export, which may be one that this package cannot address. */
export function getExportSize(bytes: Uint8Array, at: number): number {
  const size = getU64(bytes, at);
  if (size > Number.MAX_SAFE_INTEGER) throw new ProtocolError('too-large', 'an export above 2^53 - 1 bytes');
  return size;
}

function requireLength(isValid: boolean, what: string, data: Uint8Array): void {
  if (!isValid) throw new ProtocolError('bad-length', `${what} with ${data.length} bytes of data`);
}
