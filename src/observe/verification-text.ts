/** The periodic verification for people: how long ago, what it found, and what to do about it. */
import { formatDuration, formatSize } from '../base/units.ts';
import type { VerificationResult, VerificationStatus } from '../primary/status.ts';
import type { Paint } from './paint.ts';
import { progressBar } from './progress-text.ts';

type Pair = readonly [label: string, value: string];

/** Ranges that are shown; `--json` has more. */
const SHOWN_MAX = 4;
const DAY_MS = 86_400_000;

export function verificationPairs({ running, last, nextInMs, repair }: VerificationStatus, paint: Paint): Pair[] {
  const next = nextInMs === undefined ? '' : `, next in ${longDuration(nextInMs)}`;
  const pairs: Pair[] = [];
  if (last === undefined) pairs.push(['verified', paint.busy(`not yet${next}`)]);
  else
    pairs.push([
      'verified',
      `${longDuration(last.ageMs)} ago, ${resultText(last, repair, paint)}${next}${rangesText(last)}`,
    ]);
  if (running === undefined) return pairs;
  const { reached, size, rate, problem } = running;
  const etaMs = rate === undefined || rate === 0 ? undefined : ((size - reached) / rate) * 1000;
  const speed = etaMs === undefined ? '' : `, ${formatSize(Math.round(rate!))}/s, about ${longDuration(etaMs)} left`;
  const stuck = problem === undefined ? '' : `\n${paint.busy(`interrupted: ${problem}`)}`;
  const found = isClean(running) ? '' : `\n${resultText(running, repair, paint)}${rangesText(running)}`;
  pairs.push(['verifying', `${progressBar(reached, size)} of ${formatSize(size)}${speed}${found}${stuck}`]);
  return pairs;
}

function isClean({ differingSize, unreadableSize }: VerificationResult): boolean {
  return differingSize === 0 && unreadableSize === 0;
}

function resultText(result: VerificationResult, repair: boolean, paint: Paint): string {
  const { differingSize, repairedSize, unreadableSize } = result;
  if (isClean(result)) return 'all the same';
  const parts: string[] = [];
  if (differingSize > 0) {
    const left = differingSize - repairedSize;
    if (left <= 0) parts.push(paint.busy(`${formatSize(differingSize)} differed, repaired`));
    else {
      const repaired = repairedSize === 0 ? '' : `, ${formatSize(repairedSize)} of it repaired`;
      const hint = repair
        ? 'what is not repaired is in the log'
        : 'look which side is right; a restart with --rescan makes the mirror like this disk';
      parts.push(`${paint.bad(`${formatSize(differingSize)} differ${repaired}`)}: ${hint}`);
    }
  }
  if (unreadableSize > 0) parts.push(paint.bad(`${formatSize(unreadableSize)} cannot be read here`));
  return parts.join(', ');
}

function rangesText({ ranges, truncated }: VerificationResult): string {
  const lines = ranges
    .slice(0, SHOWN_MAX)
    .map(({ offset, length, owner }) => `\n${offset} ${length}${owner === undefined ? '' : ` ${owner}`}`);
  const more = truncated || ranges.length > SHOWN_MAX ? '\nand more: see --json and the log' : '';
  return `${lines.join('')}${more}`;
}

/** A duration for which hours are small: `2 days`, else as everywhere. */
function longDuration(ms: number): string {
  return ms < 2 * DAY_MS ? formatDuration(ms) : `${Math.floor(ms / DAY_MS)} days`;
}
