/**
 * One opening of a file: src/io's Disk, for one incarnation.
 *
 * A call finishes at once or takes a while, as chance has it; one that takes a while has its effect when it is made, when
 * it ends, or in two halves between which others may come. What a kill finds without effect may still get it.
 */
import { Failure } from '../../src/base/failure.ts';
import type { Disk, DiskIdentity } from '../../src/io/disk.ts';
import { PAGE_SIZE } from './content.ts';
import type { DiskPace, Incarnation, Mutation } from './host.ts';
import type { Medium } from './medium.ts';
import type { Change, StoredFile } from './stored-file.ts';
import type { Timeline } from './timeline.ts';

const SECTOR_SIZE = 512;

export class SimulatedDisk implements Disk {
  readonly path: string;
  readonly kind = 'file';
  readonly descriptor = undefined;
  readonly #file: StoredFile;
  readonly #medium: Medium;
  readonly #incarnation: Incarnation;
  readonly #timeline: Timeline;
  readonly #pace: DiskPace;
  readonly #readOnly: boolean;
  readonly #holdsLock: boolean;
  #syncRunning: Promise<void> | undefined;
  #syncNext: Promise<void> | undefined;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #closed = false;

  constructor(
    path: string,
    file: StoredFile,
    medium: Medium,
    incarnation: Incarnation,
    timeline: Timeline,
    pace: DiskPace,
    options: { readonly readOnly: boolean; readonly exclusive: boolean },
  ) {
    this.path = path;
    this.#file = file;
    this.#medium = medium;
    this.#incarnation = incarnation;
    this.#timeline = timeline;
    this.#pace = pace;
    this.#readOnly = options.readOnly;
    this.#holdsLock = options.exclusive;
  }

  get size(): number {
    return this.#file.cache.size;
  }

  read(target: Buffer, offset: number): void | Promise<void> {
    this.#checkOpen();
    const failure = this.#medium.failureOf('read', this.path);
    if (failure !== undefined) return this.#later(this.#pace.callMs).then(() => Promise.reject(failure));
    if (this.#finishesAtOnce()) {
      this.#file.cache.read(target, offset);
      return;
    }
    if (target.length < 2 || this.#incarnation.random.chance(0.5)) {
      return this.#later(this.#pace.callMs).then(() => this.#file.cache.read(target, offset));
    }
    const half = target.length >>> 1;
    this.#file.cache.read(target.subarray(0, half), offset);
    return this.#later(this.#pace.callMs).then(() => this.#file.cache.read(target.subarray(half), offset + half));
  }

