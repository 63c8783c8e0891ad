import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { BlockDevice } from '../support/block-device.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram } from '../support/run-program.ts';
import { type Serving, startPair, startPlain } from '../support/serving.ts';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

interface FileSystem {
  readonly size: number;
  readonly make: readonly [string, ...string[]];
  /** Mount options that leave the journal alone. */
  readonly asIs: readonly string[];
  /** Checks a device or an image without changing it; ends with 0 when nothing at all is wrong. */
  readonly check: readonly [string, ...string[]];
}

const EXT4: FileSystem = {
  size: 96 * MIB,
  make: ['mkfs.ext4', '-q', '-E', 'nodiscard'],
  asIs: ['-o', 'ro,noload'],
  check: ['e2fsck', '-f', '-n'],
};

const XFS: FileSystem = {
  size: 320 * MIB,
  make: ['mkfs.xfs', '-q', '-K'],
  asIs: ['-o', 'ro,norecovery'],
  check: ['xfs_repair', '-n'],
};

/** Path to checksum of every file below a folder. */
function checksums(folder: string): Map<string, string> {
  const sums = new Map<string, string>();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    sums.set(relative(folder, path), createHash('sha256').update(readFileSync(path)).digest('hex'));
  }
  return sums;
}

async function expectFiles(image: string, { asIs, check }: FileSystem, files: Map<string, string>): Promise<void> {
  const device = await BlockDevice.ofImage(image);
  const [program, ...args] = check;
  await runProgram(program, [...args, device.path]);
  const point = await device.mount(asIs);
  expect(checksums(point)).toEqual(files);
  await device.detach();
}

/** Uses a disk as people do, and looks at what is left afterwards without the server in between. */
async function useDisk(serving: Serving, fileSystem: FileSystem): Promise<Map<string, string>> {
  const device = await BlockDevice.attach(serving.uri);
  const [makeProgram, ...makeArgs] = fileSystem.make;
  await runProgram(makeProgram, [...makeArgs, device.path]);

  const first = await device.mount();
  await runProgram('tar', [
    '-C',
    ROOT,
    '-cf',
    join(serving.folder, 'tree.tar'),
    'src',
    'test',
    'docs',
    'packages/nbd-protocol/src',
  ]);
  await runProgram('tar', ['-C', first, '-xf', join(serving.folder, 'tree.tar')]);
  await runProgram('cp', ['-a', join(first, 'src'), join(first, 'again')]);
  await runProgram('dd', ['if=/dev/urandom', `of=${join(first, 'large')}`, 'bs=1M', 'count=24', 'conv=fsync']);
  await device.unmount();

  const second = await device.mount();
  rmSync(join(second, 'large'));
  rmSync(join(second, 'test'), { recursive: true });
  // XFS gives the space of removed files back in the background: it has by the time of the next mount.
  await device.unmount();

  const third = await device.mount();
  const before = statSync(serving.disk).blocks;
  await runProgram('fstrim', [third]);
  expect(before - statSync(serving.disk).blocks).toBeGreaterThan((20 * MIB) / 512);
  const files = checksums(third);
  expect(files.size).toBeGreaterThan(100);
  await device.unmount();

  const [checkProgram, ...checkArgs] = fileSystem.check;
  await runProgram(checkProgram, [...checkArgs, device.path]);
  await device.detach();
  return files;
}

const SERVERS = [
  ['a server without mirror', startPlain],
  ['a pair', startPair],
] as const;

needPrograms(
  'a file system on the kernel’s side',
  'nbdfuse',
  'fusermount3',
  'losetup',
  'mount',
  'umount',
  'fstrim',
  'tar',
  'cmp',
  'mkfs.ext4',
  'e2fsck',
  'mkfs.xfs',
  'xfs_repair',
  'fuse-device',
  'loop-device',
)(() => {
  describe.each(SERVERS)('against %s', (_, start) => {
    it.each([
      ['ext4', EXT4],
      ['XFS', XFS],
    ] as const)('%s is made, used, trimmed and found clean', async (_name, fileSystem) => {
      const serving = await start({ size: fileSystem.size });
      const files = await useDisk(serving, fileSystem);
      await serving.expectSettled();
      await serving.daemon.stop();
      for (const image of serving.images) await expectFiles(image, fileSystem, files);
    });
  });
});
