/**
 * Bytes of the spool: segments of records, and the record of a clean stop. All integers are little-endian.
 *
 * Header of a segment (SEGMENT_HEADER_SIZE bytes), then records, then nothing or zeroes:
 *
 * | offset | size | field                                                              |
 * | ------ | ---- | ------------------------------------------------------------------ |
 * | 0      | 8    | magic `NBDTWIN` and a zero byte                                    |
 * | 8      | 4    | kind: `SPSG`                                                       |
 * | 12     | 2    | version, 1                                                         |
 * | 14     | 2    | zero                                                               |
 * | 16     | 16   | id of the spool: random, another one whenever a spool begins empty |
 * | 32     | 8    | number of the segment                                              |
 * | 40     | 8    | sequence of its first record                                       |
 * | 48     | 4    | CRC-32 of the header, this field zero                              |
 * | 52     | 8    | start: byte at which the first record that counts stands           |
 * | 60     | 4    | zero                                                               |
 *
 * Record (RECORD_HEADER_SIZE bytes, then the data):
 *
 * | offset | size | field                                                        |
 * | ------ | ---- | ------------------------------------------------------------ |
 * | 0      | 1    | type: that of the frame on the link; 0: no record here       |
 * | 1      | 1    | flags: those of the frame                                    |
 * | 2      | 2    | zero                                                         |
 * | 4      | 4    | size of the data in bytes                                    |
 * | 8      | 8    | sequence                                                     |
 * | 16     | 8    | offset in bytes from the start of the disk                   |
 * | 24     | 8    | length in bytes of the disk that the operation is about      |
 * | 32     | 8    | when, in ms of the writer's monotonic clock, a double        |
 * | 40     | 4    | CRC-32 of header and data, this field zero                   |
 * | 44     | 4    | zero                                                         |
 * | 48     | n    | data                                                         |
 *
 * `complete`, written last at a clean stop: a slot as in record-file.ts of kind `SPOL` with this content:
 *
 * | offset | size | field                                                        |
 * | ------ | ---- | ------------------------------------------------------------ |
 * | 0      | 16   | id of the spool                                              |
 * | 16     | 16   | run                                                          |
 * | 32     | 8    | base: the sequence after which everything is here            |
 * | 40     | 8    | sequence of the last operation of the run                    |
 * | 48     | 8    | number of the first segment                                  |
 * | 56     | 8    | number of the last segment, below the first without any      |
 * | 64     | 8    | number of records                                            |
 * | 72     | 8    | the monotonic clock at the stop, ms, a double                |
 * | 80     | 8    | the clock on the wall at the stop, ms since 1970, a double   |
 */
