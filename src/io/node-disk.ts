/**
 * One open regular file or block device.
 *
 * What it keeps: the descriptor, the size, which kinds of fallocate the store has refused, and the calls in flight.
 *
 * Which call runs where:
 * - short reads try the page cache on the event loop (RWF_NOWAIT: never waits for a disk), the rest goes to the pool;
 * - short writes and short zeroes run on the event loop while the disk is quick (inline-pace.ts), else in the pool;
 * - everything long, every fdatasync, and everything that may wait runs in the pool.
 *
 * Invariants:
 * - a write is complete or has failed: short writes are continued;
 * - the descriptor is closed only when no call is in flight, so that no call can hit another file;
 * - nothing is read or written outside [0, size); reads past the end yield zeroes;
 * - the file position is never used: threads of the scan pool share the descriptor.
 */
import fs from 'node:fs';
import { errnoOf, Failure } from '../base/failure.ts';
import { alignDown, alignUp, KIB, MIB } from '../base/units.ts';
import type { Disk, DiskIdentity } from './disk.ts';
import { diskFailure, isUnsupported } from './disk-failure.ts';
import { InlinePace } from './inline-pace.ts';
import { FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE } from './libc.ts';
import { type NodeCalls, nodeCalls } from './node-calls.ts';
import { SharedSync } from './shared-sync.ts';

/** Reads and writes up to this size may run on the event loop. */
const INLINE_SIZE = 256 * KIB;
/** Ranges up to this size may be punched or zeroed on the event loop. */
const INLINE_ZERO_SIZE = MIB;
/** Zeroes written at a time where the store cannot make them itself; the event loop runs in between. */
const ZERO_STEP_SIZE = MIB;
/** Calls of read-ahead at a time; more are dropped: it is advice. */
const READ_AHEADS_MAX = 2;

const PUNCH = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE;
const ZERO_RANGE = FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE;

const zeroes = Buffer.alloc(ZERO_STEP_SIZE);

/** What the opener found out about the file. */
export interface DiskFacts {
  readonly path: string;
  readonly kind: 'file' | 'block-device';
  readonly descriptor: number;
  readonly size: number;
  readonly readOnly: boolean;
  /** fallocate must be aligned to this: 1 for files, the logical sector for block devices. */
  readonly zeroAlignment: number;
  /** True where the store is known to punch (PUNCH_HOLE) or zero (ZERO_RANGE) without writing data. */
  readonly punchKnown: boolean;
  readonly zeroRangeKnown: boolean;
}

/** `unknown` until tried; `refused` for good. */
type Ability = 'known' | 'unknown' | 'refused';

export class NodeDisk implements Disk {
  readonly path: string;
  readonly kind: 'file' | 'block-device';
  readonly descriptor: number;
  readonly #readOnly: boolean;
  readonly #zeroAlignment: number;
  readonly #calls: NodeCalls;
  readonly #sync: SharedSync;
  readonly #pace = new InlinePace();
  #size: number;
  #punchAbility: Ability;
  #zeroRangeAbility: Ability;
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
    this.#zeroAlignment = facts.zeroAlignment;
    this.#punchAbility = facts.punchKnown ? 'known' : 'unknown';
    this.#zeroRangeAbility = facts.zeroRangeKnown ? 'known' : 'unknown';
    this.#calls = calls;
    this.#sync = new SharedSync(() => calls.fdatasync(this.descriptor));
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
    if (length <= INLINE_ZERO_SIZE && this.#isAligned(offset, length)) {
      const mode = this.#zeroMode(allocate);
      if (mode !== undefined && this.#fallocateNow(mode, offset, length)) return;
    }
    return this.#track(this.#zeroAll(offset, length, allocate));
  }

  zeroIsFast(offset: number, length: number, allocate: boolean): boolean {
    const ability = allocate ? this.#zeroRangeAbility : this.#punchAbility;
    return ability === 'known' && this.#isAligned(offset, length);
  }

