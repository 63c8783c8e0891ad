/**
 * `nbdtwin status` for people: every running process with its exports, what each mirror lacks, and, where there is a
 * problem, what to do next.
 */
import { formatDuration, formatSize } from '../base/units.ts';
import type { SilentProcess } from '../control/client.ts';
import type { DaemonStatus, MirrorDaemonStatus, ServeStatus } from '../daemon/status.ts';
import type { MirrorExportStatus } from '../mirror/status.ts';
import type { MirrorLinkStatus, PrimaryStatus } from '../primary/status.ts';
import { type Paint, plainPaint } from './paint.ts';
import { pastRescanText, rescanText } from './progress-text.ts';
import { alignPairs } from './table.ts';
import { verificationPairs } from './verification-text.ts';

type Pair = readonly [label: string, value: string];

/** Lines without line ends. */
export function statusText(status: DaemonStatus, paint: Paint = plainPaint): string[] {
  return status.role === 'primary' ? serveText(status, paint) : mirrorText(status, paint);
}

/** One line: for logs of `status --watch` without a terminal, and for the live line of the demonstration. */
export function statusLine(status: DaemonStatus): string {
  if (status.role === 'mirror') {
    const exports = status.exports.map((entry) => `${entry.name} ${entry.state} at ${count(entry.applied)}`);
    return `mirror ${status.directory}: ${exports.length === 0 ? 'no exports yet' : exports.join(', ')}`;
  }
  const mirrors = status.replication?.mirrors.map(mirrorLinkLine) ?? ['not replicated'];
  return `${status.export.name}: ${mirrors.join('; ')}`;
}

/** A process that does not answer, in one line. */
export function silentLine({ role, pid, problem }: SilentProcess, paint: Paint = plainPaint): string {
  const what = problem.code === 'not-answering' ? 'does not answer' : `${problem.code}: ${problem.message}`;
  return `${paint.strong(role)}  ${paint.faint(`pid ${pid}`)}: ${paint.bad(what)}`;
}

/** `mirror backup:10810 rescan [███░░] ...`, or its lag. */
function mirrorLinkLine(link: MirrorLinkStatus): string {
  const { agreement } = link;
  const left = agreement === undefined || agreement.state === 'agreeing' ? '' : `, ${link.mode} ${agreement.state}`;
  return `mirror ${link.mirror} ${link.state}, ${detailOf(link)}${left}`;
}

function detailOf(link: MirrorLinkStatus): string {
  if (link.rescan !== undefined) return rescanText(link.rescan);
  if (link.state === 'behind' || link.state === 'queued') {
    return `${formatSize(link.markedSize)} to be compared${placeText(link.queuePlace)}`;
  }
  const retry = link.nextAttemptMs === undefined ? '' : `, next attempt in ${formatDuration(link.nextAttemptMs)}`;
  return `${lagText(link)} behind${retry}`;
}

function lagText(link: MirrorLinkStatus): string {
  const { operations, bytes, ms } = link.lag;
  return `${plural(operations, 'operation')}, ${formatSize(bytes)}, ${formatDuration(ms)}`;
}

/** `, 3rd of those that wait` */
function placeText(place: number | undefined): string {
  return place === undefined ? '' : `, ${ordinal(place)} of those that wait`;
}

/** `1st`, `2nd`, `11th` */
function ordinal(value: number): string {
  const teens = value % 100 >= 11 && value % 100 <= 13;
  const ending = teens ? 'th' : (['th', 'st', 'nd', 'rd'][value % 10] ?? 'th');
  return `${count(value)}${ending}`;
}

/** A whole number with thousands apart. */
export function count(value: number): string {
  return value.toLocaleString('en-US');
}

/** `1 session`, `2 sessions` */
function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

function serveText(status: ServeStatus, paint: Paint): string[] {
  const pairs: Pair[] = [
    ['size', `${formatSize(status.export.size)}${status.export.readOnly ? ', read-only' : ''}`],
    ['listening', status.listening.join('\n')],
    ['clients', plural(status.connections, 'connection')],
  ];
  if (status.replication === undefined) pairs.push(['mirror', paint.busy('none: this disk is not replicated')]);
  else pairs.push(...replicationPairs(status.replication));
  return [
    `${paint.strong(status.export.name)}  ${status.disk}  ${paint.faint(processText(status))}`,
    ...faintLabels(pairs, '  ', paint),
    ...(status.replication?.mirrors.flatMap((link) => mirrorLinkText(link, paint)) ?? []),
  ];
}

