import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { GIB, MIB } from '../../../src/base/units.ts';
import type { MirrorDaemonStatus, ServeStatus } from '../../../src/daemon/status.ts';
import type { MirrorExportStatus, StagedStatus } from '../../../src/mirror/status.ts';
import { colourPaint } from '../../../src/observe/paint.ts';
import { silentLine, statusLine, statusText } from '../../../src/observe/status-text.ts';
import { wholeMs } from '../../../src/observe/whole-ms.ts';
import type { MirrorLinkStatus, RescanProgress, VerificationStatus } from '../../../src/primary/status.ts';

const LINK: MirrorLinkStatus = {
  mirror: 'backup:10810',
  state: 'streaming',
  stateAgeMs: 65_000,
  queuePlace: undefined,
  replicaId: '00'.repeat(16),
  problem: undefined,
  mode: 'async',
  agreement: undefined,
  received: 12_345,
  applied: 12_340,
  durable: 12_300,
  recorded: 12_200,
  lag: { operations: 5, bytes: 20_480, ms: 3 },
  window: { used: MIB, limit: 64 * MIB },
  spool: { used: 0, limit: GIB, rung: 'window', rungChanges: 0 },
  staging: { used: 0, needed: 0 },
  map: { valid: true, set: 7, version: 3 },
  markedSize: 3 * MIB,
  unreadableSize: 0,
  regionSize: MIB,
  rescanRate: undefined,
  rescan: undefined,
  lastRescan: undefined,
  wireSent: 10 * MIB,
  wireReceived: 2048,
  sessions: 2,
  nextAttemptMs: undefined,
};

const RESCAN: RescanProgress = {
  scope: 'everything',
  scopeSize: GIB,
  comparedSize: GIB / 4,
  shippedSize: 5 * MIB,
  zeroedSize: MIB,
  elapsedMs: 2000,
  etaMs: 6000,
  pass: 1,
  converging: true,
};

function serveStatus(link?: Partial<MirrorLinkStatus>): ServeStatus {
  return {
    role: 'primary',
    pid: 42,
    version: '1.2.3',
    uptimeMs: 3_600_000,
    disk: '/srv/disk.img',
    export: { name: 'disk', description: '', size: GIB, readOnly: false },
    listening: ['nbd://127.0.0.1:10809/disk', 'nbd+unix:///disk?socket=/run/nbd.sock'],
    connections: 3,
    ...(link && {
      replication: {
        role: 'primary',
        volumeId: '',
        generation: '',
        run: '',
        size: GIB,
        sequence: 12_345,
        operations: { writes: 12_000, zeroes: 300, trims: 45, flushes: 7 },
        bytesWritten: 100 * MIB,
        mirrors: [{ ...LINK, ...link }],
      },
    }),
  };
}

const MIRROR: MirrorDaemonStatus = {
  role: 'mirror',
  pid: 43,
  version: '1.2.3',
  uptimeMs: 1000,
  directory: '/srv/mirrors',
  listening: '0.0.0.0:10810',
  rescans: { limit: 2, running: 0, stuck: 0, waiting: 0 },
  exports: [],
};

