/** What `nbdtwin recover` found and did, for people. */
import { formatDuration, formatSize } from '../base/units.ts';
import type { RecoverReport } from '../mirror/recover.ts';
import { type Paint, plainPaint } from './paint.ts';
import { count } from './status-text.ts';
import { alignPairs } from './table.ts';

/** Lines without line ends. */
export function recoverText(report: RecoverReport, paint: Paint = plainPaint): string[] {
  const pairs: [label: string, value: string][] = [
    ['image', `${report.image}, ${formatSize(report.size)}`],
    ['content', contentText(report, paint)],
    ['position', positionText(report)],
    ['map version', count(report.mapVersion)],
    ['staged run', stagingText(report)],
  ];
  if (report.mirror !== undefined) pairs.push(['primary', primaryText(report.mirror)]);
  if (report.consistent) pairs.push(['to look inside', lookText(report.image)]);
  if (report.dryRun) pairs.push(['dry run', 'nothing was changed']);
  return alignPairs(
    pairs.map(([label, value]) => [paint.faint(label), value] as const),
    '',
  );
}

function contentText({ consistent, exact, reason }: RecoverReport, paint: Paint): string {
  if (!consistent) return paint.bad(`not consistent: ${reason ?? 'unknown'}`);
  if (exact) return paint.good('exactly the primary’s disk at that position');
  return paint.good('as the primary’s disk after a power cut at or after that position');
}

function positionText({ sequence, run, recordedAtMs, ageMs }: RecoverReport): string {
  const when = new Date(recordedAtMs).toISOString();
  return `operation ${count(sequence)} of run ${run}\nrecorded ${when}, ${formatDuration(ageMs)} ago`;
}

function stagingText({ staging, dryRun }: RecoverReport): string {
  switch (staging) {
    case 'none':
      return 'none';
    case 'finished':
      return dryRun ? 'complete: it would be copied into the image' : 'complete: it was copied into the image';
    case 'dropped':
      return `not complete: it ${dryRun ? 'would be' : 'was'} dropped, the image is as it was before it`;
    case 'kept':
      return 'not complete: the running mirror keeps it for its primary, the image is as it was before it';
  }
}

function primaryText({ primary, lastMessageAgeMs, lag }: NonNullable<RecoverReport['mirror']>): string {
  const heard = lastMessageAgeMs === undefined ? 'never since the start' : `${formatDuration(lastMessageAgeMs)} ago`;
  const lost =
    lag === undefined ? '' : `\nit had ${count(lag.operations)} operations, ${formatSize(lag.bytes)}, beyond that`;
  return `${primary ?? 'not connected'}, last heard ${heard}${lost}`;
}

function lookText(image: string): string {
  return [
    `losetup -r -f --show ${image}`,
    'mount -o ro,noload /dev/loopN /mnt      ext4; for XFS -o ro,norecovery,nouuid',
    'or copy it: the journal of the copy may be replayed, that of the image must not be',
  ].join('\n');
}
