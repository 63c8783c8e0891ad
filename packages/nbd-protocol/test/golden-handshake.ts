/**
 * Handshake messages as bytes, written down from the specification and not from the encoders.
 */
import {
  encodeClientFlags,
  encodeExportNameReply,
  encodeOption,
  encodeOptionAbort,
  encodeOptionExportName,
  encodeOptionExtendedHeaders,
  encodeOptionGo,
  encodeOptionInfo,
  encodeOptionList,
  encodeOptionListMetaContext,
  encodeOptionReply,
  encodeOptionReplyAck,
  encodeOptionReplyError,
  encodeOptionReplyInfoBlockSize,
  encodeOptionReplyInfoDescription,
  encodeOptionReplyInfoExport,
  encodeOptionReplyInfoName,
  encodeOptionReplyMetaContext,
  encodeOptionReplyServer,
  encodeOptionSetMetaContext,
  encodeOptionStartTls,
  encodeOptionStructuredReply,
  encodeServerGreeting,
  HandshakeClientDecoder,
  type HandshakeClientMessage,
  HandshakeServerDecoder,
  type HandshakeServerMessage,
} from '../src/index.ts';
import { hex } from './support.ts';

export interface Golden<Message> {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly message: Message;
  /** What the encoder of the other half makes of it; absent where it makes no such thing. */
  readonly encode?: () => Uint8Array;
}

/** A decoder to which the client flags have been given already. */
export function atOptions(options?: ConstructorParameters<typeof HandshakeServerDecoder>[0]): HandshakeServerDecoder {
  const decoder = new HandshakeServerDecoder(options);
  decoder.push(hex('00000003'));
  decoder.next();
  return decoder;
}

/** A decoder to which the greeting has been given already. */
export function atReplies(): HandshakeClientDecoder {
  const decoder = new HandshakeClientDecoder();
  decoder.push(hex('4e42444d41474943 49484156454f5054 0003'));
  decoder.next();
  return decoder;
}

export function atExportNameReply(noZeroes: boolean): HandshakeClientDecoder {
  const decoder = atReplies();
  decoder.expectExportNameReply(noZeroes);
  return decoder;
}

export const CLIENT_FLAGS: Golden<HandshakeClientMessage> = {
  name: 'client flags',
  bytes: hex('00000003'),
  message: { kind: 'client-flags', flags: 3 },
  encode: () => encodeClientFlags(3),
};

