import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { Chance } from '../support/chance.ts';
import { needPrograms } from '../support/peers.ts';
import { PoweredFolder } from '../support/powered-folder.ts';
import { runProgram } from '../support/run-program.ts';
import type { Survival } from '../support/volatile-disk.ts';

/** What dd wrote, as far as it is there. */
async function lengthOf(path: string): Promise<number> {
  const bytes = await readFile(path).catch(() => Buffer.alloc(0));
  return bytes.filter((byte) => byte !== 0).length;
}

function dd(path: string, ...more: string[]): Promise<string> {
  return runProgram('sh', [
    '-c',
    `tr '\\0' x </dev/zero | dd of=${path} bs=64k count=16 iflag=fullblock ${more.join(' ')}`,
  ]);
}

needPrograms(
  'a folder that loses power',
  'nbdfuse',
  'fusermount3',
  'losetup',
  'mount',
  'umount',
  'mkfs.ext4',
  'e2fsck',
  'fuse-device',
  'loop-device',
)(() => {
  it.each(['none', 'some'] as const)(
    'keeps what was synced, and not what was not (of that, the disk keeps %s)',
    async (survival: Survival) => {
      const folder = await PoweredFolder.make(64 * MIB, new Chance(1));
      const [synced, grown, lost] = ['synced', 'grown', 'lost'].map((name) => join(folder.path, name));
      await dd(synced!, 'conv=fsync');
      await dd(grown!, 'conv=fsync');
      await dd(grown!, 'conv=notrunc', 'seek=16');
      await dd(lost!);
      expect(await lengthOf(lost!)).toBe(MIB);
      folder.losePower(survival);
      await folder.powerUp();
      expect(await lengthOf(synced!)).toBe(MIB);
      expect(await lengthOf(grown!)).toBe(MIB);
      expect(await lengthOf(lost!)).toBe(0);
      await folder.check();
    },
  );

  it('keeps everything that was written to it before, once the whole of it was synced', async () => {
    const folder = await PoweredFolder.make(64 * MIB, new Chance(2));
    const path = join(folder.path, 'file');
    await dd(path);
    await runProgram('sync', ['-f', folder.path]);
    folder.losePower('none');
    await folder.powerUp();
    expect(await lengthOf(path)).toBe(MIB);
  });

  it('loses what the file system has written back but the disk has not been told to keep', async () => {
    const folder = await PoweredFolder.make(64 * MIB, new Chance(3));
    const path = join(folder.path, 'file');
    await dd(path, 'conv=fsync');
    // Past the page cache: it is on the disk, and in its cache, at once.
    const over = `head -c 1048576 /dev/zero | dd of=${path} bs=64k conv=notrunc oflag=direct iflag=fullblock`;
    await runProgram('sh', ['-c', over]);
    expect(folder.disk.unsyncedCount).toBeGreaterThan(0);
    expect(await lengthOf(path)).toBe(0);
    expect(folder.losePower('none')).toBeGreaterThan(0);
    await folder.powerUp();
    expect(await lengthOf(path)).toBe(MIB);
  });
});
