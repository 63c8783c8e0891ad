import { randomBytes } from 'node:crypto';

/** Randomness as a parameter: the simulator has a seeded one. */
export interface Random {
  /** `size` unpredictable bytes, in a buffer of their own. */
  bytes(size: number): Buffer;
  /** A number in [0, 1), for jitter. */
  uniform(): number;
}

export const systemRandom: Random = {
  bytes: (size) => randomBytes(size),
  uniform: () => Math.random(),
};