  write(data: Uint8Array, offset: number): void | Promise<void> {
    this.#checkRange(offset, data.length);
    if (data.length === 0) return;
    return this.#mutate('write', offset, data.length, (from, end) => {
      // The buffer is the caller's again afterwards.
      this.#change({ kind: 'write', offset: offset + from, data: Buffer.from(data.subarray(from, end)) });
    });
  }

  zero(offset: number, length: number, allocate: boolean): void | Promise<void> {
    this.#checkRange(offset, length);
    if (length === 0) return;
    return this.#mutate('zero', offset, length, (from, end) => {
      this.#change({ kind: 'zero', offset: offset + from, length: end - from });
      if (allocate) this.#file.reserve(offset + from, end - from);
    });
  }

  zeroIsFast(): boolean {
    return true;
  }

  punch(offset: number, length: number): boolean | Promise<boolean> {
    this.#checkRange(offset, length);
    if (length === 0) return true;
    const pending = this.#mutate('punch', offset, length, (from, end) => {
      this.#change({ kind: 'zero', offset: offset + from, length: end - from });
    });
    return pending === undefined ? true : pending.then(() => true);
  }

  seekData(offset: number): number {
    const { cache } = this.#file;
    for (let index = Math.floor(offset / PAGE_SIZE); index < cache.length; index += 1) {
      if (cache.page(index) !== undefined) return Math.max(offset, index * PAGE_SIZE);
    }
    return this.size;
  }

  seekHole(offset: number): number {
    const { cache } = this.#file;
    for (let index = Math.floor(offset / PAGE_SIZE); index < cache.length; index += 1) {
      if (cache.page(index) === undefined) return Math.max(offset, index * PAGE_SIZE);
    }
    return this.size;
  }

  readAhead(): void {}

  async dropCache(): Promise<void> {
    await this.#later(this.#pace.callMs);
    this.#file.dropCache();
  }

  /** One runs at a time; who asks meanwhile shares the next. */
  sync(): Promise<void> {
    this.#checkOpen();
    this.#syncNext ??= this.#startSync(this.#syncRunning);
    return this.#syncNext;
  }

  async resize(size: number): Promise<void> {
    this.#checkOpen();
    await this.#later(this.#pace.callMs);
    this.#throwFault('resize');
    this.#change({ kind: 'size', size });
  }

  async reserve(offset: number, length: number): Promise<void> {
    this.#checkRange(offset, length);
    await this.#later(this.#pace.callMs);
    this.#throwFault('reserve');
    if (length === 0) return;
    this.#requireSpace(offset, length);
    this.#file.reserve(offset, length);
  }

  async identity(): Promise<DiskIdentity> {
    await this.#later(this.#pace.callMs);
    return { inode: this.#file.inode, size: this.size, modifiedNs: this.#file.modifiedNs };
  }

  async durableIdentity(): Promise<DiskIdentity> {
    this.#checkOpen();
    const { modifiedNs } = this.#file;
    await this.#syncOnce();
    this.#file.timeSynced(modifiedNs);
    return this.identity();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    if (this.#holdsLock) this.#file.locked = false;
  }

  async #startSync(previous: Promise<void> | undefined): Promise<void> {
    if (previous !== undefined) await previous.catch(() => undefined);
    // Who asks in this very turn may still join.
    else await Promise.resolve();
    this.#syncNext = undefined;
    const running = this.#syncOnce();
    this.#syncRunning = running;
    try {
      await running;
    } finally {
      if (this.#syncRunning === running) this.#syncRunning = undefined;
    }
  }

  async #syncOnce(): Promise<void> {
    const count = this.#file.changeCount;
    await this.#later(this.#pace.syncMs);
    const failure = this.#medium.failureOf('sync', this.path);
    if (failure !== undefined) {
      this.#file.syncFailed(count, this.#incarnation.random);
      this.#medium.syncFailed(this.path);
      throw failure;
    }
    this.#file.synced(count);
  }

  /** `effect` makes the part [from, end) of the mutation true. */
  #mutate(
    call: 'write' | 'zero' | 'punch',
    offset: number,
    length: number,
    effect: (from: number, end: number) => void,
  ): void | Promise<void> {
    const failure = this.#medium.failureOf(call, this.path);
    const { random } = this.#incarnation;
    if (!this.#incarnation.alive) return never();
    if (failure !== undefined || (call === 'write' && !this.#hasSpace(offset, length))) {
      // Of a call that fails, some may have happened.
      const done = random.chance(0.5) ? 0 : inSectors(offset, random.below(length));
      if (done > 0 && failure !== undefined) effect(0, done);
      const reason = failure ?? new Failure('no-space', `${this.path}: no space`);
      // Until it has failed nobody can know what it has done.
      const failing: Mutation = { take: () => undefined };
      this.#incarnation.pending.add(failing);
      return this.#later(this.#pace.callMs).then(() => {
        this.#incarnation.pending.delete(failing);
        throw reason;
      });
    }
    if (this.#finishesAtOnce()) {
      effect(0, length);
      return;
    }
    const luck = random.uniform();
    let done = 0;
    const mutation: Mutation = {
      take: (share) => {
        const end = share === 1 ? length : Math.max(done, inSectors(offset, Math.floor(length * share)));
        if (end > done) effect(done, end);
        done = end;
      },
    };
    if (luck < 0.3) mutation.take(1);
    else if (luck < 0.6) mutation.take(random.uniform());
    this.#incarnation.pending.add(mutation);
    return this.#later(this.#pace.callMs).then(() => {
      this.#incarnation.pending.delete(mutation);
      mutation.take(1);
    });
  }

  #change(change: Change): void {
    this.#file.change(change, this.#timeline.wallNs);
  }

  #finishesAtOnce(): boolean {
    return this.#incarnation.alive && this.#incarnation.random.chance(this.#pace.atOnce);
  }

  #hasSpace(offset: number, length: number): boolean {
    if (this.#medium.capacity === Number.POSITIVE_INFINITY) return true;
    return this.#file.pagesToAllocate(offset, length) * PAGE_SIZE <= this.#medium.freeSize;
  }

  #requireSpace(offset: number, length: number): void {
    if (!this.#hasSpace(offset, length)) throw new Failure('no-space', `${this.path}: no space`);
  }

  #throwFault(call: 'resize' | 'reserve'): void {
    const failure = this.#medium.failureOf(call, this.path);
    if (failure !== undefined) throw failure;
  }

  #checkOpen(): void {
    if (this.#closed) throw new Failure('shutting-down', `${this.path} is closed`);
  }

  #checkRange(offset: number, length: number): void {
    this.#checkOpen();
    if (this.#readOnly) throw new Failure('not-permitted', `${this.path} is open read-only`);
    if (offset < 0 || offset + length > this.size) {
      throw new Failure('invalid-request', `${this.path}: ${length} bytes at ${offset} lie outside its ${this.size}`);
    }
  }

  #later(meanMs: number): Promise<void> {
    const incarnation = this.#incarnation;
    if (!incarnation.alive) return never();
    this.#inFlight += 1;
    return new Promise((resolve) => {
      this.#timeline.after(
        incarnation.random.exponential(meanMs),
        () => {
          resolve();
          this.#inFlight -= 1;
          if (this.#inFlight === 0) this.#idle?.();
        },
        incarnation,
      );
    });
  }
}

/** So much of a range at `offset`, cut at a sector: what is written in part is not cut inside one. */
function inSectors(offset: number, length: number): number {
  return Math.max(0, length - ((offset + length) % SECTOR_SIZE));
}

function never<T>(): Promise<T> {
  return new Promise(() => undefined);
}
