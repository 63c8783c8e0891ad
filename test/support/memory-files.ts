import { Failure } from '../../src/base/failure.ts';
import type { DirectoryLock, Disk, DiskIdentity, FileSystem, OpenOptions } from '../../src/io/disk.ts';
import { MemoryDisk } from './memory-disk.ts';

/** A file that stays when who opened it has closed it, with a time of modification. */
class MemoryFile {
  readonly disk: MemoryDisk;
  readonly inode: string;
  #modifiedNs = 1n;
  #durableModifiedNs = 1n;
  locked = false;
  openCount = 0;

  constructor(size: number, inode: string, disk = new MemoryDisk(size)) {
    this.disk = disk;
    this.inode = inode;
  }

  get modifiedNs(): bigint {
    return this.#modifiedNs;
  }

  /** Set by a test to pretend that somebody wrote behind our back, durably. */
  set modifiedNs(modifiedNs: bigint) {
    this.#modifiedNs = modifiedNs;
    this.#durableModifiedNs = modifiedNs;
  }

  get durableModifiedNs(): bigint {
    return this.#durableModifiedNs;
  }

  /** It is written to. No sync of data alone makes that time durable. */
  touch(): void {
    this.#modifiedNs += 1n;
  }

  async syncAll(): Promise<void> {
    const modifiedNs = this.#modifiedNs;
    await this.disk.sync();
    this.#durableModifiedNs = modifiedNs;
  }
}

/** One opening of a file. */
class OpenedFile implements Disk {
  readonly path: string;
  readonly kind = 'file';
  readonly descriptor = undefined;
  readonly #file: MemoryFile;
  readonly #holdsLock: boolean;
  #closed = false;

  constructor(path: string, file: MemoryFile, holdsLock: boolean) {
    this.path = path;
    this.#file = file;
    this.#holdsLock = holdsLock;
    file.openCount += 1;
  }

  get size(): number {
    return this.#file.disk.size;
  }
  read(target: Buffer, offset: number): void | Promise<void> {
    return this.#file.disk.read(target, offset);
  }
  write(data: Uint8Array, offset: number): void | Promise<void> {
    this.#file.touch();
    return this.#file.disk.write(data, offset);
  }
  zero(offset: number, length: number, allocate: boolean): void | Promise<void> {
    this.#file.touch();
    return this.#file.disk.zero(offset, length, allocate);
  }
  zeroIsFast(offset: number, length: number, allocate: boolean): boolean {
    return this.#file.disk.zeroIsFast(offset, length, allocate);
  }
  punch(offset: number, length: number): boolean | Promise<boolean> {
    this.#file.touch();
    return this.#file.disk.punch(offset, length);
  }
  seekData(offset: number): number {
    return this.#file.disk.seekData(offset);
  }
  seekHole(offset: number): number {
    return this.#file.disk.seekHole(offset);
  }
  readAhead(): void {}

  dropCache(): Promise<void> {
    return this.#file.disk.dropCache();
  }
  sync(): Promise<void> {
    return this.#file.disk.sync();
  }
  resize(size: number): Promise<void> {
    this.#file.touch();
    return this.#file.disk.resize(size);
  }
  reserve(offset: number, length: number): Promise<void> {
    return this.#file.disk.reserve(offset, length);
  }
  async identity(): Promise<DiskIdentity> {
    return { inode: this.#file.inode, size: this.size, modifiedNs: this.#file.modifiedNs };
  }
  async durableIdentity(): Promise<DiskIdentity> {
    await this.#file.syncAll();
    return this.identity();
  }
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#file.openCount -= 1;
    if (this.#holdsLock) this.#file.locked = false;
  }
}

/** Files and folders in memory. Folders exist when something is in them, or when they were made. */
export class MemoryFiles implements FileSystem {
  readonly #files = new Map<string, MemoryFile>();
  readonly #directories = new Set<string>();
  readonly #locks = new Set<string>();
  #inodes = 0;
  /** What `freeSize` answers, in bytes. */
  free = Number.MAX_SAFE_INTEGER;
  /** Called before each operation on a path; throw to fail it. */
  hook: ((operation: string, path: string) => void) | undefined;

  /** The file behind a path, for a test to look at and to spoil. */
  file(path: string): MemoryFile {
    const file = this.#files.get(path);
    if (file === undefined) throw new Error(`no file ${path}`);
    return file;
  }

