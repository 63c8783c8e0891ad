/**
 * Bytes of the log of a staged run: which ranges of its data file count, and up to which position. Pure.
 *
 * There are two kinds of log. An *open* one (kind `STGO`) is a header and batches, appended one by one. A *committed* one
 * (kind `STGC`) is a header, one batch with every range, and the commit record. A log only ever appears whole, by
 * FileSystem.replaceFile: an open one is replaced by the committed one in one step. Hence the rule of reading:
 *
 * - the header says which of the two it is; a header that is not whole was spoiled by something else than a crash, and
 *   could be of either kind: `state-corrupt`;
 * - an open log ends before the first batch that is not whole. A crash leaves such a batch only as the last one. Where
 *   something else has spoiled one further in front, the position falls back to an earlier one, which is as good: what
 *   came later is sent again;
 * - a committed log is whole to its last byte, or it is `state-corrupt`: the image may be half copied already, so this
 *   must never be taken for a run that did not complete.
 *
 * Each CRC-32 begins with the one before it, so that a batch counts only behind its predecessors. Little-endian.
 *
 * Header:
 *
 * | offset | size | field                                                           |
 * | ------ | ---- | --------------------------------------------------------------- |
 * | 0      | 8    | magic `NBDTWIN` and a zero byte                                 |
 * | 8      | 4    | kind: `STGO` or `STGC`                                          |
 * | 12     | 2    | version of the format: 1                                        |
 * | 14     | 2    | zero                                                            |
 * | 16     | 16   | id of the staged run                                            |
 * | 32     | 16   | run of the position of the image below, zero without one        |
 * | 48     | 8    | sequence of that position                                       |
 * | 56     | 8    | size of the disk in bytes                                       |
 * | 64     | 4    | CRC-32 of the header, this field zero                           |
 * | 68     | 4    | zero                                                            |
 *
 * Batch:
 *
 * | offset | size | field                                                           |
 * | ------ | ---- | --------------------------------------------------------------- |
 * | 0      | 4    | `BTCH`                                                          |
 * | 4      | 4    | CRC-32 of the batch, this field zero, begun with the one before |
 * | 8      | 8    | sequence: with this batch the view holds everything up to here  |
 * | 16     | 8    | checkpoint                                                      |
 * | 24     | 4    | number of entries                                               |
 * | 28     | 4    | zero                                                            |
 * | 32     | 16 n | entries                                                         |
 *
 * Entry; a later one covers what it overlaps of earlier ones:
 *
 * | offset | size | field                                                           |
 * | ------ | ---- | --------------------------------------------------------------- |
 * | 0      | 8    | offset in bytes                                                 |
 * | 8      | 8    | length in bytes; bit 63: all zero, nothing of it is in the data file |
 *
 * Commit record: the position at which the image is once everything is copied.
 *
 * | offset | size | field                                                           |
 * | ------ | ---- | --------------------------------------------------------------- |
 * | 0      | 4    | `CMIT`                                                          |
 * | 4      | 4    | CRC-32 of the record, this field zero, begun with the one before |
 * | 8      | 16   | generation                                                      |
 * | 24     | 16   | run                                                             |
 * | 40     | 16   | parent of that run, zero without one                            |
 * | 56     | 8    | sequence of the parent run at which that run began              |
 * | 64     | 8    | sequence                                                        |
 * | 72     | 8    | checkpoint                                                      |
 * | 80     | 8    | version of the primary's dirty map last seen                    |
 * | 88     | 8    | when it was committed, ms since 1970                            |
 */
import { crc32 } from 'node:zlib';
import { assert } from '../base/assert.ts';
import { getUint64, ID_SIZE, putUint64 } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import { RANGES_MAX } from './overlay.ts';
import type { OverlayRange } from './range-map.ts';

export const LOG_HEADER_SIZE = 72;
export const BATCH_HEADER_SIZE = 32;
export const ENTRY_SIZE = 16;
export const COMMIT_SIZE = 96;
const VERSION = 1;
const MAGIC = Buffer.from('NBDTWIN\0', 'ascii');
/** Entries of a batch: see Overlay.takeChanges. */
const ENTRIES_MAX = 2 * RANGES_MAX;
const ZERO_BIT = 0x8000_0000;
const NO_CRC = Buffer.alloc(4);

/** Where the image stood when the run began. A staged run means nothing over any other content. */
export interface StagingBase {
  readonly run: Buffer;
  readonly sequence: number;
}

