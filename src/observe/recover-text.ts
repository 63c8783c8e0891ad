/**
 * What `nbdtwin recover` found and did, for people, who may have got up for it: first whether the image can be used, then
 * what it is, then what to do with it.
 */
import { formatDuration, formatSize } from '../base/units.ts';
import type { RecoverReport } from '../mirror/recover.ts';
import { type Paint, plainPaint } from './paint.ts';
import { count } from './status-text.ts';
import { alignPairs } from './table.ts';

/** Lines without line ends. */
export function recoverText(report: RecoverReport, paint: Paint = plainPaint): string[] {
  const pairs: [label: string, value: string][] = [['image', `${report.image}, ${formatSize(report.size)}`]];
  if (report.consistent) pairs.push(['content', contentText(report)]);
  pairs.push(['position', positionText(report)], ['map version', count(report.mapVersion)]);
  pairs.push(['staged run', stagingText(report)]);
  if (report.mirror !== undefined) pairs.push(['primary', primaryText(report.mirror)]);
  if (report.dryRun) pairs.push(['dry run', 'nothing was changed']);
  return [
    verdict(report, paint),
    ...fileLines(report, paint),
    '',
    ...alignPairs(
      pairs.map(([label, value]) => [paint.faint(label), value] as const),
      '  ',
    ),
    '',
    ...adviceLines(report),
  ];
}

/** With a dry run, `consistent` is about what the image would be. */
function isToCome({ dryRun, staging }: RecoverReport): boolean {
  return dryRun && staging === 'finished';
}

function verdict(report: RecoverReport, paint: Paint): string {
  const { consistent, reason, ageMs } = report;
  if (!consistent) return paint.bad(`This image must not be used: ${reason ?? 'unknown'}.`);
  const age = `the disk as it was ${formatDuration(ageMs)} ago`;
  if (isToCome(report))
    return paint.busy(`This image cannot be used yet: run this without --dry-run. Then it is ${age}.`);
  return paint.good(`This image can be used: it is ${age}${report.exact ? '' : ', or a little later'}.`);
}

/** What nobody but the reader can know. */
function fileLines({ file, consistent, dryRun }: RecoverReport, paint: Paint): string[] {
  if (file === 'same' || !consistent) return [];
  const lines = [
    'But this is another file than the one that the mirror wrote: a copy?',
    'It must have been copied together with its .twin folder, while no mirror was writing to them.',
  ];
  if (file === 'copy-retimed') {
    lines.push('Its time is another one, too: it was copied without that, or was changed since. Which, only you know.');
  }
  if (!dryRun) {
    const compared = file === 'copy' ? '' : ', and its primary will compare all of it';
    lines.push(`A mirror will take it for its image from now on${compared}.`);
  }
  return lines.map((line) => paint.busy(line));
}

function contentText({ exact }: RecoverReport): string {
  if (exact) return 'exactly the primary’s disk at that position';
  return 'as the primary’s disk after a power cut at or after that position';
}

function positionText({ sequence, run, recordedAtMs, ageMs }: RecoverReport): string {
  if (/^0*$/.test(run)) return 'none';
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

/** What to do next: nothing here writes to the image. */
function adviceLines(report: RecoverReport): string[] {
  const { image, consistent, mirror } = report;
  if (!consistent) {
    return ['Let its primary bring it up to date, or use a backup. The primary says more: nbdtwin status.'];
  }
  if (isToCome(report)) return [`nbdtwin recover ${quoted(image)}`];
  const lines = [
    'To look inside, which changes nothing:',
    ...alignPairs(
      [
        [`losetup -r -f --show ${quoted(image)}`, '# prints the device: /dev/loopN'],
        ['mount -o ro,noload /dev/loopN /mnt', '# ext4; XFS: -o ro,norecovery,nouuid'],
      ],
      '  ',
    ),
    'To use it, make a copy, and use that: its journal is replayed, which that of the image must not be:',
    `  cp --sparse=always ${quoted(image)} /elsewhere/disk.img`,
  ];
  if (mirror === undefined) return lines;
  return [...lines, 'Its mirror runs, and goes on writing to it: before you copy, stop it (see docs/operations.md).'];
}

/** For a shell. */
function quoted(path: string): string {
  return /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}
