import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import { GIB } from '../../../src/base/units.ts';
import type { RecoverReport } from '../../../src/mirror/recover.ts';
import { colourPaint } from '../../../src/observe/paint.ts';
import { recoverText } from '../../../src/observe/recover-text.ts';

const REPORT: RecoverReport = {
  image: '/srv/mirrors/disk.img',
  size: GIB,
  replicaId: '',
  volumeId: '',
  generation: '',
  run: 'ab'.repeat(16),
  sequence: 12_345,
  recordedAtMs: Date.UTC(2026, 10, 23, 3, 4, 5),
  ageMs: 180_000,
  consistent: true,
  reason: undefined,
  exact: true,
  mapVersion: 7,
  file: 'same',
  staging: 'none',
  dryRun: false,
  mirror: undefined,
};

function text(changes: Partial<RecoverReport> = {}): string[] {
  return recoverText({ ...REPORT, ...changes });
}

describe('what recover has found', () => {
  it('begins with whether the image can be used, and ends with what to do', () => {
    expect(text()).toEqual([
      'This image can be used: it is the disk as it was 3 min 0 s ago.',
      '',
      '  image        /srv/mirrors/disk.img, 1 GiB',
      '  content      exactly the primary’s disk at that position',
      `  position     operation 12,345 of run ${'ab'.repeat(16)}`,
      '               recorded 2026-11-23T03:04:05.000Z, 3 min 0 s ago',
      '  map version  7',
      '  staged run   none',
      '',
      'To look inside, which changes nothing:',
      '  losetup -r -f --show /srv/mirrors/disk.img  # prints the device: /dev/loopN',
      '  mount -o ro,noload /dev/loopN /mnt          # ext4; XFS: -o ro,norecovery,nouuid',
      'To use it, make a copy, and use that: its journal is replayed, which that of the image must not be:',
      '  cp --sparse=always /srv/mirrors/disk.img /elsewhere/disk.img',
    ]);
  });

  it('says that a crash state is a little later than its position', () => {
    const lines = text({ exact: false });
    expect(lines[0]).toBe('This image can be used: it is the disk as it was 3 min 0 s ago, or a little later.');
    expect(lines).toContain('  content      as the primary’s disk after a power cut at or after that position');
  });

  it('says why an image must not be used, and gives no way to use it', () => {
    const lines = text({
      consistent: false,
      exact: false,
      reason: 'it was never filled completely',
      run: '0'.repeat(32),
    });
    expect(lines).toEqual([
      'This image must not be used: it was never filled completely.',
      '',
      '  image        /srv/mirrors/disk.img, 1 GiB',
      '  position     none',
      '  map version  7',
      '  staged run   none',
      '',
      'Let its primary bring it up to date, or use a backup. The primary says more: nbdtwin status.',
    ]);
  });

  it.each([
    ['finished', false, 'complete: it was copied into the image'],
    ['finished', true, 'complete: it would be copied into the image'],
    ['dropped', false, 'not complete: it was dropped, the image is as it was before it'],
    ['dropped', true, 'not complete: it would be dropped, the image is as it was before it'],
    ['kept', false, 'not complete: the running mirror keeps it for its primary, the image is as it was before it'],
  ] as const)('says what has become of a staged run: %s, dry run: %s', (staging, dryRun, said) => {
    const lines = text({ staging, dryRun });
    expect(lines).toContain(`  staged run   ${said}`);
    expect(lines.includes('  dry run      nothing was changed')).toBe(dryRun);
  });

  it('never calls an image usable that a dry run has left to be finished', () => {
    const lines = text({ staging: 'finished', dryRun: true });
    expect(lines[0]).toBe(
      'This image cannot be used yet: run this without --dry-run. Then it is the disk as it was 3 min 0 s ago.',
    );
    expect(lines.at(-1)).toBe('nbdtwin recover /srv/mirrors/disk.img');
    expect(lines.join('\n')).not.toMatch(/losetup|cp --sparse/);
  });

  it('tells aloud that it is a copy, before anything else, and what follows from it', () => {
    const first = [
      'But this is another file than the one that the mirror wrote: a copy?',
      'It must have been copied together with its .twin folder, while no mirror was writing to them.',
    ];
    const taken = 'A mirror will take it for its image from now on';
    expect(text({ file: 'copy' }).slice(1, 5)).toEqual([...first, `${taken}.`, '']);
    expect(text({ file: 'copy', dryRun: true }).slice(1, 4)).toEqual([...first, '']);
    expect(text({ file: 'copy-retimed' }).slice(1, 6)).toEqual([
      ...first,
      'Its time is another one, too: it was copied without that, or was changed since. Which, only you know.',
      `${taken}, and its primary will compare all of it.`,
      '',
    ]);
    expect(text({ file: 'copy', consistent: false })[1]).toBe('');
  });

  it('tells of a running mirror what its primary had beyond, and that it goes on', () => {
    const mirror = { primary: '198.51.100.7:40112', lastMessageAgeMs: 1500, lag: { operations: 2, bytes: 8192 } };
    const lines = text({ mirror });
    expect(lines).toContain('  primary      198.51.100.7:40112, last heard 1.5 s ago');
    expect(lines).toContain('               it had 2 operations, 8 KiB, beyond that');
    expect(lines.at(-1)).toMatch(/^Its mirror runs, and goes on writing to it/);
    const silent = { primary: undefined, lastMessageAgeMs: undefined, lag: undefined };
    expect(text({ mirror: silent })).toContain('  primary      not connected, last heard never since the start');
  });

  it('gives commands that a shell takes for any path', () => {
    const lines = text({ image: "/srv/my mirrors/it's.img" }).join('\n');
    expect(lines).toContain("losetup -r -f --show '/srv/my mirrors/it'\\''s.img'");
  });

  it('keeps its alignment in colour, with the verdict in its own', () => {
    for (const [changes, code] of [
      [{}, 32],
      [{ consistent: false }, 31],
      [{ staging: 'finished', dryRun: true }, 33],
    ] as const) {
      const report: RecoverReport = { ...REPORT, ...changes };
      const coloured = recoverText(report, colourPaint);
      expect(coloured.map(stripVTControlCharacters)).toEqual(recoverText(report));
      expect(coloured[0]).toContain(`\u001b[${code}m`);
    }
  });
});
