import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { runNbdtwin } from '../support/daemon.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram } from '../support/run-program.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { Twin } from '../support/twin.ts';

needPrograms(
  'a block device',
  'losetup',
  'loop-device',
)(() => {
  it('is replicated when --state-dir says where its state is to be', async () => {
    const folder = temporaryFolder();
    const state = join(folder, 'state');
    const file = join(folder, 'device');
    writeFileSync(file, '');
    truncateSync(file, 16 * MIB);
    const device = (await runProgram('losetup', ['-f', '--show', file])).trim();
    onTestFinished(async () => void (await runProgram('losetup', ['-d', device])));
    const twin = new Twin({ disk: device, serve: ['--export', 'device', '--state-dir', state] });

    const serve = ['serve', twin.disk, '--export', 'device', '--listen', '127.0.0.1:0'];
    const link = ['--mirror', '127.0.0.1:1', '--secret-file', twin.secret];
    const refused = await runNbdtwin([...serve, ...link]);
    expect(refused.stderr).toMatch(/^nbdtwin: config-invalid: .* is a block device: .*--state-dir/);
    expect(refused.status).toBe(78);

    await twin.startMirror();
    const primary = await twin.startPrimary();
    await primary.untilInStep();
    const client = await twin.connect();
    expect(client.size).toBe(16 * MIB);
    await client.write(MIB, Buffer.alloc(MIB, 'on a device'));
    await client.flush();
    await primary.untilInStep();
    await client.close();
    await primary.stop();
    const image = readFileSync(join(twin.images, 'device.img'));
    expect(image.subarray(MIB, 2 * MIB).equals(Buffer.alloc(MIB, 'on a device'))).toBe(true);
    expect(readdirSync(state)).not.toEqual([]);
  });
});
