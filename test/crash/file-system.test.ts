/** A file system in use, by the kernel's own means, while things break. */
import { rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { BlockDevice } from '../support/block-device.ts';
import { checksums, EXT4, expectFiles, type FileSystem, XFS } from '../support/file-system.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram } from '../support/run-program.ts';
import { Rig } from './rig.ts';

const MODULES = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'node_modules');
/** Some 30 MB of sources, small files and large ones. */
const TREE = ['@types', 'fast-check', 'knip', 'oxlint', 'typescript', 'vite', 'vitest', 'zod'];
const SIZE = 320 * MIB;

/** An empty file system on the disk, attached and mounted. */
async function mounted(rig: Rig, fileSystem: FileSystem): Promise<{ device: BlockDevice; point: string }> {
  const device = await BlockDevice.attach(rig.uri);
  const [program, ...args] = fileSystem.make;
  await runProgram(program, [...args, device.path]);
  return { device, point: await device.mount() };
}

/** Unpacks the tree into a folder. */
async function unpack(folder: string): Promise<void> {
  await runProgram('mkdir', ['-p', folder]);
  await runProgram('sh', ['-c', `tar -C ${MODULES} -ch ${TREE.join(' ')} | tar -C ${folder} -x`]);
}

/** Unpacks the tree again and again, and writes it back, until it is stopped or the disk fails. */
class Churn {
  readonly #point: string;
  readonly #running: Promise<void>;
  #stopped = false;

  constructor(point: string) {
    this.#point = point;
    this.#running = this.#run();
    // Looked at in `stop`; until then a failure must not count as unhandled.
    this.#running.catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    for (let turn = 0; !this.#stopped; turn = (turn + 1) % 2) {
      const folder = join(this.#point, `churn${turn}`);
      rmSync(folder, { recursive: true, force: true });
      await unpack(folder);
      await runProgram('sync', ['-f', this.#point]);
    }
  }
}

needPrograms(
  'a file system in use',
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
  describe.each([
    ['ext4', EXT4],
    ['XFS', XFS],
  ] as const)('%s', (_, fileSystem) => {
    it('arrives whole on a mirror that is killed, over a link that is cut', async () => {
      const rig = await Rig.inStep({ size: SIZE, serve: ['--window', '1G'] });
      const { sessions, lastRescan } = await rig.link();
      const { device, point } = await mounted(rig, fileSystem);
      const churn = new Churn(point);
      await rig.untilMoreThan(50);
      await rig.mirror.crash();
      await rig.untilMoreThan(50);
      await rig.startMirror();
      await rig.untilLink('the link is back', (link) => link.sessions > sessions);
      rig.proxy.drop();
      await rig.untilLink('the link is back once more', (link) => link.sessions > sessions + 1);
      await churn.stop();
      rmSync(join(point, 'churn0', TREE[1]!), { recursive: true });
      await runProgram('fstrim', [point]);
      const files = checksums(point);
      expect(files.size).toBeGreaterThan(1000);
      await device.unmount();
      await device.detach();

      await rig.expectIdentical();
      expect((await rig.link()).lastRescan).toEqual(lastRescan);
      await rig.primary.stop();
      for (const image of [rig.twin.disk, rig.twin.image]) await expectFiles(image, fileSystem, files);
    });

    it('is left by a primary that dies as a machine that dies would leave it, on the mirror too', async () => {
      const rig = await Rig.inStep({ size: SIZE });
      const { device, point } = await mounted(rig, fileSystem);
      await unpack(join(point, 'synced'));
      await runProgram('sync', ['-f', point]);
      const files = checksums(join(point, 'synced'));
      const { sequence } = (await rig.primary.serveStatus()).replication!;
      await rig.untilLink('the mirror has what was synced', (link) => link.durable >= sequence);
      const churn = new Churn(point);
      await rig.untilMoreThan(50);
      await rig.primary.crash();
      await expect(churn.stop()).rejects.toThrow(/ended with|EIO|EROFS/);
      await device.detach();
      await rig.mirror.stop();

      const copy = join(rig.twin.folder, 'copy.img');
      for (const image of [rig.twin.image, rig.twin.disk]) {
        await runProgram('cp', ['--sparse=always', image, copy]);
        const replayed = await BlockDevice.ofCopy(copy);
        const again = await replayed.mount();
        expect(checksums(join(again, 'synced'))).toEqual(files);
        await replayed.unmount();
        const [program, ...args] = fileSystem.check;
        await runProgram(program, [...args, replayed.path]);
        await replayed.detach();
      }

      await rig.startMirror();
      await rig.startPrimary();
      await rig.expectIdentical();
      expect((await rig.link()).lastRescan?.scope).toBe('marked');
    });
  });
});
