/** The real file system, whose disks a test can make fail, fill up, or hold. Of the state files only one that is named. */
import { Failure } from '../../src/base/failure.ts';
import type { Disk, DiskIdentity, FileSystem } from '../../src/io/disk.ts';
import { nodeFileSystem } from '../../src/io/node-file-system.ts';

/** What happens to the disks of one FaultyFiles, now. */
export class Faults {
  /** Thrown by every write and zero. */
  write: Failure | undefined;
  /** Thrown by every sync. */
  sync: Failure | undefined;
  #held: Promise<void> | undefined;
  #release: () => void = () => undefined;
  /** Calls that wait for `release`. */
  heldCount = 0;

  /** Writes and syncs wait from now on. */
  hold(): void {
    this.#held ??= new Promise((resolve) => {
      this.#release = resolve;
    });
  }

  release(): void {
    this.#held = undefined;
    this.#release();
  }

  /** Undefined when nothing is held. */
  get held(): Promise<void> | undefined {
    return this.#held;
  }
}

class FaultyDisk implements Disk {
  readonly #disk: Disk;
  readonly #faults: Faults;

  constructor(disk: Disk, faults: Faults) {
    this.#disk = disk;
    this.#faults = faults;
  }

  get path(): string {
    return this.#disk.path;
  }

  get kind(): 'file' | 'block-device' {
    return this.#disk.kind;
  }

  get size(): number {
    return this.#disk.size;
  }

  get descriptor(): number | undefined {
    return this.#disk.descriptor;
  }

  read(target: Buffer, offset: number): void | Promise<void> {
    return this.#disk.read(target, offset);
  }

  write(data: Uint8Array, offset: number): void | Promise<void> {
    return this.#mutate(() => this.#disk.write(data, offset));
  }

  zero(offset: number, length: number, allocate: boolean): void | Promise<void> {
    return this.#mutate(() => this.#disk.zero(offset, length, allocate));
  }

  zeroIsFast(offset: number, length: number, allocate: boolean): boolean {
    return this.#disk.zeroIsFast(offset, length, allocate);
  }

  punch(offset: number, length: number): boolean | Promise<boolean> {
    return this.#disk.punch(offset, length);
  }

  seekData(offset: number): number {
    return this.#disk.seekData(offset);
  }

  seekHole(offset: number): number {
    return this.#disk.seekHole(offset);
  }

  dropCache(): Promise<void> {
    return this.#disk.dropCache();
  }

  readAhead(offset: number, length: number): void {
    this.#disk.readAhead(offset, length);
  }

  async sync(): Promise<void> {
    await this.#wait();
    if (this.#faults.sync !== undefined) throw this.#faults.sync;
    await this.#disk.sync();
  }

  resize(size: number): Promise<void> {
    return this.#disk.resize(size);
  }

  reserve(offset: number, length: number): void | Promise<void> {
    return this.#disk.reserve(offset, length);
  }

  async durableIdentity(): Promise<DiskIdentity> {
    await this.#wait();
    if (this.#faults.sync !== undefined) throw this.#faults.sync;
    return this.#disk.durableIdentity();
  }

  identity(): Promise<DiskIdentity> {
    return this.#disk.identity();
  }

  close(): Promise<void> {
    return this.#disk.close();
  }

  #mutate(call: () => void | Promise<void>): void | Promise<void> {
    if (this.#faults.held !== undefined) return this.#wait().then(() => this.#mutate(call));
    if (this.#faults.write !== undefined) throw this.#faults.write;
    return call();
  }

  async #wait(): Promise<void> {
    while (this.#faults.held !== undefined) {
      this.#faults.heldCount += 1;
      await this.#faults.held;
      this.#faults.heldCount -= 1;
    }
  }
}

/** `stateName`: the state file of that name fails too. */
export function faultyFiles(faults: Faults, stateName?: string): FileSystem {
  return {
    openDisk: async (path, options) => new FaultyDisk(await nodeFileSystem.openDisk(path, options), faults),
    openState: async (path) => {
      const file = await nodeFileSystem.openState(path);
      return path.endsWith(`/${stateName}`) ? new FaultyDisk(file, faults) : file;
    },
    readFile: (path, sizeMax) => nodeFileSystem.readFile(path, sizeMax),
    replaceFile: (path, data) => nodeFileSystem.replaceFile(path, data),
    makeDirectory: (path) => nodeFileSystem.makeDirectory(path),
    lockDirectory: (path) => nodeFileSystem.lockDirectory(path),
    exists: (path) => nodeFileSystem.exists(path),
    inodeOf: (path) => nodeFileSystem.inodeOf(path),
    freeSize: (path) => nodeFileSystem.freeSize(path),
    list: (path) => nodeFileSystem.list(path),
    remove: (path) => nodeFileSystem.remove(path),
    syncDirectory: (path) => nodeFileSystem.syncDirectory(path),
  };
}

/** What a disk with bad sectors says. */
export function badDisk(): Failure {
  return new Failure('io-error', 'EIO: made by the test');
}