  punch(offset: number, length: number): boolean | Promise<boolean> {
    this.#checkMutation(offset, length);
    if (length === 0) return true;
    if (this.#punchAbility === 'refused' || !this.#isAligned(offset, length)) return false;
    if (length <= INLINE_ZERO_SIZE && this.#fallocateNow(PUNCH, offset, length)) return true;
    return this.#track(this.#fallocate(PUNCH, offset, length));
  }

  seekData(offset: number): number {
    const found = this.#seek(offset, 'data', offset);
    return Math.min(found ?? this.#size, this.#size);
  }

  seekHole(offset: number): number {
    const found = this.#seek(offset, 'hole', this.#size);
    return Math.min(found ?? this.#size, this.#size);
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

  async reserve(offset: number, length: number): Promise<void> {
    this.#checkMutation(offset, length);
    if (this.kind === 'block-device' || length === 0) return;
    try {
      await this.#track(this.#calls.fallocate(this.descriptor, FALLOC_KEEP_SIZE, offset, length));
    } catch (error) {
      throw this.#failure(error, 'reserve', offset, length);
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
      inode: `${stat.dev}:${stat.ino}`,
      size: this.#size,
      modifiedNs: this.kind === 'file' ? stat.mtimeNs : 0n,
    };
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
    const startMs = this.#calls.nowMs();
    if (!this.#pace.allows(startMs)) return 0;
    try {
      return this.#calls.readCachedNow(this.descriptor, target, offset);
    } catch (error) {
      // The thread pool will meet a real error again, and report it.
      if (isUnsupported(error)) this.#cachedReadRefused = true;
      return 0;
    } finally {
      this.#pace.took(startMs, this.#calls.nowMs());
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

  /** The best way of the store to make a range zero; undefined: only by writing zeroes. */
  #zeroMode(allocate: boolean): number | undefined {
    if (!allocate && this.#punchAbility !== 'refused') return PUNCH;
    return this.#zeroRangeAbility === 'refused' ? undefined : ZERO_RANGE;
  }

  /** Unaligned ends of a block device are written; the middle goes to the store. */
  async #zeroAll(offset: number, length: number, allocate: boolean): Promise<void> {
    const end = offset + length;
    const middleStart = Math.min(end, alignUp(offset, this.#zeroAlignment));
    const middleEnd = Math.max(middleStart, alignDown(end, this.#zeroAlignment));
    if (offset < middleStart) await this.#writeZeroes(offset, middleStart - offset);
    if (middleStart < middleEnd) await this.#zeroMiddle(middleStart, middleEnd - middleStart, allocate);
    if (middleEnd < end) await this.#writeZeroes(middleEnd, end - middleEnd);
  }

  async #zeroMiddle(offset: number, length: number, allocate: boolean): Promise<void> {
    for (let mode = this.#zeroMode(allocate); mode !== undefined; mode = this.#zeroMode(allocate)) {
      if (await this.#fallocate(mode, offset, length)) return;
    }
    await this.#writeZeroes(offset, length);
  }

  async #writeZeroes(offset: number, length: number): Promise<void> {
    for (let doneSize = 0; doneSize < length; ) {
      const stepSize = Math.min(ZERO_STEP_SIZE, length - doneSize);
      await this.#writeRest(zeroes.subarray(0, stepSize), offset + doneSize, 0);
      doneSize += stepSize;
    }
  }

  /** On the event loop. False when the disk is slow at the moment or the store has just refused this mode. */
  #fallocateNow(mode: number, offset: number, length: number): boolean {
    const startMs = this.#calls.nowMs();
    if (!this.#pace.allows(startMs)) return false;
    try {
      this.#calls.fallocateNow(this.descriptor, mode, offset, length);
    } catch (error) {
      this.#noteRefusal(mode, error, offset, length);
      return false;
    } finally {
      this.#pace.took(startMs, this.#calls.nowMs());
    }
    this.#noteSuccess(mode);
    return true;
  }

  /** In the thread pool. False when the store refuses this mode, now or before. */
  async #fallocate(mode: number, offset: number, length: number): Promise<boolean> {
    if ((mode === PUNCH ? this.#punchAbility : this.#zeroRangeAbility) === 'refused') return false;
    try {
      await this.#calls.fallocate(this.descriptor, mode, offset, length);
    } catch (error) {
      this.#noteRefusal(mode, error, offset, length);
      return false;
    }
    this.#noteSuccess(mode);
    return true;
  }

  #noteSuccess(mode: number): void {
    if (mode === PUNCH) this.#punchAbility = 'known';
    else this.#zeroRangeAbility = 'known';
  }

  /** Remembers that the store has no such operation; throws when the error is anything else. */
  #noteRefusal(mode: number, error: unknown, offset: number, length: number): void {
    // Block devices without the command say EOPNOTSUPP; some drivers say EINVAL for a range that is aligned and inside.
    const refused = isUnsupported(error) || (this.kind === 'block-device' && errnoOf(error) === 'EINVAL');
    if (!refused) throw this.#failure(error, 'zero', offset, length);
    if (mode === PUNCH) this.#punchAbility = 'refused';
    else this.#zeroRangeAbility = 'refused';
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

  #isAligned(offset: number, length: number): boolean {
    return offset % this.#zeroAlignment === 0 && length % this.#zeroAlignment === 0;
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
