import { isZero } from '../io/digest.ts';

/** The mirror makes holes in units of this many bytes: smaller ones would not free anything. */
const BLOCK_SIZE = 4096;

/** Part of a buffer: all zeroes, or data (some of whose blocks may hold zero bytes). */
export interface Run {
  readonly from: number;
  readonly to: number;
  readonly zero: boolean;
}

/** Splits data that stands at `offset` of the disk into runs of whole zero blocks and runs of others, in order. */
export function runsOfZeroes(data: Buffer, offset: number): Run[] {
  const runs: { from: number; to: number; zero: boolean }[] = [];
  let from = 0;
  while (from < data.length) {
    const to = Math.min(data.length, from + BLOCK_SIZE - ((offset + from) % BLOCK_SIZE));
    const zero = isZero(data.subarray(from, to));
    const last = runs.at(-1);
    if (last !== undefined && last.zero === zero) last.to = to;
    else runs.push({ from, to, zero });
    from = to;
  }
  return runs;
}
