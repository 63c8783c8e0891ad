import { concat, EMPTY, getU16, getU32, putBigU64, putU16, putU32, requireInteger, U32_MAX } from './bytes.ts';
import { Magic, Option, Size } from './constants.ts';
import { ProtocolError } from './errors.ts';
import { LIMITS } from './limits.ts';
import { decodeString, encodeString } from './strings.ts';

/** An option that this package knows, with its data. */
export type KnownOption =
  | { readonly kind: 'option'; readonly option: typeof Option.EXPORT_NAME; readonly name: string }
  | {
      readonly kind: 'option';
      readonly option: typeof Option.INFO | typeof Option.GO;
      /** Empty: the default export. */
      readonly name: string;
      /** As sent; unknown ones are to be ignored. */
      readonly informationRequests: readonly number[];
    }
  | {
      readonly kind: 'option';
      readonly option: typeof Option.LIST_META_CONTEXT | typeof Option.SET_META_CONTEXT;
      readonly exportName: string;
      /** As sent; whether each has a namespace and a colon is not checked. */
      readonly queries: readonly string[];
    }
  | {
      readonly kind: 'option';
      readonly option:
        | typeof Option.ABORT
        | typeof Option.LIST
        | typeof Option.STARTTLS
        | typeof Option.STRUCTURED_REPLY
        | typeof Option.EXTENDED_HEADERS;
    };

/** An option of another number, to be answered with ERR_UNSUP. */
export interface UnknownOption {
  readonly kind: 'unknown-option';
  readonly option: number;
  readonly data: Uint8Array;
}

/**
 * An option header, sent by the client.
 *
 * ```text
 * offset  size  field
 *      0     8  magic, IHAVEOPT
 *      8     4  option
 *     12     4  length of the data that follows
 *     16        = Size.OPTION
 * ```
 *
 * @throws RangeError if the data is longer than 2^32 - 1
 * @see NBD spec, "Newstyle negotiation"
 */
export function encodeOption(option: number, data: Uint8Array = EMPTY): Uint8Array {
  requireInteger(option, U32_MAX, 'option');
  requireInteger(data.length, U32_MAX, 'length of option data');
  const bytes = new Uint8Array(Size.OPTION + data.length);
  putBigU64(bytes, 0, Magic.IHAVEOPT);
  putU32(bytes, 8, option);
  putU32(bytes, 12, data.length);
  bytes.set(data, Size.OPTION);
  return bytes;
}

/** Enters the transmission, or the server hangs up. The reply has a form of its own. */
export function encodeOptionExportName(name: string): Uint8Array {
  return encodeOption(Option.EXPORT_NAME, encodeString(name, 'export name'));
}

export function encodeOptionAbort(): Uint8Array {
  return encodeOption(Option.ABORT);
}

export function encodeOptionList(): Uint8Array {
  return encodeOption(Option.LIST);
}

export function encodeOptionStartTls(): Uint8Array {
  return encodeOption(Option.STARTTLS);
}

/** @param informationRequests numbers of {@link Info}, none twice */
export function encodeOptionInfo(name: string, informationRequests: readonly number[] = []): Uint8Array {
  return encodeOption(Option.INFO, encodeInformationRequest(name, informationRequests));
}

/** @param informationRequests numbers of {@link Info}, none twice */
export function encodeOptionGo(name: string, informationRequests: readonly number[] = []): Uint8Array {
  return encodeOption(Option.GO, encodeInformationRequest(name, informationRequests));
}

export function encodeOptionStructuredReply(): Uint8Array {
  return encodeOption(Option.STRUCTURED_REPLY);
}

/** @param queries none: list every context of the export */
export function encodeOptionListMetaContext(exportName: string, queries: readonly string[] = []): Uint8Array {
  return encodeOption(Option.LIST_META_CONTEXT, encodeQueries(exportName, queries));
}

/** @param queries none: select no context */
export function encodeOptionSetMetaContext(exportName: string, queries: readonly string[]): Uint8Array {
  return encodeOption(Option.SET_META_CONTEXT, encodeQueries(exportName, queries));
}

export function encodeOptionExtendedHeaders(): Uint8Array {
  return encodeOption(Option.EXTENDED_HEADERS);
}

/**
 * Data of INFO and GO.
 *
 * ```text
 * offset  size  field
 *      0     4  length of the name
 *      4     n  name of the export
 *  4 + n     2  count of information requests
 *  6 + n    2m  information requests
 * ```
 */
