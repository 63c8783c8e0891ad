import { mkdir, mkdtemp, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { errnoOf, Failure } from '../base/failure.ts';
import { systemReasonOf } from '../base/system-reason.ts';

/** A folder under the system's temporary one, for its owner alone. */
export class TemporaryFolder {
  readonly path: string;

  private constructor(folder: string) {
    this.path = folder;
  }

  /** Failures: `directory-missing`, `directory-read-only`. */
  static async make(prefix: string): Promise<TemporaryFolder> {
    try {
      return new TemporaryFolder(await mkdtemp(path.join(tmpdir(), prefix)));
    } catch (error) {
      const missing = errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR';
      const what = `the temporary folder ${tmpdir()} ($TMPDIR)`;
      throw new Failure(missing ? 'directory-missing' : 'directory-read-only', systemReasonOf(what, error), {
        cause: error,
      });
    }
  }

  /** Absolute path of something inside. */
  join(...names: string[]): string {
    return path.join(this.path, ...names);
  }

  /** Makes a folder inside, and those above it; its absolute path. */
  async makeFolder(name: string): Promise<string> {
    const folder = this.join(name);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    return folder;
  }

  /** Writes a file inside, readable by its owner alone. Not durable. Its absolute path. */
  async writeFile(name: string, data: Uint8Array | string): Promise<string> {
    const file = this.join(name);
    await writeFile(file, data, { mode: 0o600 });
    return file;
  }

  /** Bytes that a file inside occupies on the disk: less than its size when it is sparse. */
  async occupiedSize(name: string): Promise<number> {
    return (await stat(this.join(name))).blocks * BLOCK_SIZE;
  }

  /** Bytes that are free on the file system of the folder. */
  async freeSize(): Promise<number> {
    const { bavail, bsize } = await statfs(this.path);
    return bavail * bsize;
  }

  /** Removes the folder with all that is inside. */
  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

/** Of st_blocks, whatever the file system. */
const BLOCK_SIZE = 512;
