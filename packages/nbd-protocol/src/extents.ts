import { getU32, getU64, putU32, putU64, requireInteger, U32_MAX } from './bytes.ts';
import { Size } from './constants.ts';
import { ProtocolError } from './errors.ts';

/** A range of an export, from where the one before it ends, with its status in one metadata context. */
export interface Extent {
  /** In bytes, at least 1. */
  readonly length: number;
  /** For `base:allocation`, of {@link StateFlag}; otherwise as the context defines. 32 bits. */
  readonly flags: number;
  /** The upper 32 of 64 bits, which only extended headers carry and only some contexts use. Default: 0. */
  readonly flagsHigh?: number;
}

/**
 * The longest extent that a compact chunk can hold: below 2^32, and a multiple of every block size that an export may
 * ask a client to respect.
 */
const COMPACT_LENGTH_MAX = 0x1_0000_0000 - 65_536;

/**
 * How many of `extents` go into one chunk: at most `extentsMax`, and none after one that a compact chunk must cut.
 * Telling less than was asked is always allowed; the client asks again from there.
 */
export function countEncodable(extents: readonly Extent[], wide: boolean, extentsMax: number): number {
  const count = Math.min(extents.length, extentsMax);
  if (wide) return count;
  const cut = extents.findIndex((extent) => extent.length > COMPACT_LENGTH_MAX);
  return cut < 0 ? count : Math.min(count, cut + 1);
}

/**
 * The descriptors of BLOCK_STATUS.
 *
 * ```text
 * offset  size  field
 *      0     4  length of the extent
 *      4     4  flags
 *      8        = Size.EXTENT
 * ```
 *
 * And of BLOCK_STATUS_EXT.
 *
 * ```text
 * offset  size  field
 *      0     8  length of the extent
 *      8     8  flags
 *     16        = Size.EXTENT_EXT
 * ```
 *
 * @throws RangeError on an extent without length, or flags that do not fit
 * @see NBD spec, "Structured reply types"
 */
export function putExtents(
  bytes: Uint8Array,
  start: number,
  extents: readonly Extent[],
  count: number,
  wide: boolean,
): void {
  let at = start;
  for (let index = 0; index < count; index += 1) {
    const { length, flags, flagsHigh = 0 } = extents[index]!;
    requireInteger(length - 1, Number.MAX_SAFE_INTEGER - 1, 'length of the extent less 1');
    requireInteger(flags, U32_MAX, 'flags of the extent');
    requireInteger(flagsHigh, wide ? U32_MAX : 0, 'upper flags of the extent');
    if (wide) {
      putU64(bytes, at, length);
      putU32(bytes, at + 8, flagsHigh);
      putU32(bytes, at + 12, flags);
      at += Size.EXTENT_EXT;
    } else {
      putU32(bytes, at, Math.min(length, COMPACT_LENGTH_MAX));
      putU32(bytes, at + 4, flags);
      at += Size.EXTENT;
    }
  }
}

/**
 * Reads the descriptors from `start` to the end.
 *
 * @throws ProtocolError `bad-value` on an extent without length, `too-large` on one above 2^53 - 1
 */
export function getExtents(bytes: Uint8Array, start: number, wide: boolean): Extent[] {
  const extents: Extent[] = [];
  for (let at = start; at < bytes.length; at += wide ? Size.EXTENT_EXT : Size.EXTENT) {
    const extent: Extent = wide
      ? { length: getU64(bytes, at), flags: getU32(bytes, at + 12), flagsHigh: getU32(bytes, at + 8) }
      : { length: getU32(bytes, at), flags: getU32(bytes, at + 4), flagsHigh: 0 };
    if (extent.length === 0) throw new ProtocolError('bad-value', 'an extent of no bytes');
    if (extent.length > Number.MAX_SAFE_INTEGER) throw new ProtocolError('too-large', 'an extent above 2^53 - 1');
    extents.push(extent);
  }
  return extents;
}