  /** Openings of all files that have not been closed. */
  get openCount(): number {
    return [...this.#files.values()].reduce((sum, file) => sum + file.openCount, 0);
  }

  /** Makes a file without ceremony; one that was there has new content and is otherwise the same. */
  put(path: string, data: Buffer): void {
    const before = this.#files.get(path);
    const file = this.#make(path, data.length, before?.inode);
    file.modifiedNs = before?.modifiedNs ?? file.modifiedNs;
    void file.disk.write(data, 0);
  }

  /**
   * The power goes and comes back: every file is as it is durably, nothing is open or locked. Names are durable at once;
   * losing those is the simulator's business.
   */
  losePower(): void {
    this.hook = undefined;
    for (const [path, file] of this.#files) {
      const durable = new MemoryFile(file.disk.size, file.inode);
      durable.modifiedNs = file.durableModifiedNs;
      void durable.disk.write(file.disk.durableContent(), 0);
      void durable.disk.sync();
      this.#files.set(path, durable);
    }
    this.#locks.clear();
  }

  /** The process dies and another may start: nothing is open or locked, everything written is there. */
  killProcess(): void {
    this.hook = undefined;
    for (const [path, file] of this.#files) {
      file.disk.hook = undefined;
      const same = new MemoryFile(0, file.inode, file.disk);
      same.modifiedNs = file.modifiedNs;
      this.#files.set(path, same);
    }
    this.#locks.clear();
  }

  async openDisk(path: string, options: OpenOptions): Promise<Disk> {
    this.hook?.('openDisk', path);
    if (options.createSize !== undefined) {
      if (this.#files.has(path)) throw new Failure('disk-exists', path);
      this.#make(path, options.createSize);
    }
    const file = this.#files.get(path);
    if (file === undefined) throw new Failure('disk-missing', path);
    if (file.disk.size === 0) throw new Failure('disk-empty', path);
    const exclusive = options.lock === 'exclusive';
    if (exclusive && file.locked) throw new Failure('disk-busy', path);
    if (exclusive) file.locked = true;
    return new OpenedFile(path, file, exclusive);
  }

  async openState(path: string): Promise<Disk> {
    this.hook?.('openState', path);
    return new OpenedFile(path, this.#files.get(path) ?? this.#make(path, 0), false);
  }

  async readFile(path: string, sizeMax: number): Promise<Buffer | undefined> {
    this.hook?.('readFile', path);
    return this.#files.get(path)?.disk.content().subarray(0, sizeMax);
  }

  async replaceFile(path: string, data: Uint8Array): Promise<void> {
    this.hook?.('replaceFile', path);
    const file = this.#make(path, data.length);
    await file.disk.write(data, 0);
    await file.disk.sync();
  }

  async makeDirectory(path: string): Promise<void> {
    this.hook?.('makeDirectory', path);
    this.#directories.add(path);
  }

  async lockDirectory(path: string): Promise<DirectoryLock> {
    if (this.#locks.has(path)) throw new Failure('directory-busy', path);
    this.#locks.add(path);
    return {
      release: async () => {
        this.#locks.delete(path);
      },
    };
  }

  async exists(path: string): Promise<'file' | 'directory' | 'other' | undefined> {
    if (this.#files.has(path)) return 'file';
    const inside = (other: string): boolean => other === path || other.startsWith(`${path}/`);
    return [...this.#directories, ...this.#files.keys()].some(inside) ? 'directory' : undefined;
  }

  async inodeOf(path: string): Promise<string | undefined> {
    return this.#files.get(path)?.inode;
  }

  async list(path: string): Promise<string[]> {
    this.hook?.('list', path);
    const names = new Set<string>();
    for (const other of [...this.#directories, ...this.#files.keys()]) {
      if (other.startsWith(`${path}/`)) names.add(other.slice(path.length + 1).split('/')[0]!);
    }
    return [...names].sort();
  }

  async freeSize(): Promise<number> {
    return this.free;
  }

  async remove(path: string): Promise<void> {
    this.hook?.('remove', path);
    this.#files.delete(path);
    this.#directories.delete(path);
  }

  async syncDirectory(path: string): Promise<void> {
    this.hook?.('syncDirectory', path);
  }

  #make(path: string, size: number, inode?: string): MemoryFile {
    this.#inodes += 1;
    const file = new MemoryFile(size, inode ?? `memory:${this.#inodes}`);
    this.#files.set(path, file);
    return file;
  }
}
