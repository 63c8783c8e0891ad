import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { until } from './daemon.ts';
import { programPath } from './peers.ts';
import { runProgram, tryProgram } from './run-program.ts';
import { temporaryFolder } from './temporary-folder.ts';

/**
 * An NBD export as a block device of the kernel, by nbdfuse and a loop device: for machines without the nbd module.
 * Everything that is attached or mounted is undone at the end of the test, whatever happened; images should be small,
 * writing back through FUSE can hang a machine that runs out of memory.
 */
export class BlockDevice {
  /** Such as /dev/loop0. */
  readonly path: string;
  readonly #folder: string;
  readonly #undo: (() => Promise<unknown>)[];

  private constructor(path: string, folder: string, undo: (() => Promise<unknown>)[]) {
    this.path = path;
    this.#folder = folder;
    this.#undo = undo;
  }

  static async attach(uri: string): Promise<BlockDevice> {
    const folder = temporaryFolder();
    const fuse = join(folder, 'fuse');
    mkdirSync(fuse);
    const undo: (() => Promise<unknown>)[] = [];
    onTestFinished(() => undoAll(undo));
    const child = spawn(programPath('nbdfuse')!, [fuse, uri], { stdio: 'ignore' });
    const ended = new Promise((resolve) => child.once('close', resolve));
    undo.push(async () => {
      const unmounted = await tryProgram('fusermount3', ['-u', fuse]);
      if (unmounted.status !== 0) child.kill('SIGKILL');
      await ended;
    });
    await until(() => existsSync(join(fuse, 'nbd')), 'nbdfuse shows the disk');
    return BlockDevice.#loop(join(fuse, 'nbd'), [], folder, undo);
  }

  /** An image as a device that nobody can write to, not even a journal's replay. */
  static async ofImage(image: string): Promise<BlockDevice> {
    const undo: (() => Promise<unknown>)[] = [];
    onTestFinished(() => undoAll(undo));
    return BlockDevice.#loop(image, ['--read-only'], temporaryFolder(), undo);
  }

  /** An image as a device, to be changed: a copy, of which nobody else knows. */
  static async ofCopy(image: string): Promise<BlockDevice> {
    const undo: (() => Promise<unknown>)[] = [];
    onTestFinished(() => undoAll(undo));
    return BlockDevice.#loop(image, [], temporaryFolder(), undo);
  }

  static async #loop(
    file: string,
    options: readonly string[],
    folder: string,
    undo: (() => Promise<unknown>)[],
  ): Promise<BlockDevice> {
    const path = (await runProgram('losetup', ['--find', '--show', ...options, file])).trim();
    undo.push(() => runProgram('losetup', ['--detach', path]));
    return new BlockDevice(path, folder, undo);
  }

  /** Mounts it; the path of the mount point, which is one of its own unless given. */
  async mount(options: readonly string[] = [], point = join(this.#folder, 'mounted')): Promise<string> {
    mkdirSync(point, { recursive: true });
    await runProgram('mount', [...options, this.path, point]);
    this.#undo.push(() => runProgram('umount', [point]));
    return point;
  }

  /** Undoes the last `mount`. */
  async unmount(): Promise<void> {
    await this.#undo.pop()!();
  }

  /** Unmounts, detaches, lets the server go. */
  async detach(): Promise<void> {
    await undoAll(this.#undo);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

async function undoAll(undo: (() => Promise<unknown>)[]): Promise<void> {
  for (let step = undo.pop(); step !== undefined; step = undo.pop()) await step();
}
