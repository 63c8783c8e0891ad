/**
 * The dirty map, `STATE_DIR/dirty`: on disk, for each mirror, every region that may differ from its image, and more.
 *
 * A region is set durably before the write that makes it differ can reach the disk, and is cleared when the mirror and
 * the disk hold all of it durably. Regions that stay set cost a bit test per write; the others a write of their page and
 * an fdatasync, which all who wait share, whatever page and mirror they wait for. What is asked for meanwhile forms the
 * next group. There is never more than one group under way, so what is set after a clear is also written after it.
 *
 * Invariants:
 * - A region for which `isSet` is true, or for which a `set` has resolved with no `clear` since, is set in whatever a
 *   power cut now would leave.
 * - A page on the medium in which a region is clear says a position at least as high as the one given to that `clear`.
 * - Each group has a version of its own, higher than all before; `version` is the last one that is durable.
 *
 * - A region becomes `isSet` in the step in which `changed` is told the version: what relies on the mark comes after.
 *
 * When a group fails, those who wait for a mark must not write: first `invalidate` is asked to make durable, elsewhere,
 * that the map is not to be believed. If it can, writes go on without the map for as long as this process lives; if not,
 * they fail. That the map became invalid is a version of its own, and mirrors are told: an older state of this disk, put
 * back, has a map that lacks whatever is written from then on. What a failed clear meant to clear is neither set nor
 * clear: it is not `isSet`, so that the next write there sets it again.
 */
import { assert } from '../base/assert.ts';
import { ID_SIZE, NO_ID } from '../base/bytes.ts';
import { Failure, isFailure } from '../base/failure.ts';
import type { FileSystem } from '../io/disk.ts';
import { NO_POINTS, type Points } from '../io/points.ts';
import { type Batch, type DirtyFile, type DirtyFound, openDirtyFile } from './dirty-file.ts';
import { DirtyGroup } from './dirty-group.ts';
import { PLANES_MAX } from './dirty-header.ts';
import type { ClearedPosition } from './dirty-page.ts';
import type { DirtyPlane } from './dirty-plane.ts';
import { regionSizeFor } from './marks.ts';

export type { ClearedPosition };

export function dirtyMapPath(stateDirectory: string): string {
  return `${stateDirectory}/dirty`;
}

export interface DirtyMapOptions {
  /** Bytes of the disk. */
  readonly size: number;
  /** False: nothing that is there is to be believed; everything counts as set. */
  readonly trusted: boolean;
  /**
   * Makes durable, elsewhere, that the map is not to be believed, and up to which version mirrors may have been told;
   * asked again when that goes up. Rejects with a Failure when it cannot.
   */
  invalidate(versionTold: number): Promise<void>;
  /** What `invalidate` was asked with by an earlier process, 0 when it never was. */
  readonly versionTold?: number;
  /** That is the version now: told in the step in which marks of it begin to count, or the map ceases to. */
  changed?(version: number): void;
  /** Bytes of a region; for tests and the simulator. */
  readonly regionSize?: number;
  /** Mirrors; 1 unless given. */
  readonly planeCount?: number;
  readonly points?: Points;
}

export class DirtyMap {
  readonly size: number;
  readonly regionSize: number;
  readonly regionCount: number;
  readonly found: DirtyFound;
  /** The highest version found at the open, 0 without any: what the last process left. */
  readonly versionFound: number;
  /**
   * The highest version that a mirror may have been told, as far as was known at the open. A mirror that remembers a
   * higher one has seen marks that this disk has lost: it was put back to an older state, whatever was marked since.
   */
  readonly versionTold: number;
  readonly #file: DirtyFile;
  readonly #planes: readonly DirtyPlane[];
  readonly #invalidate: (versionTold: number) => Promise<void>;
  readonly #changed: (version: number) => void;
  readonly #points: Points;
  #valid = true;
  /** What `invalidate` was asked with last; -1: it never was. */
  #toldElsewhere = -1;
  /** Given to a group, whether it became durable or not. */
  #lastVersion: number;
  #version: number;
  #next: DirtyGroup | undefined;
  #current: { readonly group: DirtyGroup; readonly batch: Batch } | undefined;
  #writing: Promise<void> | undefined;
  #closed = false;

  private constructor(
    file: DirtyFile,
    found: DirtyFound,
    versionFound: number,
    versionTold: number,
    regionSize: number,
    options: DirtyMapOptions,
  ) {
    this.#file = file;
    this.#planes = file.planes;
    this.found = found;
    this.versionFound = versionFound;
    this.versionTold = versionTold;
    this.#lastVersion = versionFound + 1;
    this.#version = versionFound + 1;
    this.size = options.size;
    this.regionSize = regionSize;
    this.regionCount = Math.ceil(options.size / regionSize);
    this.#invalidate = (told) => options.invalidate(told);
    this.#changed = (version) => options.changed?.(version);
    this.#points = options.points ?? NO_POINTS;
  }

