/**
 * A file as it lies on a medium beneath a page cache: what readers see, and what a power loss leaves of it.
 *
 * - `cache` is what reads show.
 * - `durable` is what the medium holds for certain; `#journal` is what was done since and not synced, in order.
 * - A sync moves the journal's head, as it was when the sync began, to `durable`. One of the data alone (fdatasync) leaves
 *   the time of modification where a power loss may take it back.
 * - A *failed* sync drops some of those pages: they count as clean, the cache shows them until it is dropped or the power
 *   goes, and no later sync will write them (as on Linux). Only a new write to such a page makes it dirty again, whole.
 *
 * At a power loss each entry of the journal is kept, lost or torn at sectors of 512 bytes, independently of the others. A
 * sector that is kept has the content that it had in the cache then: a page cache writes sectors, not parts of them.
 */
import { Content, PAGE_SIZE } from './content.ts';
import type { SeededRandom } from './random.ts';

const SECTOR_SIZE = 512;

export type Change =
  | { readonly kind: 'write'; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: 'zero'; readonly offset: number; readonly length: number }
  | { readonly kind: 'size'; readonly size: number };

/** How a power loss treats what was not synced. */
export interface Fate {
  /** Odds that a change is kept whole, and that it is torn; the rest is lost. */
  readonly kept: number;
  readonly torn: number;
}

export class StoredFile {
  readonly inode: string;
  cache: Content;
  #durable: Content;
  #journal: Change[] = [];
  /** Count of changes before the journal's first. */
  #journalStart = 0;
  /** Pages that a failed sync gave up. */
  readonly #lost = new Set<number>();
  /** Pages with space and without data. */
  readonly #reserved = new Set<number>();
  modifiedNs: bigint;
  #durableModifiedNs: bigint;
  locked = false;

  constructor(inode: string, size: number, modifiedNs: bigint) {
    this.inode = inode;
    this.cache = new Content(size);
    this.#durable = new Content(size);
    this.modifiedNs = modifiedNs;
    this.#durableModifiedNs = modifiedNs;
  }

