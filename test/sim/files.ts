/** src/io's FileSystem, for one incarnation, on the medium of its host. */
import { dirname } from 'node:path';
import { Failure } from '../../src/base/failure.ts';
import { GIB } from '../../src/base/units.ts';
import type { DirectoryLock, Disk, FileSystem, OpenOptions } from '../../src/io/disk.ts';
import { SimulatedDisk } from './disk.ts';
import type { DiskPace, Incarnation } from './host.ts';
import type { Call, Medium } from './medium.ts';
import type { Timeline } from './timeline.ts';

export class SimulatedFiles implements FileSystem {
  readonly #medium: Medium;
  readonly #incarnation: Incarnation;
  readonly #timeline: Timeline;
  readonly #pace: DiskPace;
  readonly #locks = new Set<string>();
  /** The last replacement of each path: two do not share the temporary file. */
  readonly #replacing = new Map<string, Promise<void>>();

  constructor(medium: Medium, incarnation: Incarnation, timeline: Timeline, pace: DiskPace) {
    this.#medium = medium;
    this.#incarnation = incarnation;
    this.#timeline = timeline;
    this.#pace = pace;
  }

  async openDisk(path: string, options: OpenOptions): Promise<Disk> {
    await this.#turn('open', path);
    const medium = this.#medium;
    if (options.createSize !== undefined) {
      if (medium.get(path) !== undefined) throw new Failure('disk-exists', path);
      this.#requireParent(path);
      const made = medium.newFile(0, this.#timeline.wallNs);
      medium.put(path, made);
      await this.#turn('resize', path);
      made.change({ kind: 'size', size: options.createSize }, this.#timeline.wallNs);
      await this.#turn('name', path);
      medium.syncDirectory(dirname(path));
    }
    const file = medium.file(path);
    if (file === undefined) throw new Failure('disk-missing', path);
    if (file.cache.size === 0) throw new Failure('disk-empty', path);
    const exclusive = options.lock === 'exclusive';
    if (exclusive && file.locked) throw new Failure('disk-busy', path);
    if (exclusive) file.locked = true;
    return this.#open(path, file, options.readOnly ?? false, exclusive);
  }

  async openState(path: string): Promise<Disk> {
    await this.#turn('open', path);
    let file = this.#medium.file(path);
    if (file === undefined) {
      this.#requireParent(path);
      file = this.#medium.newFile(0, this.#timeline.wallNs);
      this.#medium.put(path, file);
    }
    return this.#open(path, file, false, false);
  }

  async readFile(path: string, sizeMax: number): Promise<Buffer | undefined> {
    const failure = await this.#turn('read', path, 'tell');
    const file = this.#medium.file(path);
    if (file === undefined) return undefined;
    if (failure !== undefined) throw failure;
    if (file.cache.size > sizeMax) throw new Failure('overflow', `${path} is larger than ${sizeMax} bytes`);
    return file.cache.slice(0, file.cache.size);
  }

  async replaceFile(path: string, data: Uint8Array): Promise<void> {
    const previous = this.#replacing.get(path);
    const replacement = (async () => {
      await previous?.catch(() => undefined);
      await this.#replace(path, Buffer.from(data));
    })();
    this.#replacing.set(path, replacement);
    try {
      await replacement;
    } finally {
      if (this.#replacing.get(path) === replacement) this.#replacing.delete(path);
    }
  }

  async makeDirectory(path: string): Promise<void> {
    const missing: string[] = [];
    for (let at = path; this.#medium.get(at) === undefined && at !== '/'; at = dirname(at)) missing.push(at);
    await this.#turn('name', path);
    for (const directory of missing.reverse()) this.#medium.put(directory, 'directory');
    for (const directory of missing) {
      await this.#turn('name', directory);
      this.#medium.syncDirectory(dirname(directory));
    }
  }

  async lockDirectory(path: string): Promise<DirectoryLock> {
    await this.#turn('open', path);
    if (this.#medium.get(path) !== 'directory') throw new Failure('directory-missing', path);
    if (this.#locks.has(path)) throw new Failure('directory-busy', path);
    this.#locks.add(path);
    return {
      release: () => {
        this.#locks.delete(path);
        return Promise.resolve();
      },
    };
  }

  async exists(path: string): Promise<'file' | 'directory' | 'other' | undefined> {
    await this.#turn(undefined, path);
    const entry = this.#medium.get(path);
    if (entry === undefined) return undefined;
    return entry === 'directory' ? 'directory' : 'file';
  }

  async inodeOf(path: string): Promise<string | undefined> {
    await this.#turn(undefined, path);
    return this.#medium.file(path)?.inode;
  }

  async list(path: string): Promise<string[]> {
    await this.#turn('read', path);
    if (this.#medium.get(path) !== 'directory') throw new Failure('directory-missing', path);
    return this.#medium.list(path);
  }

  async freeSize(path: string): Promise<number> {
    await this.#turn(undefined, path);
    return Math.min(this.#medium.freeSize, 1024 * GIB);
  }

  async remove(path: string): Promise<void> {
    await this.#turn('name', path);
    if (this.#medium.get(path) === undefined) return;
    if (this.#medium.list(path).length > 0) throw new Failure('state-unwritable', `${path} is not empty`);
    this.#medium.put(path, undefined);
  }

  async syncDirectory(path: string): Promise<void> {
    await this.#turn('name', path);
    this.#medium.syncDirectory(path);
  }

  #open(path: string, file: NonNullable<ReturnType<Medium['file']>>, readOnly: boolean, exclusive: boolean): Disk {
    return new SimulatedDisk(path, file, this.#medium, this.#incarnation, this.#timeline, this.#pace, {
      readOnly,
      exclusive,
    });
  }

  /** Temporary file, its sync, the rename, the directory's sync: the power can go between any two. */
  async #replace(path: string, data: Buffer): Promise<void> {
    const temporary = `${path}.tmp`;
    const medium = this.#medium;
    try {
      await this.#turn('replace', path);
      const file = medium.newFile(0, this.#timeline.wallNs);
      this.#requireParent(path);
      medium.put(temporary, file);
      if (data.length > medium.freeSize) throw new Failure('no-space', `${path}: no space`);
      file.change({ kind: 'size', size: data.length }, this.#timeline.wallNs);
      file.change({ kind: 'write', offset: 0, data }, this.#timeline.wallNs);
      await this.#turn('sync', path);
      file.synced(file.changeCount);
      await this.#turn(undefined, path);
      medium.put(path, file);
      medium.put(temporary, undefined);
      await this.#turn('name', path);
      medium.syncDirectory(dirname(path));
    } catch (error) {
      throw new Failure('state-unwritable', `${path} cannot be replaced`, { cause: error });
    }
  }

  #requireParent(path: string): void {
    if (this.#medium.get(dirname(path)) !== 'directory')
      throw new Failure('directory-missing', `no folder for ${path}`);
  }

  /** Waits for a moment; a dead incarnation waits for ever. Throws what a fault has in store, or tells it. */
  async #turn(call: Call | undefined, path: string, faults: 'throw' | 'tell' = 'throw'): Promise<Failure | undefined> {
    const incarnation = this.#incarnation;
    await new Promise<void>((resolve) => {
      if (!incarnation.alive) return;
      this.#timeline.after(incarnation.random.exponential(this.#pace.callMs), resolve, incarnation);
    });
    const failure = call === undefined ? undefined : this.#medium.failureOf(call, path);
    if (failure !== undefined && faults === 'throw') throw failure;
    return failure;
  }
}