function encodeInformationRequest(name: string, informationRequests: readonly number[]): Uint8Array {
  const nameBytes = encodeString(name, 'export name');
  requireInteger(informationRequests.length, 0xffff, 'count of information requests');
  const bytes = new Uint8Array(6 + nameBytes.length + 2 * informationRequests.length);
  putU32(bytes, 0, nameBytes.length);
  bytes.set(nameBytes, 4);
  putU16(bytes, 4 + nameBytes.length, informationRequests.length);
  for (const [index, info] of informationRequests.entries()) {
    requireInteger(info, 0xffff, 'information request');
    putU16(bytes, 6 + nameBytes.length + 2 * index, info);
  }
  return bytes;
}

/**
 * Data of LIST_META_CONTEXT and SET_META_CONTEXT.
 *
 * ```text
 * offset  size  field
 *      0     4  length of the name
 *      4     n  name of the export
 *  4 + n     4  count of queries
 *  8 + n        queries, each its length in 4 bytes and then itself
 * ```
 */
function encodeQueries(exportName: string, queries: readonly string[]): Uint8Array {
  const name = encodeString(exportName, 'export name');
  const count = new Uint8Array(4);
  putU32(count, 0, queries.length);
  return concat([withLength(name), count, ...queries.map((query) => withLength(encodeString(query, 'query')))]);
}

function withLength(text: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + text.length);
  putU32(bytes, 0, text.length);
  bytes.set(text, 4);
  return bytes;
}

/**
 * Reads the data of an option, all of which has arrived.
 *
 * @throws ProtocolError on data that this option cannot have; `too-large` where a count or string exceeds its limit
 */
export function decodeOption(option: number, data: Uint8Array): KnownOption | UnknownOption {
  switch (option) {
    case Option.EXPORT_NAME:
      return { kind: 'option', option, name: decodeString(data, 'export name') };
    case Option.ABORT:
      // "a server SHOULD ignore any data sent by the client rather than rejecting the request as invalid"
      return { kind: 'option', option };
    case Option.LIST:
    case Option.STARTTLS:
    case Option.STRUCTURED_REPLY:
    case Option.EXTENDED_HEADERS:
      if (data.length > 0) throw new ProtocolError('bad-length', 'this option has no data');
      return { kind: 'option', option };
    case Option.INFO:
    case Option.GO:
      return { kind: 'option', option, ...decodeInformationRequest(data) };
    case Option.LIST_META_CONTEXT:
    case Option.SET_META_CONTEXT:
      return { kind: 'option', option, ...decodeQueries(data) };
    default:
      return { kind: 'unknown-option', option, data };
  }
}

function decodeInformationRequest(data: Uint8Array): { name: string; informationRequests: number[] } {
  const name = stringAt(data, 0, 'export name');
  const count = name.end + 2 <= data.length ? getU16(data, name.end) : -1;
  if (data.length !== name.end + 2 + 2 * count) {
    throw new ProtocolError('bad-length', 'the count of information requests does not fit the length of the option');
  }
  const informationRequests = Array.from({ length: count }, (_, index) => getU16(data, name.end + 2 + 2 * index));
  return { name: name.text, informationRequests };
}

function decodeQueries(data: Uint8Array): { exportName: string; queries: string[] } {
  const exportName = stringAt(data, 0, 'export name');
  let at = exportName.end + 4;
  if (at > data.length) throw new ProtocolError('bad-length', 'the option ends before the count of queries');
  const count = getU32(data, exportName.end);
  if (count * 4 > data.length - at) throw new ProtocolError('bad-length', 'the option ends before its last query');
  if (count > LIMITS.queries) throw new ProtocolError('too-large', `more than ${LIMITS.queries} queries`);
  const queries: string[] = [];
  while (queries.length < count) {
    const query = stringAt(data, at, 'query');
    queries.push(query.text);
    at = query.end;
  }
  if (at !== data.length) throw new ProtocolError('bad-length', 'the option has data after its last query');
  return { exportName: exportName.text, queries };
}

/** Reads a 32-bit length and a string of that length. */
function stringAt(data: Uint8Array, at: number, what: string): { text: string; end: number } {
  const start = at + 4;
  const end = start <= data.length ? start + getU32(data, at) : Number.POSITIVE_INFINITY;
  if (end > data.length) throw new ProtocolError('bad-length', `the option ends before the end of the ${what}`);
  return { text: decodeString(data.subarray(start, end), what), end };
}