function replicationPairs(replication: PrimaryStatus): Pair[] {
  const { writes, zeroes, trims, flushes } = replication.operations;
  return [
    ['written', `${formatSize(replication.bytesWritten)} in ${count(writes)} writes`],
    ['', `${count(zeroes)} zeroes, ${count(trims)} trims, ${count(flushes)} flushes`],
    ['sequence', count(replication.sequence)],
  ];
}

function mirrorLinkText(link: MirrorLinkStatus, paint: Paint): string[] {
  const pairs: Pair[] = [
    ['mode', modeText(link, paint)],
    ['lag', lagText(link)],
    ['window', `${formatSize(link.window.used)} of ${formatSize(link.window.limit)}`],
    ['spool', spoolText(link)],
    ['position', positionText(link)],
    ...neededPairs(link, paint),
    ['marked', `${formatSize(link.markedSize)} in regions of ${formatSize(link.regionSize)}${mapText(link, paint)}`],
    [
      'wire',
      `${formatSize(link.wireSent)} sent, ${formatSize(link.wireReceived)} received, ${plural(link.sessions, 'session')}`,
    ],
  ];
  if (link.unreadableSize > 0) pairs.push(['unreadable', paint.bad(formatSize(link.unreadableSize))]);
  if (link.rescan !== undefined) {
    const limit = link.rescanRate === undefined ? '' : `, at most ${formatSize(link.rescanRate)}/s`;
    pairs.push(['rescan', `${rescanText(link.rescan)}${limit}`]);
  }
  if (link.lastRescan !== undefined) pairs.push(['last rescan', pastRescanText(link.lastRescan)]);
  if (link.verification !== undefined) pairs.push(...verificationPairs(link.verification, paint));
  const retry = link.nextAttemptMs === undefined ? '' : `\nnext attempt in ${formatDuration(link.nextAttemptMs)}`;
  pairs.push(...problemPairs(link.problem, retry, paint));
  const state = stateColour(link.state, paint)(link.state);
  return [
    `  mirror ${paint.strong(link.mirror)}  ${state} for ${formatDuration(link.stateAgeMs)}${placeText(link.queuePlace)}`,
    ...faintLabels(pairs, '    ', paint),
  ];
}

/** What has no room in the window, and whether it is kept in order or only the newest content of each block. */
function spoolText({ spool }: MirrorLinkStatus): string {
  if (spool.limit === 0) return 'none: what does not fit the window is compared later';
  const merged = spool.rung === 'merged' ? ', only the newest content of each block' : '';
  return `${formatSize(spool.used)} of ${formatSize(spool.limit)}${merged}`;
}

function neededPairs({ staging }: MirrorLinkStatus, paint: Paint): Pair[] {
  const pairs: Pair[] = [];
  if (staging.used > 0) pairs.push(['staged', `${formatSize(staging.used)}, beside the mirror’s image`]);
  if (staging.needed > 0) {
    pairs.push(['staging', paint.bad(`the mirror has too little room: at least ${formatSize(staging.needed)} needed`)]);
  }
  return pairs;
}

function mapText({ map }: MirrorLinkStatus, paint: Paint): string {
  if (map.valid) return '';
  return `\n${paint.bad('the dirty map cannot be written: the next start compares everything')}`;
}

/** `flush`, and whether what it promises holds now. */
function modeText({ mode, agreement }: MirrorLinkStatus, paint: Paint): string {
  if (agreement === undefined) return mode;
  const since = `for ${formatDuration(agreement.stateAgeMs)}`;
  const waiting = agreement.waiting === 0 ? '' : `, ${plural(agreement.waiting, 'request')} waiting`;
  switch (agreement.state) {
    case 'agreeing':
      return `${mode}${waiting}`;
    case 'waiting':
      return `${mode}${paint.busy(`: waits for the mirror ${since}${waiting}`)}`;
    case 'degraded':
      return `${mode}, ${paint.bad(`degraded to async ${since}: requests are answered without the mirror`)}${waiting}`;
    case 'stalled':
      return `${mode}, ${paint.bad(`stalled ${since}: requests wait for the mirror`)}${waiting}`;
    case 'failing':
      return `${mode}, ${paint.bad(`failing ${since}: requests that need the mirror fail`)}`;
  }
}

function mirrorText(status: MirrorDaemonStatus, paint: Paint): string[] {
  const pairs: Pair[] = [
    ['listening', status.listening],
    ['rescans', rescansText(status.rescans, paint)],
  ];
  if (status.exports.length === 0) pairs.push(['exports', 'none yet: they appear when a primary connects']);
  return [
    `${paint.strong('mirror')}  ${status.directory}  ${paint.faint(processText(status))}`,
    ...faintLabels(pairs, '  ', paint),
    ...status.exports.flatMap((entry) => mirrorExportText(entry, paint)),
  ];
}

