/**
 * The numbers of the protocol, grouped and ordered as in the specification, with its names less the NBD_ prefix.
 *
 * @see NBD spec, "Values"; for the extended headers, the branch extension-ext-header
 */

/** Magic numbers that open each message. The 64-bit ones are bigints, the 32-bit ones numbers. */
export const Magic = {
  /** First half of the greeting, ASCII `NBDMAGIC`, also called INIT_PASSWD. */
  NBDMAGIC: 0x4e42444d41474943n,
  /** Second half of the greeting, and the head of each option: ASCII `IHAVEOPT`. */
  IHAVEOPT: 0x49484156454f5054n,
  /** Second half of the greeting of an oldstyle server, cliserv_magic. */
  OLDSTYLE: 0x00420281861253n,
  OPTION_REPLY: 0x0003e889045565a9n,
  REQUEST: 0x25609513,
  SIMPLE_REPLY: 0x67446698,
  STRUCTURED_REPLY: 0x668e33ef,
  EXTENDED_REQUEST: 0x21e41c71,
  EXTENDED_REPLY: 0x6e8a278c,
} as const;

/** 16 bits, sent by the server in its greeting. @see NBD spec, "Handshake flags" */
export const HandshakeFlag = {
  FIXED_NEWSTYLE: 1,
  NO_ZEROES: 2,
} as const;

/** 32 bits, the client's answer to the greeting. @see NBD spec, "Client flags" */
export const ClientFlag = {
  FIXED_NEWSTYLE: 1,
  NO_ZEROES: 2,
} as const;

/** 16 bits, sent by the server with the size of the export. @see NBD spec, "Transmission flags" */
export const TransmissionFlag = {
  /** Always set. */
  HAS_FLAGS: 0x1,
  READ_ONLY: 0x2,
  SEND_FLUSH: 0x4,
  SEND_FUA: 0x8,
  ROTATIONAL: 0x10,
  SEND_TRIM: 0x20,
  SEND_WRITE_ZEROES: 0x40,
  /** Only once structured replies or extended headers are negotiated. */
  SEND_DF: 0x80,
  CAN_MULTI_CONN: 0x100,
  /** Reserved for an experimental extension that this package does not speak. */
  SEND_RESIZE: 0x200,
  SEND_CACHE: 0x400,
  SEND_FAST_ZERO: 0x800,
  /** Only once extended headers are negotiated. */
  BLOCK_STATUS_PAYLOAD: 0x1000,
} as const;

/** What a client asks for before the transmission. @see NBD spec, "Option types" */
export const Option = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  /** Withdrawn; not in use. */
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

/** How a server answers an option; errors have bit 31 set. @see NBD spec, "Option reply types" */
export const OptionReply = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const;

/** What INFO and GO can tell about an export. @see NBD spec, "Option reply types", NBD_REP_INFO */
export const Info = {
  EXPORT: 0,
  NAME: 1,
  DESCRIPTION: 2,
  BLOCK_SIZE: 3,
} as const;

/** @see NBD spec, "Request types" */
export const Command = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  /** Reserved for an experimental extension that this package does not speak. */
  RESIZE: 8,
} as const;

/** 16 bits in every request. @see NBD spec, "Command flags" */
export const CommandFlag = {
  /** Valid on every command. */
  FUA: 0x1,
  /** WRITE_ZEROES: allocate. */
  NO_HOLE: 0x2,
  /** READ: at most one content chunk. */
  DF: 0x4,
  /** BLOCK_STATUS: exactly one extent per context. */
  REQ_ONE: 0x8,
  /** WRITE_ZEROES: fail at once rather than be as slow as a write. */
  FAST_ZERO: 0x10,
  /** Extended headers: the length field is that of a payload which follows. */
  PAYLOAD_LEN: 0x20,
} as const;

/** 16 bits in every structured or extended reply chunk. @see NBD spec, "Structured reply flags" */
export const ReplyFlag = {
  /** The last chunk of this reply. */
  DONE: 1,
} as const;

/** Chunk types; errors have bit 15 set. @see NBD spec, "Structured reply types" */
export const ReplyType = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;

/** The error field of replies. @see NBD spec, "Error values" */
export const ErrorCode = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** Flags of an extent in the context `base:allocation`. @see NBD spec, "`base:allocation` metadata context" */
export const StateFlag = {
  HOLE: 1,
  ZERO: 2,
} as const;

/** The one metadata context that the specification itself defines. */
export const BASE_ALLOCATION = 'base:allocation';

/** Fixed sizes of messages and of the fixed parts of messages, in bytes; each has a byte table above its codec. */
export const Size = {
  GREETING: 18,
  CLIENT_FLAGS: 4,
  OPTION: 16,
  EXPORT_NAME_REPLY: 10,
  EXPORT_NAME_REPLY_PADDED: 134,
  OPTION_REPLY: 20,
  INFO_EXPORT: 12,
  INFO_BLOCK_SIZE: 14,
  REQUEST: 28,
  EXTENDED_REQUEST: 32,
  BLOCK_STATUS_REQUEST: 8,
  CONTEXT_ID: 4,
  SIMPLE_REPLY: 16,
  STRUCTURED_REPLY: 20,
  EXTENDED_REPLY: 32,
  OFFSET_DATA: 8,
  OFFSET_HOLE: 12,
  BLOCK_STATUS: 4,
  EXTENT: 8,
  BLOCK_STATUS_EXT: 8,
  EXTENT_EXT: 16,
  ERROR: 6,
  ERROR_OFFSET: 14,
} as const;

export type Command = (typeof Command)[keyof typeof Command];
export type ErrorCode = (typeof ErrorCode)[keyof typeof ErrorCode];
export type Info = (typeof Info)[keyof typeof Info];
export type Option = (typeof Option)[keyof typeof Option];
export type OptionReply = (typeof OptionReply)[keyof typeof OptionReply];
export type ReplyType = (typeof ReplyType)[keyof typeof ReplyType];
