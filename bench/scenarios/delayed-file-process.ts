/**
 * A file whose reads take a while, any number of them at a time: PATH SIZE DELAY_MS. It is mounted over the existing file
 * PATH, by the FUSE protocol of the kernel (linux/fuse.h), needs root, and is gone when this process is.
 *
 * Reads go past the page cache (FOPEN_DIRECT_IO): every one of them comes here. The loop never waits for the kernel: it
 * takes what there is, answers what is due, and sleeps for a tenth of a millisecond, so that a read takes the delay and about two of
 * those more, at little cost for each. nbdfuse over a delaying nbdkit would do the same for ten reads at a time: it
 * takes no more threads than libfuse gives it.
 *
 * Requests begin with length u32, opcode u32, unique u64 and end at 40 bytes; answers with length u32, error i32, unique u64.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { errnoOf } from '../../dist/base/failure.js';

const GETATTR = 3;
const OPEN = 14;
const READ = 15;
const RELEASE = 18;
const INIT = 26;
/** FORGET, INTERRUPT, BATCH_FORGET. */
const UNANSWERED = [2, 36, 42];

const HEAD_SIZE = 40;
const ANSWER_HEAD_SIZE = 16;
const ENOSYS = 38;
const VERSION = [7, 31] as const;
const ASYNC_READ = 1;
const FOPEN_DIRECT_IO = 1;
const REGULAR_FILE = 0o100_600;
/** More than a server asks for in one call; the least that the kernel wants room for is 8 KiB and a page. */
const PIECE_MAX = 1 << 20;
const BACKGROUND_MAX = 512;
const NAP_MS = 0.1;

const [path, sizeText, delayText] = process.argv.slice(2);
if (path === undefined || sizeText === undefined || delayText === undefined)
  throw new Error('usage: PATH SIZE DELAY_MS');
const size = BigInt(sizeText);
const delayMs = Number(delayText);

const device = fs.openSync('/dev/fuse', fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
const options = `fd=3,rootmode=${REGULAR_FILE.toString(8)},user_id=0,group_id=0,allow_other`;
const mounted = spawnSync('mount', ['-i', '-t', 'fuse', '-o', options, 'delayed', path], {
  stdio: ['ignore', 'inherit', 'inherit', device],
});
if (mounted.status !== 0) throw new Error(`${path}: cannot be mounted`);

interface Due {
  readonly atMs: number;
  readonly unique: bigint;
  readonly length: number;
}

/** Without zeroes, lest a server takes them for a hole. */
const content = Buffer.alloc(PIECE_MAX, 0x5a);
const request = Buffer.alloc(PIECE_MAX + 4096);
const head = Buffer.alloc(ANSWER_HEAD_SIZE);
/** In the order in which they are due. */
const reads: Due[] = [];

function answer(unique: bigint, body: Uint8Array | undefined, error = 0): void {
  head.writeUInt32LE(ANSWER_HEAD_SIZE + (body?.length ?? 0), 0);
  head.writeInt32LE(-error, 4);
  head.writeBigUInt64LE(unique, 8);
  try {
    fs.writevSync(device, body === undefined ? [head] : [head, body]);
  } catch (cause) {
    // Whoever asked has gone meanwhile.
    if (errnoOf(cause) !== 'ENOENT') throw cause;
  }
}

/** What we are, and how many reads the kernel may have under way. */
function initAnswer(): Buffer {
  const body = Buffer.alloc(64);
  body.writeUInt32LE(VERSION[0], 0);
  body.writeUInt32LE(VERSION[1], 4);
  body.writeUInt32LE(ASYNC_READ, 12);
  body.writeUInt16LE(BACKGROUND_MAX, 16);
  body.writeUInt16LE(BACKGROUND_MAX, 18);
  body.writeUInt32LE(PIECE_MAX, 20);
  return body;
}

/** How long it may be believed, in s, then the attributes from byte 16 on. */
function attributes(): Buffer {
  const body = Buffer.alloc(104);
  body.writeBigUInt64LE(2n ** 30n, 0);
  body.writeBigUInt64LE(1n, 16);
  body.writeBigUInt64LE(size, 24);
  body.writeBigUInt64LE(size / 512n, 32);
  body.writeUInt32LE(REGULAR_FILE, 76);
  body.writeUInt32LE(1, 80);
  body.writeUInt32LE(4096, 96);
  return body;
}

function opened(): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt32LE(FOPEN_DIRECT_IO, 8);
  return body;
}

function handle(): void {
  const opcode = request.readUInt32LE(4);
  const unique = request.readBigUInt64LE(8);
  if (UNANSWERED.includes(opcode)) return;
  if (opcode === READ) {
    const offset = request.readBigUInt64LE(HEAD_SIZE + 8);
    const rest = size > offset ? size - offset : 0n;
    const length = Math.min(request.readUInt32LE(HEAD_SIZE + 16), Number(rest), PIECE_MAX);
    reads.push({ atMs: performance.now() + delayMs, unique, length });
  } else if (opcode === INIT) answer(unique, initAnswer());
  else if (opcode === GETATTR) answer(unique, attributes());
  else if (opcode === OPEN) answer(unique, opened());
  else if (opcode === RELEASE) answer(unique, undefined);
  else answer(unique, undefined, ENOSYS);
}

/** False when there is none. */
function takeRequest(): boolean {
  try {
    fs.readSync(device, request);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === 'EAGAIN') return false;
    // It was taken back before we had it.
    if (errno === 'ENOENT' || errno === 'EINTR') return true;
    if (errno === 'ENODEV') process.exit(0); // unmounted
    throw cause;
  }
  handle();
  return true;
}

const bell = new Int32Array(new SharedArrayBuffer(4));

function turn(): void {
  while (takeRequest());
  const nowMs = performance.now();
  let count = 0;
  for (; count < reads.length && reads[count]!.atMs <= nowMs; count += 1) {
    const { unique, length } = reads[count]!;
    answer(unique, content.subarray(0, length));
  }
  reads.splice(0, count);
  Atomics.wait(bell, 0, 0, NAP_MS);
  setImmediate(turn);
}

process.once('SIGTERM', () => process.exit(0));
process.once('exit', () => spawnSync('umount', ['-l', path], { stdio: 'ignore' }));
turn();
process.stdout.write('ready\n');
