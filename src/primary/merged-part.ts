/**
 * A merged part of the backlog: what the operations in (base, end] have left, the newest content of each byte, in a
 * sparse file at the same offsets as on the disk. Rewriting a block costs it nothing, so that a mirror behind a slow link
 * gets the hot blocks once instead of many times; the mirror takes it as one staged run.
 *
 * A mirror at any position in [base, end] is at `end` once it has the whole part: what it holds already is the same or
 * older than what the part says.
 *
 * Two states: *growing* (operations are folded in, in order, one at a time) and *frozen* (nothing changes any more).
 * Survives a crash: nothing, and no clean stop either.
 */
import { assert } from '../base/assert.ts';
import type { Disk, FileSystem } from '../io/disk.ts';
import { Overlay, type OverlayRange } from '../store/overlay.ts';

/** How far a frozen part has got on its way to a mirror, as a staged run of its own. */
export interface MergedTransfer {
  readonly stagingId: Buffer;
  /** A checkpoint that the mirror holds durably, and the offset below which everything is there. 0: none yet. */
  readonly checkpoint: number;
  readonly offset: number;
}

export class MergedPart {
  #base: number;
  /** When its first operation was appended, in ms of the clock's `nowMs`; undefined while there is none. */
  sinceMs: number | undefined;
  /** Undefined before a mirror was sent any of it, or where that goes with a rescan. */
  transfer: MergedTransfer | undefined;
  readonly #files: FileSystem;
  readonly #file: Disk;
  readonly #overlay: Overlay;
  #end: number;
  #frozen = false;

  private constructor(files: FileSystem, file: Disk, sizeMax: number, base: number) {
    this.#files = files;
    this.#file = file;
    this.#overlay = new Overlay(file, sizeMax);
    this.#base = base;
    this.#end = base;
  }

  /**
   * Begins an empty part after `base`, in a new file. Sizes in bytes: of the disk, and of the data at most.
   * Failures: `state-unwritable`, `no-space`, `io-error`, what a file system says that has no room for such a file.
   */
  static async begin(
    files: FileSystem,
    path: string,
    diskSize: number,
    sizeMax: number,
    base: number,
  ): Promise<MergedPart> {
    const file = await files.openState(path);
    try {
      await file.resize(0);
      await file.resize(diskSize);
      return new MergedPart(files, file, sizeMax, base);
    } catch (error) {
      await file.close();
      await files.remove(path);
      throw error;
    }
  }

  /** Sequence of the operation before it. */
  get base(): number {
    return this.#base;
  }

  /** Sequence of the last operation in it. */
  get end(): number {
    return this.#end;
  }

  /** Bytes of data. */
  get size(): number {
    return this.#overlay.dataSize;
  }

  /** Bytes that it is about, those made zero included. */
  get coveredSize(): number {
    return this.#overlay.coveredSize;
  }

  get isEmpty(): boolean {
    return this.#end === this.#base && this.#overlay.rangeCount === 0;
  }

  get isFrozen(): boolean {
    return this.#frozen;
  }

  /**
   * Folds an operation in. The data belongs to the part until the call has finished. Failures: `staging-full`,
   * `no-space`, `io-error`: the part is of no use then.
   */
  write(offset: number, data: Uint8Array): void | Promise<void> {
    assert(!this.#frozen, 'a frozen part does not change');
    return this.#overlay.write(offset, data);
  }

  zero(offset: number, length: number): void | Promise<void> {
    assert(!this.#frozen, 'a frozen part does not change');
    return this.#overlay.zero(offset, length);
  }

  /** A session begins before the place where this empty part does: it will have more to hold. */
  beginAfter(sequence: number): void {
    assert(this.isEmpty && !this.#frozen && sequence <= this.#base, 'only an empty part is moved back');
    this.#base = sequence;
    this.#end = sequence;
  }

  /** Everything up to `sequence` has been folded in. */
  reached(sequence: number, atMs: number): void {
    assert(!this.#frozen && sequence >= this.#end, 'a part grows in order');
    this.#end = sequence;
    this.sinceMs ??= atMs;
  }

  freeze(): void {
    assert(!this.isEmpty, 'an empty part is not frozen');
    this.#frozen = true;
    // Nobody restores it: gives back the memory of what has changed.
    this.#overlay.takeChanges();
  }

  /** The first range that ends after `offset`, cut to start at or after it. */
  next(offset: number): OverlayRange | undefined {
    return this.#overlay.next(offset);
  }

  /** Fills `target` with bytes of a range of data. Failure: `io-error`. */
  read(target: Buffer, offset: number): void | Promise<void> {
    return this.#file.read(target, offset);
  }

  /** Waits for calls in flight, closes and removes the file. Failures: `state-unwritable`. */
  async remove(): Promise<void> {
    await this.#file.close();
    await this.#files.remove(this.#file.path);
  }
}
