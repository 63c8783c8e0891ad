/** `nbdtwin recover`, beside a running mirror and without one. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import type { RecoverReport } from '../../src/daemon/recover.ts';
import { type ProcessOptions, runNbdtwin, runtimeDirectory } from '../support/daemon.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { Twin } from '../support/twin.ts';

function beside(twin: Twin): ProcessOptions {
  return { env: { NBDTWIN_RUNTIME_DIR: runtimeDirectory(twin.folder) } };
}

async function recovered(twin: Twin, ...flags: string[]): Promise<RecoverReport> {
  const { status, stdout, stderr } = await runNbdtwin(['recover', twin.image, '--json', ...flags], beside(twin));
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return JSON.parse(stdout) as RecoverReport;
}

/** A copy of the image and its `.twin` folder, in a folder that a mirror could serve. */
function copyOf(twin: Twin): string {
  const folder = join(twin.folder, 'copy');
  mkdirSync(folder);
  execFileSync('cp', ['-a', '--sparse=always', twin.image, `${twin.image}.twin`, folder]);
  return join(folder, 'disk.img');
}

describe('recover', () => {
  it('asks the mirror that keeps the image, and does it itself when none runs', async () => {
    const twin = await Twin.inStep();
    const client = await twin.connect();
    await client.write(0, Buffer.alloc(64 * 1024, 'recover'));
    await client.flush();
    await twin.primary.untilInStep();
    const asked = await recovered(twin);
    expect(asked).toMatchObject({
      image: twin.image,
      size: 16 * MIB,
      sequence: 1,
      consistent: true,
      exact: true,
      staging: 'none',
      dryRun: false,
      mirror: { lag: { operations: 0, bytes: 0 } },
    });
    await client.close();
    await twin.primary.stop();
    const text = await runNbdtwin(['recover', twin.image], beside(twin));
    expect(text.stdout).toContain('not connected, last heard');
    await twin.mirror.stop();

    const dry = await recovered(twin, '--dry-run');
    expect(dry).toMatchObject({ sequence: 1, consistent: true, exact: true, dryRun: true, run: asked.run });
    expect(dry.mirror).toBeUndefined();
    const alone = await runNbdtwin(['recover', twin.image], beside(twin));
    expect(alone.status).toBe(0);
    expect(alone.stdout).toMatch(/^This image can be used: it is the disk as it was .* ago\.\n\n/);
    expect(alone.stdout).toMatch(/exactly the primary’s disk at that position/);
    expect(alone.stdout).toMatch(/operation 1 of run [0-9a-f]{32}/);
    expect(alone.stdout).toMatch(/losetup -r -f --show .*disk\.img/);
    expect(readFileSync(twin.image).equals(readFileSync(twin.disk))).toBe(true);
    // The primary goes on with it as before.
    await twin.startMirror();
    await twin.startPrimary();
    await twin.primary.untilInStep();
  });

  it('works on a copy of a mirror that was killed, while that goes on, and says that it is a copy', async () => {
    const twin = await Twin.inStep();
    const client = await twin.connect();
    await client.write(0, Buffer.alloc(64 * 1024, 'copy'));
    await client.flush();
    await twin.primary.untilInStep();
    await client.close();
    await twin.mirror.crash();
    const copy = copyOf(twin);
    await twin.startMirror();
    const report = { consistent: true, size: 16 * MIB, file: 'copy', dryRun: true, mirror: null };
    const dry = await runNbdtwin(['recover', copy, '--json', '--dry-run'], beside(twin));
    expect([dry.status, dry.stderr, { mirror: null, ...JSON.parse(dry.stdout) }]).toMatchObject([0, '', report]);
    const { status, stdout } = await runNbdtwin(['recover', copy], beside(twin));
    expect(status).toBe(0);
    expect(stdout).toMatch(/^This image can be used: .*\nBut this is another file than the one .*: a copy\?\n/);
    expect(readFileSync(copy).equals(readFileSync(twin.disk))).toBe(true);
    const again = await runNbdtwin(['recover', copy, '--json'], beside(twin));
    expect(JSON.parse(again.stdout)).toMatchObject({ consistent: true, file: 'same' });
  });

  it.each([
    ['with its time', false, undefined],
    ['without its time', true, 'everything'],
  ] as const)('makes of a backup %s an image that a mirror serves on', async (_, retimed, scope) => {
    const twin = await Twin.inStep();
    const client = await twin.connect();
    await client.write(0, Buffer.alloc(64 * 1024, 'backup'));
    await client.close();
    await twin.primary.untilInStep();
    await twin.primary.stop();
    await twin.mirror.stop();
    const copy = copyOf(twin);
    if (retimed) utimesSync(copy, 1_000_000, 1_000_000);
    for (const name of ['disk.img', 'disk.img.twin']) {
      // Not removed: file systems give the number of an inode to the next file.
      renameSync(join(twin.images, name), join(twin.folder, name === 'disk.img' ? 'lost' : 'lost.twin'));
      execFileSync('cp', ['-a', '--sparse=always', join(twin.folder, 'copy', name), twin.images]);
    }
    const report = await recovered(twin);
    expect(report).toMatchObject({ consistent: true, exact: !retimed, file: retimed ? 'copy-retimed' : 'copy' });
    await twin.startMirror();
    await twin.startPrimary();
    await twin.primary.untilInStep();
    expect((await twin.primary.link()).lastRescan?.scope).toBe(scope);
    expect(readFileSync(twin.image).equals(readFileSync(twin.disk))).toBe(true);
  });

  it('says of an image that was changed behind our back that it must not be used', async () => {
    const twin = await Twin.inStep();
    await twin.primary.stop();
    await twin.mirror.stop();
    truncateSync(twin.image, 32 * MIB);
    for (const flags of [['--dry-run'], []]) {
      const { status, stdout, stderr } = await runNbdtwin(['recover', twin.image, ...flags], beside(twin));
      expect(status).toBe(65);
      expect(stdout).toMatch(/^This image must not be used: the image was changed while no mirror was running\.\n/);
      expect(stderr).toMatch(/image-inconsistent: .*\n {2}Do not use this image/);
    }
  });

  it('refuses what is no image of a mirror, and leaves it alone', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'disk.img');
    for (const image of [path, folder]) {
      const { status, stderr } = await runNbdtwin(['recover', image]);
      expect(status).toBe(66);
      expect(stderr).toMatch(/image-unknown: .* is no image of an nbdtwin mirror/);
    }
    writeFileSync(path, 'data');
    expect(await runNbdtwin(['recover', path])).toMatchObject({ status: 66 });
    expect(readFileSync(path, 'utf8')).toBe('data');
  });
});