  /** Bytes of space that it takes. */
  get allocatedSize(): number {
    return (this.cache.pageCount + this.#reserved.size) * PAGE_SIZE;
  }

  /** What the medium holds for certain. Not to be changed. */
  get durable(): Content {
    return this.#durable;
  }

  /** Changes so far: what a sync that begins now covers. */
  get changeCount(): number {
    return this.#journalStart + this.#journal.length;
  }

  get isClean(): boolean {
    return this.#journal.length === 0 && this.#lost.size === 0;
  }

  /** Pages that need new space for a write of this range. */
  pagesToAllocate(offset: number, length: number): number {
    let count = 0;
    const last = Math.floor((offset + length - 1) / PAGE_SIZE);
    for (let index = Math.floor(offset / PAGE_SIZE); index <= last; index += 1) {
      if (this.cache.page(index) === undefined && !this.#reserved.has(index)) count += 1;
    }
    return count;
  }

  reserve(offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / PAGE_SIZE);
    for (let index = Math.floor(offset / PAGE_SIZE); index <= last; index += 1) {
      if (this.cache.page(index) === undefined) this.#reserved.add(index);
    }
  }

  /** Takes effect in the cache at once. The data of a write must not change any more. */
  change(change: Change, nowNs: bigint): void {
    apply(this.cache, change);
    this.modifiedNs = nowNs;
    this.#journal.push(change);
    if (change.kind === 'size') return;
    const length = change.kind === 'write' ? change.data.length : change.length;
    if (this.#lost.size === 0 && this.#reserved.size === 0) return;
    const last = Math.floor((change.offset + length - 1) / PAGE_SIZE);
    for (let index = Math.floor(change.offset / PAGE_SIZE); index <= last; index += 1) {
      this.#reserved.delete(index);
      // The page is dirty again as a whole: what was lost of it goes out with the rest.
      if (this.#lost.delete(index)) this.#journalPage(index);
    }
  }

  /** Reserved pages may have become data, or space given back. */
  punch(offset: number, length: number, nowNs: bigint): void {
    this.change({ kind: 'zero', offset, length }, nowNs);
  }

  /** A sync of the data that began when `changeCount` was `count` has succeeded. */
  synced(count: number): void {
    const entries = this.#take(count);
    for (const entry of entries) apply(this.#durable, entry);
  }

  /** A sync of everything (fsync) that began when the file was last modified then has succeeded. */
  timeSynced(modifiedNs: bigint): void {
    this.#durableModifiedNs = modifiedNs;
  }

  /** A sync that began when `changeCount` was `count` has failed: of each page it is written, or given up. */
  syncFailed(count: number, random: SeededRandom): void {
    const entries = this.#take(count);
    const written = new Map<number, boolean>();
    for (const entry of entries) {
      if (entry.kind === 'size') {
        apply(this.#durable, entry);
        continue;
      }
      const end = entry.offset + (entry.kind === 'write' ? entry.data.length : entry.length);
      for (let index = Math.floor(entry.offset / PAGE_SIZE); index * PAGE_SIZE < end; index += 1) {
        if (!written.has(index)) written.set(index, random.chance(0.5));
        if (written.get(index) === true) applyWithin(this.#durable, entry, index * PAGE_SIZE, (index + 1) * PAGE_SIZE);
        else this.#lost.add(index);
      }
    }
    // What was written to such a page since keeps it dirty.
    for (const entry of this.#journal.slice()) {
      if (entry.kind === 'size') continue;
      const end = entry.offset + (entry.kind === 'write' ? entry.data.length : entry.length);
      for (let index = Math.floor(entry.offset / PAGE_SIZE); index * PAGE_SIZE < end; index += 1) {
        if (this.#lost.delete(index)) this.#journalPage(index);
      }
    }
  }

  /** The cache forgets what it need not write: pages that a failed sync gave up read as the medium holds them. */
  dropCache(): void {
    for (const index of this.#lost) {
      if (index < this.cache.length) this.cache.copyFrom(this.#durable, index * PAGE_SIZE, (index + 1) * PAGE_SIZE);
    }
    this.#lost.clear();
  }

  /** The power goes. Nothing is open any more. */
  powerLost(fate: Fate, random: SeededRandom): void {
    if (this.#journal.length > 0 || this.#lost.size > 0) {
      const left = this.#durable.clone();
      const replay = this.#durable.clone();
      for (const entry of this.#journal) {
        apply(replay, entry);
        const luck = random.uniform();
        if (luck < fate.kept) keep(left, replay, entry, undefined);
        else if (luck < fate.kept + fate.torn) keep(left, replay, entry, random);
      }
      this.#journalStart += this.#journal.length;
      this.#journal = [];
      this.#lost.clear();
      this.#durable = left;
    }
    if (this.modifiedNs !== this.#durableModifiedNs && random.chance(0.5)) this.modifiedNs = this.#durableModifiedNs;
    this.#durableModifiedNs = this.modifiedNs;
    this.cache = this.#durable.clone();
    this.#reserved.clear();
    this.locked = false;
  }

  /** A copy that shares nothing but pages. Who has it open, does not have the copy open. */
  clone(): StoredFile {
    const copy = new StoredFile(this.inode, 0, this.modifiedNs);
    copy.cache = this.cache.clone();
    copy.#durable = this.#durable.clone();
    copy.#journal = this.#journal.slice();
    copy.#journalStart = this.#journalStart;
    for (const index of this.#lost) copy.#lost.add(index);
    for (const index of this.#reserved) copy.#reserved.add(index);
    copy.#durableModifiedNs = this.#durableModifiedNs;
    return copy;
  }

  #take(count: number): Change[] {
    const entries = this.#journal.splice(0, Math.max(0, count - this.#journalStart));
    this.#journalStart += entries.length;
    return entries;
  }

  #journalPage(index: number): void {
    const page = this.cache.page(index);
    const offset = index * PAGE_SIZE;
    if (page === undefined) this.#journal.push({ kind: 'zero', offset, length: PAGE_SIZE });
    else this.#journal.push({ kind: 'write', offset, data: Buffer.from(page) });
  }
}

function apply(content: Content, change: Change): void {
  if (change.kind === 'write') content.write(change.data, change.offset);
  else if (change.kind === 'zero') content.zero(change.offset, change.length);
  else content.resize(change.size);
}

/** The part of a change that lies in [from, end). */
function applyWithin(content: Content, change: Change, from: number, end: number): void {
  if (change.kind === 'size') return;
  const length = change.kind === 'write' ? change.data.length : change.length;
  const first = Math.max(from, change.offset);
  const last = Math.min(end, change.offset + length);
  if (first >= last) return;
  if (change.kind === 'zero') content.zero(first, last - first);
  else content.write(change.data.subarray(first - change.offset, last - change.offset), first);
}

/** The sectors of a change reach the medium, as they are in `replay` now; with `random`: some of them. */
function keep(left: Content, replay: Content, change: Change, random: SeededRandom | undefined): void {
  if (change.kind === 'size') {
    if (random === undefined || random.chance(0.5)) left.resize(change.size);
    return;
  }
  const length = change.kind === 'write' ? change.data.length : change.length;
  const from = change.offset - (change.offset % SECTOR_SIZE);
  const end = Math.ceil((change.offset + length) / SECTOR_SIZE) * SECTOR_SIZE;
  if (random === undefined) {
    left.copyFrom(replay, from, end);
    return;
  }
  // In runs of sectors: both a few that are missing and a few that are there.
  for (let at = from; at < end; ) {
    const run = SECTOR_SIZE * (1 + random.below(8));
    if (random.chance(0.5)) left.copyFrom(replay, at, Math.min(at + run, end));
    at += run;
  }
}
