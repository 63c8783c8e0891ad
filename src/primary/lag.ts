import type { Replica } from './replica.ts';

/**
 * What a mirror has not applied: bytes and the age of the oldest, in ms. Exact while the backlog tells it all; while
 * marks do, the bytes are those of the marked regions, an upper bound.
 */
export function lagOf(replica: Replica, nowMs: number): { bytes: number; ms: number } {
  const { backlog, marks, behindSinceMs } = replica;
  const { oldestMs, unappliedSize } = backlog.status;
  const sinceMs = behindSinceMs ?? oldestMs;
  const markedSize = behindSinceMs === undefined ? 0 : marks.markedSize;
  return { bytes: unappliedSize + markedSize, ms: sinceMs === undefined ? 0 : nowMs - sinceMs };
}
