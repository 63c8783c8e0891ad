/**
 * Files on a medium of the simulator, of which every call is counted, so that a test can let the power go, or let a call
 * fail, at each of them in turn. Nothing here takes time: for tests of one class, where the simulator would be too much.
 */
import { dirname } from 'node:path';
import { Failure, type FailureCode } from '../../src/base/failure.ts';
import type { DirectoryLock, Disk, DiskIdentity, FileSystem, OpenOptions } from '../../src/io/disk.ts';
import { PAGE_SIZE } from '../sim/content.ts';
import { Medium } from '../sim/medium.ts';
import { SeededRandom } from '../sim/random.ts';
import type { Fate, StoredFile } from '../sim/stored-file.ts';

/** The power is gone: what a call says that was under way, and every later one until it is back. */
export class PowerCut extends Error {
  override name = 'PowerCut';
}

export interface CountedCall {
  readonly name: string;
  readonly path: string;
}

export class CutFiles implements FileSystem {
  readonly medium: Medium;
  readonly random: SeededRandom;
  /** Calls so far that change something, or make it durable. */
  readonly calls: CountedCall[] = [];
  /** The call during which the power goes: what it does may have happened, or some of it, or nothing. */
  cutAt = Number.POSITIVE_INFINITY;
  /** The call that fails, and how. */
  failAt: { readonly index: number; readonly code: FailureCode } | undefined;
  /** Calls finish in a later turn of the event loop. */
  slow = false;
  #hasPower = true;

  constructor(seed: number) {
    this.random = new SeededRandom(seed);
    this.medium = new Medium('cut', this.random.fork());
    this.medium.put('/', 'directory');
    this.medium.syncDirectory('/');
  }

  get wasCut(): boolean {
    return !this.#hasPower;
  }

  /** The power goes (unless it has), and comes back. What was open is so no more. */
  powerCycle(fate: Fate): void {
    this.restart();
    this.medium.powerLost(fate);
  }

  /** It was no cut of the power, but the process that was killed: what its calls have done is there for the next one. */
  restart(): void {
    this.#hasPower = true;
    this.cutAt = Number.POSITIVE_INFINITY;
    this.failAt = undefined;
  }

  async openState(path: string): Promise<Disk> {
    this.#checkPower();
    let file = this.medium.file(path);
    if (file === undefined) {
      file = this.medium.newFile(0, 0n);
      const made = file;
      await this.count('create', path, () => this.medium.put(path, made));
    }
    return new CutDisk(path, file, this);
  }

  async readFile(path: string, sizeMax: number): Promise<Buffer | undefined> {
    this.#checkPower();
    const file = this.medium.file(path);
    if (file === undefined) return undefined;
    if (file.cache.size > sizeMax) throw new Failure('overflow', path);
    return file.cache.slice(0, file.cache.size);
  }

  async replaceFile(path: string, data: Uint8Array): Promise<void> {
    const file = this.medium.newFile(0, 0n);
    const temporary = `${path}.tmp`;
    try {
      await this.count('create', temporary, () => this.medium.put(temporary, file));
      await this.count('write', temporary, () => {
        file.change({ kind: 'size', size: data.length }, 0n);
        file.change({ kind: 'write', offset: 0, data: Buffer.from(data) }, 0n);
      });
      await this.sync(temporary, file);
      await this.count('rename', path, () => {
        this.medium.put(path, file);
        this.medium.put(temporary, undefined);
      });
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      throw new Failure('state-unwritable', path, { cause: error });
    }
    await this.syncDirectory(dirname(path));
  }

  async makeDirectory(path: string): Promise<void> {
    if (this.medium.get(path) !== undefined) return;
    await this.count('makeDirectory', path, () => this.medium.put(path, 'directory'));
    await this.syncDirectory(dirname(path));
  }

  async exists(path: string): Promise<'file' | 'directory' | 'other' | undefined> {
    this.#checkPower();
    const entry = this.medium.get(path);
    return entry === undefined || entry === 'directory' ? entry : 'file';
  }

  async list(path: string): Promise<string[]> {
    this.#checkPower();
    return this.medium.list(path);
  }

  async remove(path: string): Promise<void> {
    if (this.medium.get(path) === undefined) return;
    await this.count('remove', path, () => this.medium.put(path, undefined));
  }

  async syncDirectory(path: string): Promise<void> {
    await this.count('syncDirectory', path, undefined, () => this.medium.syncDirectory(path));
  }

