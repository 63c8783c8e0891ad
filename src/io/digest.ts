/**
 * Digests of a rescan: GMAC, that is AES-128-GCM with the data as associated data and no plaintext; all 16 bytes of
 * the tag. Pure; both sides and the worker threads use it.
 *
 * A digest depends on the key of the pass, on the level and place of the unit (through the IV), on the data and on its
 * length (GCM's last block). Under a key that nobody who writes the disk knows it is a universal hash: two different
 * units collide with odds below 2^-108 per comparison, whatever they hold. It is no hash for storage: whoever
 * knows the key can make collisions. Both sides use the same IV for different data, which would give the key away to
 * one who sees the tags: they travel inside the encrypted link only, and the key dies with the pass.
 *
 * IV, 12 bytes:
 *
 * | offset | size | field | meaning |
 * | ------ | ---- | ----- | ------- |
 * | 0 | 1 | level | log2 of the unit's size (12, 16, 20); 0 for a range that is no unit |
 * | 1 | 3 | zero | |
 * | 4 | 8 | index | offset divided by the unit's size, big-endian; for level 0 the offset itself |
 */
import { createCipheriv } from 'node:crypto';
import { assert } from '../base/assert.ts';
import { DIGEST_SIZE, type ScanResult } from './scan-pool.ts';

/** Bytes of the key of a pass. */
export const DIGEST_KEY_SIZE = 16;

const IV_SIZE = 12;

/**
 * The digest of `data` as it stands at `offset` of a disk. With `unitSize` (a power of two) it is that of a unit: `offset`
 * is a multiple of it, and `data` is shorter only at the end of the disk. Without, that of any range. The buffer that is
 * returned belongs to the caller; the data is not kept.
 */
export function digestOf(data: Uint8Array, key: Uint8Array, offset: number, unitSize?: number): Buffer {
  assert(key.length === DIGEST_KEY_SIZE, 'key of a digest');
  assert(Number.isSafeInteger(offset) && offset >= 0, 'offset of a digest');
  const cipher = createCipheriv('aes-128-gcm', key, digestIv(offset, unitSize));
  cipher.setAAD(data);
  cipher.final();
  return cipher.getAuthTag();
}

function digestIv(offset: number, unitSize: number | undefined): Buffer {
  const iv = Buffer.alloc(IV_SIZE);
  let index = offset;
  if (unitSize !== undefined) {
    const level = Math.log2(unitSize);
    assert(Number.isInteger(level) && level > 0, 'the size of a unit is a power of two');
    assert(offset % unitSize === 0, 'a unit starts at a multiple of its size');
    iv[0] = level;
    index = offset / unitSize;
  }
  iv.writeUInt32BE(Math.floor(index / 2 ** 32), 4);
  iv.writeUInt32BE(index % 2 ** 32, 8);
  return iv;
}

/** How much is compared at once: fits in the second-level cache. */
const ZERO_STEP_SIZE = 64 * 1024;
const zeroes = Buffer.alloc(ZERO_STEP_SIZE);

/** True when every byte is zero. */
export function isZero(data: Uint8Array): boolean {
  for (let done = 0; done < data.length; done += ZERO_STEP_SIZE) {
    const size = Math.min(ZERO_STEP_SIZE, data.length - done);
    if (zeroes.compare(data, done, done + size, 0, size) !== 0) return false;
  }
  return true;
}

/**
 * Digests the units of `data`, which stands at `offset`, into `result` from unit `first` on. Only the last unit may be
 * short. What `result` holds for zero units must be zero already.
 */
export function digestUnits(
  data: Uint8Array,
  offset: number,
  unitSize: number,
  key: Uint8Array,
  result: ScanResult,
  first: number,
): void {
  for (let done = 0, unit = first; done < data.length; done += unitSize, unit += 1) {
    const content = data.subarray(done, done + unitSize);
    if (isZero(content)) result.zero[unit] = 1;
    else result.digests.set(digestOf(content, key, offset + done, unitSize), unit * DIGEST_SIZE);
  }
}
