/**
 * One open regular file or block device.
 *
 * What it keeps: the descriptor, the size, how fast the disk is at the moment, and the calls in flight. What the store can do
 * about zeroes is in disk-zeroing.ts.
 *
 * Which call runs where:
 * - short reads try the page cache on the event loop (RWF_NOWAIT: never waits for a disk), the rest goes to the pool;
 * - short writes and short zeroes run on the event loop while the disk is quick (inline-pace.ts), else in the pool;
 * - everything long, every fdatasync and fsync, and everything that may wait runs in the pool.
 *
 * Invariants:
 * - a write is complete or has failed: short writes are continued;
 * - the descriptor is closed only when no call is in flight, so that no call can hit another file;
 * - nothing is read or written outside [0, size); reads past the end yield zeroes;
 * - the file position is never used: threads of the scan pool share the descriptor.
 */
import fs from 'node:fs';
import { errnoOf, Failure } from '../base/failure.ts';
import type { SharedCall } from '../base/shared-call.ts';
import { KIB } from '../base/units.ts';
import { type Disk, type DiskIdentity, inodeText } from './disk.ts';
import { diskFailure, isUnsupported } from './disk-failure.ts';
import { DiskZeroing, type ZeroingFacts } from './disk-zeroing.ts';
import { InlinePace } from './inline-pace.ts';
import { FALLOC_KEEP_SIZE } from './libc.ts';
import { type NodeCalls, nodeCalls } from './node-calls.ts';
import { sharedSync } from './shared-sync.ts';

/** Reads and writes up to this size may run on the event loop. */
const INLINE_SIZE = 256 * KIB;
/** Calls of read-ahead at a time; more are dropped: it is advice. */
const READ_AHEADS_MAX = 2;

/** What the opener found out about the file. */
export interface DiskFacts extends ZeroingFacts {
  readonly kind: 'file' | 'block-device';
  readonly size: number;
  readonly readOnly: boolean;
}

export class NodeDisk implements Disk {
  readonly path: string;
  readonly kind: 'file' | 'block-device';
  readonly descriptor: number;
  readonly #readOnly: boolean;
  readonly #zeroing: DiskZeroing;
  readonly #calls: NodeCalls;
  readonly #sync: SharedCall;
  readonly #syncAll: SharedCall;
  readonly #pace: InlinePace;
  #size: number;
  #seekRefused = false;
  #cachedReadRefused = false;
  #readAheads = 0;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #closed: Promise<void> | undefined;

  constructor(facts: DiskFacts, calls: NodeCalls = nodeCalls) {
    this.path = facts.path;
    this.kind = facts.kind;
    this.descriptor = facts.descriptor;
    this.#size = facts.size;
    this.#readOnly = facts.readOnly;
    this.#calls = calls;
    this.#pace = new InlinePace(calls.waits);
    this.#sync = sharedSync(() => calls.fdatasync(this.descriptor));
    this.#syncAll = sharedSync(() => calls.fsync(this.descriptor));
    this.#zeroing = new DiskZeroing(facts, calls, this.#pace, (data, offset) => this.#writeRest(data, offset, 0));
  }

  get size(): number {
    return this.#size;
  }