import { crc32 } from 'node:zlib';
import { assert } from '../base/assert.ts';
import { getUint64, ID_SIZE, putUint64 } from '../base/bytes.ts';
import { isFailure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import { decodeSlot, encodeSlot, type RecordKind } from './record-file.ts';

export const SEGMENT_HEADER_SIZE = 64;
export const RECORD_HEADER_SIZE = 48;
/** The largest data of a record: one NBD write. */
const RECORD_DATA_SIZE_MAX = 32 * MIB;

const MAGIC = Buffer.from('NBDTWIN\0', 'ascii');
const SEGMENT_KIND = 'SPSG';
const SEGMENT_VERSION = 1;
const COMPLETE_KIND: RecordKind = { letters: 'SPOL', version: 1 };
const COMPLETE_SIZE = 88;
const RECORD_CRC_OFFSET = 40;
const SEGMENT_CRC_OFFSET = 48;

/** One operation or barrier, as it stood in the stream. */
export interface SpoolRecord {
  /** Of the frame on the link; never 0. */
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly offset: number;
  readonly length: number;
  readonly data: Uint8Array | undefined;
  /** When it was appended, in ms of the clock's `nowMs`. */
  readonly atMs: number;
}

export function recordSize(dataSize: number): number {
  return RECORD_HEADER_SIZE + dataSize;
}

/** `start`: what stands before was taken out before a clean stop. */
export function encodeSegmentHeader(
  id: Buffer,
  number: number,
  firstSequence: number,
  start: number = SEGMENT_HEADER_SIZE,
): Buffer {
  const header = Buffer.alloc(SEGMENT_HEADER_SIZE);
  MAGIC.copy(header, 0);
  header.write(SEGMENT_KIND, 8, 'ascii');
  header.writeUInt16LE(SEGMENT_VERSION, 12);
  id.copy(header, 16);
  putUint64(header, 32, number);
  putUint64(header, 40, firstSequence);
  putUint64(header, 52, start);
  header.writeUInt32LE(crc32(header), SEGMENT_CRC_OFFSET);
  return header;
}

export interface SegmentHeader {
  readonly firstSequence: number;
  readonly start: number;
}

/** What the header of that segment of that spool says; undefined when it is another's, or not whole. */
export function decodeSegmentHeader(header: Buffer, id: Buffer, number: number): SegmentHeader | undefined {
  const firstSequence = getUint64(header, 40);
  const start = getUint64(header, 52);
  if (firstSequence === undefined || start === undefined || start < SEGMENT_HEADER_SIZE) return undefined;
  return header.equals(encodeSegmentHeader(id, number, firstSequence, start)) ? { firstSequence, start } : undefined;
}

/** Writes a record at `at` of `target`, which has room for it. The data is copied. */
export function putRecord(
  target: Buffer,
  at: number,
  type: number,
  flags: number,
  sequence: number,
  offset: number,
  length: number,
  data: Uint8Array | undefined,
  atMs: number,
): void {
  const dataSize = data?.length ?? 0;
  assert(type > 0 && dataSize <= RECORD_DATA_SIZE_MAX, 'a record within its limits');
  target.writeUInt32LE(type | (flags << 8), at);
  target.writeUInt32LE(dataSize, at + 4);
  putUint64(target, at + 8, sequence);
  putUint64(target, at + 16, offset);
  putUint64(target, at + 24, length);
  target.writeDoubleLE(atMs, at + 32);
  target.fill(0, at + RECORD_CRC_OFFSET, at + RECORD_HEADER_SIZE);
  if (data !== undefined) target.set(data, at + RECORD_HEADER_SIZE);
  const crc = crc32(target.subarray(at, at + RECORD_HEADER_SIZE + dataSize));
  target.writeUInt32LE(crc, at + RECORD_CRC_OFFSET);
}

/** Size of the record at `at`, whose header is in `source`; 0 where none is; undefined for what no record says. */
export function recordSizeAt(source: Buffer, at: number): number | undefined {
  if (source[at] === 0) return 0;
  const dataSize = source.readUInt32LE(at + 4);
  return dataSize > RECORD_DATA_SIZE_MAX ? undefined : RECORD_HEADER_SIZE + dataSize;
}

/** The record of `size` bytes at `at`: its data is a view. Undefined when it is not what was written. */
export function getRecord(source: Buffer, at: number, size: number): SpoolRecord | undefined {
  const headerCrc = crc32(ZERO_CRC, crc32(source.subarray(at, at + RECORD_CRC_OFFSET)));
  const crc = crc32(source.subarray(at + RECORD_CRC_OFFSET + ZERO_CRC.length, at + size), headerCrc);
  const sequence = getUint64(source, at + 8);
  const offset = getUint64(source, at + 16);
  const length = getUint64(source, at + 24);
  if (crc !== source.readUInt32LE(at + RECORD_CRC_OFFSET)) return undefined;
  if (sequence === undefined || offset === undefined || length === undefined) return undefined;
  return {
    type: source[at]!,
    flags: source[at + 1]!,
    sequence,
    offset,
    length,
    data: size > RECORD_HEADER_SIZE ? source.subarray(at + RECORD_HEADER_SIZE, at + size) : undefined,
    atMs: source.readDoubleLE(at + 32),
  };
}

const ZERO_CRC = Buffer.alloc(4);

/** What a clean stop leaves beside the segments: they are whole when all of this is so. */
export interface SpoolComplete {
  readonly id: Buffer;
  readonly run: Buffer;
  readonly base: number;
  readonly sequence: number;
  readonly first: number;
  readonly last: number;
  readonly count: number;
  readonly nowMs: number;
  readonly wallMs: number;
}

export function encodeComplete(complete: SpoolComplete): Buffer {
  const content = Buffer.alloc(COMPLETE_SIZE);
  complete.id.copy(content, 0);
  complete.run.copy(content, ID_SIZE);
  const { base, sequence, first, last, count } = complete;
  [base, sequence, first, last, count].forEach((value, index) => {
    putUint64(content, 32 + 8 * index, value);
  });
  content.writeDoubleLE(complete.nowMs, 72);
  content.writeDoubleLE(complete.wallMs, 80);
  return encodeSlot(COMPLETE_KIND, 1, content);
}

/** Undefined when it is not whole, or of another version. */
export function decodeComplete(slot: Buffer): SpoolComplete | undefined {
  const content = decodeContent(slot);
  if (content === undefined || content.length !== COMPLETE_SIZE) return undefined;
  const [base, sequence, first, last, count] = [32, 40, 48, 56, 64].map((at) => getUint64(content, at));
  if (base === undefined || sequence === undefined || first === undefined) return undefined;
  if (last === undefined || count === undefined) return undefined;
  return {
    id: content.subarray(0, ID_SIZE),
    run: content.subarray(ID_SIZE, 2 * ID_SIZE),
    ...{ base, sequence, first, last, count },
    nowMs: content.readDoubleLE(72),
    wallMs: content.readDoubleLE(80),
  };
}

function decodeContent(slot: Buffer): Buffer | undefined {
  try {
    return decodeSlot(COMPLETE_KIND, slot)?.content;
  } catch (error) {
    // Another kind or version: of no use here, and nothing is lost but a comparison.
    if (!isFailure(error, 'state-corrupt')) throw error;
    return undefined;
  }
}
