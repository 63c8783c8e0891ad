/**
 * Payloads of the frames that open a session, and of acknowledgements. Byte tables in docs/protocol.md are
 * those above each pair of functions. Every decoder refuses with `frame-invalid` whatever does not fit exactly.
 */
import { assert } from '../base/assert.ts';
import { getUint64, ID_SIZE, NO_ID, putUint64 } from '../base/bytes.ts';
import { Failure, type FailureCode, isFailureCode } from '../base/failure.ts';
import { MODES, type Mode } from '../base/mode.ts';
import { encodeFrame, type Frame, FrameType } from './frame.ts';
import type { Lineage } from './lineage.ts';

/** The versions of the link that this release speaks. */
export const VERSION_MIN = 2;
export const VERSION_MAX = 2;

const MAGIC = Buffer.from('NBDTWIN\0', 'ascii');
/** Bytes of an export's name in UTF-8. */
export const EXPORT_NAME_SIZE_MAX = 255;
const MESSAGE_SIZE_MAX = 1024;

/**
 * HELLO, primary to mirror: who I am and what I hold.
 *
 * | offset | size | field                                                          |
 * | ------ | ---- | -------------------------------------------------------------- |
 * | 0      | 8    | magic `NBDTWIN` and a zero byte                                |
 * | 8      | 2    | lowest version of the link spoken                              |
 * | 10     | 2    | highest version                                                |
 * | 12     | 1    | mode: 0 async, 1 flush, 2 sync                                 |
 * | 13     | 3    | features, all zero in version 2                                |
 * | 16     | 16   | volume id                                                      |
 * | 32     | 16   | generation                                                     |
 * | 48     | 16   | run                                                            |
 * | 64     | 16   | parent run, zero without one                                   |
 * | 80     | 8    | sequence of the parent run at which this run began             |
 * | 88     | 8    | size of the disk                                               |
 * | 96     | 8    | size of the window                                             |
 * | 104    | 8    | version of the dirty map                                       |
 * | 112    | 2    | length of the name                                             |
 * | 114    | n    | name of the export, UTF-8                                      |
 *
 * The first 12 bytes keep their meaning in every version.
 */
export interface Hello extends Lineage {
  readonly versionMin: number;
  readonly versionMax: number;
  /** What the primary's clients wait for, and so what the mirror had better acknowledge at once. */
  readonly mode: Mode;
  readonly volumeId: Buffer;
  readonly generation: Buffer;
  readonly size: number;
  readonly windowSize: number;
  readonly mapVersion: number;
  readonly exportName: string;
}

const HELLO_FIXED_SIZE = 114;

export function encodeHello(hello: Hello): Buffer {
  const name = Buffer.from(hello.exportName, 'utf8');
  assert(name.length <= EXPORT_NAME_SIZE_MAX, 'export name within its limit');
  const payload = Buffer.alloc(HELLO_FIXED_SIZE + name.length);
  MAGIC.copy(payload, 0);
  payload.writeUInt16LE(hello.versionMin, 8);
  payload.writeUInt16LE(hello.versionMax, 10);
  payload[12] = MODES.indexOf(hello.mode);
  hello.volumeId.copy(payload, 16);
  hello.generation.copy(payload, 32);
  putLineage(payload, 48, hello);
  putUint64(payload, 88, hello.size);
  putUint64(payload, 96, hello.windowSize);
  putUint64(payload, 104, hello.mapVersion);
  payload.writeUInt16LE(name.length, 112);
  name.copy(payload, HELLO_FIXED_SIZE);
  return encodeFrame(FrameType.HELLO, { payload });
}

