import { assert } from '../../src/base/assert.ts';
import type { Disk, DiskIdentity } from '../../src/io/disk.ts';

export type MemoryDiskCall = 'read' | 'write' | 'zero' | 'punch' | 'sync' | 'reserve' | 'resize';

export interface MemoryDiskOptions {
  readonly kind?: Disk['kind'];
  /** Granularity of holes in bytes. */
  readonly pageSize?: number;
  /** False: cannot punch, zeroing writes zeroes. */
  readonly canPunch?: boolean;
}

/**
 * A Disk in memory for tests: holes by page, what is durable apart from what is written, and a hook that can delay
 * or fail any call. A call without delay finishes at once, without a promise, as the real disk does.
 */
export class MemoryDisk implements Disk {
  readonly path = 'memory';
  readonly kind: Disk['kind'];
  readonly descriptor = undefined;
  readonly pageSize: number;
  readonly canPunch: boolean;
  /**
   * Called before each call takes effect. Throw to fail it at once; return a promise to delay it (and reject it to fail
   * it then); otherwise it finishes at once.
   */
  hook: ((call: MemoryDiskCall, offset: number, length: number) => void | Promise<void>) | undefined;
  /**
   * True: a delayed write or zero takes effect in two halves with a turn of the event loop between, so that overlapping
   * mutations that are not kept in order leave a mixture.
   */
  tearDelayed = false;
  readonly counts: Record<MemoryDiskCall, number> = {
    read: 0,
    write: 0,
    zero: 0,
    punch: 0,
    sync: 0,
    reserve: 0,
    resize: 0,
  };
  closed = false;

  #content: Buffer;
  /** Pages that have space. */
  #allocated: Set<number>;
  /** Durable content of the pages that differ from it, or may. */
  readonly #undurable = new Map<number, Buffer>();
  /** Pages that the next sync will try to make durable. Those that a failed one gave up are not among them. */
  #dirty = new Set<number>();

  constructor(size: number, options: MemoryDiskOptions = {}) {
    this.kind = options.kind ?? 'file';
    this.pageSize = options.pageSize ?? 4096;
    this.canPunch = options.canPunch ?? true;
    this.#content = Buffer.alloc(size);
    this.#allocated = new Set();
  }

  get size(): number {
    return this.#content.length;
  }

  /** A copy of what a reader sees. */
  content(): Buffer {
    return Buffer.from(this.#content);
  }

  /** A copy of what a power loss now would leave, if nothing beyond the last sync had reached the platter. */
  durableContent(): Buffer {
    const copy = this.content();
    for (const [page, bytes] of this.#undurable) bytes.copy(copy, page * this.pageSize);
    return copy;
  }

  read(target: Buffer, offset: number): void | Promise<void> {
    return this.#run('read', offset, target.length, () => {
      target.fill(0);
      if (offset < this.size) this.#content.copy(target, 0, offset, Math.min(offset + target.length, this.size));
    });
  }

  write(data: Uint8Array, offset: number): void | Promise<void> {
    const half = data.length >>> 1;
    const first = () => this.#put(data.subarray(0, half), offset);
    const second = () => this.#put(data.subarray(half), offset + half);
    return this.#runHalves('write', offset, data.length, first, second);
  }

  zero(offset: number, length: number, allocate: boolean): void | Promise<void> {
    const half = length >>> 1;
    const first = () => this.#clear(offset, half);
    const second = () => {
      this.#clear(offset + half, length - half);
      this.#setAllocated(offset, length, allocate);
    };
    return this.#runHalves('zero', offset, length, first, second);
  }

  zeroIsFast(offset: number, length: number, allocate: boolean): boolean {
    return this.canPunch && !allocate && offset % this.pageSize === 0 && length % this.pageSize === 0;
  }

