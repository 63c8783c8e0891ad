/** The NBD wire protocol, both halves, without any I/O: bytes to messages and back. */

export type { BlockSizes } from './block-sizes.ts';
export type { Allocate } from './byte-queue.ts';
export {
  BASE_ALLOCATION,
  ClientFlag,
  Command,
  CommandFlag,
  ErrorCode,
  HandshakeFlag,
  Info,
  Magic,
  Option,
  OptionReply,
  ReplyFlag,
  ReplyType,
  Size,
  StateFlag,
  TransmissionFlag,
} from './constants.ts';
export type { Decoder } from './decoder.ts';
export { ProtocolError, type ProtocolErrorCode } from './errors.ts';
export type { Extent } from './extents.ts';
export {
  type ExportNameReply,
  encodeClientFlags,
  type Greeting,
  HandshakeClientDecoder,
  type HandshakeClientOptions,
  type HandshakeServerMessage,
} from './handshake-client.ts';
export {
  type ClientFlagsMessage,
  encodeExportNameReply,
  encodeServerGreeting,
  type HandshakeClientMessage,
  HandshakeServerDecoder,
  type HandshakeServerOptions,
  type InvalidOption,
  type OversizedOption,
} from './handshake-server.ts';
export { LIMITS } from './limits.ts';
export {
  encodeOptionReply,
  encodeOptionReplyAck,
  encodeOptionReplyError,
  encodeOptionReplyInfoBlockSize,
  encodeOptionReplyInfoDescription,
  encodeOptionReplyInfoExport,
  encodeOptionReplyInfoName,
  encodeOptionReplyMetaContext,
  encodeOptionReplyServer,
  isOptionError,
  type OptionReplyMessage,
} from './option-replies.ts';
export {
  encodeOption,
  encodeOptionAbort,
  encodeOptionExportName,
  encodeOptionExtendedHeaders,
  encodeOptionGo,
  encodeOptionInfo,
  encodeOptionList,
  encodeOptionListMetaContext,
  encodeOptionSetMetaContext,
  encodeOptionStartTls,
  encodeOptionStructuredReply,
  type KnownOption,
  type UnknownOption,
} from './options.ts';
export {
  type BlockStatusChunk,
  type DataChunk,
  type ErrorChunk,
  type ErrorOffsetChunk,
  encodeSimpleReply,
  type HoleChunk,
  isErrorChunk,
  type NoneChunk,
  type Reply,
  type ReplyChunk,
  type ReplyMode,
  type SimpleReply,
  type UnknownErrorChunk,
} from './reply.ts';
export { ReplyDecoder, type ReplyDecoderOptions } from './reply-decoder.ts';
export { ReplyEncoder, type ReplyEncoderOptions, type ReplyTarget } from './reply-encoder.ts';
export { encodeRequest, type Request, type RequestHeader } from './request.ts';
export { RequestDecoder, type RequestDecoderOptions } from './request-decoder.ts';
