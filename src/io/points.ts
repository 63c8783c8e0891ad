/**
 * Named points: places between two steps of which a crash must not be the end of anything. The simulator crashes at
 * them and counts them; a real process kills itself at the one that $NBDTWIN_CRASH_AT names (docs/testing.md). They cost
 * a call that does nothing, and none of them is passed once per request.
 */
import process from 'node:process';

export const POINT_NAMES = [
  // The primary.
  'primary-run-recorded',
  'primary-marks-written',
  'primary-marks-cleared',
  'primary-spool-begun',
  'primary-spool-read',
  'primary-merge-begun',
  'primary-merge-frozen',
  'primary-merge-sent',
  'primary-order-given-up',
  'primary-backlog-persisted',
  'primary-clean-recorded',
  // The mirror.
  'mirror-image-created',
  'mirror-session-recorded',
  'mirror-epoch-synced',
  'mirror-position-recorded',
  'mirror-map-version-recorded',
  'mirror-staging-begun',
  'mirror-staging-synced',
  'mirror-space-reserved',
  'mirror-commit-recorded',
  'mirror-copy-begun',
  'mirror-copy-synced',
  'mirror-copy-recorded',
  'mirror-staging-removed',
  'mirror-clean-recorded',
] as const;

export type PointName = (typeof POINT_NAMES)[number];

export interface Points {
  reached(name: PointName): void;
}

export const NO_POINTS: Points = { reached: () => undefined };

/**
 * The points of a real process. `crashAt` is `NAME` or `NAME:N`: there, the N-th time, the process dies at once, by
 * SIGKILL to itself. A name that is none is ignored.
 */
export function pointsOf(crashAt: string | undefined): Points {
  const [name, count] = (crashAt ?? '').split(':');
  if (!POINT_NAMES.some((known) => known === name)) return NO_POINTS;
  let left = Math.max(1, Number.parseInt(count ?? '1', 10) || 1);
  return {
    reached(reached) {
      if (reached !== name) return;
      left -= 1;
      if (left === 0) process.kill(process.pid, 'SIGKILL');
    },
  };
}