  punch(offset: number, length: number): boolean | Promise<boolean> {
    const able = this.canPunch && offset % this.pageSize === 0 && length % this.pageSize === 0;
    const pending = this.#run('punch', offset, length, () => {
      if (!able) return;
      this.#clear(offset, length);
      this.#setAllocated(offset, length, false);
    });
    return pending === undefined ? able : pending.then(() => able);
  }

  seekData(offset: number): number {
    for (let page = Math.floor(offset / this.pageSize); page * this.pageSize < this.size; page += 1) {
      if (this.#allocated.has(page)) return Math.max(offset, page * this.pageSize);
    }
    return this.size;
  }

  seekHole(offset: number): number {
    for (let page = Math.floor(offset / this.pageSize); page * this.pageSize < this.size; page += 1) {
      if (!this.#allocated.has(page)) return Math.max(offset, page * this.pageSize);
    }
    return this.size;
  }

  readAhead(): void {}

  /** Makes what a failed sync has lost disappear: clean pages are read anew from the platter. */
  async dropCache(): Promise<void> {
    for (const [page, bytes] of this.#undurable) {
      if (this.#dirty.has(page)) continue;
      bytes.copy(this.#content, page * this.pageSize);
      this.#undurable.delete(page);
    }
  }

  async sync(): Promise<void> {
    this.counts.sync += 1;
    const covered = new Map<number, Buffer>();
    for (const page of this.#dirty) {
      covered.set(page, this.#undurable.get(page)!);
      this.#undurable.delete(page);
    }
    this.#dirty = new Set();
    try {
      await this.hook?.('sync', 0, this.size);
    } catch (error) {
      // As on Linux: the pages count as clean and stay in the cache, a later sync succeeds without them.
      for (const [page, bytes] of covered) this.#undurable.set(page, bytes);
      throw error;
    }
  }

  async resize(size: number): Promise<void> {
    this.counts.resize += 1;
    await this.hook?.('resize', 0, size);
    const content = Buffer.alloc(size);
    this.#content.copy(content, 0, 0, Math.min(size, this.size));
    this.#content = content;
  }

  async reserve(offset: number, length: number): Promise<void> {
    assert(offset >= 0 && offset + length <= this.size, 'range inside the disk');
    this.counts.reserve += 1;
    await this.hook?.('reserve', offset, length);
  }

  async identity(): Promise<DiskIdentity> {
    return { inode: 'memory', size: this.size, modifiedNs: 0n };
  }

  async durableIdentity(): Promise<DiskIdentity> {
    await this.sync();
    return this.identity();
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  #run(call: MemoryDiskCall, offset: number, length: number, effect: () => void): void | Promise<void> {
    assert(!this.closed, 'call on a closed disk');
    this.counts[call] += 1;
    const delay = this.hook?.(call, offset, length);
    if (delay === undefined) return effect();
    return delay.then(effect);
  }

  #runHalves(
    call: MemoryDiskCall,
    offset: number,
    length: number,
    first: () => void,
    second: () => void,
  ): void | Promise<void> {
    const pending = this.#run(call, offset, length, first);
    if (pending === undefined) return second();
    if (!this.tearDelayed) return pending.then(second);
    return pending.then(() => new Promise<void>((resolve) => setImmediate(resolve))).then(second);
  }

  #put(data: Uint8Array, offset: number): void {
    if (data.length === 0) return;
    this.#touch(offset, data.length);
    this.#content.set(data, offset);
    for (const page of this.#pages(offset, data.length)) this.#allocated.add(page);
  }

  #clear(offset: number, length: number): void {
    if (length === 0) return;
    this.#touch(offset, length);
    this.#content.fill(0, offset, offset + length);
  }

  #setAllocated(offset: number, length: number, allocate: boolean): void {
    for (const page of this.#pages(offset, length)) {
      const start = page * this.pageSize;
      const whole = start >= offset && Math.min(start + this.pageSize, this.size) <= offset + length;
      if (allocate) this.#allocated.add(page);
      else if (whole && this.canPunch) this.#allocated.delete(page);
    }
  }

  #touch(offset: number, length: number): void {
    assert(offset >= 0 && offset + length <= this.size, 'range inside the disk');
    for (const page of this.#pages(offset, length)) {
      this.#dirty.add(page);
      if (this.#undurable.has(page)) continue;
      this.#undurable.set(page, Buffer.from(this.#content.subarray(page * this.pageSize, (page + 1) * this.pageSize)));
    }
  }

  *#pages(offset: number, length: number): Iterable<number> {
    const last = Math.floor((offset + length - 1) / this.pageSize);
    for (let page = Math.floor(offset / this.pageSize); page <= last; page += 1) yield page;
  }
}
