/**
 * What is known of the periodic comparison with one mirror: `DISK.twin/verify`. How far the present cycle is, so that it
 * goes on there after a restart, and what the last complete one has found.
 *
 * Nothing depends on it but that: without it the next cycle begins at the start of the disk.
 *
 * Content, version 1 (little-endian):
 *
 * | offset | size | field                                                     |
 * | ------ | ---- | --------------------------------------------------------- |
 * | 0      | 16   | replica id of the mirror                                  |
 * | 16     | 8    | size of the disk in bytes                                 |
 * | 24     | 4    | flags: bit 0 a cycle is under way, bit 1 one was completed |
 * | 28     | 4    | zero                                                      |
 * | 32     | n    | the cycle that is under way, when bit 0 is set            |
 * | 32 + n | m    | the last complete one, when bit 1 is set                  |
 *
 * A cycle:
 *
 * | offset | size | field                                                     |
 * | ------ | ---- | --------------------------------------------------------- |
 * | 0      | 8    | when it began, ms since 1970                              |
 * | 8      | 8    | when it was complete, ms since 1970; 0: it is not         |
 * | 16     | 8    | everything below this offset has been compared            |
 * | 24     | 8    | bytes that differed                                       |
 * | 32     | 8    | of these, bytes that were repaired, durably on the mirror |
 * | 40     | 8    | bytes that the local disk could not read                  |
 * | 48     | 2    | number of ranges, at most 48                              |
 * | 50     | 2    | flags: bit 0 there were more ranges                       |
 * | 52     | 4    | zero                                                      |
 * | 56     | each range | offset (8), length (8), length of its owner (2), owner: UTF-8, at most 200 bytes |
 *
 * The owner of a range is what lies there as far as the file system tells, such as a path; empty: nothing is known. All
 * owners of a cycle take at most 1000 bytes; further ones are left out.
 */
import { assert } from '../base/assert.ts';
import { getUint64, ID_SIZE, putUint64 } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import type { StateKind } from './state-file.ts';

/** Ranges of one cycle that are kept. */
export const CYCLE_RANGES_MAX = 48;
const OWNER_SIZE_MAX = 200;
const OWNERS_SIZE_MAX = 1000;
const HEADER_SIZE = 32;
const CYCLE_SIZE = 56;
const RANGE_SIZE = 18;
const FLAG_RUNNING = 1;
const FLAG_COMPLETED = 2;
const FLAG_TRUNCATED = 1;

export interface CycleRange {
  readonly offset: number;
  readonly length: number;
  /** What lies there, as far as the file system tells: the path of a file, say. */
  readonly owner?: string;
}

export interface VerifyCycle {
  /** Milliseconds since 1970. */
  readonly beganMs: number;
  /** Milliseconds since 1970; 0 while it is under way. */
  readonly finishedMs: number;
  /** Everything below has been compared. */
  readonly reached: number;
  readonly differingSize: number;
  readonly repairedSize: number;
  readonly unreadableSize: number;
  /** That differed or could not be read: in order, at most CYCLE_RANGES_MAX. */
  readonly ranges: readonly CycleRange[];
  readonly truncated: boolean;
}

export interface VerifyState {
  readonly replicaId: Buffer;
  /** Of the disk. */
  readonly size: number;
  readonly cycle: VerifyCycle | undefined;
  readonly last: VerifyCycle | undefined;
}

export function encodeVerifyState({ replicaId, size, cycle, last }: VerifyState): Buffer {
  assert(replicaId.length === ID_SIZE, 'the length of a replica id');
  const header = Buffer.alloc(HEADER_SIZE);
  replicaId.copy(header, 0);
  putUint64(header, 16, size);
  header.writeUInt32LE((cycle === undefined ? 0 : FLAG_RUNNING) | (last === undefined ? 0 : FLAG_COMPLETED), 24);
  const cycles = [cycle, last].filter((one) => one !== undefined);
  return Buffer.concat([header, ...cycles.map(encodeCycle)]);
}