describe('the status of a primary', () => {
  it('is aligned, with units and thousands apart', () => {
    expect(statusText(serveStatus({}))).toEqual([
      'disk  /srv/disk.img  pid 42, up 1 h 0 min',
      '  size       1 GiB',
      '  listening  nbd://127.0.0.1:10809/disk',
      '             nbd+unix:///disk?socket=/run/nbd.sock',
      '  clients    3 connections',
      '  written    100 MiB in 12,000 writes',
      '             300 zeroes, 45 trims, 7 flushes',
      '  sequence   12,345',
      '  mirror backup:10810  streaming for 1 min 5 s',
      '    mode      async',
      '    lag       5 operations, 20 KiB, 3 ms',
      '    window    1 MiB of 64 MiB',
      '    spool     0 B of 1 GiB',
      '    position  received 12,345, applied 12,340, durable 12,300, recorded 12,200',
      '    marked    3 MiB in regions of 1 MiB',
      '    wire      10 MiB sent, 2 KiB received, 2 sessions',
    ]);
  });

  it('shows a rescan with its bar, bytes left and remaining time', () => {
    const text = statusText(serveStatus({ state: 'rescan', rescan: RESCAN })).join('\n');
    const limited = statusText(serveStatus({ state: 'rescan', rescan: RESCAN, rescanRate: 5 * 2 ** 20 })).join('\n');
    expect(limited).toMatch(/ {4}rescan .*, at most 5 MiB\/s$/m);
    expect(text).not.toContain('at most 5 MiB/s');
    expect(text).toContain('rescan    [█████░░░░░░░░░░░░░░░]  25 %  768 MiB of 1 GiB left, about 6.0 s, 5 MiB shipped');
  });

  it('says of a rescan that it does not converge', () => {
    const rescan = { ...RESCAN, pass: 3, converging: false };
    expect(statusText(serveStatus({ state: 'rescan', rescan })).join('\n')).toContain(', pass 3, not converging');
  });

  it('shows how long ago everything was compared, what differed, and what to do about it', () => {
    const nothing = { differingSize: 0, repairedSize: 0, unreadableSize: 0, ranges: [], truncated: false };
    const last = { ...nothing, elapsedMs: 60_000, comparedSize: GIB, ageMs: 2.5 * 86_400_000 };
    const base = { everyMs: 7 * 86_400_000, repair: false, running: undefined, last, nextInMs: 4.5 * 86_400_000 };
    const lines = (verification: VerificationStatus): string[] => statusText(serveStatus({ verification }));
    expect(lines({ ...base, last: undefined, nextInMs: 90_000 })).toContain(
      '    verified  not yet, next in 1 min 30 s',
    );
    expect(lines(base)).toContain('    verified  2 days ago, all the same, next in 4 days');
    const ranges = [
      { offset: 8192, length: 4096, owner: '/etc/fstab' },
      ...[1, 2, 3, 4].map((at) => ({ offset: at * MIB, length: 512 })),
    ];
    const found = { ...last, differingSize: 6144, ranges };
    const text = lines({ ...base, last: found });
    const at = text.findIndex((line) => line.startsWith('    verified'));
    expect(text.slice(at, at + 6)).toEqual([
      '    verified  2 days ago, 6 KiB differ: look which side is right; a restart with --rescan makes the mirror like this disk, next in 4 days',
      '              8192 4096 /etc/fstab',
      '              1048576 512',
      '              2097152 512',
      '              3145728 512',
      '              and more: see --json and the log',
    ]);
    expect(lines({ ...base, last: { ...found, repairedSize: 6144, unreadableSize: 512 } })[at]).toBe(
      '    verified  2 days ago, 6 KiB differed, repaired, 512 B cannot be read here, next in 4 days',
    );
    const running = {
      ...nothing,
      elapsedMs: 5000,
      reached: GIB / 4,
      size: GIB,
      rate: 16 * MIB,
      problem: 'the session ended',
    };
    const now = lines({ ...base, nextInMs: undefined, running });
    expect(now).toContain('    verifying  [█████░░░░░░░░░░░░░░░]  25 % of 1 GiB, 16 MiB/s, about 48.0 s left');
    expect(now).toContain('               interrupted: the session ended');
  });

  it('shows what is spooled, and whether order is kept', () => {
    const spool = { used: 3 * MIB, limit: GIB, rung: 'spool', rungChanges: 1 } as const;
    expect(statusText(serveStatus({ spool }))).toContain('    spool     3 MiB of 1 GiB');
    expect(statusText(serveStatus({ spool: { ...spool, rung: 'merged' } }))).toContain(
      '    spool     3 MiB of 1 GiB, only the newest content of each block',
    );
    expect(statusText(serveStatus({ spool: { ...spool, used: 0, limit: 0, rung: 'window' } }))).toContain(
      '    spool     none: what does not fit the window is compared later',
    );
  });

  it('shows what is staged, how much room is missing for it, and a dirty map that is of no use', () => {
    expect(statusText(serveStatus({ staging: { used: 5 * MIB, needed: 0 } }))).toContain(
      '    staged    5 MiB, beside the mirror’s image',
    );
    expect(statusText(serveStatus({ staging: { used: 0, needed: 7 * MIB } }))).toContain(
      '    staging   the mirror has too little room: at least 7 MiB needed',
    );
    const lines = statusText(serveStatus({ map: { valid: false, set: 0, version: 3 } }));
    const at = lines.indexOf('    marked    3 MiB in regions of 1 MiB');
    expect(lines[at + 1]).toBe('              the dirty map cannot be written: the next start compares everything');
  });

  it('names a problem, what to do, and when it tries again', () => {
    const problem = { code: 'peer-unreachable', message: 'connection refused', hint: 'Check the mirror.' };
    const lines = statusText(serveStatus({ state: 'offline', problem, nextAttemptMs: 4200 }));
    expect(lines.slice(-3)).toEqual([
      '    problem   peer-unreachable: connection refused',
      '              Check the mirror.',
      '              next attempt in 4.2 s',
    ]);
  });

  it.each([
    ['agreeing', 0, 'sync', ''],
    ['agreeing', 32, 'sync, 32 requests waiting', ''],
    ['waiting', 1, 'sync: waits for the mirror for 7.0 s, 1 request waiting', ', sync waiting'],
    ['degraded', 0, 'sync, degraded to async for 7.0 s: requests are answered without the mirror', ', sync degraded'],
    ['stalled', 2, 'sync, stalled for 7.0 s: requests wait for the mirror, 2 requests waiting', ', sync stalled'],
    ['failing', 0, 'sync, failing for 7.0 s: requests that need the mirror fail', ', sync failing'],
  ] as const)('says whether what the mode promises holds: %s, %i waiting', (state, waiting, mode, line) => {
    const policy = { mirrorTimeoutMs: 10_000, onMirrorLoss: 'continue' } as const;
    const link = { mode: 'sync', agreement: { state, stateAgeMs: 7_000, waiting, ...policy } } as const;
    expect(statusText(serveStatus(link))).toContain(`    mode      ${mode}`);
    expect(statusLine(serveStatus(link))).toBe(
      `disk: mirror backup:10810 streaming, 5 operations, 20 KiB, 3 ms behind${line}`,
    );
  });

  it('says plainly when nothing is replicated', () => {
    expect(statusText(serveStatus())).toContain('  mirror     none: this disk is not replicated');
    expect(statusLine(serveStatus())).toBe('disk: not replicated');
  });

  it.each([
    [undefined, ''],
    [1, ', 1st of those that wait'],
    [2, ', 2nd of those that wait'],
    [3, ', 3rd of those that wait'],
    [4, ', 4th of those that wait'],
    [11, ', 11th of those that wait'],
    [113, ', 113th of those that wait'],
    [1021, ', 1,021st of those that wait'],
  ])('shows the place %s in the queue of rescans', (queuePlace, text) => {
    const lines = statusText(serveStatus({ state: 'queued', queuePlace }));
    expect(lines).toContain(`  mirror backup:10810  queued for 1 min 5 s${text}`);
  });

  it('fits in one line', () => {
    expect(statusLine(serveStatus({}))).toBe('disk: mirror backup:10810 streaming, 5 operations, 20 KiB, 3 ms behind');
    expect(statusLine(serveStatus({ state: 'rescan', rescan: RESCAN }))).toMatch(/backup:10810 rescan, \[█/);
    expect(statusLine(serveStatus({ state: 'behind' }))).toMatch(/behind, 3 MiB to be compared$/);
    expect(statusLine(serveStatus({ state: 'queued', queuePlace: 22 }))).toMatch(
      /queued, 3 MiB to be compared, 22nd of those that wait$/,
    );
    expect(statusLine(serveStatus({ state: 'offline', nextAttemptMs: 900 }))).toMatch(/, next attempt in 900 ms$/);
  });

  it('keeps its alignment in colour', () => {
    const plain = statusText(serveStatus({ state: 'refused' }));
    const coloured = statusText(serveStatus({ state: 'refused' }), colourPaint);
    expect(coloured.map(stripVTControlCharacters)).toEqual(plain);
    expect(coloured.join('')).toContain('\u001b[31mrefused');
  });
});

const ENTRY: MirrorExportStatus = {
  name: 'web/root',
  image: '/srv/mirrors/web/root.img',
  size: GIB,
  replicaId: '',
  volumeId: '',
  generation: '',
  run: '',
  state: 'seeding',
  queuePlace: undefined,
  consistent: false,
  exact: false,
  committing: false,
  received: 7,
  applied: 6,
  durable: 5,
  recorded: 4,
  recordedAgeMs: undefined,
  staging: undefined,
  commits: 0,
  lastCommitAgeMs: undefined,
  lastMessageAgeMs: 1500,
  lag: { operations: 1, bytes: 4096 },
  primary: '198.51.100.7:40112',
  problem: { code: 'mirror-no-space', message: 'no space left', hint: 'Free space in the mirror directory.' },
};

describe('the status of a mirror', () => {
  it('says that exports will appear', () => {
    expect(statusText(MIRROR)).toContain('  exports    none yet: they appear when a primary connects');
    expect(statusLine(MIRROR)).toBe('mirror /srv/mirrors: no exports yet');
  });

  it('names image, consistency, primary and problem of every export', () => {
    expect(statusText({ ...MIRROR, exports: [ENTRY] }).slice(3)).toEqual([
      '  web/root  seeding',
      '    image     /srv/mirrors/web/root.img, 1 GiB',
      '    content   being filled: not consistent until this is done',
      '    primary   198.51.100.7:40112, last heard 1.5 s ago',
      '    lag       1 operation, 4 KiB',
      '    position  received 7, applied 6, durable 5, recorded 4',
      '    problem   mirror-no-space: no space left',
      '              Free space in the mirror directory.',
    ]);
  });

  it.each([
    [{}, 'consistent'],
    [{ exact: false }, 'consistent: as a disk after a power cut, until a primary has brought it up to date'],
    [{ consistent: false, exact: false }, 'being filled: not consistent until this is done'],
    [
      { consistent: false, exact: false, committing: true },
      'half new: a complete staged run has yet to be copied (`nbdtwin recover`, or a primary)',
    ],
  ])('says what the image is: %o', (content, text) => {
    const entry = { ...ENTRY, consistent: true, exact: true, ...content };
    expect(statusText({ ...MIRROR, exports: [entry] })).toContain(`    content   ${text}`);
  });

  it('shows what is staged beside the image, and how old the recorded position is', () => {
    const staging: StagedStatus = { size: 5 * MIB, limit: 64 * MIB, ageMs: 3000, committed: false, through: false };
    const text = (changes: Partial<StagedStatus>): string[] =>
      statusText({ ...MIRROR, exports: [{ ...ENTRY, recordedAgeMs: 2000, staging: { ...staging, ...changes } }] });
    expect(text({})).toContain('    staged    5 MiB of 64 MiB, beside the image, which stays as it is, for 3.0 s');
    expect(text({})).toContain('              written down 2.0 s ago');
    expect(text({ committed: true })).toContain('    staged    5 MiB of 64 MiB, complete, for 3.0 s');
    expect(text({ limit: undefined })).toContain(
      '    staged    5 MiB, beside the image, which stays as it is, for 3.0 s',
    );
    expect(text({ through: true })).toContain('    staged    no room: goes straight to the image, for 3.0 s');
  });

  it('shows how many rescans run, wait and are stuck, and the place of an export that waits', () => {
    const rescans = (changes: object): string | undefined =>
      statusText({ ...MIRROR, rescans: { ...MIRROR.rescans, ...changes } }).find((line) => line.includes('rescans'));
    expect(rescans({})).toBe('  rescans    none, at most 2 at a time');
    expect(rescans({ running: 1 })).toBe('  rescans    1 running; at most 2 at a time');
    expect(rescans({ running: 2, waiting: 1028 })).toBe('  rescans    2 running, 1,028 waiting; at most 2 at a time');
    expect(rescans({ running: 3, stuck: 1, waiting: 4 })).toBe(
      '  rescans    3 running, 1 of these stuck: others are let in beside, 4 waiting; at most 2 at a time',
    );
    const entry: MirrorExportStatus = { ...ENTRY, state: 'queued', queuePlace: 12, problem: undefined };
    const text = (changes: Partial<MirrorExportStatus>): string[] =>
      statusText({ ...MIRROR, exports: [{ ...entry, ...changes }] });
    expect(text({})).toContain('  web/root  queued, 12th of those that wait');
    expect(text({ size: 0 })).toContain('    content   none yet');
  });

  it('counts the staged runs that were committed, and tells how long ago the last was', () => {
    const text = (commits: number, lastCommitAgeMs: number | undefined): string[] =>
      statusText({ ...MIRROR, exports: [{ ...ENTRY, commits, lastCommitAgeMs }] });
    expect(text(1, 4000)).toContain('    committed  1 staged run, the last 4.0 s ago');
    expect(text(1234, 61_000)).toContain('    committed  1,234 staged runs, the last 1 min 1 s ago');
    expect(text(0, undefined).join('\n')).not.toContain('committed');
  });
});

describe('a process that does not answer', () => {
  it('is shown in a line, with what is wrong', () => {
    const problem = new Failure('not-answering', 'mirror, pid 667, does not answer');
    expect(silentLine({ role: 'mirror', pid: 667, problem })).toBe('mirror  pid 667: does not answer');
    const foreign = new Failure('peer-foreign', '/s does not speak it');
    expect(silentLine({ role: 'primary', pid: 1, problem: foreign })).toBe(
      'primary  pid 1: peer-foreign: /s does not speak it',
    );
  });
});

describe('times in JSON', () => {
  it('are whole milliseconds; other numbers stay as they are', () => {
    const status = { uptimeMs: 1234.56, lag: { ms: 0.4, bytes: 7 }, share: 0.5, etaMs: undefined };
    expect(JSON.parse(JSON.stringify(status, wholeMs))).toEqual({
      uptimeMs: 1235,
      lag: { ms: 0, bytes: 7 },
      share: 0.5,
    });
  });
});
