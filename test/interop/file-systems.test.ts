import { rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { BlockDevice } from '../support/block-device.ts';
import { checksums, EXT4, expectFiles, type FileSystem, XFS } from '../support/file-system.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram } from '../support/run-program.ts';
import { type Serving, startPair, startPlain } from '../support/serving.ts';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

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
