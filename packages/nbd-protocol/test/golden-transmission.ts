/**
 * Transmission messages as bytes, written down from the specification and not from the encoders.
 */
import {
  Command,
  encodeRequest,
  encodeSimpleReply,
  type Reply,
  ReplyEncoder,
  type ReplyMode,
  type Request,
  type RequestHeader,
} from '../src/index.ts';
import type { Golden } from './golden-handshake.ts';
import { hex, join } from './support.ts';

/** On the wire: 01020304 fedcba98. */
const COOKIE = { cookieHigh: 0x01020304, cookieLow: 0xfedcba98 };
export const TARGET = { ...COOKIE, offset: 0x1_0000_2000 };

function request(
  name: string,
  bytes: string,
  fields: RequestHeader,
  more: Partial<Request> = {},
): Golden<Request> & { extended: boolean } {
  const raw = hex(bytes);
  const extended = raw[0] === 0x21;
  return {
    name: extended ? `${name}, extended` : name,
    extended,
    bytes: raw,
    message: {
      flags: 0,
      payload: undefined,
      contextIds: undefined,
      fault: undefined,
      wideOffset: undefined,
      ...fields,
      ...more,
    },
    encode: () => join(encodeRequest(fields, extended), more.payload ?? new Uint8Array(0)),
  };
}

export const REQUESTS: readonly (Golden<Request> & { extended: boolean })[] = [
  request('READ', '25609513 0000 0000 01020304fedcba98 0000000100002000 00001000', {
    ...TARGET,
    command: Command.READ,
    length: 4096,
  }),
  request('READ with DF', '25609513 0004 0000 01020304fedcba98 0000000100002000 ffffffff', {
    ...TARGET,
    command: Command.READ,
    flags: 4,
    length: 0xffffffff,
  }),
  request(
    'WRITE with FUA',
    '25609513 0001 0001 01020304fedcba98 0000000100002000 00000005 68656c6c6f',
    { ...TARGET, command: Command.WRITE, flags: 1, length: 5 },
    { payload: hex('68656c6c6f') },
  ),
  request(
    'WRITE of nothing',
    '25609513 0000 0001 01020304fedcba98 0000000100002000 00000000',
    { ...TARGET, command: Command.WRITE, length: 0 },
    { payload: new Uint8Array(0) },
  ),
  request('DISC', '25609513 0000 0002 0000000000000000 0000000000000000 00000000', {
    cookieHigh: 0,
    cookieLow: 0,
    offset: 0,
    command: Command.DISC,
    length: 0,
  }),
  request('FLUSH', '25609513 0000 0003 01020304fedcba98 0000000000000000 00000000', {
    ...COOKIE,
    offset: 0,
    command: Command.FLUSH,
    length: 0,
  }),
  request('TRIM with FUA', '25609513 0001 0004 01020304fedcba98 0000000100002000 fffffe00', {
    ...TARGET,
    command: Command.TRIM,
    flags: 1,
    length: 0xfffffe00,
  }),
  request('CACHE', '25609513 0000 0005 01020304fedcba98 0000000100002000 00001000', {
    ...TARGET,
    command: Command.CACHE,
    length: 4096,
  }),
  request(
    'WRITE_ZEROES with FUA, NO_HOLE and FAST_ZERO',
    '25609513 0013 0006 01020304fedcba98 0000000100002000 00001000',
    { ...TARGET, command: Command.WRITE_ZEROES, flags: 0x13, length: 4096 },
  ),
  request('BLOCK_STATUS with REQ_ONE', '25609513 0008 0007 01020304fedcba98 0000000100002000 00001000', {
    ...TARGET,
    command: Command.BLOCK_STATUS,
    flags: 8,
    length: 4096,
  }),
  request('an unknown command', '25609513 ffdf abcd 01020304fedcba98 001fffffffffefff 00001000', {
    ...COOKIE,
    offset: 2 ** 53 - 1 - 4096,
    command: 0xabcd,
    flags: 0xffdf,
    length: 4096,
  }),
  request('READ', '21e41c71 0004 0000 01020304fedcba98 0000000100002000 0000000000001000', {
    ...TARGET,
    command: Command.READ,
    flags: 4,
    length: 4096,
  }),
  request(
    'WRITE',
    '21e41c71 0021 0001 01020304fedcba98 0000000100002000 0000000000000005 68656c6c6f',
    { ...TARGET, command: Command.WRITE, flags: 0x21, length: 5 },
    { payload: hex('68656c6c6f') },
  ),
  request('WRITE_ZEROES of more than 4 GiB', '21e41c71 0002 0006 01020304fedcba98 0000000100002000 0000010000000000', {
    ...TARGET,
    command: Command.WRITE_ZEROES,
    flags: 2,
    length: 2 ** 40,
  }),
  request('BLOCK_STATUS', '21e41c71 0000 0007 01020304fedcba98 0000000100002000 0000000100000000', {
    ...TARGET,
    command: Command.BLOCK_STATUS,
    length: 2 ** 32,
  }),
  request(
    'BLOCK_STATUS of two contexts',
    '21e41c71 0028 0007 01020304fedcba98 0000000100002000 0000000000000010 0000000100000000 00000001 80000002',
    { ...TARGET, command: Command.BLOCK_STATUS, flags: 0x28, length: 2 ** 32, contextIds: [1, 0x80000002] },
  ),
  request('FLUSH', '21e41c71 0000 0003 01020304fedcba98 0000000000000000 0000000000000000', {
    ...COOKIE,
    offset: 0,
    command: Command.FLUSH,
    length: 0,
  }),
];