export interface StagedPosition {
  /** The image seen through the run holds every operation up to here. */
  readonly sequence: number;
  /** Last checkpoint of the pass. */
  readonly checkpoint: number;
}

/** What the state of the mirror becomes when everything has been copied. */
export interface CommitRecord {
  readonly generation: Buffer;
  readonly run: Buffer;
  readonly parentRun: Buffer;
  readonly parentSequence: number;
  readonly sequence: number;
  readonly checkpoint: number;
  readonly mapVersion: number;
  /** When it was committed, ms since 1970: the age of the position, however late it is copied. */
  readonly committedAtMs: number;
}

export interface LogHeader {
  readonly id: Buffer;
  readonly base: StagingBase;
  /** Bytes of the disk. */
  readonly size: number;
}

export interface DecodedLog extends LogHeader {
  readonly batches: readonly { readonly position: StagedPosition; readonly ranges: readonly OverlayRange[] }[];
  readonly committed: CommitRecord | undefined;
  /** Bytes of the log that count. */
  readonly end: number;
  /** CRC with which the next batch begins. */
  readonly crc: number;
}

/** Some bytes of a log with the CRC with which what follows them begins. */
export interface Chained {
  readonly bytes: Buffer;
  readonly crc: number;
}

export function batchSize(count: number): number {
  return BATCH_HEADER_SIZE + ENTRY_SIZE * count;
}

export function encodeHeader(header: LogHeader, kind: 'STGO' | 'STGC'): Chained {
  const bytes = Buffer.alloc(LOG_HEADER_SIZE);
  MAGIC.copy(bytes, 0);
  bytes.write(kind, 8, 'ascii');
  bytes.writeUInt16LE(VERSION, 12);
  header.id.copy(bytes, 16);
  header.base.run.copy(bytes, 32);
  putUint64(bytes, 48, header.base.sequence);
  putUint64(bytes, 56, header.size);
  return sealed(bytes, 64, 0);
}

/** `crc`: that of what stands before it. */
export function encodeBatch(
  position: StagedPosition,
  count: number,
  ranges: Iterable<OverlayRange>,
  crc: number,
): Chained {
  assert(count <= ENTRIES_MAX, 'a batch within its limit');
  const bytes = Buffer.alloc(batchSize(count));
  bytes.write('BTCH', 0, 'ascii');
  putUint64(bytes, 8, position.sequence);
  putUint64(bytes, 16, position.checkpoint);
  bytes.writeUInt32LE(count, 24);
  let at = BATCH_HEADER_SIZE;
  for (const range of ranges) {
    putUint64(bytes, at, range.offset);
    putUint64(bytes, at + 8, range.length);
    if (range.zero) bytes.writeUInt32LE((bytes.readUInt32LE(at + 12) | ZERO_BIT) >>> 0, at + 12);
    at += ENTRY_SIZE;
  }
  assert(at === bytes.length, 'a batch has the number of entries that it says');
  return sealed(bytes, 4, crc);
}

export function encodeCommit(record: CommitRecord, crc: number): Buffer {
  const bytes = Buffer.alloc(COMMIT_SIZE);
  bytes.write('CMIT', 0, 'ascii');
  record.generation.copy(bytes, 8);
  record.run.copy(bytes, 24);
  record.parentRun.copy(bytes, 40);
  putUint64(bytes, 56, record.parentSequence);
  putUint64(bytes, 64, record.sequence);
  putUint64(bytes, 72, record.checkpoint);
  putUint64(bytes, 80, record.mapVersion);
  putUint64(bytes, 88, record.committedAtMs);
  return sealed(bytes, 4, crc).bytes;
}