  /** Opens the map, or makes it. On return everything that is set is durably so. Failures: `state-unwritable`. */
  static async open(files: FileSystem, path: string, options: DirtyMapOptions): Promise<DirtyMap> {
    const regionSize = options.regionSize ?? regionSizeFor(options.size);
    const planeCount = options.planeCount ?? 1;
    assert(planeCount >= 1 && planeCount <= PLANES_MAX, 'number of mirrors');
    const shape = { size: options.size, regionSize, planeCount };
    const { file, found, versionFound, versionTold } = await openDirtyFile(
      files,
      path,
      shape,
      options.trusted,
      options.versionTold ?? 0,
    );
    return new DirtyMap(file, found, versionFound, versionTold, regionSize, options);
  }

  /** False: a mark could not be made durable, and writes go on without the map. It stays so for this process. */
  get valid(): boolean {
    return this.#valid;
  }

  /** The last version that is durable, or that the map became invalid in. Only ever goes up, over all processes. */
  get version(): number {
    return this.#version;
  }

  /** Set regions of a mirror, those whose mark is being written included. */
  count(plane: number): number {
    return this.#plane(plane).count;
  }

  /**
   * A mirror is told of every version from now on: that it may know them is durable with each of them, and of the
   * present one on return. Failure: `io-error`.
   */
  async beginTelling(): Promise<void> {
    this.#file.tell(true);
    await this.#nextGroup().set.wait();
  }

  /** No mirror is told any more. */
  endTelling(): void {
    this.#file.tell(false);
  }

  /** What is written from now on has a higher version than that. */
  raiseVersion(version: number): void {
    this.#lastVersion = Math.max(this.#lastVersion, version);
  }

  /** The first set region at or after `from`, those whose mark is being written included; -1 when there is none. */
  nextSet(plane: number, from: number): number {
    return this.#plane(plane).nextMarked(from);
  }

  /** True when the region is durably set and no clear of it is under way. */
  isSet(plane: number, region: number): boolean {
    return this.#plane(plane).isDurable(region);
  }

