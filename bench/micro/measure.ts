import { performance } from 'node:perf_hooks';

const BATCH_MS = 200;
const BATCHES = 7;

/** How fast one thing is. */
export interface Figure {
  readonly name: string;
  readonly nsPerOperation: { readonly median: number; readonly min: number; readonly max: number };
}

/**
 * Times `run`, which does `count` operations per call: one batch to warm up, then seven of a fifth of a second. `run`
 * must return something that depends on the work, so that the work cannot be left out.
 */
export function measure(name: string, count: number, run: () => number): Figure {
  batch(count, run);
  const times = Array.from({ length: BATCHES }, () => batch(count, run)).sort((a, b) => a - b);
  return { name, nsPerOperation: { median: times[BATCHES >> 1]!, min: times[0]!, max: times[BATCHES - 1]! } };
}

function batch(count: number, run: () => number): number {
  let calls = 0;
  let sum = 0;
  const start = performance.now();
  let elapsedMs = 0;
  while (elapsedMs < BATCH_MS) {
    sum += run();
    calls += 1;
    elapsedMs = performance.now() - start;
  }
  if (!Number.isFinite(sum)) throw new Error('the work gave no result');
  return (elapsedMs * 1e6) / (calls * count);
}
