import type { VerifyCycle } from '../store/verify-state.ts';
import type { PeriodicVerifySettings } from './periodic-verify.ts';
import type { VerificationResult, VerificationStatus } from './status.ts';
import type { VerifyRecord } from './verify-record.ts';

/** What the periodic verification tells about itself. `wallMs`: now, since 1970. */
export function verificationStatus(
  { everyMs, repair }: PeriodicVerifySettings,
  { cycle, last }: Pick<VerifyRecord, 'cycle' | 'last'>,
  size: number,
  wallMs: number,
  now: { nextInMs: number | undefined; rate: number | undefined; problem: string | undefined },
): VerificationStatus {
  const ageOf = (sinceMs: number): number => Math.max(0, wallMs - sinceMs);
  return {
    everyMs,
    repair,
    running: cycle && {
      ...resultOf(cycle),
      elapsedMs: ageOf(cycle.beganMs),
      reached: cycle.reached,
      size,
      rate: now.rate,
      problem: now.problem,
    },
    last: last && {
      ...resultOf(last),
      elapsedMs: Math.max(0, last.finishedMs - last.beganMs),
      comparedSize: last.reached,
      ageMs: ageOf(last.finishedMs),
    },
    nextInMs: now.nextInMs,
  };
}

function resultOf({ differingSize, repairedSize, unreadableSize, ranges, truncated }: VerifyCycle): VerificationResult {
  return { differingSize, repairedSize, unreadableSize, ranges, truncated };
}