export const OPTIONS: readonly Golden<HandshakeClientMessage>[] = [
  {
    name: 'EXPORT_NAME',
    bytes: hex('49484156454f5054 00000001 00000004 6469736b'),
    message: { kind: 'option', option: 1, name: 'disk' },
    encode: () => encodeOptionExportName('disk'),
  },
  {
    name: 'EXPORT_NAME of the default export',
    bytes: hex('49484156454f5054 00000001 00000000'),
    message: { kind: 'option', option: 1, name: '' },
    encode: () => encodeOptionExportName(''),
  },
  {
    name: 'ABORT',
    bytes: hex('49484156454f5054 00000002 00000000'),
    message: { kind: 'option', option: 2 },
    encode: () => encodeOptionAbort(),
  },
  {
    name: 'ABORT with data, which is to be ignored',
    bytes: hex('49484156454f5054 00000002 00000003 616263'),
    message: { kind: 'option', option: 2 },
  },
  {
    name: 'LIST',
    bytes: hex('49484156454f5054 00000003 00000000'),
    message: { kind: 'option', option: 3 },
    encode: () => encodeOptionList(),
  },
  {
    name: 'STARTTLS',
    bytes: hex('49484156454f5054 00000005 00000000'),
    message: { kind: 'option', option: 5 },
    encode: () => encodeOptionStartTls(),
  },
  {
    name: 'INFO',
    bytes: hex('49484156454f5054 00000006 0000000a 00000004 6469736b 0000'),
    message: { kind: 'option', option: 6, name: 'disk', informationRequests: [] },
    encode: () => encodeOptionInfo('disk'),
  },
  {
    name: 'GO with information requests',
    bytes: hex('49484156454f5054 00000007 0000000f 00000003 c3bc6c 0003 0003 0001 ff00'),
    message: { kind: 'option', option: 7, name: 'ül', informationRequests: [3, 1, 0xff00] },
    encode: () => encodeOptionGo('ül', [3, 1, 0xff00]),
  },
  {
    name: 'STRUCTURED_REPLY',
    bytes: hex('49484156454f5054 00000008 00000000'),
    message: { kind: 'option', option: 8 },
    encode: () => encodeOptionStructuredReply(),
  },
  {
    name: 'LIST_META_CONTEXT without queries',
    bytes: hex('49484156454f5054 00000009 00000009 00000001 64 00000000'),
    message: { kind: 'option', option: 9, exportName: 'd', queries: [] },
    encode: () => encodeOptionListMetaContext('d'),
  },
  {
    name: 'SET_META_CONTEXT with two queries',
    bytes: hex(`
      49484156454f5054 0000000a 00000025
      00000001 64
      00000002
      0000000f 626173653a616c6c6f636174696f6e ; base:allocation
      00000005 782d613a62                     ; x-a:b
    `),
    message: { kind: 'option', option: 10, exportName: 'd', queries: ['base:allocation', 'x-a:b'] },
    encode: () => encodeOptionSetMetaContext('d', ['base:allocation', 'x-a:b']),
  },
  {
    name: 'EXTENDED_HEADERS',
    bytes: hex('49484156454f5054 0000000b 00000000'),
    message: { kind: 'option', option: 11 },
    encode: () => encodeOptionExtendedHeaders(),
  },
  {
    name: 'PEEK_EXPORT, which was withdrawn',
    bytes: hex('49484156454f5054 00000004 00000001 64'),
    message: { kind: 'unknown-option', option: 4, data: hex('64') },
    encode: () => encodeOption(4, hex('64')),
  },
  {
    name: 'an unknown option',
    bytes: hex('49484156454f5054 fffffffe 00000002 00ff'),
    message: { kind: 'unknown-option', option: 0xfffffffe, data: hex('00ff') },
    encode: () => encodeOption(0xfffffffe, hex('00ff')),
  },
];

export const GREETING: Golden<HandshakeServerMessage> = {
  name: 'the greeting',
  bytes: hex('4e42444d41474943 49484156454f5054 0003'),
  message: { kind: 'greeting', flags: 3 },
  encode: () => encodeServerGreeting(3),
};

export const EXPORT_NAME_REPLY: Golden<HandshakeServerMessage> = {
  name: 'the reply to EXPORT_NAME without zeroes',
  bytes: hex('0000000140000000 0d6d'),
  message: { kind: 'export-name-reply', size: 0x140000000, flags: 0x0d6d },
  encode: () => encodeExportNameReply(0x140000000, 0x0d6d, true),
};

export const PADDED_EXPORT_NAME_REPLY: Golden<HandshakeServerMessage> = {
  name: 'the reply to EXPORT_NAME with zeroes',
  bytes: hex(`001fffffffffffff 0001 ${'00'.repeat(124)}`),
  message: { kind: 'export-name-reply', size: Number.MAX_SAFE_INTEGER, flags: 1 },
  encode: () => encodeExportNameReply(Number.MAX_SAFE_INTEGER, 1, false),
};

const ERRORS = {
  ERR_UNSUP: 1,
  ERR_POLICY: 2,
  ERR_INVALID: 3,
  ERR_PLATFORM: 4,
  ERR_TLS_REQD: 5,
  ERR_UNKNOWN: 6,
  ERR_SHUTDOWN: 7,
  ERR_BLOCK_SIZE_REQD: 8,
  ERR_TOO_BIG: 9,
  ERR_EXT_HEADER_REQD: 10,
  'an unknown error': 0x7fffffff,
};