  /** True when `set` would have nothing to do. A bit test per region and mirror. */
  covers(offset: number, length: number): boolean {
    if (!this.#valid) return true;
    const last = Math.floor((offset + length - 1) / this.regionSize);
    for (let region = Math.floor(offset / this.regionSize); region <= last; region += 1) {
      for (const plane of this.#planes) {
        if (!plane.isDurable(region)) return false;
      }
    }
    return true;
  }

  /**
   * Sets every region of the range for all mirrors. Undefined when they are durably set already, or the map is invalid;
   * otherwise resolves when that is so. Failure: `io-error` when neither the marks nor that they are missing could be
   * made durable. A later call tries again.
   */
  set(offset: number, length: number): void | Promise<void> {
    assert(offset >= 0 && length > 0 && offset + length <= this.size, 'range to set inside the disk');
    const pending = this.#request(offset, length);
    if (pending !== undefined) return this.#untilCovered(pending, offset, length);
  }

  /** Sets every region of one mirror; durable on return, or the map is invalid. Failure: `io-error`. */
  async setAll(plane: number): Promise<void> {
    const marks = this.#plane(plane);
    marks.markAll();
    this.#file.touchPlane(marks);
    await this.#nextGroup().set.wait();
  }

  /**
   * Clears regions of a mirror that are `isSet`. It must hold all of them durably at `position`, and so must the disk.
   * They are not `isSet` from this call on. Durable on return. Failures: those of the disk.
   */
  async clear(plane: number, regions: readonly number[], position: ClearedPosition): Promise<void> {
    if (!this.#valid || regions.length === 0) return;
    const marks = this.#plane(plane);
    marks.raiseCleared(position);
    for (const region of regions) {
      assert(marks.isDurable(region), 'only a region that is durably set is cleared');
      marks.unmark(region);
      this.#file.touch(marks, region);
    }
    await this.#nextGroup().clear.wait();
  }

  /** Of which mirror the plane tells; zero: of none yet, and everything is set. */
  replicaId(plane: number): Buffer {
    return this.#plane(plane).replicaId;
  }

  /**
   * The plane tells of another mirror from now on, of which nothing is known: everything is set, and nothing counts as
   * cleared. Durable on return, or the map is invalid. Failure: `io-error`; the plane then tells of no mirror.
   */
  async assignReplica(plane: number, id: Buffer): Promise<void> {
    assert(id.length === ID_SIZE && !id.equals(NO_ID), 'a replica id');
    const marks = this.#plane(plane);
    marks.replicaId = NO_ID;
    marks.giveTo(id);
    this.#file.touchPlane(marks);
    await this.#nextGroup().set.wait();
    marks.replicaId = Buffer.from(id);
    this.#file.touchHeader();
    try {
      await this.#nextGroup().set.wait();
    } catch (error) {
      marks.replicaId = NO_ID;
      throw error;
    }
  }

  /**
   * The highest position at which a region that is clear now was cleared; undefined: none ever was. The marks tell every
   * difference to an image of that mirror only if it stands there or higher: in that run or one that follows it, with
   * neither sequence nor checkpoint lower.
   */
  cleared(plane: number): ClearedPosition | undefined {
    return this.#plane(plane).cleared;
  }

  /** Waits for what is being written. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writing;
    await this.#file.close();
  }

  async #untilCovered(pending: Promise<void>, offset: number, length: number): Promise<void> {
    await pending;
    // A region of the range that was set at first may have been cleared meanwhile.
    for (;;) {
      const more = this.#request(offset, length);
      if (more === undefined) return;
      await more;
    }
  }

  /** Marks what is not durably set; undefined when all is. Otherwise resolves when the marks are durable. */
  #request(offset: number, length: number): Promise<void> | undefined {
    if (this.covers(offset, length)) return undefined;
    let group = this.#current?.group;
    const last = Math.floor((offset + length - 1) / this.regionSize);
    for (const plane of this.#planes) {
      for (let region = Math.floor(offset / this.regionSize); region <= last; region += 1) {
        if (plane.isDurable(region) || this.#isBeingSet(plane, region)) continue;
        plane.mark(region);
        this.#file.touch(plane, region);
        group = this.#nextGroup();
      }
    }
    return group!.set.wait();
  }

  /** True when the write under way sets the region, and nothing that follows it clears it again. */
  #isBeingSet(plane: DirtyPlane, region: number): boolean {
    return (
      this.#current !== undefined && plane.isMarked(region) && this.#file.isSetBy(this.#current.batch, plane, region)
    );
  }

  #nextGroup(): DirtyGroup {
    assert(!this.#closed, 'the dirty map is open');
    this.#next ??= new DirtyGroup();
    this.#writing ??= this.#writeGroups();
    return this.#next;
  }

  async #writeGroups(): Promise<void> {
    // What is asked for in the same turn shares the first group.
    await Promise.resolve();
    while (this.#next !== undefined) {
      const group = this.#next;
      this.#next = undefined;
      if (this.#valid) await this.#write(group);
      else {
        group.clear.done();
        await this.#goOnWithout(group, undefined);
      }
    }
    this.#writing = undefined;
  }

  async #write(group: DirtyGroup): Promise<void> {
    this.#lastVersion += 1;
    const batch = this.#file.begin(this.#lastVersion);
    this.#current = { group, batch };
    let failure: Failure | undefined;
    try {
      await this.#file.write(batch);
    } catch (error) {
      if (!isFailure(error)) throw error;
      failure = error;
    } finally {
      this.#current = undefined;
    }
    if (failure !== undefined) {
      group.clear.failed(failure);
      await this.#goOnWithout(group, failure);
      return;
    }
    if (group.set.isAwaited) this.#points.reached('primary-marks-written');
    if (group.clear.isAwaited) this.#points.reached('primary-marks-cleared');
    // In one step: nobody relies on a mark before the mirrors are told. A clear may bring marks that had failed.
    this.#version = batch.version;
    if (this.#file.written(batch) || group.set.isAwaited) this.#changed(this.#version);
    group.set.done();
    group.clear.done();
  }

  /**
   * What the group would set counts as set, since the map is not believed: durably so, elsewhere. Its version is one that
   * mirrors can have been told by nothing before.
   */
  async #goOnWithout(group: DirtyGroup, cause: Failure | undefined): Promise<void> {
    if (!group.set.isAwaited) return;
    if (this.#valid || this.#lastVersion > this.#version) this.#lastVersion += 1;
    const version = this.#lastVersion;
    const told = this.#file.toldWith(version);
    if (told > this.#toldElsewhere) {
      try {
        await this.#invalidate(told);
      } catch (error) {
        if (!isFailure(error)) throw error;
        const message = `the dirty map cannot be written: ${(cause ?? error).message}`;
        group.set.failed(new Failure('io-error', message, { cause: cause ?? error }));
        return;
      }
      this.#toldElsewhere = told;
    }
    // In one step, as above.
    this.#valid = false;
    this.#version = version;
    this.#changed(version);
    group.set.done();
  }

  #plane(plane: number): DirtyPlane {
    const found = this.#planes[plane];
    assert(found !== undefined, 'number of a plane');
    return found;
  }
}
