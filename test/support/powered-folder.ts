import { join } from 'node:path';
import { BlockDevice } from './block-device.ts';
import type { Chance } from './chance.ts';
import { runProgram } from './run-program.ts';
import { serveVolume } from './serve-volume.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { type Survival, VolatileDisk } from './volatile-disk.ts';

/**
 * A folder of real files that can lose power: ext4 of the kernel on a loop device, over nbdfuse, over a VolatileDisk.
 *
 * The disk is served by this process: nothing here may wait for the folder without leaving the event loop, or nobody
 * could answer. Use other processes, or the promises of node:fs.
 */
export class PoweredFolder {
  /** The same before and after a loss of power. */
  readonly path: string;
  readonly disk: VolatileDisk;
  readonly #uri: string;
  #device: BlockDevice;

  private constructor(path: string, disk: VolatileDisk, uri: string, device: BlockDevice) {
    this.path = path;
    this.disk = disk;
    this.#uri = uri;
    this.#device = device;
  }

  /** An empty one; `size` in bytes is of the disk, kept in memory twice. */
  static async make(size: number, chance: Chance): Promise<PoweredFolder> {
    const folder = temporaryFolder();
    const disk = new VolatileDisk(size, chance);
    const { uri } = await serveVolume(disk, join(folder, 'nbd.sock'));
    const device = await BlockDevice.attach(uri);
    const atOnce = 'nodiscard,lazy_itable_init=0,lazy_journal_init=0';
    await runProgram('mkfs.ext4', ['-q', '-E', atOnce, device.path]);
    const powered = new PoweredFolder(join(folder, 'powered'), disk, uri, device);
    await device.mount([], powered.path);
    return powered;
  }

  /**
   * Has the kernel begin to write back what it caches of a file, as it does by itself some time, without a flush of the
   * disk: only then is there something that the disk can lose or tear.
   */
  async writeBack(path: string): Promise<void> {
    await runProgram('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
  }

  /**
   * The power goes, at once: kill whatever uses the folder in the same turn, before this. How many writes to the disk
   * were lost, or torn.
   */
  losePower(survival: Survival): number {
    return this.disk.losePower(survival);
  }

  /** The power comes back: the journal is replayed. Nobody may use the folder any more. */
  async powerUp(): Promise<void> {
    await this.#device.detach();
    this.disk.powerUp();
    this.#device = await BlockDevice.attach(this.#uri);
    await this.#device.mount([], this.path);
  }

  /** Checks the file system; nobody may use the folder meanwhile. */
  async check(): Promise<void> {
    await this.#device.unmount();
    await runProgram('e2fsck', ['-f', '-n', this.#device.path]);
    await this.#device.mount([], this.path);
  }
}
