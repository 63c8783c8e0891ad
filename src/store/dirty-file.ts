/**
 * The file of the dirty map: a header (dirty-header.ts) of HEADER_SIZE bytes, then the pages (dirty-page.ts) of each
 * plane, one plane after the other.
 *
 * It knows which pages differ from what is certainly on the medium, and writes those. When a write or the sync fails,
 * nobody knows which of its pages arrived: all of them are written again with the next batch. (A later sync alone would
 * succeed without them: the kernel reports lost pages once and then calls them clean.)
 *
 * Opening writes again all that it found, and syncs, before it counts as durable: a process that was killed, or whose
 * sync failed, may have left in the kernel's cache what the medium does not hold. Where the file is missing, unreadable,
 * or about another disk, it is made anew with everything set, in one step; its version goes on from what was there.
 *
 * It also says which version a mirror may know: one that knows more has met a later state of this disk. Before a mirror
 * is told anything that must be durable, and of each later version as long as it is told them (`telling`).
 */
import { Bitmap } from '../base/bitmap.ts';
import { NO_ID } from '../base/bytes.ts';
import { Failure, isFailure } from '../base/failure.ts';
import type { Disk, FileSystem } from '../io/disk.ts';
import { decodeHeader, encodeHeader, HEADER_SIZE, headerOffset } from './dirty-header.ts';
import { decodePageHead, isMarkedIn, PAGE_REGIONS, PAGE_SIZE } from './dirty-page.ts';
import { DirtyPlane } from './dirty-plane.ts';

interface DirtyShape {
  /** Bytes of the disk. */
  readonly size: number;
  /** Bytes of a region. */
  readonly regionSize: number;
  readonly planeCount: number;
}

/** `kept`: as it was left; `damaged`: pages that were not whole count as all set; `anew`: everything does. */
export type DirtyFound = 'kept' | 'damaged' | 'anew';

/** Larger files are none of ours: 16 planes of 2^20 regions take 2.4 MiB. */
const FILE_SIZE_MAX = 4 * 2 ** 20;
/** Of the header of a file that is made anew. */
const FIRST_COUNTER = 1;

/** Pages as they were when the batch was begun, by their place among all pages of the file. */
export class Batch {
  readonly version: number;
  readonly versionTold: number;
  readonly withHeader: boolean;
  readonly pages = new Map<number, Buffer>();
  /** Neighbouring pages, to be written at once. */
  readonly runs: { readonly offset: number; readonly bytes: Buffer }[] = [];

  constructor(version: number, versionTold: number, withHeader: boolean) {
    this.version = version;
    this.versionTold = versionTold;
    this.withHeader = withHeader;
  }
}

export class DirtyFile {
  readonly planes: readonly DirtyPlane[];
  readonly #disk: Disk;
  readonly #shape: DirtyShape;
  readonly #pagesPerPlane: number;
  readonly #unwritten: Bitmap;
  #headerUnwritten = false;
  #headerCounter: number;
  #versionTold: number;
  #telling = false;

  constructor(disk: Disk, shape: DirtyShape, planes: readonly DirtyPlane[], headerCounter: number, told: number) {
    this.#disk = disk;
    this.#shape = shape;
    this.planes = planes;
    this.#pagesPerPlane = pagesPerPlane(shape);
    this.#unwritten = new Bitmap(planes.length * this.#pagesPerPlane);
    this.#headerCounter = headerCounter;
    this.#versionTold = told;
  }

  /** From now on a mirror is told each version, the next one first; or it is told none. */
  tell(telling: boolean): void {
    this.#telling = telling;
    this.#headerUnwritten ||= telling;
  }

  /** The page of a region differs from the medium. */
  touch(plane: DirtyPlane, region: number): void {
    this.#unwritten.set(this.#pageOf(plane, region));
  }

  touchPlane(plane: DirtyPlane): void {
    for (let index = 0; index < this.#pagesPerPlane; index += 1) {
      this.#unwritten.set(plane.number * this.#pagesPerPlane + index);
    }
  }

  touchHeader(): void {
    this.#headerUnwritten = true;
  }

