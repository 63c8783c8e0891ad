import { formatDuration, formatSize } from '../base/units.ts';
import type { RescanProgress } from '../primary/status.ts';

const BAR_WIDTH = 20;

/** `[██████░░░░]  63 %` for a part of a whole; an empty whole is done. */
export function progressBar(done: number, whole: number): string {
  const share = whole === 0 ? 1 : Math.min(1, Math.max(0, done / whole));
  const filled = Math.round(share * BAR_WIDTH);
  const percent = String(Math.floor(share * 100)).padStart(3);
  return `[${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)}] ${percent} %`;
}

/** A rescan or verification under way: bar, bytes left, remaining time, what was repaired so far. */
export function rescanText(progress: RescanProgress): string {
  const left = progress.scopeSize - progress.comparedSize;
  const eta = progress.etaMs === undefined ? '' : `, about ${formatDuration(progress.etaMs)}`;
  const pass = progress.pass > 1 ? `, pass ${progress.pass}` : '';
  return (
    `${progressBar(progress.comparedSize, progress.scopeSize)}  ${formatSize(left)} of ${formatSize(progress.scopeSize)} ` +
    `left${eta}, ${repairText(progress)}${pass}${progress.converging ? '' : ', not converging'}`
  );
}

/** A rescan that is over. */
export function pastRescanText(progress: RescanProgress): string {
  const scope = progress.scope === 'everything' ? 'all of it' : 'what was marked';
  return `${scope}: ${formatSize(progress.scopeSize)} compared, ${repairText(progress)} in ${formatDuration(progress.elapsedMs)}`;
}

function repairText(progress: RescanProgress): string {
  return `${formatSize(progress.shippedSize)} shipped, ${formatSize(progress.zeroedSize)} zeroed`;
}

/** A verification under way, which repairs nothing. */
export function comparisonText(progress: RescanProgress): string {
  const left = progress.scopeSize - progress.comparedSize;
  const eta = progress.etaMs === undefined ? '' : `, about ${formatDuration(progress.etaMs)}`;
  const bar = progressBar(progress.comparedSize, progress.scopeSize);
  return `comparing ${bar}  ${formatSize(left)} of ${formatSize(progress.scopeSize)} left${eta}`;
}