function encodeCycle(cycle: VerifyCycle): Buffer {
  assert(cycle.ranges.length <= CYCLE_RANGES_MAX, 'the ranges of a cycle within their limit');
  const fixed = Buffer.alloc(CYCLE_SIZE);
  putUint64(fixed, 0, cycle.beganMs);
  putUint64(fixed, 8, cycle.finishedMs);
  putUint64(fixed, 16, cycle.reached);
  putUint64(fixed, 24, cycle.differingSize);
  putUint64(fixed, 32, cycle.repairedSize);
  putUint64(fixed, 40, cycle.unreadableSize);
  fixed.writeUInt16LE(cycle.ranges.length, 48);
  fixed.writeUInt16LE(cycle.truncated ? FLAG_TRUNCATED : 0, 50);
  let left = OWNERS_SIZE_MAX;
  const ranges = cycle.ranges.map(({ offset, length, owner }) => {
    const text = ownerBytes(owner ?? '', left);
    left -= text.length;
    const entry = Buffer.alloc(RANGE_SIZE);
    putUint64(entry, 0, offset);
    putUint64(entry, 8, length);
    entry.writeUInt16LE(text.length, 16);
    return Buffer.concat([entry, text]);
  });
  return Buffer.concat([fixed, ...ranges]);
}

/** The bytes of an owner; none where there is no room. One that is too long keeps its end, which says more. */
function ownerBytes(owner: string, left: number): Buffer {
  const bytes = Buffer.from(shortOwner(owner), 'utf8');
  return bytes.length <= left ? bytes : Buffer.alloc(0);
}

/** An owner as it can be kept: at most 200 bytes of UTF-8. */
export function shortOwner(owner: string): string {
  if (Buffer.byteLength(owner) <= OWNER_SIZE_MAX) return owner;
  const characters = Array.from(owner);
  let size = Buffer.byteLength('…');
  let from = characters.length;
  while (from > 0) {
    size += Buffer.byteLength(characters[from - 1]!);
    if (size > OWNER_SIZE_MAX) break;
    from -= 1;
  }
  return `…${characters.slice(from).join('')}`;
}

/** Failure: `state-corrupt`. */
export function decodeVerifyState(content: Buffer): VerifyState {
  const reader = new Reader(content);
  const replicaId = Buffer.from(reader.take(ID_SIZE));
  const size = reader.number();
  const flags = reader.take(8).readUInt32LE(0);
  const cycle = (flags & FLAG_RUNNING) === 0 ? undefined : readCycle(reader, size);
  const last = (flags & FLAG_COMPLETED) === 0 ? undefined : readCycle(reader, size);
  if (!reader.isAtEnd || flags > (FLAG_RUNNING | FLAG_COMPLETED)) throw corrupt();
  return { replicaId, size, cycle, last };
}

function readCycle(reader: Reader, size: number): VerifyCycle {
  const cycle = {
    beganMs: reader.number(),
    finishedMs: reader.number(),
    reached: reader.number(),
    differingSize: reader.number(),
    repairedSize: reader.number(),
    unreadableSize: reader.number(),
  };
  const counts = reader.take(8);
  const count = counts.readUInt16LE(0);
  if (count > CYCLE_RANGES_MAX || cycle.reached > size) throw corrupt();
  const ranges = Array.from({ length: count }, () => readRange(reader, size));
  return { ...cycle, ranges, truncated: (counts.readUInt16LE(2) & FLAG_TRUNCATED) !== 0 };
}

function readRange(reader: Reader, size: number): CycleRange {
  const offset = reader.number();
  const length = reader.number();
  const ownerSize = reader.take(2).readUInt16LE(0);
  if (ownerSize > OWNER_SIZE_MAX || offset + length > size) throw corrupt();
  const owner = reader.take(ownerSize).toString('utf8');
  return owner === '' ? { offset, length } : { offset, length, owner };
}

/** Reads a record from its start to its end. Failure of each: `state-corrupt`. */
class Reader {
  readonly #content: Buffer;
  #at = 0;

  constructor(content: Buffer) {
    this.#content = content;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#content.length;
  }

  /** A view of the next bytes. */
  take(size: number): Buffer {
    if (this.#at + size > this.#content.length) throw corrupt();
    this.#at += size;
    return this.#content.subarray(this.#at - size, this.#at);
  }

  number(): number {
    const value = getUint64(this.take(8), 0);
    if (value === undefined) throw corrupt();
    return value;
  }
}

function corrupt(): Failure {
  return new Failure('state-corrupt', 'the record of the periodic verification has impossible values');
}

export const VERIFY_STATE: StateKind<VerifyState> = {
  kind: { letters: 'VRFY', version: 1 },
  encode: encodeVerifyState,
  decode: decodeVerifyState,
};

export function verifyStatePath(stateDirectory: string): string {
  return `${stateDirectory}/verify`;
}
