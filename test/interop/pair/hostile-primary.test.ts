/** What a mirror does with a primary that has the key and does not keep to the protocol. */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import type { Failure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { encodeDigestRequest } from '../../../src/link/digests.ts';
import {
  encodeFrame,
  FRAME_COMPLETE,
  FRAME_REPAIR,
  FrameType,
  HEADER_SIZE,
  PAYLOAD_SIZE_MAX,
} from '../../../src/link/frame.ts';
import {
  BeginKind,
  decodeAck,
  decodeWelcome,
  encodeAck,
  encodeBegin,
  encodeHello,
  isStaged,
  NO_POSITIONS,
} from '../../../src/link/messages.ts';
import { type LogLine, memoryLog } from '../../support/memory-log.ts';
import { Pair } from '../../support/pair.ts';
import { ackOf, beginSession, RawPeer, someHello } from '../../support/raw-link.ts';

const SIZE = 4 * MIB;

/** A mirror that runs, and its log. */
async function mirror(): Promise<{ pair: Pair; lines: LogLine[] }> {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log, size: SIZE });
  await pair.startMirror();
  return { pair, lines };
}

function connect(pair: Pair): Promise<RawPeer> {
  return RawPeer.connect(pair.mirrorPort, pair.key);
}

function write(sequence: number, offset: number, payload: Buffer, flags = 0): Buffer {
  return encodeFrame(FrameType.WRITE, { flags, sequence, offset, length: payload.length, payload });
}

function refusals(lines: readonly LogLine[]): string[] {
  return lines.filter(({ message }) => message.startsWith('session refused')).map(({ message }) => message);
}

/** A header and nothing else, with whatever it says. */
function header(type: number, size: number, fields: { offset?: number; length?: number } = {}): Buffer {
  const bytes = Buffer.alloc(HEADER_SIZE);
  bytes.writeUInt8(type, 0);
  bytes.writeUInt32LE(size, 4);
  bytes.writeBigUInt64LE(BigInt(fields.offset ?? 0), 16);
  bytes.writeBigUInt64LE(BigInt(fields.length ?? 0), 24);
  return bytes;
}

const inStepImage = Buffer.from('in step');

/**
 * A session whose image is in step with its primary, at sequence 1, and holds one write; its frames from here on are the
 * test's.
 */
async function streaming(pair: Pair): Promise<{ peer: RawPeer; hello: ReturnType<typeof someHello> }> {
  const peer = await connect(pair);
  const hello = someHello(SIZE);
  await beginSession(peer, hello);
  peer.send(
    write(1, 0, inStepImage),
    encodeFrame(FrameType.CHECKPOINT, { flags: FRAME_COMPLETE, sequence: 1, offset: 1 }),
  );
  await peer.next(FrameType.CHECKPOINT_DONE);
  return { peer, hello };
}

/** The image holds the one write and zeroes, at sequence 1. */
function expectUntouched(pair: Pair): void {
  const image = readFileSync(pair.imagePath);
  expect(image.length).toBe(SIZE);
  expect(image.subarray(0, inStepImage.length).equals(inStepImage)).toBe(true);
  expect(image.subarray(inStepImage.length).every((byte) => byte === 0)).toBe(true);
  expect(pair.mirror!.status().exports[0]).toMatchObject({ applied: 1, consistent: true });
}

test.each([
  // The first byte is no type of a frame.
  ['random bytes', () => Buffer.concat([Buffer.from([255]), randomBytes(10_000)]), 'frame-invalid'],
  ['another frame', () => encodeAck(NO_POSITIONS), 'peer-foreign'],
  ['a HELLO without its magic', () => encodeFrame(FrameType.HELLO, { payload: Buffer.alloc(90) }), 'peer-foreign'],
  [
    'a HELLO cut short',
    () => encodeFrame(FrameType.HELLO, { payload: helloPayload().subarray(0, 60) }),
    'frame-invalid',
  ],
  ['a HELLO of a disk of size 0', () => encodeHello(someHello(0)), 'frame-invalid'],
  ['a payload that is too long before the session is open', () => header(FrameType.WRITE, MIB), 'frame-invalid'],
])('%s instead of HELLO are refused and nothing is made', async (_, bytes, code) => {
  const { pair, lines } = await mirror();
  const peer = await connect(pair);
  peer.send(bytes());
  expect((await peer.refusal()).code).toBe(code);
  expect(refusals(lines)).toHaveLength(1);
  expect(existsSync(pair.imagePath)).toBe(false);
});

