/**
 * The content of a file or disk, in pages of 4 KiB: what was never written is a hole and costs nothing. A clone shares
 * all pages until one of the two writes to them, so that copies for a check or a snapshot are cheap.
 */
import { assert } from '../../src/base/assert.ts';

export const PAGE_SIZE = 4096;

const ZERO_PAGE = Buffer.alloc(PAGE_SIZE);

export class Content {
  #size: number;
  #pages: (Buffer | undefined)[];
  /** 1: the page is ours alone and may be written in place. */
  #owned: Uint8Array;
  #pageCount = 0;

  constructor(size: number) {
    this.#size = size;
    const count = Math.ceil(size / PAGE_SIZE);
    this.#pages = new Array<Buffer | undefined>(count).fill(undefined);
    this.#owned = new Uint8Array(count);
  }

  get size(): number {
    return this.#size;
  }

  /** Pages that are no holes. */
  get pageCount(): number {
    return this.#pageCount;
  }

  /** Pages, holes included. */
  get length(): number {
    return this.#pages.length;
  }

  /** A page; undefined: a hole. Not to be written to. */
  page(index: number): Buffer | undefined {
    return this.#pages[index];
  }

  clone(): Content {
    const copy = new Content(0);
    copy.#size = this.#size;
    copy.#pages = this.#pages.slice();
    copy.#owned = new Uint8Array(this.#pages.length);
    copy.#pageCount = this.#pageCount;
    this.#owned.fill(0);
    return copy;
  }

  /** Bytes beyond the end read as zeroes. */
  read(target: Uint8Array, offset: number): void {
    let done = 0;
    while (done < target.length) {
      const at = offset + done;
      const inPage = at % PAGE_SIZE;
      const length = Math.min(PAGE_SIZE - inPage, target.length - done);
      const page = at < this.#size ? this.#pages[(at - inPage) / PAGE_SIZE] : undefined;
      target.set((page ?? ZERO_PAGE).subarray(inPage, inPage + length), done);
      done += length;
    }
  }

  slice(offset: number, length: number): Buffer {
    const data = Buffer.allocUnsafe(length);
    this.read(data, offset);
    return data;
  }

  /** What lies beyond the end is left out. */
  write(data: Uint8Array, offset: number): void {
    const end = Math.min(offset + data.length, this.#size);
    for (let at = offset; at < end; ) {
      const inPage = at % PAGE_SIZE;
      const length = Math.min(PAGE_SIZE - inPage, end - at);
      this.#own((at - inPage) / PAGE_SIZE).set(data.subarray(at - offset, at - offset + length), inPage);
      at += length;
    }
  }

  /** Whole pages become holes. */
  zero(offset: number, length: number): void {
    const end = Math.min(offset + length, this.#size);
    for (let at = offset; at < end; ) {
      const inPage = at % PAGE_SIZE;
      const part = Math.min(PAGE_SIZE - inPage, end - at);
      const index = (at - inPage) / PAGE_SIZE;
      if (this.#pages[index] !== undefined) {
        if (part === PAGE_SIZE || (inPage === 0 && at + part === this.#size)) this.setPage(index, undefined);
        else this.#own(index).fill(0, inPage, inPage + part);
      }
      at += part;
    }
  }

  /** The page may be shared with other contents from now on. */
  setPage(index: number, page: Buffer | undefined): void {
    const before = this.#pages[index];
    if (before === undefined && page !== undefined) this.#pageCount += 1;
    if (before !== undefined && page === undefined) this.#pageCount -= 1;
    this.#pages[index] = page;
    this.#owned[index] = 0;
  }

  /** Takes a range over from another content. */
  copyFrom(source: Content, offset: number, end: number): void {
    const stop = Math.min(end, this.#size);
    for (let at = offset; at < stop; ) {
      const inPage = at % PAGE_SIZE;
      const length = Math.min(PAGE_SIZE - inPage, stop - at);
      const index = (at - inPage) / PAGE_SIZE;
      const page = source.#pages[index];
      if (length === PAGE_SIZE) {
        source.#owned[index] = 0;
        this.setPage(index, page);
      } else if (page !== undefined) this.#own(index).set(page.subarray(inPage, inPage + length), inPage);
      else this.zero(at, length);
      at += length;
    }
  }

  resize(size: number): void {
    if (size < this.#size) this.zero(size, this.#size - size);
    const count = Math.ceil(size / PAGE_SIZE);
    for (let index = count; index < this.#pages.length; index += 1) this.setPage(index, undefined);
    const owned = new Uint8Array(count);
    owned.set(this.#owned.subarray(0, count));
    this.#owned = owned;
    this.#pages.length = count;
    for (let index = 0; index < count; index += 1) this.#pages[index] ??= undefined;
    this.#size = size;
  }

  /** Indexes of the pages that differ, at most `countMax` of them. */
  differences(other: Content, countMax = Number.POSITIVE_INFINITY): number[] {
    assert(this.#size === other.#size, 'contents of the same size');
    const found: number[] = [];
    for (let index = 0; index < this.#pages.length && found.length < countMax; index += 1) {
      const a = this.#pages[index];
      const b = other.#pages[index];
      if (a !== b && !(a ?? ZERO_PAGE).equals(b ?? ZERO_PAGE)) found.push(index);
    }
    return found;
  }

  #own(index: number): Buffer {
    const page = this.#pages[index];
    if (page !== undefined && this.#owned[index] === 1) return page;
    const own = Buffer.from(page ?? ZERO_PAGE);
    this.setPage(index, own);
    this.#owned[index] = 1;
    return own;
  }
}
