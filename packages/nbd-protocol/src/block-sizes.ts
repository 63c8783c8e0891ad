import { U32_MAX } from './bytes.ts';

/** A server's constraints on requests, in bytes. @see NBD spec, "Size constraints" */
export interface BlockSizes {
  /** Smallest length and alignment: a power of 2 from 1 to 65536. */
  readonly minimum: number;
  /** Efficient length and alignment: a power of 2, at least 512 and `minimum`. */
  readonly preferred: number;
  /** Largest payload: at least `preferred`; 0xffffffff for no limit. */
  readonly maximum: number;
}

/** What is wrong with these sizes, if anything. */
export function complainAboutBlockSizes({ minimum, preferred, maximum }: BlockSizes): string | undefined {
  if (!isPowerOfTwo(minimum) || minimum > 65_536) return `minimum block size ${minimum}`;
  if (!isPowerOfTwo(preferred) || preferred < Math.max(512, minimum)) return `preferred block size ${preferred}`;
  if (maximum < preferred || maximum > U32_MAX || !Number.isInteger(maximum)) return `maximum payload size ${maximum}`;
  return undefined;
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && value <= U32_MAX && Number.isInteger(Math.log2(value));
}
