/** The periodic verification with processes of their own: a bit flips in the mirror's image under its feet. */
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import type { VerificationStatus } from '../../src/primary/status.ts';
import { runNbdtwin, runtimeDirectory, until } from '../support/daemon.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram } from '../support/run-program.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { Twin } from '../support/twin.ts';

const NAME = 'a file of ours.txt';

/** Flips one bit of a file behind the back of whoever keeps it. */
function flipBit(path: string, offset: number): void {
  const file = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(file, byte, 0, 1, offset);
  writeSync(file, Buffer.from([byte[0]! ^ 0x20]), 0, 1, offset);
  closeSync(file);
}

function expectIdentical(twin: Twin): void {
  expect(readFileSync(twin.image).equals(readFileSync(twin.disk))).toBe(true);
}

async function verification(twin: Twin): Promise<VerificationStatus> {
  return (await twin.primary.link()).verification!;
}

/** A cycle that began after this call is complete. */
async function nextCycle(twin: Twin): Promise<NonNullable<VerificationStatus['last']>> {
  const done = (): number =>
    twin.primary.logLines.filter(({ msg }) => String(msg).includes('periodic verification is complete')).length;
  const before = done();
  await until(() => done() >= before + 2, 'two more cycles are complete');
  return (await verification(twin)).last!;
}

describe('periodic verification', () => {
  it('finds a flipped bit, tells where, and leaves it; with --repair a later start repairs it', async () => {
    const twin = await Twin.inStep({ serve: ['--verify-every', '1s', '--verify-rate', '1G'] });
    const client = await twin.connect();
    await client.write(5 * MIB, Buffer.alloc(64 * 1024, 'content'));
    await client.flush();
    await client.close();
    await twin.primary.untilInStep();
    expect(await nextCycle(twin)).toMatchObject({ comparedSize: 16 * MIB, differingSize: 0 });
    flipBit(twin.image, 5 * MIB + 4096 + 77);
    const range = { offset: 5 * MIB + 4096, length: 4096 };
    expect(await nextCycle(twin)).toMatchObject({ differingSize: 4096, repairedSize: 0, ranges: [range] });
    const told = twin.primary.logLines.find(({ msg }) => String(msg).includes('differs from the disk'));
    expect(told).toMatchObject({ level: 'error', ...range });
    const env = { NBDTWIN_RUNTIME_DIR: runtimeDirectory(twin.folder) };
    const { stdout } = await runNbdtwin(['status'], { env });
    expect(stdout).toMatch(/^ {4}verified +\S.* ago, 4 KiB differ: look which side is right; a restart/m);
    expect(stdout).toContain(`${range.offset} ${range.length}`);
    await twin.primary.stop();
    const again = new Twin({
      disk: twin.disk,
      images: twin.images,
      serve: ['--verify-every', '1s', '--verify-rate', '1G', '--repair'],
    });
    again.mirror = twin.mirror;
    await again.startPrimary();
    await until(async () => ((await verification(again)).last?.repairedSize ?? 0) > 0, 'it is repaired');
    expectIdentical(again);
    expect(await nextCycle(again)).toMatchObject({ differingSize: 0, ranges: [] });
  });
});

needPrograms(
  'a disk with ext4',
  'mkfs.ext4',
  'debugfs',
)(() => {
  it('tells the file to which a flipped bit belongs, by itself and on request', async () => {
    const folder = temporaryFolder();
    const disk = join(folder, 'disk.img');
    mkdirSync(join(folder, 'content/some folder'), { recursive: true });
    writeFileSync(join(folder, 'content/some folder', NAME), Buffer.alloc(200_000, 'what is in it '));
    writeFileSync(disk, '');
    truncateSync(disk, 32 * MIB);
    await runProgram('mkfs.ext4', ['-q', '-F', '-b', '4096', '-d', join(folder, 'content'), disk]);
    const twin = await Twin.inStep({ disk, serve: ['--verify-every', '1s', '--verify-rate', '1G'] });
    const offset = readFileSync(disk).indexOf('what is in it ');
    expect(offset % 4096).toBe(0);
    flipBit(twin.image, offset + 4096 + 5);
    const owner = `/some folder/${NAME}`;
    await until(async () => (await verification(twin)).last?.ranges[0]?.owner !== undefined, 'the file is known');
    expect((await verification(twin)).last!.ranges).toEqual([{ offset: offset + 4096, length: 4096, owner }]);
    const told = twin.primary.logLines.find(({ msg }) => String(msg).includes('belongs to'));
    expect(told).toMatchObject({ offset: offset + 4096, owner });
    const env = { NBDTWIN_RUNTIME_DIR: runtimeDirectory(twin.folder) };
    const asked = await runNbdtwin(['verify', disk], { env });
    expect(asked).toMatchObject({ status: 1, stdout: `${offset + 4096} 4096 ${owner}\n` });
  });
});

needPrograms(
  'a disk with XFS',
  'mkfs.xfs',
  'xfs_db',
)(() => {
  it('tells the file to which a flipped bit belongs', async () => {
    const folder = temporaryFolder();
    const disk = join(folder, 'disk.img');
    const text = join(folder, 'text');
    writeFileSync(text, Buffer.alloc(200_000, 'what is in it '));
    writeFileSync(
      join(folder, 'proto'),
      `/dev/null\n0 0\nd--755 0 0\nfolder d--755 0 0\nours ---644 0 0 ${text}\n$\n$\n`,
    );
    writeFileSync(disk, '');
    truncateSync(disk, 320 * MIB);
    await runProgram('mkfs.xfs', ['-q', '-p', join(folder, 'proto'), disk]);
    const twin = await Twin.inStep({ disk });
    const offset = readFileSync(disk).indexOf('what is in it ');
    flipBit(twin.image, offset + 4096 + 5);
    const env = { NBDTWIN_RUNTIME_DIR: runtimeDirectory(twin.folder) };
    const asked = await runNbdtwin(['verify', disk], { env });
    expect(asked).toMatchObject({ status: 1, stdout: `${offset + 4096} 4096 /folder/ours\n` });
  });
});

describe('its options', () => {
  it.each([
    [['--verify-every', '7d'], '--verify-every needs --mirror'],
    [['--mirror', 'localhost', '--repair'], '--verify-rate and --repair need --verify-every'],
    [['--mirror', 'localhost', '--verify-rate', '1M'], '--verify-rate and --repair need --verify-every'],
    [['--mirror', 'localhost', '--verify-every', '10ms'], 'This duration must be from'],
  ])('%j is refused: %s', async (flags, message) => {
    const { status, stderr } = await runNbdtwin(['serve', 'disk.img', ...flags]);
    expect(status).toBe(64);
    expect(stderr).toContain(message);
  });
});
