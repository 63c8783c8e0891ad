/** `nbdtwin recover`, beside a running mirror and without one. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
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
    expect(alone.stdout).toMatch(/exactly the primary’s disk at that position/);
    expect(alone.stdout).toMatch(/operation 1 of run [0-9a-f]{32}/);
    expect(alone.stdout).toMatch(/losetup -r -f --show .*disk\.img/);
    expect(readFileSync(twin.image).equals(readFileSync(twin.disk))).toBe(true);
    // The primary goes on with it as before.
    await twin.startMirror();
    await twin.startPrimary();
    await twin.primary.untilInStep();
  });

  it('says of an image that was changed behind our back that it must not be used', async () => {
    const twin = await Twin.inStep();
    await twin.primary.stop();
    await twin.mirror.stop();
    truncateSync(twin.image, 8 * MIB);
    for (const flags of [['--dry-run'], []]) {
      const { status, stdout, stderr } = await runNbdtwin(['recover', twin.image, ...flags], beside(twin));
      expect(status).toBe(65);
      expect(stdout).toMatch(/not consistent: the image was changed while no mirror was running/);
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