/** Rescans and first seedings of all exports. */
function rescansText({ limit, running, stuck, waiting }: MirrorDaemonStatus['rescans'], paint: Paint): string {
  const most = `at most ${count(limit)} at a time`;
  if (running === 0 && waiting === 0) return `none, ${most}`;
  const lent = stuck === 0 ? '' : `, ${paint.bad(`${count(stuck)} of these stuck: others are let in beside`)}`;
  const queue = waiting === 0 ? '' : `, ${count(waiting)} waiting`;
  return `${count(running)} running${lent}${queue}; ${most}`;
}

function mirrorExportText(entry: MirrorExportStatus, paint: Paint): string[] {
  const heard =
    entry.lastMessageAgeMs === undefined ? 'never since the start' : `${formatDuration(entry.lastMessageAgeMs)} ago`;
  const pairs: Pair[] = [
    ['image', `${entry.image}, ${formatSize(entry.size)}`],
    ['content', contentText(entry, paint)],
    ['primary', `${entry.primary ?? 'not connected'}, last heard ${heard}`],
    ['lag', mirrorLagText(entry)],
    ['position', `${positionText(entry)}${recordedText(entry)}`],
    ...stagingPairs(entry.staging, paint),
    ...commitPairs(entry),
    ...problemPairs(entry.problem, '', paint),
  ];
  const state = stateColour(entry.state, paint)(entry.state);
  return [
    `  ${paint.strong(entry.name)}  ${state}${placeText(entry.queuePlace)}`,
    ...faintLabels(pairs, '    ', paint),
  ];
}

function contentText({ consistent, exact, committing, state, size }: MirrorExportStatus, paint: Paint): string {
  if (state === 'queued' && size === 0) return paint.busy('none yet');
  if (committing)
    return paint.bad('half new: a complete staged run has yet to be copied (`nbdtwin recover`, or a primary)');
  if (!consistent) return paint.busy('being filled: not consistent until this is done');
  return exact ? 'consistent' : 'consistent: as a disk after a power cut, until a primary has brought it up to date';
}

function recordedText({ recordedAgeMs }: MirrorExportStatus): string {
  return recordedAgeMs === undefined ? '' : `\nwritten down ${formatDuration(recordedAgeMs)} ago`;
}

function stagingPairs(staging: MirrorExportStatus['staging'], paint: Paint): Pair[] {
  if (staging === undefined) return [];
  const { size, limit, ageMs, committed, through } = staging;
  if (through) return [['staged', paint.bad(`no room: goes straight to the image, for ${formatDuration(ageMs)}`)]];
  const room = limit === undefined ? '' : ` of ${formatSize(limit)}`;
  const what = committed ? 'complete' : 'beside the image, which stays as it is';
  return [['staged', `${formatSize(size)}${room}, ${what}, for ${formatDuration(ageMs)}`]];
}

function commitPairs({ commits, lastCommitAgeMs }: MirrorExportStatus): Pair[] {
  if (lastCommitAgeMs === undefined) return [];
  return [['committed', `${plural(commits, 'staged run')}, the last ${formatDuration(lastCommitAgeMs)} ago`]];
}

/** What the primary had beyond this image, as far as it has said. */
function mirrorLagText(entry: MirrorExportStatus): string {
  if (entry.lag === undefined) return 'unknown: no primary since the start';
  const lag = `${plural(entry.lag.operations, 'operation')}, ${formatSize(entry.lag.bytes)}`;
  return entry.primary === undefined ? `at least ${lag}, when last heard` : lag;
}

function problemPairs(problem: MirrorLinkStatus['problem'], addition: string, paint: Paint): Pair[] {
  if (problem === undefined) return [];
  return [['problem', `${paint.bad(`${problem.code}: ${problem.message}`)}\n${problem.hint}${addition}`]];
}

function positionText(position: { received: number; applied: number; durable: number; recorded: number }): string {
  const { received, applied, durable, recorded } = position;
  return `received ${count(received)}, applied ${count(applied)}, durable ${count(durable)}, recorded ${count(recorded)}`;
}

function processText(status: DaemonStatus): string {
  return `pid ${status.pid}, up ${formatDuration(status.uptimeMs)}`;
}

function stateColour(state: MirrorLinkStatus['state'] | MirrorExportStatus['state'], paint: Paint) {
  switch (state) {
    case 'streaming':
      return paint.good;
    case 'refused':
    case 'failed':
      return paint.bad;
    default:
      return paint.busy;
  }
}

function faintLabels(pairs: readonly Pair[], indent: string, paint: Paint): string[] {
  return alignPairs(
    pairs.map(([label, value]) => [paint.faint(label), value] as const),
    indent,
  );
}