/** Failures: `peer-foreign` for a wrong magic, `peer-version` without a common version, `frame-invalid`. */
export function decodeHello(frame: Frame): Hello {
  const payload = frame.payload;
  if (frame.type !== FrameType.HELLO || payload.length < 12 || !payload.subarray(0, 8).equals(MAGIC)) {
    throw new Failure('peer-foreign', 'the peer does not open a session as a primary does');
  }
  const versionMin = payload.readUInt16LE(8);
  const versionMax = payload.readUInt16LE(10);
  if (versionMin > VERSION_MAX || versionMax < VERSION_MIN) {
    throw new Failure(
      'peer-version',
      `the primary speaks link versions ${versionMin} to ${versionMax}, the mirror ${VERSION_MIN} to ${VERSION_MAX}`,
    );
  }
  if (payload.length < HELLO_FIXED_SIZE) throw invalid('HELLO');
  const mode = MODES[payload[12]!];
  const lineage = getLineage(payload, 48);
  const size = getUint64(payload, 88);
  const windowSize = getUint64(payload, 96);
  const mapVersion = getUint64(payload, 104);
  const nameLength = payload.readUInt16LE(112);
  if (size === undefined || size === 0 || windowSize === undefined || mapVersion === undefined) throw invalid('HELLO');
  if (mode === undefined || nameLength > EXPORT_NAME_SIZE_MAX) throw invalid('HELLO');
  if (lineage === undefined || payload.length !== HELLO_FIXED_SIZE + nameLength) throw invalid('HELLO');
  return {
    versionMin,
    versionMax,
    mode,
    volumeId: payload.subarray(16, 32),
    generation: payload.subarray(32, 48),
    ...lineage,
    size,
    windowSize,
    mapVersion,
    exportName: payload.toString('utf8', HELLO_FIXED_SIZE),
  };
}

/**
 * WELCOME, mirror to primary: what I hold of that export.
 *
 * | offset | size | field                                                          |
 * | ------ | ---- | -------------------------------------------------------------- |
 * | 0      | 2    | version chosen                                                 |
 * | 2      | 2    | flags: bit 0 the image is consistent, bit 1 nothing there yet, bit 2 it was consistent at some time, bit 3 exact: nothing beyond the position can be in it |
 * | 4      | 4    | features, all zero in version 2                                |
 * | 8      | 16   | replica id                                                     |
 * | 24     | 16   | generation                                                     |
 * | 40     | 16   | run of the position, zero when there is none                   |
 * | 56     | 16   | parent of that run, zero without one                           |
 * | 72     | 8    | sequence of the parent run at which that run began             |
 * | 80     | 8    | sequence after which the stream can go on                      |
 * | 88     | 8    | recorded sequence                                              |
 * | 96     | 8    | last durable checkpoint                                        |
 * | 104    | 8    | size of the image                                              |
 * | 112    | 8    | version of the primary's dirty map last seen                   |
 * | 120    | 16   | id of the uncommitted staged run, zero without one             |
 * | 136    | 8    | its durable position                                           |
 * | 144    | 8    | its last durable checkpoint                                    |
 * | 152    | 8    | bytes that a staged run may take                               |
 */
export interface Welcome extends Lineage {
  readonly version: number;
  readonly consistent: boolean;
  readonly fresh: boolean;
  readonly seeded: boolean;
  readonly replicaId: Buffer;
  readonly generation: Buffer;
  readonly resumeAfter: number;
  readonly recorded: number;
  readonly checkpoint: number;
  readonly size: number;
  /** Nothing beyond the position can be in the image. */
  readonly exact: boolean;
  readonly mapVersion: number;
  /** The uncommitted staged run that the mirror holds; NO_ID when there is none. */
  readonly stagingId: Buffer;
  readonly stagedSequence: number;
  readonly stagedCheckpoint: number;
  /** Bytes that a staged run may take: the lower of the mirror's limit and its free space. */
  readonly stagingRoom: number;
}

const WELCOME_SIZE = 160;

export function encodeWelcome(welcome: Welcome): Buffer {
  const payload = Buffer.alloc(WELCOME_SIZE);
  payload.writeUInt16LE(welcome.version, 0);
  const flags = (welcome.consistent ? 1 : 0) | (welcome.fresh ? 2 : 0) | (welcome.seeded ? 4 : 0);
  payload.writeUInt16LE(flags | (welcome.exact ? 8 : 0), 2);
  welcome.replicaId.copy(payload, 8);
  welcome.generation.copy(payload, 24);
  putLineage(payload, 40, welcome);
  putUint64(payload, 80, welcome.resumeAfter);
  putUint64(payload, 88, welcome.recorded);
  putUint64(payload, 96, welcome.checkpoint);
  putUint64(payload, 104, welcome.size);
  putUint64(payload, 112, welcome.mapVersion);
  welcome.stagingId.copy(payload, 120);
  putUint64(payload, 136, welcome.stagedSequence);
  putUint64(payload, 144, welcome.stagedCheckpoint);
  putUint64(payload, 152, welcome.stagingRoom);
  return encodeFrame(FrameType.WELCOME, { payload });
}