export const OPTION_REPLIES: readonly Golden<HandshakeServerMessage>[] = [
  {
    name: 'ACK',
    bytes: hex('0003e889045565a9 00000007 00000001 00000000'),
    message: { kind: 'ack', option: 7 },
    encode: () => encodeOptionReplyAck(7),
  },
  {
    name: 'SERVER',
    bytes: hex('0003e889045565a9 00000003 00000002 00000008 00000004 6469736b'),
    message: { kind: 'server', option: 3, name: 'disk', description: '' },
    encode: () => encodeOptionReplyServer('disk'),
  },
  {
    name: 'SERVER with a description',
    bytes: hex('0003e889045565a9 00000003 00000002 0000000a 00000001 64 c3bc6265 72'),
    message: { kind: 'server', option: 3, name: 'd', description: 'über' },
    encode: () => encodeOptionReplyServer('d', 'über'),
  },
  {
    name: 'INFO EXPORT',
    bytes: hex('0003e889045565a9 00000007 00000003 0000000c 0000 0000000140000000 0d6d'),
    message: { kind: 'info-export', option: 7, size: 0x140000000, flags: 0x0d6d },
    encode: () => encodeOptionReplyInfoExport(7, 0x140000000, 0x0d6d),
  },
  {
    name: 'INFO NAME',
    bytes: hex('0003e889045565a9 00000006 00000003 00000006 0001 6469736b'),
    message: { kind: 'info-name', option: 6, name: 'disk' },
    encode: () => encodeOptionReplyInfoName(6, 'disk'),
  },
  {
    name: 'INFO DESCRIPTION',
    bytes: hex('0003e889045565a9 00000006 00000003 00000004 0002 6869'),
    message: { kind: 'info-description', option: 6, description: 'hi' },
    encode: () => encodeOptionReplyInfoDescription(6, 'hi'),
  },
  {
    name: 'INFO BLOCK_SIZE',
    bytes: hex('0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000'),
    message: { kind: 'info-block-size', option: 7, minimum: 1, preferred: 4096, maximum: 33_554_432 },
    encode: () => encodeOptionReplyInfoBlockSize(7, { minimum: 1, preferred: 4096, maximum: 33_554_432 }),
  },
  {
    name: 'INFO of an unknown type',
    bytes: hex('0003e889045565a9 00000007 00000003 00000003 abcd 01'),
    message: { kind: 'unknown-info', option: 7, info: 0xabcd, data: hex('01') },
    encode: () => encodeOptionReply(7, 3, hex('abcd 01')),
  },
  {
    name: 'META_CONTEXT',
    bytes: hex('0003e889045565a9 0000000a 00000004 00000013 80000001 626173653a616c6c6f636174696f6e'),
    message: { kind: 'meta-context', option: 10, contextId: 0x80000001, name: 'base:allocation' },
    encode: () => encodeOptionReplyMetaContext(10, 0x80000001, 'base:allocation'),
  },
  {
    name: 'a reply of an unknown type',
    bytes: hex('0003e889045565a9 00000063 00000005 00000002 00ff'),
    message: { kind: 'unknown-reply', option: 99, type: 5, data: hex('00ff') },
    encode: () => encodeOptionReply(99, 5, hex('00ff')),
  },
  ...Object.entries(ERRORS).map(
    ([name, number]): Golden<HandshakeServerMessage> => ({
      name,
      bytes: hex(`0003e889045565a9 00000003 ${(0x80000000 + number).toString(16)} 00000002 6e6f`),
      message: { kind: 'option-error', option: 3, type: 0x80000000 + number, message: 'no' },
      encode: () => encodeOptionReplyError(3, 0x80000000 + number, 'no'),
    }),
  ),
  {
    name: 'an error without a message',
    bytes: hex('0003e889045565a9 00000003 80000001 00000000'),
    message: { kind: 'option-error', option: 3, type: 0x80000001, message: '' },
    encode: () => encodeOptionReplyError(3, 0x80000001),
  },
];