function helloPayload(): Buffer {
  return encodeHello(someHello(SIZE)).subarray(HEADER_SIZE);
}

test('a HELLO of a future version only is refused in words that name both versions', async () => {
  const { pair, lines } = await mirror();
  const peer = await connect(pair);
  const payload = Buffer.concat([helloPayload(), randomBytes(40)]);
  payload.writeUInt16LE(7, 8);
  payload.writeUInt16LE(9, 10);
  peer.send(encodeFrame(FrameType.HELLO, { payload }));
  const failure = await peer.refusal();
  expect(failure.code).toBe('peer-version');
  expect(failure.message).toContain('7 to 9');
  expect(failure.message).toContain('2 to 2');
  expect(failure.hint).toContain('same release');
  expect(refusals(lines)[0]).toContain('7 to 9');
  expect(existsSync(pair.imagePath)).toBe(false);
});

test('a HELLO that spans the present and a future version is welcomed in the present one', async () => {
  const { pair } = await mirror();
  const peer = await connect(pair);
  peer.send(encodeHello(someHello(SIZE, { versionMax: 9 })));
  expect(decodeWelcome(await peer.next(FrameType.WELCOME)).version).toBe(2);
});

test.each([
  ['seeding', BeginKind.SEEDING],
  ['rescan', BeginKind.RESCAN],
])('a %s that was not admitted is refused and nothing is made', async (_, kind) => {
  const { pair } = await mirror();
  const peer = await connect(pair);
  peer.send(encodeHello(someHello(SIZE)));
  await peer.next(FrameType.WELCOME);
  const stagingId = isStaged(kind) ? randomBytes(16) : NO_ID;
  peer.send(encodeBegin({ kind, sequence: 0, sentMax: 0, stagingId }), write(1, 0, randomBytes(4096)));
  expect((await peer.refusal()).code).toBe('frame-invalid');
  expect(existsSync(pair.imagePath)).toBe(false);
});

test('a catch-up from a position that the image does not have is refused', async () => {
  const { pair } = await mirror();
  const first = await streaming(pair);
  first.peer.destroy();
  const peer = await connect(pair);
  peer.send(encodeHello(first.hello));
  await peer.next(FrameType.WELCOME);
  const begin = encodeBegin({ kind: BeginKind.CATCH_UP, sequence: 5, sentMax: 5, stagingId: NO_ID });
  peer.send(begin, write(6, 0, randomBytes(4096)));
  expect((await peer.refusal()).code).toBe('frame-invalid');
  expectUntouched(pair);
});