/** Failures: the mirror's own refusal, `peer-version`, `peer-foreign`, `frame-invalid`. */
export function decodeWelcome(frame: Frame): Welcome {
  if (frame.type === FrameType.REFUSED) throw decodeRefused(frame);
  const payload = frame.payload;
  if (frame.type !== FrameType.WELCOME || payload.length !== WELCOME_SIZE) {
    throw new Failure('peer-foreign', 'the peer does not answer as a mirror does');
  }
  const version = payload.readUInt16LE(0);
  if (version < VERSION_MIN || version > VERSION_MAX) {
    throw new Failure(
      'peer-version',
      `the mirror chose link version ${version}, this primary speaks ${VERSION_MIN} to ${VERSION_MAX}`,
    );
  }
  const lineage = getLineage(payload, 40);
  const resumeAfter = getUint64(payload, 80);
  const recorded = getUint64(payload, 88);
  const checkpoint = getUint64(payload, 96);
  const size = getUint64(payload, 104);
  const mapVersion = getUint64(payload, 112);
  const stagedSequence = getUint64(payload, 136);
  const stagedCheckpoint = getUint64(payload, 144);
  const stagingRoom = getUint64(payload, 152);
  if (
    lineage === undefined ||
    resumeAfter === undefined ||
    recorded === undefined ||
    checkpoint === undefined ||
    size === undefined ||
    mapVersion === undefined ||
    stagedSequence === undefined ||
    stagedCheckpoint === undefined ||
    stagingRoom === undefined
  ) {
    throw invalid('WELCOME');
  }
  const flags = payload.readUInt16LE(2);
  return {
    version,
    consistent: (flags & 1) !== 0,
    fresh: (flags & 2) !== 0,
    seeded: (flags & 4) !== 0,
    replicaId: payload.subarray(8, 8 + ID_SIZE),
    generation: payload.subarray(24, 40),
    ...lineage,
    resumeAfter,
    recorded,
    checkpoint,
    size,
    exact: (flags & 8) !== 0,
    mapVersion,
    stagingId: payload.subarray(120, 120 + ID_SIZE),
    stagedSequence,
    stagedCheckpoint,
    stagingRoom,
  };
}

/** REFUSED, either way, before closing: payload is a failure code, a zero byte, and a message, UTF-8. */
export function encodeRefused(code: FailureCode, message: string): Buffer {
  const text = Buffer.from(message, 'utf8').subarray(0, MESSAGE_SIZE_MAX);
  return encodeFrame(FrameType.REFUSED, { payload: Buffer.concat([Buffer.from(`${code}\0`, 'ascii'), text]) });
}

export function decodeRefused(frame: Frame): Failure {
  const end = frame.payload.indexOf(0);
  const code = end < 0 ? '' : frame.payload.toString('ascii', 0, end);
  const message = printable(frame.payload.toString('utf8', end + 1, end + 1 + MESSAGE_SIZE_MAX));
  if (!isFailureCode(code))
    return new Failure('frame-invalid', `the peer refused for a reason unknown here: ${message}`);
  return new Failure(code, `the peer says: ${message}`);
}

/**
 * BEGIN, primary to mirror: where the stream goes on. Flags are the kind, sequence the last operation that the stream
 * does not contain, length the highest sequence that was ever sent for the image itself in this run; the payload is the
 * id of the staged run, zero where the kind has none. The mirror answers with an ACK when it is ready for data; nothing
 * else is sent before.
 *
 * - CATCH_UP: in order, straight to the image.
 * - RESCAN: a staged run: nothing reaches the image before the CHECKPOINT that completes it.
 * - SEEDING: straight to the image, which is durably inconsistent until the CHECKPOINT that completes it.
 * - CATCH_UP_STAGED: in order, but staged until the CHECKPOINT that completes it: after an unclean stop of the mirror,
 *   when later operations may be in the image already.
 *
 * A staged run whose id is the one the mirror holds, with its position, goes on; any other begins empty.
 */
export const BeginKind = { CATCH_UP: 0, RESCAN: 1, SEEDING: 2, CATCH_UP_STAGED: 3 } as const;
export type BeginKindCode = (typeof BeginKind)[keyof typeof BeginKind];

export interface Begin {
  readonly kind: BeginKindCode;
  readonly sequence: number;
  readonly sentMax: number;
  /** NO_ID for the kinds that are not staged. */
  readonly stagingId: Buffer;
}

export function encodeBegin(begin: Begin): Buffer {
  const { kind, sequence, sentMax, stagingId } = begin;
  return encodeFrame(FrameType.BEGIN, { flags: kind, sequence, length: sentMax, payload: stagingId });
}

