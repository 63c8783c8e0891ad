/**
 * The marks of one mirror within the dirty map, in memory.
 *
 * - *marked*: what the next write of a page will hold.
 * - *durable*: what each content that the page may have on the medium has: the last one synced, and all written since.
 *
 * Invariant: durable is part of marked, and part of every page encoded and not yet reported as written. So a page whose
 * write or sync failed, and of which nobody knows which content survives, needs no care: its durable marks are in each.
 */
import { assert } from '../base/assert.ts';
import { Bitmap } from '../base/bitmap.ts';
import { NO_ID } from '../base/bytes.ts';
import { type ClearedPosition, decodePageHead, encodePage, isMarkedIn, PAGE_REGIONS } from './dirty-page.ts';

export class DirtyPlane {
  readonly number: number;
  readonly pageCount: number;
  /** Whose marks the header says these are; zero while that is being changed. */
  replicaId: Buffer;
  /** Whose marks the pages say they are. A page that differs from the header counts as all set. */
  #pageId: Buffer;
  readonly #marked: Bitmap;
  readonly #durable: Bitmap;
  #cleared: ClearedPosition | undefined;
  /** Of the page that `restore` took it from: positions only go up, so the newest page has the highest. */
  #clearedVersion = 0;

  /** Nothing is marked until `restore` or `markAll`. */
  constructor(number: number, regionCount: number, replicaId: Buffer) {
    this.number = number;
    this.pageCount = Math.ceil(regionCount / PAGE_REGIONS);
    this.replicaId = replicaId;
    this.#pageId = replicaId;
    this.#marked = new Bitmap(regionCount);
    this.#durable = new Bitmap(regionCount);
  }

  get count(): number {
    return this.#marked.count;
  }

  get cleared(): ClearedPosition | undefined {
    return this.#cleared;
  }

  isMarked(region: number): boolean {
    return this.#marked.get(region);
  }

  isDurable(region: number): boolean {
    return this.#durable.get(region);
  }

  nextMarked(from: number): number {
    return this.#marked.nextSet(from);
  }

  mark(region: number): void {
    this.#marked.set(region);
  }

  markAll(): void {
    this.#marked.fill();
  }

  /** The pages that hold this will say so much at least. A run other than the one known is a newer one. */
  raiseCleared(position: ClearedPosition): void {
    assert(!position.run.equals(NO_ID), 'a position has a run');
    const before = this.#cleared;
    if (before === undefined || !before.run.equals(position.run)) {
      this.#cleared = { ...position, run: Buffer.from(position.run) };
      return;
    }
    this.#cleared = {
      run: before.run,
      sequence: Math.max(before.sequence, position.sequence),
      checkpoint: Math.max(before.checkpoint, position.checkpoint),
    };
  }

  unmark(region: number): void {
    this.#durable.clear(region);
    this.#marked.clear(region);
  }

  /** From now on the pages are about another mirror, of which nothing is known. */
  giveTo(replicaId: Buffer): void {
    this.#pageId = Buffer.from(replicaId);
    this.#cleared = undefined;
    this.markAll();
  }

  /** Encodes a page as it is to be from now on. */
  encode(page: Buffer, index: number, version: number, versionTold: number): void {
    encodePage(
      page,
      { plane: this.number, index, version, versionTold, replicaId: this.#pageId, cleared: this.#cleared },
      this.#marked,
    );
  }

  /**
   * `page`, encoded by `encode`, has become durable. Marks that were cleared meanwhile stay cleared. Returns true when a
   * region is durably marked that was not before.
   */
  written(page: Buffer, index: number): boolean {
    const first = index * PAGE_REGIONS;
    const end = first + PAGE_REGIONS;
    let hasNew = false;
    for (let region = this.nextMarked(first); region >= 0 && region < end; region = this.nextMarked(region + 1)) {
      if (isMarkedIn(page, region - first) && this.#durable.set(region)) hasNew = true;
    }
    return hasNew;
  }

  /**
   * Takes a page as found on the medium; false when it is not whole, or another one: then all its regions are marked.
   * Nothing is durable by that: what was read may still be in the kernel's cache alone.
   *
   * A page that is not whole says nothing of the position at which its marks were cleared. None of them counts as
   * cleared, so no position is too low for them.
   */
  restore(page: Buffer, index: number): boolean {
    const head = decodePageHead(page);
    const whole =
      head !== undefined && head.plane === this.number && head.index === index && head.replicaId.equals(this.#pageId);
    const first = index * PAGE_REGIONS;
    const end = Math.min(first + PAGE_REGIONS, this.#marked.length);
    for (let region = first; region < end; region += 1) {
      if (!whole || isMarkedIn(page, region - first)) this.#marked.set(region);
    }
    if (whole && head.cleared !== undefined && head.version >= this.#clearedVersion) {
      this.#cleared = { ...head.cleared, run: Buffer.from(head.cleared.run) };
      this.#clearedVersion = head.version;
    }
    return whole;
  }
}