  /** What a mirror may have been told once `version` is the present one. */
  toldWith(version: number): number {
    if (this.#telling) this.#versionTold = version;
    return this.#versionTold;
  }

  /** Takes everything that differs from the medium, as it is now. `write` must follow. */
  begin(version: number): Batch {
    const batch = new Batch(version, this.toldWith(version), this.#headerUnwritten);
    this.#headerUnwritten = false;
    const unwritten = this.#unwritten;
    for (let first = unwritten.nextSet(0); first >= 0; first = unwritten.nextSet(first)) {
      let end = first;
      while (end < unwritten.length && unwritten.clear(end)) end += 1;
      const bytes = Buffer.alloc((end - first) * PAGE_SIZE);
      for (let page = first; page < end; page += 1) {
        const target = bytes.subarray((page - first) * PAGE_SIZE, (page - first + 1) * PAGE_SIZE);
        this.#planeOf(page).encode(target, page % this.#pagesPerPlane, version, batch.versionTold);
        batch.pages.set(page, target);
      }
      batch.runs.push({ offset: pageOffset(first), bytes });
    }
    return batch;
  }

  /** True when the batch sets the region. */
  isSetBy(batch: Batch, plane: DirtyPlane, region: number): boolean {
    const page = batch.pages.get(this.#pageOf(plane, region));
    return page !== undefined && isMarkedIn(page, region % PAGE_REGIONS);
  }

  /**
   * One batch at a time. Durable on return, though nothing counts as durably set before `written`. Failures: those of the
   * disk; then its pages belong to the next batch.
   */
  async write(batch: Batch): Promise<void> {
    const counter = this.#headerCounter + 1;
    try {
      if (batch.withHeader) {
        const header = headerOf(this.#shape, this.planes, batch.version, batch.versionTold);
        await this.#disk.write(encodeHeader(header, counter), headerOffset(counter));
      }
      for (const { offset, bytes } of batch.runs) await this.#disk.write(bytes, offset);
      await this.#disk.sync();
    } catch (error) {
      for (const page of batch.pages.keys()) this.#unwritten.set(page);
      this.#headerUnwritten ||= batch.withHeader;
      throw error;
    }
    if (batch.withHeader) this.#headerCounter = counter;
  }

  /** From now on what the batch, which is durable, has set counts. Returns true when some of it did not before. */
  written(batch: Batch): boolean {
    let hasNew = false;
    for (const [page, bytes] of batch.pages) {
      if (this.#planeOf(page).written(bytes, page % this.#pagesPerPlane)) hasNew = true;
    }
    return hasNew;
  }

  close(): Promise<void> {
    return this.#disk.close();
  }

  #planeOf(page: number): DirtyPlane {
    return this.planes[Math.floor(page / this.#pagesPerPlane)]!;
  }

  #pageOf(plane: DirtyPlane, region: number): number {
    return plane.number * this.#pagesPerPlane + Math.floor(region / PAGE_REGIONS);
  }
}

/**
 * Opens the file, or makes it. `trusted` false: nothing that is there is to be believed. `toldElsewhere`: what mirrors
 * may have been told while this file could not be written. On return all that is set is durably so, in the version that
 * follows the highest found and told (0: none was). Failures: `state-unwritable`.
 */
export async function openDirtyFile(
  files: FileSystem,
  path: string,
  shape: DirtyShape,
  trusted: boolean,
  toldElsewhere: number,
): Promise<{ file: DirtyFile; found: DirtyFound; versionFound: number; versionTold: number }> {
  const bytes = (await readWhole(files, path)) ?? Buffer.alloc(0);
  const slot = decodeHeader(bytes);
  const pages = highestVersions(bytes);
  const versionTold = Math.max(slot?.header.versionTold ?? 0, pages.versionTold, toldElsewhere);
  const versionFound = Math.max(slot?.header.version ?? 0, pages.version, versionTold);
  const version = versionFound + 1;
  const fits =
    slot !== undefined &&
    slot.header.size === shape.size &&
    slot.header.regionSize === shape.regionSize &&
    slot.header.replicaIds.length === shape.planeCount &&
    bytes.length === fileSize(shape);
  const keeps = trusted && fits;
  const planes = Array.from({ length: shape.planeCount }, (_, plane) => {
    const replicaId = keeps ? Buffer.from(slot.header.replicaIds[plane]!) : NO_ID;
    return new DirtyPlane(plane, regionCount(shape), replicaId);
  });
  const found = keeps ? restore(planes, bytes, pagesPerPlane(shape)) : 'anew';
  try {
    if (!keeps) {
      for (const plane of planes) plane.markAll();
      await files.replaceFile(path, wholeFile(shape, planes, version, versionTold));
    }
    const file = new DirtyFile(
      await files.openState(path),
      shape,
      planes,
      keeps ? slot.counter : FIRST_COUNTER,
      versionTold,
    );
    file.touchHeader();
    for (const plane of planes) file.touchPlane(plane);
    try {
      const batch = file.begin(version);
      await file.write(batch);
      file.written(batch);
    } catch (error) {
      await file.close();
      throw error;
    }
    return { file, found, versionFound, versionTold };
  } catch (error) {
    if (!isFailure(error)) throw error;
    throw new Failure('state-unwritable', `${path} cannot be written: ${error.message}`, { cause: error });
  }
}

function regionCount(shape: DirtyShape): number {
  return Math.ceil(shape.size / shape.regionSize);
}

function pagesPerPlane(shape: DirtyShape): number {
  return Math.ceil(regionCount(shape) / PAGE_REGIONS);
}

function pageOffset(page: number): number {
  return HEADER_SIZE + page * PAGE_SIZE;
}

function fileSize(shape: DirtyShape): number {
  return pageOffset(shape.planeCount * pagesPerPlane(shape));
}

function headerOf(shape: DirtyShape, planes: readonly DirtyPlane[], version: number, versionTold: number) {
  return {
    size: shape.size,
    regionSize: shape.regionSize,
    version,
    versionTold,
    replicaIds: planes.map(({ replicaId }) => replicaId),
  };
}

/** The content of a file that is made anew. */
function wholeFile(shape: DirtyShape, planes: readonly DirtyPlane[], version: number, versionTold: number): Buffer {
  const bytes = Buffer.alloc(fileSize(shape));
  encodeHeader(headerOf(shape, planes, version, versionTold), FIRST_COUNTER).copy(bytes, headerOffset(FIRST_COUNTER));
  for (const plane of planes) {
    for (let index = 0; index < pagesPerPlane(shape); index += 1) {
      const at = pageOffset(plane.number * pagesPerPlane(shape) + index);
      plane.encode(bytes.subarray(at, at + PAGE_SIZE), index, version, versionTold);
    }
  }
  return bytes;
}

function restore(planes: readonly DirtyPlane[], bytes: Buffer, pageCount: number): DirtyFound {
  let found: DirtyFound = 'kept';
  for (const plane of planes) {
    for (let index = 0; index < pageCount; index += 1) {
      const at = pageOffset(plane.number * pageCount + index);
      if (!plane.restore(bytes.subarray(at, at + PAGE_SIZE), index)) found = 'damaged';
    }
  }
  return found;
}

/** Of every whole page, whatever else it says. */
function highestVersions(bytes: Buffer): { version: number; versionTold: number } {
  const highest = { version: 0, versionTold: 0 };
  for (let at = HEADER_SIZE; at < bytes.length; at += PAGE_SIZE) {
    const head = decodePageHead(bytes.subarray(at, at + PAGE_SIZE));
    highest.version = Math.max(highest.version, head?.version ?? 0);
    highest.versionTold = Math.max(highest.versionTold, head?.versionTold ?? 0);
  }
  return highest;
}

/** Undefined when there is no file that can be read: then everything counts as set. */
async function readWhole(files: FileSystem, path: string): Promise<Buffer | undefined> {
  try {
    return await files.readFile(path, FILE_SIZE_MAX);
  } catch (error) {
    if (isFailure(error)) return undefined;
    throw error;
  }
}