export interface GoldenReply extends Golden<Reply> {
  readonly mode: ReplyMode;
  /** What a simple reply to this cookie brings. */
  readonly length?: number;
}

const simple = new ReplyEncoder({ mode: 'simple' });
const structured = new ReplyEncoder({ mode: 'structured' });
const extended = new ReplyEncoder({ mode: 'extended' });
const DATA = hex('68656c6c6f');
const CHUNK = { kind: 'chunk', ...COOKIE, requestOffset: undefined } as const;
const EXTENDED_CHUNK = { ...CHUNK, requestOffset: 0x1_0000_2000 } as const;
const DONE = { done: true, flags: 1 } as const;
const MORE = { done: false, flags: 0 } as const;

export const REPLIES: readonly GoldenReply[] = [
  {
    mode: 'simple',
    name: 'a simple reply',
    bytes: hex('67446698 00000000 01020304fedcba98'),
    message: { kind: 'simple', ...COOKIE, error: 0, payload: new Uint8Array(0) },
    encode: () => simple.ok(TARGET),
  },
  {
    mode: 'simple',
    length: 5,
    name: 'a simple reply with an error to READ',
    bytes: hex('67446698 00000016 01020304fedcba98'),
    message: { kind: 'simple', ...COOKIE, error: 22, payload: new Uint8Array(0) },
    encode: () => simple.error(TARGET, 22, 'not sent'),
  },
  {
    mode: 'simple',
    length: 5,
    name: 'a simple reply with data',
    bytes: hex('67446698 00000000 01020304fedcba98 68656c6c6f'),
    message: { kind: 'simple', ...COOKIE, error: 0, payload: DATA },
    encode: () => join(simple.dataHeader(TARGET, TARGET.offset, 5, true), DATA),
  },
  {
    mode: 'structured',
    name: 'a simple reply among structured ones',
    bytes: hex('67446698 0000001c 01020304fedcba98'),
    message: { kind: 'simple', ...COOKIE, error: 28, payload: new Uint8Array(0) },
    encode: () => encodeSimpleReply(COOKIE.cookieHigh, COOKIE.cookieLow, 28),
  },
  {
    mode: 'structured',
    name: 'NONE',
    bytes: hex('668e33ef 0001 0000 01020304fedcba98 00000000'),
    message: { ...CHUNK, ...DONE, type: 0 },
    encode: () => structured.ok(TARGET),
  },
  {
    mode: 'structured',
    name: 'OFFSET_DATA',
    bytes: hex('668e33ef 0000 0001 01020304fedcba98 0000000d 0000000100002000 68656c6c6f'),
    message: { ...CHUNK, ...MORE, type: 1, offset: 0x1_0000_2000, payload: DATA },
    encode: () => join(structured.dataHeader(TARGET, 0x1_0000_2000, 5, false), DATA),
  },
  {
    mode: 'structured',
    name: 'OFFSET_HOLE',
    bytes: hex('668e33ef 0001 0002 01020304fedcba98 0000000c 0000000100003000 00001000'),
    message: { ...CHUNK, ...DONE, type: 2, offset: 0x1_0000_3000, length: 4096 },
    encode: () => structured.hole(TARGET, 0x1_0000_3000, 4096, true),
  },
  {
    mode: 'structured',
    name: 'BLOCK_STATUS',
    bytes: hex('668e33ef 0001 0005 01020304fedcba98 00000014 80000001 00001000 00000003 00002000 80000000'),
    message: {
      ...CHUNK,
      ...DONE,
      type: 5,
      contextId: 0x80000001,
      extents: [
        { length: 4096, flags: 3, flagsHigh: 0 },
        { length: 8192, flags: 0x80000000, flagsHigh: 0 },
      ],
    },
    encode: () =>
      structured.blockStatus(
        TARGET,
        0x80000001,
        [
          { length: 4096, flags: 3 },
          { length: 8192, flags: 0x80000000 },
        ],
        true,
      ),
  },
  {
    mode: 'structured',
    name: 'ERROR',
    bytes: hex('668e33ef 0001 8001 01020304fedcba98 00000008 00000005 0002 6e6f'),
    message: { ...CHUNK, ...DONE, type: 0x8001, error: 5, message: 'no' },
    encode: () => structured.error(TARGET, 5, 'no'),
  },
  {
    mode: 'structured',
    name: 'ERROR with fields after the message',
    bytes: hex('668e33ef 0001 8001 01020304fedcba98 0000000a 00000005 0002 6e6f ffff'),
    message: { ...CHUNK, ...DONE, type: 0x8001, error: 5, message: 'no' },
  },
  {
    mode: 'structured',
    name: 'ERROR_OFFSET',
    bytes: hex('668e33ef 0000 8002 01020304fedcba98 00000010 00000005 0002 6e6f 0000000100002200'),
    message: { ...CHUNK, ...MORE, type: 0x8002, error: 5, message: 'no', offset: 0x1_0000_2200 },
    encode: () => structured.errorOffset(TARGET, 5, 0x1_0000_2200, false, 'no'),
  },
  {
    mode: 'structured',
    name: 'an unknown error chunk',
    bytes: hex('668e33ef 0001 ffff 01020304fedcba98 0000000a 0000004b 0002 6e6f 00ff'),
    message: {
      ...CHUNK,
      ...DONE,
      kind: 'unknown-error',
      type: 0xffff,
      error: 75,
      message: 'no',
      data: hex('00ff'),
    },
  },
  {
    mode: 'structured',
    name: 'a chunk with an unknown flag',
    bytes: hex('668e33ef 8001 0000 01020304fedcba98 00000000'),
    message: { ...CHUNK, done: true, flags: 0x8001, type: 0 },
  },
  {
    mode: 'extended',
    name: 'NONE, extended',
    bytes: hex('6e8a278c 0001 0000 01020304fedcba98 0000000100002000 0000000000000000'),
    message: { ...EXTENDED_CHUNK, ...DONE, type: 0 },
    encode: () => extended.ok(TARGET),
  },
  {
    mode: 'extended',
    name: 'OFFSET_DATA, extended',
    bytes: hex('6e8a278c 0001 0001 01020304fedcba98 0000000100002000 000000000000000d 0000000100002400 68656c6c6f'),
    message: { ...EXTENDED_CHUNK, ...DONE, type: 1, offset: 0x1_0000_2400, payload: DATA },
    encode: () => join(extended.dataHeader(TARGET, 0x1_0000_2400, 5, true), DATA),
  },
  {
    mode: 'extended',
    name: 'OFFSET_HOLE, extended',
    bytes: hex('6e8a278c 0000 0002 01020304fedcba98 0000000100002000 000000000000000c 0000000100003000 00001000'),
    message: { ...EXTENDED_CHUNK, ...MORE, type: 2, offset: 0x1_0000_3000, length: 4096 },
    encode: () => extended.hole(TARGET, 0x1_0000_3000, 4096, false),
  },
  {
    mode: 'extended',
    name: 'BLOCK_STATUS_EXT',
    bytes: hex(`
      6e8a278c 0001 0006 01020304fedcba98 0000000100002000 0000000000000028
      00000001 00000002
      0000010000000000 0000000000000003
      0000000000001000 80000000fffffffe
    `),
    message: {
      ...EXTENDED_CHUNK,
      ...DONE,
      type: 6,
      contextId: 1,
      extents: [
        { length: 2 ** 40, flags: 3, flagsHigh: 0 },
        { length: 4096, flags: 0xfffffffe, flagsHigh: 0x80000000 },
      ],
    },
    encode: () =>
      extended.blockStatus(
        TARGET,
        1,
        [
          { length: 2 ** 40, flags: 3 },
          { length: 4096, flags: 0xfffffffe, flagsHigh: 0x80000000 },
        ],
        true,
      ),
  },
  {
    mode: 'extended',
    name: 'ERROR, extended',
    bytes: hex('6e8a278c 0001 8001 01020304fedcba98 0000000100002000 0000000000000006 0000006c 0000'),
    message: { ...EXTENDED_CHUNK, ...DONE, type: 0x8001, error: 108, message: '' },
    encode: () => extended.error(TARGET, 108),
  },
  {
    mode: 'extended',
    name: 'ERROR_OFFSET, extended',
    bytes: hex('6e8a278c 0001 8002 01020304fedcba98 0000000100002000 000000000000000e 00000005 0000 0000000100002200'),
    message: { ...EXTENDED_CHUNK, ...DONE, type: 0x8002, error: 5, message: '', offset: 0x1_0000_2200 },
    encode: () => extended.errorOffset(TARGET, 5, 0x1_0000_2200, true),
  },
];