test.each([
  ['a write outside the image', () => write(2, SIZE - 4095, randomBytes(4096))],
  ['zeroes outside the image', () => encodeFrame(FrameType.ZERO, { sequence: 2, offset: 0, length: SIZE + 1 })],
  ['a write of nothing', () => write(2, 0, Buffer.alloc(0))],
  [
    'a write whose payload is not its length',
    () => encodeFrame(FrameType.WRITE, { sequence: 2, offset: 0, length: 4096, payload: randomBytes(512) }),
  ],
  [
    'zeroes with a payload',
    () => encodeFrame(FrameType.ZERO, { sequence: 2, offset: 0, length: 4096, payload: randomBytes(512) }),
  ],
  ['an operation that skips one', () => write(3, 0, randomBytes(4096))],
  ['an operation that was there already', () => write(1, 0, randomBytes(4096))],
  ['a repair of the past', () => write(0, 0, randomBytes(4096), FRAME_REPAIR)],
  ['a barrier of the future', () => encodeFrame(FrameType.BARRIER, { sequence: 9 })],
  ['a payload over the limit', () => header(FrameType.WRITE, PAYLOAD_SIZE_MAX + 1, { length: PAYLOAD_SIZE_MAX + 1 })],
  ['a position beyond all numbers', () => header(FrameType.WRITE, 0, { offset: 2 ** 53, length: 1 })],
  ['an unknown frame', () => header(200, 0)],
  ['a frame of the opening', () => encodeFrame(FrameType.HELLO, { payload: helloPayload() })],
  ['a frame that only a mirror sends', () => ackOf(1)],
  ['a pass without a key', () => encodeFrame(FrameType.PASS, { sequence: 1 })],
  [
    'a check without a pass',
    () => encodeFrame(FrameType.CHECK, { sequence: 1, length: 4096, payload: randomBytes(16) }),
  ],
  ['digests of another unit', () => header(FrameType.DIGEST_REQUEST, 0, { offset: 1, length: 4096 })],
  ['digests outside the image', () => encodeDigestRequest(SIZE, MIB, MIB)],
])('%s ends the session and changes nothing, and the next session goes on', async (_, frame) => {
  const { pair, lines } = await mirror();
  const { peer, hello } = await streaming(pair);
  // What stands behind it in the same record is not looked at any more.
  peer.send(frame(), write(2, 8192, randomBytes(4096)));
  const failure: Failure = await peer.refusal();
  expect(failure.code).toBe('frame-invalid');
  await pair.until('the session ended', () => pair.mirror!.status().exports[0]!.primary === undefined);
  expect(pair.mirror!.status().exports[0]!.problem?.code).toBe('frame-invalid');
  expect(lines.find(({ message }) => message === 'the session ended')).toBeDefined();
  expectUntouched(pair);

  const again = await connect(pair);
  expect((await beginSession(again, hello, BeginKind.CATCH_UP)).resumeAfter).toBe(1);
  again.send(write(2, 0, Buffer.from('go on !')));
  await pair.until('applied', () => pair.mirror!.status().exports[0]!.applied === 2);
  expect(readFileSync(pair.imagePath).toString('latin1', 0, 7)).toBe('go on !');
});

test('a frame cut by the end of the connection changes nothing; whole ones before it are applied', async () => {
  const { pair, lines } = await mirror();
  const { peer } = await streaming(pair);
  peer.send(write(2, 4096, Buffer.from('whole')), write(3, 0, randomBytes(4096)).subarray(0, 2000));
  peer.end();
  await peer.closed();
  await pair.until('the session ended', () => pair.mirror!.status().exports[0]!.primary === undefined);
  expect(pair.mirror!.status().exports[0]).toMatchObject({ applied: 2, consistent: true });
  const image = readFileSync(pair.imagePath);
  expect(image.subarray(0, inStepImage.length).equals(inStepImage)).toBe(true);
  expect(image.toString('latin1', 4096, 4101)).toBe('whole');
  const end = lines.find(({ message }) => message === 'the session ended');
  expect(end?.fields).toMatchObject({ reason: expect.stringContaining('in the middle of a frame') });
});

test('a flood of digest requests ends the session', async () => {
  const { pair } = await mirror();
  const { peer } = await streaming(pair);
  peer.send(...Array.from({ length: 1000 }, () => encodeDigestRequest(0, SIZE, 4 * KIB)));
  expect((await peer.refusal()).message).toContain('too many open digest requests');
  expectUntouched(pair);
});

test('acknowledgements never run ahead of what was sent', async () => {
  const { pair } = await mirror();
  const { peer } = await streaming(pair);
  for (let sequence = 2; sequence < 20; sequence += 1) {
    peer.send(write(sequence, sequence * 4096, randomBytes(4096)));
    const { received, applied, durable, recorded } = decodeAck(await peer.next(FrameType.ACK));
    expect(received).toBeLessThanOrEqual(sequence);
    expect(applied).toBeLessThanOrEqual(received);
    expect(durable).toBeLessThanOrEqual(applied);
    expect(recorded).toBeLessThanOrEqual(durable);
  }
});
