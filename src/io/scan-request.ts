/** What the scan pools share: checking a request and making room for its result. */
import { Failure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import type { Disk } from './disk.ts';
import { DIGEST_SIZE, type ScanRequest, type ScanResult } from './scan-pool.ts';

/** Units of one request: bounds the memory of a result. */
const SCAN_UNITS_MAX = 65_536;
/** Bytes read at a time: as much memory each thread holds, and as long as it takes until it looks at the next request. */
export const SCAN_STEP_SIZE = 4 * MIB;

/** Throws `invalid-request` when the range is not made of whole units of the disk. */
export function checkScanRequest(disk: Disk, request: ScanRequest): void {
  const { offset, length, unitSize } = request;
  const end = offset + length;
  const unitValid = Number.isInteger(Math.log2(unitSize)) && unitSize > 1 && unitSize <= SCAN_STEP_SIZE;
  const inside = Number.isSafeInteger(end) && offset >= 0 && length > 0 && end <= disk.size;
  const whole = offset % unitSize === 0 && (length % unitSize === 0 || end === disk.size);
  if (!unitValid || !inside || !whole || length / unitSize > SCAN_UNITS_MAX) {
    throw new Failure(
      'invalid-request',
      `${disk.path}: cannot scan ${length} bytes at ${offset} in units of ${unitSize}`,
    );
  }
}

/** How many units a range has, a short one at the end included. */
export function unitsOf({ length, unitSize }: Pick<ScanRequest, 'length' | 'unitSize'>): number {
  return Math.ceil(length / unitSize);
}

/** Room for the result of a range: all units not zero yet, all digests zero. */
export function newScanResult(length: number, unitSize: number): ScanResult {
  return newResult(unitsOf({ length, unitSize }));
}

/** The same for so many units. */
export function newResult(units: number): ScanResult {
  return { zero: new Uint8Array(units), digests: new Uint8Array(units * DIGEST_SIZE) };
}
