/**
 * The door to disks and files. `Disk` is one open regular file or block device; `FileSystem` opens them and keeps the
 * directory operations whose order decides what survives a crash. There is one Node implementation (node-disk.ts,
 * node-file-system.ts); the simulator brings its own, with torn and lost writes.
 *
 * A call that can finish at once returns a value, otherwise a promise: `await` only what is a promise on hot paths.
 * All offsets and lengths are bytes, whole numbers from 0 to 2^53-1. Errors are Failures: `no-space`, `io-error`,
 * `not-permitted`, `not-supported`, `invalid-request`.
 */

/** Device and inode of a file, for DiskIdentity and FileSystem.inodeOf. */
export function inodeText(stat: { readonly dev: bigint; readonly ino: bigint }): string {
  return `${stat.dev}:${stat.ino}`;
}

export interface DiskIdentity {
  /** Device and inode of the file, or of the device node. */
  readonly inode: string;
  readonly size: number;
  /** Last modification, nanoseconds since 1970; 0 for a block device, which has no such time. */
  readonly modifiedNs: bigint;
}

export interface Disk {
  readonly path: string;
  readonly kind: 'file' | 'block-device';
  /** Bytes. Changes only by `resize`. */
  readonly size: number;
  /** File descriptor for the scan pool's threads; undefined where there is none (simulator). */
  readonly descriptor: number | undefined;

  /** Fills `target` from `offset`; bytes past the end read as zeroes. */
  read(target: Buffer, offset: number): void | Promise<void>;
  /**
   * Writes all of `data` at `offset`. The buffer belongs to the disk until the call has finished and is not modified.
   * On return the data is in the page cache: durable only after `sync`.
   */
  write(data: Uint8Array, offset: number): void | Promise<void>;
  /**
   * Makes the range read as zeroes, at any alignment. `allocate` true: space stays or becomes allocated; false: a hole
   * is made where the store can. Falls back to writing zeroes. Durable only after `sync`.
   */
  zero(offset: number, length: number, allocate: boolean): void | Promise<void>;
  /** True when `zero(…, allocate)` needs no data written for a range of this alignment: the fast path of FAST_ZERO. */
  zeroIsFast(offset: number, length: number, allocate: boolean): boolean;
  /**
   * Gives space back. Returns true when the *whole* range now reads as zeroes, false when nothing at all was changed
   * (the store cannot punch, or the range is unaligned for it).
   */
  punch(offset: number, length: number): boolean | Promise<boolean>;
  /** Start of the next data at or after `offset`, or `size` when only a hole follows. Where unknown: `offset`. */
  seekData(offset: number): number;
  /** Start of the next hole at or after `offset`, or `size`. Where unknown: `size`. */
  seekHole(offset: number): number;
  /** Asks the kernel to read ahead; never fails. */
  readAhead(offset: number, length: number): void;
  /**
   * Asks the kernel to forget what it has cached and need not write, so that the next read shows what the medium holds.
   * After a failed sync the cache may hold pages that never reached it. Dirty pages stay: `sync` first.
   */
  dropCache(): Promise<void>;
  /**
   * fdatasync, never on the event loop. One is in flight per disk; callers that arrive meanwhile share the next one.
   * When it resolves, everything written before the call is durable. After a failure the caller must assume that
   * writes were lost, and a later success proves nothing about them.
   */
  sync(): Promise<void>;
  /** Grows (or shrinks) a regular file; new space is a hole. Durable after `sync`. */
  resize(size: number): Promise<void>;
  /** Reserves space for the range so that a write to it cannot fail with `no-space`, content unchanged. */
  reserve(offset: number, length: number): void | Promise<void>;
  identity(): Promise<DiskIdentity>;
  /**
   * fsync, then the identity: what it says holds after a power loss too, if nothing is written meanwhile. `sync` alone
   * leaves the time of modification where it may go back. Fails like `sync`.
   */
  durableIdentity(): Promise<DiskIdentity>;
  /** Waits for calls in flight, releases the lock. Idempotent. */
  close(): Promise<void>;
}

export interface OpenOptions {
  readonly readOnly?: boolean;
  /** `exclusive`: refuse when another process holds it (flock; O_EXCL for block devices). Shared for readers. */
  readonly lock?: 'exclusive' | 'shared' | 'none';
  /** Create the file, which must not exist, with this size in bytes and no data. */
  readonly createSize?: number;
}

export interface FileSystem {
  /** Failures: `disk-missing`, `disk-unreadable`, `disk-not-a-disk`, `disk-empty` (size 0), `disk-busy`, `disk-exists`, `disk-read-only`. */
  openDisk(path: string, options: OpenOptions): Promise<Disk>;
  /** Like openDisk for state files: size 0 is allowed and the file is created when missing (no lock). */
  openState(path: string): Promise<Disk>;
  /** The whole file, or undefined when it does not exist. */
  readFile(path: string, sizeMax: number): Promise<Buffer | undefined>;
  /** Replaces a file atomically: write to temp, fdatasync, rename, fsync of the directory. Durable on return. */
  replaceFile(path: string, data: Uint8Array): Promise<void>;
  /** Makes a directory and its parents; durable on return. `state-unwritable` on failure. */
  makeDirectory(path: string): Promise<void>;
  /** Locks a directory for this process (flock on a file `lock` inside). `directory-busy` when taken. */
  lockDirectory(path: string): Promise<DirectoryLock>;
  exists(path: string): Promise<'file' | 'directory' | 'other' | undefined>;
  /** Which file stands at the path now, as in DiskIdentity; undefined when there is none. */
  inodeOf(path: string): Promise<string | undefined>;
  list(path: string): Promise<string[]>;
  /** Bytes that this process may still write to the file system that holds the path. An estimate: others write too. */
  freeSize(path: string): Promise<number>;
  remove(path: string): Promise<void>;
  /** fsync of a directory: makes creations, renames and removals in it durable. */
  syncDirectory(path: string): Promise<void>;
}

export interface DirectoryLock {
  release(): Promise<void>;
}
