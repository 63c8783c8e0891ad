/** The work of a scan thread: one piece of a range, read and digested in one go. Blocks its thread, no other. */
import fs from 'node:fs';
import { errnoOf } from '../base/failure.ts';
import { alignDown } from '../base/units.ts';
import { digestUnits } from './digest.ts';
import { isUnsupported } from './disk-failure.ts';
import { seekNow } from './libc.ts';
import type { ScanResult } from './scan-pool.ts';
import { newScanResult, SCAN_STEP_SIZE } from './scan-request.ts';

/** A message to a scan thread. At most SCAN_STEP_SIZE bytes. */
export interface ScanPiece {
  readonly id: number;
  readonly descriptor: number;
  readonly offset: number;
  readonly length: number;
  readonly unitSize: number;
  readonly key: Uint8Array;
}

/** Its answer. The arrays are transferred. */
export type ScanReply =
  | { readonly id: number; readonly result: ScanResult }
  | { readonly id: number; readonly error: { readonly code: string | undefined; readonly message: string } };

const buffer = Buffer.allocUnsafeSlow(SCAN_STEP_SIZE);

/** Digests the piece. Throws what the system says when it cannot be read. */
export function scanPiece(piece: ScanPiece): ScanResult {
  const { descriptor, unitSize, key } = piece;
  const result = newScanResult(piece.length, unitSize);
  const end = piece.offset + piece.length;
  for (let offset = piece.offset; offset < end; ) {
    const first = (offset - piece.offset) / unitSize;
    // The unit in which the next data lies, or the end: what comes before is a hole throughout.
    const data = nextData(descriptor, offset);
    const dataUnit = data >= end ? end : alignDown(data, unitSize);
    if (dataUnit > offset) {
      result.zero.fill(1, first, first + Math.ceil((dataUnit - offset) / unitSize));
      offset = dataUnit;
      continue;
    }
    const hole = nextHole(descriptor, data);
    const dataEnd = hole >= end ? end : Math.min(end, alignDown(hole - 1, unitSize) + unitSize);
    const content = buffer.subarray(0, dataEnd - offset);
    readAll(descriptor, content, offset);
    digestUnits(content, offset, unitSize, key, result, first);
    offset = dataEnd;
  }
  return result;
}

function nextData(descriptor: number, offset: number): number {
  return seek(descriptor, offset, 'data', offset);
}

function nextHole(descriptor: number, offset: number): number {
  // A hole may be made between the two calls: at least one byte of data was there, and its unit is read.
  return Math.max(offset + 1, seek(descriptor, offset, 'hole', Number.MAX_SAFE_INTEGER));
}

/** Where the file system cannot tell, `unknown`; where there is no more, far away. */
function seek(descriptor: number, offset: number, target: 'data' | 'hole', unknown: number): number {
  try {
    return seekNow(descriptor, offset, target) ?? Number.MAX_SAFE_INTEGER;
  } catch (error) {
    if (errnoOf(error) === 'EINVAL' || isUnsupported(error)) return unknown;
    throw error;
  }
}

function readAll(descriptor: number, target: Buffer, offset: number): void {
  for (let done = 0; done < target.length; ) {
    const size = fs.readSync(descriptor, target, done, target.length - done, offset + done);
    if (size === 0) {
      // Cut short behind our back: what is gone reads as zeroes.
      target.fill(0, done);
      return;
    }
    done += size;
  }
}