/** Throws `state-corrupt`, see the rule above. Buffers of the result are views of `bytes`. */
export function decodeLog(bytes: Buffer, path: string): DecodedLog {
  if (bytes.length < LOG_HEADER_SIZE || !bytes.subarray(0, 8).equals(MAGIC)) throw corrupt(path, 'has no header');
  if (!isWhole(bytes.subarray(0, LOG_HEADER_SIZE), 64, 0)) throw corrupt(path, 'has a damaged header');
  const kind = bytes.toString('ascii', 8, 12);
  const version = bytes.readUInt16LE(12);
  if ((kind !== 'STGO' && kind !== 'STGC') || version !== VERSION) {
    throw corrupt(path, `is of kind ${kind} version ${version}, not STGO or STGC ${VERSION}`);
  }
  const sequence = getUint64(bytes, 48);
  const size = getUint64(bytes, 56);
  if (sequence === undefined || size === undefined) throw corrupt(path, 'has impossible values');

  const batches: { position: StagedPosition; ranges: OverlayRange[] }[] = [];
  let end = LOG_HEADER_SIZE;
  let crc = bytes.readUInt32LE(64);
  for (let next = batchAt(bytes, end, crc); next !== undefined; next = batchAt(bytes, end, crc)) {
    const batch = decodeBatch(next, size);
    if (batch === undefined) throw corrupt(path, 'has impossible values');
    batches.push(batch);
    crc = next.readUInt32LE(4);
    end += next.length;
  }
  let committed: CommitRecord | undefined;
  if (kind === 'STGC') {
    committed = decodeCommit(bytes.subarray(end), crc);
    if (committed === undefined || batches.length !== 1) throw corrupt(path, 'is committed and damaged');
    end = bytes.length;
  }
  const base = { run: bytes.subarray(32, 48), sequence };
  return { id: bytes.subarray(16, 16 + ID_SIZE), base, size, batches, committed, end, crc };
}

/** The bytes of the batch that begins at `offset`; undefined when there is no whole one. */
function batchAt(bytes: Buffer, offset: number, crc: number): Buffer | undefined {
  if (bytes.length - offset < BATCH_HEADER_SIZE || bytes.toString('ascii', offset, offset + 4) !== 'BTCH') {
    return undefined;
  }
  const count = bytes.readUInt32LE(offset + 24);
  if (count > ENTRIES_MAX || bytes.length - offset < batchSize(count)) return undefined;
  const batch = bytes.subarray(offset, offset + batchSize(count));
  return isWhole(batch, 4, crc) ? batch : undefined;
}

/** Undefined when a whole batch says what cannot be. */
function decodeBatch(batch: Buffer, size: number): { position: StagedPosition; ranges: OverlayRange[] } | undefined {
  const sequence = getUint64(batch, 8);
  const checkpoint = getUint64(batch, 16);
  if (sequence === undefined || checkpoint === undefined) return undefined;
  const ranges: OverlayRange[] = [];
  for (let at = BATCH_HEADER_SIZE; at < batch.length; at += ENTRY_SIZE) {
    const offset = getUint64(batch, at);
    const high = batch.readUInt32LE(at + 12);
    const zero = (high & ZERO_BIT) !== 0;
    const length = batch.readUInt32LE(at + 8) + (high & ~ZERO_BIT) * 0x1_0000_0000;
    if (offset === undefined || length === 0 || offset + length > size) return undefined;
    ranges.push({ offset, length, zero });
  }
  return { position: { sequence, checkpoint }, ranges };
}

/** Undefined unless `bytes` are exactly a whole commit record. */
function decodeCommit(bytes: Buffer, crc: number): CommitRecord | undefined {
  if (bytes.length !== COMMIT_SIZE || bytes.toString('ascii', 0, 4) !== 'CMIT') return undefined;
  if (!isWhole(bytes, 4, crc)) return undefined;
  const parentSequence = getUint64(bytes, 56);
  const sequence = getUint64(bytes, 64);
  const checkpoint = getUint64(bytes, 72);
  const mapVersion = getUint64(bytes, 80);
  const committedAtMs = getUint64(bytes, 88);
  if (parentSequence === undefined || sequence === undefined || checkpoint === undefined) return undefined;
  if (mapVersion === undefined || committedAtMs === undefined) return undefined;
  return {
    generation: bytes.subarray(8, 24),
    run: bytes.subarray(24, 40),
    parentRun: bytes.subarray(40, 56),
    parentSequence,
    sequence,
    checkpoint,
    mapVersion,
    committedAtMs,
  };
}

/** Puts the CRC into its field, which is zero. */
function sealed(bytes: Buffer, crcOffset: number, before: number): Chained {
  const crc = crc32(bytes, before);
  bytes.writeUInt32LE(crc, crcOffset);
  return { bytes, crc };
}

/** True when the CRC in its field is that of all the bytes with the field zero. */
function isWhole(bytes: Buffer, crcOffset: number, before: number): boolean {
  let crc = crc32(bytes.subarray(0, crcOffset), before);
  crc = crc32(NO_CRC, crc);
  return crc32(bytes.subarray(crcOffset + NO_CRC.length), crc) === bytes.readUInt32LE(crcOffset);
}

function corrupt(path: string, why: string): Failure {
  return new Failure('state-corrupt', `the log of the staged run, ${path}, ${why}`);
}