export function decodeBegin(frame: Frame): Begin {
  if (frame.type !== FrameType.BEGIN || frame.flags > BeginKind.CATCH_UP_STAGED || frame.payload.length !== ID_SIZE)
    throw invalid('BEGIN');
  const kind = frame.flags as BeginKindCode;
  if (isStaged(kind) === frame.payload.equals(NO_ID)) throw invalid('BEGIN');
  return { kind, sequence: frame.sequence, sentMax: frame.length, stagingId: frame.payload };
}

/** True when a session of that kind begins with a staged run. */
export function isStaged(kind: BeginKindCode): boolean {
  return kind === BeginKind.RESCAN || kind === BeginKind.CATCH_UP_STAGED;
}

/** RESCAN_PLACE, mirror to primary: the header's length is the place in the queue, 0 when the rescan may begin. */
export function encodeRescanPlace(place: number): Buffer {
  return encodeFrame(FrameType.RESCAN_PLACE, { length: place });
}

/**
 * ACK, mirror to primary. Sequences, each at least the one in the previous ACK of the session, but for `staged`, which is
 * zero while no staged run is open. While one is, applied, durable and recorded stay where they are.
 *
 * | offset | size | field                                          |
 * | ------ | ---- | ---------------------------------------------- |
 * | 0      | 8    | received                                       |
 * | 8      | 8    | applied                                        |
 * | 16     | 8    | durable                                        |
 * | 24     | 8    | recorded                                       |
 * | 32     | 8    | staged                                         |
 * | 40     | 8    | bytes that the staged run takes                |
 */
export interface Positions {
  readonly received: number;
  readonly applied: number;
  readonly durable: number;
  readonly recorded: number;
  /** The image seen through the open staged run holds everything up to here, durably; 0 when none is open. */
  readonly staged: number;
  /** Bytes that the open staged run takes on the mirror's disk. */
  readonly stagedSize: number;
}

/** Before the first acknowledgement. */
export const NO_POSITIONS: Positions = { received: 0, applied: 0, durable: 0, recorded: 0, staged: 0, stagedSize: 0 };

const POSITIONS_SIZE = 48;

export function encodeAck(positions: Positions): Buffer {
  const payload = Buffer.allocUnsafe(POSITIONS_SIZE);
  putUint64(payload, 0, positions.received);
  putUint64(payload, 8, positions.applied);
  putUint64(payload, 16, positions.durable);
  putUint64(payload, 24, positions.recorded);
  putUint64(payload, 32, positions.staged);
  putUint64(payload, 40, positions.stagedSize);
  return encodeFrame(FrameType.ACK, { payload });
}

export function decodeAck(frame: Frame): Positions {
  if (frame.type !== FrameType.ACK || frame.payload.length !== POSITIONS_SIZE) throw invalid('ACK');
  const received = getUint64(frame.payload, 0);
  const applied = getUint64(frame.payload, 8);
  const durable = getUint64(frame.payload, 16);
  const recorded = getUint64(frame.payload, 24);
  const staged = getUint64(frame.payload, 32);
  const stagedSize = getUint64(frame.payload, 40);
  if (received === undefined || applied === undefined || durable === undefined || recorded === undefined)
    throw invalid('ACK');
  if (staged === undefined || stagedSize === undefined) throw invalid('ACK');
  return { received, applied, durable, recorded, staged, stagedSize };
}

/** STAGE, in the stream: from here on a staged run of that id. `sequence` is the last operation before it. */
export function decodeStage(frame: Frame): Buffer {
  if (frame.type !== FrameType.STAGE || frame.payload.length !== ID_SIZE || frame.payload.equals(NO_ID))
    throw invalid('STAGE');
  return frame.payload;
}

/** Run, parent run, and the sequence at which the one began in the other: 40 bytes. */
function putLineage(payload: Buffer, at: number, lineage: Lineage): void {
  lineage.run.copy(payload, at);
  lineage.parentRun.copy(payload, at + ID_SIZE);
  putUint64(payload, at + 2 * ID_SIZE, lineage.parentSequence);
}

function getLineage(payload: Buffer, at: number): Lineage | undefined {
  const parentSequence = getUint64(payload, at + 2 * ID_SIZE);
  if (parentSequence === undefined) return undefined;
  return {
    run: payload.subarray(at, at + ID_SIZE),
    parentRun: payload.subarray(at + ID_SIZE, at + 2 * ID_SIZE),
    parentSequence,
  };
}

/** Text of a peer for our log and terminal: no control characters. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is to be removed
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}

function invalid(what: string): Failure {
  return new Failure('frame-invalid', `malformed ${what} frame`);
}
