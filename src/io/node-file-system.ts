/** Files and directories of the operating system. Opening disks is in node-open-disk.ts. */
import fs from 'node:fs/promises';
import nodePath from 'node:path';
import { errnoOf, Failure, type FailureCode } from '../base/failure.ts';
import { systemReasonOf } from '../base/system-reason.ts';
import { type DirectoryLock, type Disk, type FileSystem, inodeText, type OpenOptions } from './disk.ts';
import { tryLock } from './libc.ts';
import type { NodeDisk } from './node-disk.ts';
import { openNodeDisk, openNodeState } from './node-open-disk.ts';

/** State files are the business of their owner alone. */
const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;

class NodeFileSystem implements FileSystem {
  /** The last replacement of each path in flight: two must not share the temporary file. */
  readonly #replacing = new Map<string, Promise<void>>();

  openDisk(path: string, options: OpenOptions): Promise<NodeDisk> {
    return openNodeDisk(path, options);
  }

  openState(path: string): Promise<Disk> {
    return openNodeState(path);
  }

  async readFile(path: string, sizeMax: number): Promise<Buffer | undefined> {
    let file: fs.FileHandle;
    try {
      file = await fs.open(path, 'r');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw failure('disk-unreadable', path, error);
    }
    try {
      const stat = await file.stat();
      if (!stat.isFile()) throw new Failure('disk-not-a-disk', `${path} is not a regular file`);
      if (stat.size > sizeMax) throw new Failure('overflow', `${path} is larger than ${sizeMax} bytes`);
      const data = Buffer.alloc(stat.size);
      let size = 0;
      while (size < data.length) {
        const { bytesRead } = await file.read(data, size, data.length - size, size);
        if (bytesRead === 0) break;
        size += bytesRead;
      }
      return data.subarray(0, size);
    } catch (error) {
      throw error instanceof Failure ? error : failure('io-error', path, error);
    } finally {
      await file.close();
    }
  }

  async replaceFile(path: string, data: Uint8Array): Promise<void> {
    const previous = this.#replacing.get(path);
    const replacement = (async () => {
      await previous?.catch(() => {});
      await this.#replace(path, data);
    })();
    this.#replacing.set(path, replacement);
    try {
      await replacement;
    } finally {
      if (this.#replacing.get(path) === replacement) this.#replacing.delete(path);
    }
  }

  async #replace(path: string, data: Uint8Array): Promise<void> {
    const temporary = `${path}.tmp`;
    try {
      const file = await fs.open(temporary, 'w', FILE_MODE);
      try {
        await file.writeFile(data);
        await file.datasync();
      } finally {
        await file.close();
      }
      await fs.rename(temporary, path);
    } catch (error) {
      throw failure('state-unwritable', path, error);
    }
    await this.syncDirectory(nodePath.dirname(path));
  }

  async makeDirectory(path: string): Promise<void> {
    const target = nodePath.resolve(path);
    let first: string | undefined;
    try {
      first = await fs.mkdir(target, { recursive: true, mode: DIRECTORY_MODE });
    } catch (error) {
      throw failure('state-unwritable', path, error);
    }
    if (first === undefined) return;
    // An entry is durable once its parent is synced: from the innermost new directory to the parent of the first.
    const last = nodePath.dirname(first);
    let directory = target;
    do {
      directory = nodePath.dirname(directory);
      await this.syncDirectory(directory);
    } while (directory !== last);
  }

  async lockDirectory(path: string): Promise<DirectoryLock> {
    let file: fs.FileHandle;
    try {
      file = await fs.open(nodePath.join(path, 'lock'), 'a', FILE_MODE);
    } catch (error) {
      const errno = errnoOf(error);
      const missing = errno === 'ENOENT' || errno === 'ENOTDIR';
      throw failure(missing ? 'directory-missing' : 'directory-read-only', path, error);
    }
    if (!tryLock(file.fd, 'exclusive')) {
      await file.close();
      throw new Failure('directory-busy', `${path} is locked by another process`);
    }
    let released: Promise<void> | undefined;
    return {
      release() {
        released ??= file.close();
        return released;
      },
    };
  }

  async exists(path: string): Promise<'file' | 'directory' | 'other' | undefined> {
    try {
      const stat = await fs.stat(path);
      if (stat.isFile()) return 'file';
      return stat.isDirectory() ? 'directory' : 'other';
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
      throw failure('disk-unreadable', path, error);
    }
  }

  async inodeOf(path: string): Promise<string | undefined> {
    try {
      const stat = await fs.stat(path, { bigint: true });
      return inodeText(stat);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
      throw failure('disk-unreadable', path, error);
    }
  }

  async list(path: string): Promise<string[]> {
    try {
      return (await fs.readdir(path)).sort();
    } catch (error) {
      const errno = errnoOf(error);
      throw failure(errno === 'ENOENT' || errno === 'ENOTDIR' ? 'directory-missing' : 'disk-unreadable', path, error);
    }
  }

  async freeSize(path: string): Promise<number> {
    try {
      const { bavail, bsize } = await fs.statfs(path);
      return bavail * bsize;
    } catch (error) {
      throw failure('disk-unreadable', path, error);
    }
  }

  async remove(path: string): Promise<void> {
    try {
      const stat = await fs.lstat(path);
      if (stat.isDirectory()) await fs.rmdir(path);
      else await fs.unlink(path);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw failure('state-unwritable', path, error);
    }
  }

  async syncDirectory(path: string): Promise<void> {
    try {
      const directory = await fs.open(path, 'r');
      try {
        await directory.sync();
      } finally {
        await directory.close();
      }
    } catch (error) {
      throw failure('state-unwritable', path, error);
    }
  }
}

function failure(code: FailureCode, path: string, error: unknown): Failure {
  return new Failure(code, systemReasonOf(path, error), { cause: error });
}

export const nodeFileSystem: FileSystem = new NodeFileSystem();
