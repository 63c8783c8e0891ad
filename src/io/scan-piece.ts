/** The work of a scan thread: pieces of ranges, read and digested in one go. Blocks its thread, no other. */
import fs from 'node:fs';
import { release } from 'node:os';
import { errnoOf, messageOf } from '../base/failure.ts';
import { alignDown, KIB, MIB } from '../base/units.ts';
import { digestUnits } from './digest.ts';
import { isUnsupported } from './disk-failure.ts';
import { readUncachedNow, seekNow } from './libc.ts';
import type { ScanResult } from './scan-pool.ts';
import { newResult, SCAN_STEP_SIZE, unitsOf } from './scan-request.ts';

/** At most SCAN_STEP_SIZE bytes. */
export interface ScanPiece {
  readonly descriptor: number;
  readonly offset: number;
  readonly length: number;
  readonly unitSize: number;
  readonly key: Uint8Array;
}

/** A message to a scan thread. */
export interface ScanTask {
  readonly id: number;
  readonly pieces: readonly ScanPiece[];
}

/** Why a piece could not be read: what the system says. */
interface ScanError {
  readonly code: string | undefined;
  readonly message: string;
}

/** The answer: units of all pieces one after the other, those of pieces with an error without meaning. The arrays are transferred. */
export interface ScanReply {
  readonly id: number;
  readonly result: ScanResult;
  /** By the number of the piece. */
  readonly errors: ReadonlyMap<number, ScanError>;
}

const buffer = Buffer.allocUnsafeSlow(SCAN_STEP_SIZE);

/**
 * Bytes read at a time. Before each the next data is asked for, and not where it ends: some file systems walk through all
 * data up to the next hole to tell that.
 */
const READ_SIZE = MIB;

/**
 * From this size of units on, what was not in the page cache is not left there either: a scan of everything would drive out
 * what clients use. Ranges that are looked at more finely than that mostly differ, and are about to be read again.
 */
const UNCACHED_UNIT_SIZE_MIN = 64 * KIB;
/** The first kernels that could do it had faults in dropping what was being written back. */
let uncachedRefused = !isLinuxSince(6, 16, release());

/** Digests all pieces. */
export function scanPieces({ id, pieces }: ScanTask): ScanReply {
  const result = newResult(pieces.reduce((sum, piece) => sum + unitsOf(piece), 0));
  const errors = new Map<number, ScanError>();
  let first = 0;
  for (const [index, piece] of pieces.entries()) {
    try {
      scanPiece(piece, result, first);
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
      errors.set(index, { code: errnoOf(error), message: messageOf(error) });
    }
    first += unitsOf(piece);
  }
  return { id, result, errors };
}

/** Digests the piece into `result` from unit `base` on. Throws what the system says when it cannot be read. */
function scanPiece(piece: ScanPiece, result: ScanResult, base: number): void {
  const { descriptor, unitSize, key } = piece;
  const readSize = Math.max(READ_SIZE, unitSize);
  const end = piece.offset + piece.length;
  for (let offset = piece.offset; offset < end; ) {
    const first = base + (offset - piece.offset) / unitSize;
    // The unit in which the next data lies, or the end: what comes before is a hole throughout.
    const data = nextData(descriptor, offset);
    const dataUnit = data >= end ? end : alignDown(data, unitSize);
    if (dataUnit > offset) {
      result.zero.fill(1, first, first + Math.ceil((dataUnit - offset) / unitSize));
      offset = dataUnit;
      continue;
    }
    const content = buffer.subarray(0, Math.min(readSize, end - offset));
    readAll(descriptor, content, offset, unitSize >= UNCACHED_UNIT_SIZE_MIN);
    digestUnits(content, offset, unitSize, key, result, first);
    offset += content.length;
  }
}

/** Where the file system cannot tell, `offset`; where there is no more, far away. */
function nextData(descriptor: number, offset: number): number {
  try {
    return seekNow(descriptor, offset, 'data') ?? Number.MAX_SAFE_INTEGER;
  } catch (error) {
    if (errnoOf(error) === 'EINVAL' || isUnsupported(error)) return offset;
    throw error;
  }
}

function readAll(descriptor: number, target: Buffer, offset: number, uncached: boolean): void {
  for (let done = 0; done < target.length; ) {
    const rest = target.subarray(done);
    const size =
      (uncached ? readUncached(descriptor, rest, offset + done) : undefined) ??
      fs.readSync(descriptor, rest, 0, rest.length, offset + done);
    if (size === 0) {
      // Cut short behind our back: what is gone reads as zeroes.
      target.fill(0, done);
      return;
    }
    done += size;
  }
}

export function isLinuxSince(major: number, minor: number, text: string): boolean {
  const [ownMajor = 0, ownMinor = 0] = text.split('.').map((part) => Number.parseInt(part, 10));
  return ownMajor > major || (ownMajor === major && ownMinor >= minor);
}

/** Undefined where that is not possible. */
function readUncached(descriptor: number, target: Buffer, offset: number): number | undefined {
  if (uncachedRefused) return undefined;
  try {
    return readUncachedNow(descriptor, target, offset);
  } catch (error) {
    if (errnoOf(error) !== 'EINVAL' && !isUnsupported(error)) throw error;
    uncachedRefused = true;
    return undefined;
  }
}