  async freeSize(): Promise<number> {
    return this.medium.freeSize;
  }

  async inodeOf(path: string): Promise<string | undefined> {
    return this.medium.file(path)?.inode;
  }

  openDisk(_path: string, _options: OpenOptions): Promise<Disk> {
    throw new Error('not needed here');
  }

  lockDirectory(_path: string): Promise<DirectoryLock> {
    throw new Error('not needed here');
  }

  async sync(path: string, file: StoredFile): Promise<void> {
    const { changeCount } = file;
    try {
      await this.count('sync', path, undefined, () => file.synced(changeCount));
    } catch (error) {
      if (error instanceof Failure) file.syncFailed(changeCount, this.random);
      throw error;
    }
  }

  /**
   * One call. `effect` happens in the cache: even when the power goes in it, and when it fails perhaps. `durable` happens
   * only in a call that succeeds.
   */
  count(name: string, path: string, effect?: () => void, durable?: () => void): void | Promise<void> {
    this.#checkPower();
    const index = this.calls.length;
    this.calls.push({ name, path });
    if (index === this.cutAt) {
      effect?.();
      this.#hasPower = false;
      throw new PowerCut(`${name} ${path}`);
    }
    if (index === this.failAt?.index) {
      const { code } = this.failAt;
      if (this.random.chance(0.5)) effect?.();
      if (!this.slow) throw new Failure(code, `${name} ${path}: made by the test`);
      return nextTurn().then(() => Promise.reject(new Failure(code, `${name} ${path}: made by the test`)));
    }
    effect?.();
    if (!this.slow) return durable?.();
    return nextTurn().then(() => {
      this.#checkPower();
      durable?.();
    });
  }

  #checkPower(): void {
    if (!this.#hasPower) throw new PowerCut('the power is gone');
  }
}

class CutDisk implements Disk {
  readonly path: string;
  readonly kind = 'file';
  readonly descriptor = undefined;
  readonly #file: StoredFile;
  readonly #files: CutFiles;

  constructor(path: string, file: StoredFile, files: CutFiles) {
    this.path = path;
    this.#file = file;
    this.#files = files;
  }

  get size(): number {
    return this.#file.cache.size;
  }

  read(target: Buffer, offset: number): void {
    this.#file.cache.read(target, offset);
  }

  write(data: Uint8Array, offset: number): void | Promise<void> {
    this.#checkRange(offset, data.length);
    return this.#files.count('write', this.path, () =>
      this.#file.change({ kind: 'write', offset, data: Buffer.from(data) }, 0n),
    );
  }

  zero(offset: number, length: number): void | Promise<void> {
    this.#checkRange(offset, length);
    return this.#files.count('zero', this.path, () => this.#file.change({ kind: 'zero', offset, length }, 0n));
  }

  zeroIsFast(): boolean {
    return true;
  }

  punch(offset: number, length: number): boolean | Promise<boolean> {
    this.#checkRange(offset, length);
    const pending = this.#files.count('punch', this.path, () => this.#file.punch(offset, length, 0n));
    return pending === undefined ? true : pending.then(() => true);
  }

  seekData(offset: number): number {
    const { cache } = this.#file;
    for (let index = Math.floor(offset / PAGE_SIZE); index < cache.length; index += 1) {
      if (cache.page(index) !== undefined) return Math.max(offset, index * PAGE_SIZE);
    }
    return this.size;
  }

  seekHole(): number {
    throw new Error('not needed here');
  }

  readAhead(): void {}

  async dropCache(): Promise<void> {
    this.#file.dropCache();
  }

  async sync(): Promise<void> {
    await this.#files.sync(this.path, this.#file);
  }

  async resize(size: number): Promise<void> {
    await this.#files.count('resize', this.path, () => this.#file.change({ kind: 'size', size }, 0n));
  }

  async reserve(): Promise<void> {}

  async identity(): Promise<DiskIdentity> {
    return { inode: this.#file.inode, size: this.size, modifiedNs: 0n };
  }

  async durableIdentity(): Promise<DiskIdentity> {
    await this.sync();
    return this.identity();
  }

  async close(): Promise<void> {}

  #checkRange(offset: number, length: number): void {
    if (offset < 0 || offset + length > this.size) throw new Failure('invalid-request', `${length} at ${offset}`);
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
