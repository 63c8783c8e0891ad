/**
 * Digests of a rescan: GMAC, that is AES-128-GCM with the data as associated data and no plaintext; all 16 bytes of
 * the tag. Both sides and the worker threads use it.
 *
 * A digest depends on the key of the pass, on the level and place of the unit (through the IV), on the data and on its
 * length (GCM's last block). Under a key that nobody who writes the disk knows it is a universal hash: two different
 * units collide with odds below 2^-108 per comparison, whatever they hold. It is no hash for storage: whoever
 * knows the key can make collisions. Both sides use the same IV for different data, which would give the key away to
 * one who sees the tags: they travel inside the encrypted link only, and no other pass has the key.
 *
 * IV, 12 bytes:
 *
 * | offset | size | field | meaning |
 * | ------ | ---- | ----- | ------- |
 * | 0 | 1 | level | log2 of the unit's size (12, 16, 20); 0 for a range that is no unit |
 * | 1 | 3 | zero | |
 * | 4 | 8 | index | offset divided by the unit's size, big-endian; for level 0 the offset itself |
 */
import { assert } from '../base/assert.ts';
import { GMAC_KEY_SIZE, type Gmac, NodeGmac } from './gmac.ts';
import { DIGEST_SIZE, type ScanResult } from './scan-pool.ts';

/** Bytes of the key of a pass. */
export const DIGEST_KEY_SIZE = GMAC_KEY_SIZE;

let gmac: Gmac = new NodeGmac();

/** From now on the digests of this thread are made by that one: the same, only faster. */
export function digestBy(maker: Gmac): void {
  gmac = maker;
}

/**
 * The digest of `data` as it stands at `offset` of a disk. With `unitSize` (a power of two) it is that of a unit: `offset`
 * is a multiple of it, and `data` is shorter only at the end of the disk. Without, that of any range. The buffer that is
 * returned belongs to the caller; the data may be held, unused, until the next digest.
 */
export function digestOf(data: Uint8Array, key: Uint8Array, offset: number, unitSize?: number): Buffer {
  const digest = Buffer.allocUnsafeSlow(DIGEST_SIZE);
  gmac.begin(key, data, digest);
  putIv(offset, unitSize === undefined ? 0 : levelOf(unitSize), unitSize ?? 1);
  gmac.digest(0, data.length, 0);
  return digest;
}

function levelOf(unitSize: number): number {
  const level = Math.log2(unitSize);
  assert(Number.isInteger(level) && level > 0, 'the size of a unit is a power of two');
  return level;
}

/** The IV of what stands at `offset`, counted in `unitSize` bytes. */
function putIv(offset: number, level: number, unitSize: number): void {
  assert(Number.isSafeInteger(offset) && offset >= 0, 'offset of a digest');
  assert(offset % unitSize === 0, 'a unit starts at a multiple of its size');
  const { iv } = gmac;
  const index = offset / unitSize;
  iv.writeUInt32BE(level * 2 ** 24, 0);
  iv.writeUInt32BE(Math.floor(index / 2 ** 32), 4);
  iv.writeUInt32BE(index % 2 ** 32, 8);
}

/** How much is compared at once: fits in the second-level cache. */
const ZERO_STEP_SIZE = 64 * 1024;
const zeroes = Buffer.alloc(ZERO_STEP_SIZE);

/** True when every byte is zero from `from` up to `to`. */
export function isZero(data: Uint8Array, from = 0, to: number = data.length): boolean {
  for (let done = from; done < to; done += ZERO_STEP_SIZE) {
    const size = Math.min(ZERO_STEP_SIZE, to - done);
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
  const level = levelOf(unitSize);
  gmac.begin(key, data, result.digests);
  for (let done = 0, unit = first; done < data.length; done += unitSize, unit += 1) {
    const end = Math.min(done + unitSize, data.length);
    if (isZero(data, done, end)) {
      result.zero[unit] = 1;
      continue;
    }
    putIv(offset + done, level, unitSize);
    gmac.digest(done, end - done, unit * DIGEST_SIZE);
  }
}