  read(target: Buffer, offset: number): void | Promise<void> {
    this.#checkOpen();
    const insideSize = Math.max(0, Math.min(target.length, this.#size - offset));
    if (insideSize < target.length) target.fill(0, insideSize);
    if (insideSize === 0) return;
    const inside = insideSize === target.length ? target : target.subarray(0, insideSize);
    const cachedSize = this.#readCached(inside, offset);
    if (cachedSize === insideSize) return;
    return this.#track(this.#readRest(inside, offset, cachedSize));
  }

  write(data: Uint8Array, offset: number): void | Promise<void> {
    this.#checkMutation(offset, data.length);
    let doneSize = 0;
    if (data.length <= INLINE_SIZE) {
      let nowMs = this.#calls.nowMs();
      while (doneSize < data.length && this.#pace.allows(nowMs)) {
        const startMs = nowMs;
        const rest = doneSize === 0 ? data : data.subarray(doneSize);
        try {
          doneSize += progress(this.#calls.writeNow(this.descriptor, rest, offset + doneSize));
        } catch (error) {
          throw this.#failure(error, 'write', offset, data.length);
        }
        nowMs = this.#calls.nowMs();
        this.#pace.took(startMs, nowMs);
      }
    }
    if (doneSize < data.length) return this.#track(this.#writeRest(data, offset, doneSize));
  }

  zero(offset: number, length: number, allocate: boolean): void | Promise<void> {
    this.#checkMutation(offset, length);
    if (length === 0) return;
    const zeroing = this.#zeroing.zero(offset, length, allocate);
    return zeroing === undefined ? undefined : this.#track(zeroing);
  }

  zeroIsFast(offset: number, length: number, allocate: boolean): boolean {
    return this.#zeroing.isFast(offset, length, allocate);
  }

  punch(offset: number, length: number): boolean | Promise<boolean> {
    this.#checkMutation(offset, length);
    if (length === 0) return true;
    const punching = this.#zeroing.punch(offset, length);
    return typeof punching === 'boolean' ? punching : this.#track(punching);
  }

  seekData(offset: number): number {
    const found = this.#seek(offset, 'data', offset);
    return Math.min(found ?? this.#size, this.#size);
  }

  seekHole(offset: number): number {
    const found = this.#seek(offset, 'hole', this.#size);
    return Math.min(found ?? this.#size, this.#size);
  }

  dropCache(): Promise<void> {
    // Length 0: to the end.
    return this.#calls.advise(this.descriptor, 0, 0, 'no-need');
  }

  readAhead(offset: number, length: number): void {
    if (this.#closed !== undefined || this.#readAheads >= READ_AHEADS_MAX) return;
    this.#readAheads += 1;
    void this.#track(
      this.#calls.advise(this.descriptor, offset, length, 'will-need').finally(() => {
        this.#readAheads -= 1;
      }),
    );
  }

  async sync(): Promise<void> {
    this.#checkOpen();
    try {
      await this.#track(this.#sync.run());
    } catch (error) {
      throw this.#failure(error, 'fdatasync', 0, this.#size);
    }
  }

  async resize(size: number): Promise<void> {
    this.#checkOpen();
    if (this.#readOnly) throw new Failure('not-permitted', `${this.path} is open read-only`);
    if (this.kind !== 'file') throw new Failure('not-supported', `${this.path} is a block device: it has a fixed size`);
    if (!Number.isSafeInteger(size) || size < 0) throw new Failure('invalid-request', `${this.path}: size ${size}`);
    try {
      await this.#track(this.#calls.truncate(this.descriptor, size));
    } catch (error) {
      throw this.#failure(error, 'resize', 0, size);
    }
    this.#size = size;
  }

  reserve(offset: number, length: number): void | Promise<void> {
    this.#checkMutation(offset, length);
    if (this.kind === 'block-device' || length === 0) return;
    const startMs = this.#calls.nowMs();
    if (length > INLINE_SIZE || !this.#pace.allows(startMs)) return this.#track(this.#reserveInPool(offset, length));
    try {
      this.#calls.fallocateNow(this.descriptor, FALLOC_KEEP_SIZE, offset, length);
    } catch (error) {
      throw this.#failure(error, 'reserve', offset, length);
    } finally {
      this.#pace.took(startMs, this.#calls.nowMs());
    }
  }

  async identity(): Promise<DiskIdentity> {
    this.#checkOpen();
    const stat = await this.#track(
      new Promise<fs.BigIntStats>((resolve, reject) => {
        fs.fstat(this.descriptor, { bigint: true }, (error, found) => (error ? reject(error) : resolve(found)));
      }),
    );
    return {
      inode: inodeText(stat),
      size: this.#size,
      modifiedNs: this.kind === 'file' ? stat.mtimeNs : 0n,
    };
  }

  async durableIdentity(): Promise<DiskIdentity> {
    this.#checkOpen();
    try {
      await this.#track(this.#syncAll.run());
    } catch (error) {
      throw this.#failure(error, 'fsync', 0, this.#size);
    }
    return this.identity();
  }

  /** Runs a call that uses the descriptor from elsewhere, and keeps the disk open until it has settled. */
  async whileOpen<Value>(call: () => Promise<Value>): Promise<Value> {
    this.#checkOpen();
    return await this.#track(call());
  }

  close(): Promise<void> {
    this.#closed ??= this.#closeOnce();
    return this.#closed;
  }

  async #closeOnce(): Promise<void> {
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    await new Promise<void>((resolve, reject) => {
      fs.close(this.descriptor, (error) => (error ? reject(diskFailure(error, this.path)) : resolve()));
    });
  }

  #readCached(target: Buffer, offset: number): number {
    if (this.#cachedReadRefused || target.length > INLINE_SIZE) return 0;
    try {
      return this.#calls.readCachedNow(this.descriptor, target, offset);
    } catch (error) {
      // The thread pool will meet a real error again, and report it.
      if (isUnsupported(error)) this.#cachedReadRefused = true;
      return 0;
    }
  }

  async #readRest(target: Buffer, offset: number, fromSize: number): Promise<void> {
    let doneSize = fromSize;
    while (doneSize < target.length) {
      const rest = doneSize === 0 ? target : target.subarray(doneSize);
      let size: number;
      try {
        size = await this.#calls.read(this.descriptor, rest, offset + doneSize);
      } catch (error) {
        throw this.#failure(error, 'read', offset, target.length);
      }
      if (size === 0) {
        // Someone cut the file short behind our back; what is gone reads as zeroes.
        target.fill(0, doneSize);
        return;
      }
      doneSize += size;
    }
  }

  async #writeRest(data: Uint8Array, offset: number, fromSize: number): Promise<void> {
    let doneSize = fromSize;
    while (doneSize < data.length) {
      const rest = doneSize === 0 ? data : data.subarray(doneSize);
      try {
        doneSize += progress(await this.#calls.write(this.descriptor, rest, offset + doneSize));
      } catch (error) {
        throw this.#failure(error, 'write', offset, data.length);
      }
    }
  }

  async #reserveInPool(offset: number, length: number): Promise<void> {
    try {
      await this.#calls.fallocate(this.descriptor, FALLOC_KEEP_SIZE, offset, length);
    } catch (error) {
      throw this.#failure(error, 'reserve', offset, length);
    }
  }

  #seek(offset: number, target: 'data' | 'hole', unknown: number): number | undefined {
    this.#checkOpen();
    if (this.#seekRefused || offset >= this.#size) return offset >= this.#size ? undefined : unknown;
    try {
      return this.#calls.seekNow(this.descriptor, offset, target);
    } catch (error) {
      if (errnoOf(error) === 'EINVAL' || isUnsupported(error)) {
        this.#seekRefused = true;
        return unknown;
      }
      throw this.#failure(error, 'seek', offset, 0);
    }
  }

  #checkOpen(): void {
    // Not an assertion: a request that comes late in a shutdown is answered, and must not hit a reused descriptor.
    if (this.#closed !== undefined) throw new Failure('shutting-down', `${this.path} is closed`);
  }

  #checkMutation(offset: number, length: number): void {
    this.#checkOpen();
    if (this.#readOnly) throw new Failure('not-permitted', `${this.path} is open read-only`);
    const valid = Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= this.#size;
    if (!valid) {
      throw new Failure('invalid-request', `${this.path}: ${length} bytes at ${offset} lie outside its ${this.#size}`);
    }
  }

  #track<Value>(call: Promise<Value>): Promise<Value> {
    this.#inFlight += 1;
    return call.finally(() => {
      this.#inFlight -= 1;
      if (this.#inFlight === 0) this.#idle?.();
    });
  }

  #failure(error: unknown, what: string, offset: number, length: number): Failure {
    return diskFailure(error, `${this.path}: ${what} of ${length} bytes at ${offset}`);
  }
}

/** A write that moves nothing would be repeated forever. */
function progress(size: number): number {
  if (size <= 0) throw new Failure('io-error', 'the disk accepted no byte of a write');
  return size;
}
