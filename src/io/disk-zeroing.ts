/**
 * Making ranges of a disk zero, by the best means that its store has: a hole (PUNCH_HOLE), zeroes in place (ZERO_RANGE),
 * or zeroes written.
 *
 * What it keeps: for each of the two calls whether the store is known to have it, has refused it, or was not asked yet. A
 * refusal counts for the life of the open disk.
 *
 * Invariant: whatever the alignment, exactly the range is changed. Block devices take only whole sectors from fallocate;
 * the ends of a range that are not are written.
 */
import { errnoOf } from '../base/failure.ts';
import { alignDown, alignUp, MIB } from '../base/units.ts';
import { diskFailure, isUnsupported } from './disk-failure.ts';
import type { InlinePace } from './inline-pace.ts';
import { FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE } from './libc.ts';
import type { NodeCalls } from './node-calls.ts';

/** Ranges up to this size may be punched or zeroed on the event loop. */
const INLINE_SIZE = MIB;
/** Zeroes written at a time; the event loop runs in between. */
const WRITE_STEP_SIZE = MIB;

const PUNCH = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE;
const ZERO_RANGE = FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE;

const zeroes = Buffer.alloc(WRITE_STEP_SIZE);

export interface ZeroingFacts {
  readonly path: string;
  readonly kind: 'file' | 'block-device';
  readonly descriptor: number;
  /** fallocate must be aligned to this: 1 for files, the logical sector for block devices. */
  readonly zeroAlignment: number;
  /** True where the store is known to punch (PUNCH_HOLE) or zero (ZERO_RANGE) without writing data. */
  readonly punchKnown: boolean;
  readonly zeroRangeKnown: boolean;
}

/** `unknown` until tried; `refused` for good. */
type Ability = 'known' | 'unknown' | 'refused';

/** Ranges lie inside the disk and are not empty. Errors are Failures, as of Disk. */
export class DiskZeroing {
  readonly #facts: ZeroingFacts;
  readonly #calls: NodeCalls;
  readonly #pace: InlinePace;
  readonly #write: (data: Uint8Array, offset: number) => Promise<void>;
  #punch: Ability;
  #zeroRange: Ability;

  /** `write` writes all of its data. */
  constructor(
    facts: ZeroingFacts,
    calls: NodeCalls,
    pace: InlinePace,
    write: (data: Uint8Array, offset: number) => Promise<void>,
  ) {
    this.#facts = facts;
    this.#calls = calls;
    this.#pace = pace;
    this.#write = write;
    this.#punch = facts.punchKnown ? 'known' : 'unknown';
    this.#zeroRange = facts.zeroRangeKnown ? 'known' : 'unknown';
  }

  /** See Disk.zero. */
  zero(offset: number, length: number, allocate: boolean): Promise<void> | undefined {
    if (length <= INLINE_SIZE && this.#isAligned(offset, length)) {
      const mode = this.#mode(allocate);
      if (mode !== undefined && this.#fallocateNow(mode, offset, length)) return undefined;
    }
    return this.#zeroAll(offset, length, allocate);
  }

  /** See Disk.zeroIsFast. */
  isFast(offset: number, length: number, allocate: boolean): boolean {
    return (allocate ? this.#zeroRange : this.#punch) === 'known' && this.#isAligned(offset, length);
  }

  /** See Disk.punch. */
  punch(offset: number, length: number): boolean | Promise<boolean> {
    if (this.#punch === 'refused' || !this.#isAligned(offset, length)) return false;
    if (length <= INLINE_SIZE && this.#fallocateNow(PUNCH, offset, length)) return true;
    return this.#fallocate(PUNCH, offset, length);
  }

  /** The best way of the store to make a range zero; undefined: only by writing zeroes. */
  #mode(allocate: boolean): number | undefined {
    if (!allocate && this.#punch !== 'refused') return PUNCH;
    return this.#zeroRange === 'refused' ? undefined : ZERO_RANGE;
  }

  /** Unaligned ends are written; the middle goes to the store. */
  async #zeroAll(offset: number, length: number, allocate: boolean): Promise<void> {
    const end = offset + length;
    const middleStart = Math.min(end, alignUp(offset, this.#facts.zeroAlignment));
    const middleEnd = Math.max(middleStart, alignDown(end, this.#facts.zeroAlignment));
    if (offset < middleStart) await this.#writeZeroes(offset, middleStart - offset);
    if (middleStart < middleEnd) await this.#zeroMiddle(middleStart, middleEnd - middleStart, allocate);
    if (middleEnd < end) await this.#writeZeroes(middleEnd, end - middleEnd);
  }

  async #zeroMiddle(offset: number, length: number, allocate: boolean): Promise<void> {
    for (let mode = this.#mode(allocate); mode !== undefined; mode = this.#mode(allocate)) {
      if (await this.#fallocate(mode, offset, length)) return;
    }
    await this.#writeZeroes(offset, length);
  }

  async #writeZeroes(offset: number, length: number): Promise<void> {
    for (let doneSize = 0; doneSize < length; ) {
      const stepSize = Math.min(WRITE_STEP_SIZE, length - doneSize);
      await this.#write(zeroes.subarray(0, stepSize), offset + doneSize);
      doneSize += stepSize;
    }
  }

  /** On the event loop. False when the disk is slow at the moment or the store has just refused this mode. */
  #fallocateNow(mode: number, offset: number, length: number): boolean {
    const startMs = this.#calls.nowMs();
    if (!this.#pace.allows(startMs)) return false;
    try {
      this.#calls.fallocateNow(this.#facts.descriptor, mode, offset, length);
    } catch (error) {
      this.#noteRefusal(mode, error, offset, length);
      return false;
    } finally {
      this.#pace.took(startMs, this.#calls.nowMs());
    }
    this.#note(mode, 'known');
    return true;
  }

  /** In the thread pool. False when the store refuses this mode, now or before. */
  async #fallocate(mode: number, offset: number, length: number): Promise<boolean> {
    if ((mode === PUNCH ? this.#punch : this.#zeroRange) === 'refused') return false;
    try {
      await this.#calls.fallocate(this.#facts.descriptor, mode, offset, length);
    } catch (error) {
      this.#noteRefusal(mode, error, offset, length);
      return false;
    }
    this.#note(mode, 'known');
    return true;
  }

  #isAligned(offset: number, length: number): boolean {
    return offset % this.#facts.zeroAlignment === 0 && length % this.#facts.zeroAlignment === 0;
  }

  #note(mode: number, ability: Ability): void {
    if (mode === PUNCH) this.#punch = ability;
    else this.#zeroRange = ability;
  }

  /** Remembers that the store has no such operation; throws when the error is anything else. */
  #noteRefusal(mode: number, error: unknown, offset: number, length: number): void {
    // Block devices without the command say EOPNOTSUPP; some drivers say EINVAL for a range that is aligned and inside.
    const refused = isUnsupported(error) || (this.#facts.kind === 'block-device' && errnoOf(error) === 'EINVAL');
    if (!refused) throw diskFailure(error, `${this.#facts.path}: zeroing ${length} bytes at ${offset}`);
    this.#note(mode, 'refused');
  }
}
