/**
 * What of the backlog stands behind the window: the spool, the merged parts, and who takes from the spool when. Part of
 * backlog.ts, which says what the rungs are.
 *
 * In order: window, frozen part, growing part, spool. One consumer takes from the spool: the growing part while merging,
 * else the window, unless a part stands before it.
 *
 * Invariants:
 * - `spooled` counts each operation from before it is on disk until after it is in the window or in a part.
 * - spool + parts + files being removed stay within `spoolSize`: appending leaves room for what is being folded, whose
 *   segment is still there.
 * - Nothing flaps: a rung is left for a better one only when nothing (merged: little) is left on it, *and* RUNG_DWELL_MS
 *   after the last change. Changes for the worse cannot wait, but there are never more than two beyond those.
 *
 * Rejected: folding operations into the growing part as they come (writes to it take time, and what comes meanwhile must
 * wait somewhere bounded: the spool is just that, and while it is read promptly it stays in memory).
 */
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { MIB } from '../base/units.ts';
import type { World } from '../io/world.ts';
import { FrameType, type FrameTypeCode } from '../link/frame.ts';
import { type Spool, type SpoolRecord, segmentSizeFor } from '../store/spool.ts';
import type { MergedPart } from './merged-part.ts';
import { fold, MergedParts } from './merged-parts.ts';
import type { Spooled } from './spooled.ts';
import { ENTRY_OVERHEAD_SIZE, type Window } from './window.ts';

/** Where the newest operations go. */
export type Rung = 'window' | 'spool' | 'merged';

/** A rung is left for a better one this long after the last change at the earliest. */
export const RUNG_DWELL_MS = 1_000;
/** Shares of the window: reading back begins below the first and ends above the second. */
const REFILL_BELOW = 1 / 2;
const REFILL_UNTIL = 3 / 4;
/** Shares of the spool: merging begins when more than the first is taken, and ends when less than the second is left. */
const MERGE_ABOVE = 1 / 2;
const MERGE_UNTIL = 1 / 32;
/** Read back at a time: bytes of records, which stay in memory as they are, and of what they take there besides. */
const BATCH_SIZE = MIB;

export interface OverflowSettings {
  readonly diskSize: number;
  /** Bytes on disk at most. */
  readonly spoolSize: number;
  readonly spoolDirectory: string;
}

export type BacklogWorld = Pick<World, 'clock' | 'files' | 'random' | 'points'>;

export interface BacklogEvents {
  /** The window has got something to send that was read back. */
  refilled(): void;
  /** The window has been sent and a merged part is next: ask `nextMerged`. Not said again of a part handed out. */
  mergedReady(): void;
  /** What is on disk is of no use any more: order must be given up. */
  failed(reason: Failure): void;
}

export class Overflow {
  readonly spool: Spool | undefined;
  readonly spooled: Spooled;
  readonly parts: MergedParts;
  events: BacklogEvents = { refilled: () => undefined, mergedReady: () => undefined, failed: () => undefined };
  readonly #world: BacklogWorld;
  readonly #log: Log;
  readonly #settings: OverflowSettings;
  readonly #window: Window;
  readonly #batchSize: number;
  /** Left free by `append` for what folding takes before it gives something back. */
  readonly #foldingSize: number;
  #rung: Rung;
  #rungMs = Number.NEGATIVE_INFINITY;
  #rungChanges = 0;
  /** The present session began after this sequence: the mirror had everything up to there. */
  #resumedAfter: number;
  /** The frozen part has been handed to the present session. */
  #handedOut = false;
  /** No part can be made: until order has been given up the spool does without. */
  #mergeless = false;
  #failure: Failure | undefined;
  /** The one consumer of the spool, while it works. */
  #feeding: Promise<void> | undefined;
  /** Bytes on their way from the spool into the growing part, which may take as many; undefined: nothing is. */
  #folding: number | undefined;
  /** Counts `clear`: what was begun before it counts no more. */
  #era = 0;
  #stopping = false;

  /** `spooled` tells what is in the spool already, for a disk of that size. */
  constructor(
    world: BacklogWorld,
    log: Log,
    settings: OverflowSettings,
    window: Window,
    spool: Spool | undefined,
    spooled: Spooled,
  ) {
    this.#world = world;
    this.#log = log;
    this.#settings = settings;
    this.#window = window;
    this.spool = spool;
    this.spooled = spooled;
    const { spoolDirectory: directory, diskSize, spoolSize: sizeMax } = settings;
    this.parts = new MergedParts(world.files, log, { directory, diskSize, sizeMax });
    this.#resumedAfter = window.baseSequence;
    this.#rung = spooled.count === 0 ? 'window' : 'spool';
    // Twice that at most, entries included, comes on top of a window that has become full since the reading began.
    this.#batchSize = Math.min(BATCH_SIZE, Math.ceil(window.limit / 16));
    this.#foldingSize = 2 * segmentSizeFor(sizeMax);
  }

  /** Where operations are to go: here, unless it is `window`. */
  get rung(): Rung {
    return this.#rung;
  }

  get rungChanges(): number {
    return this.#rungChanges;
  }

  /** Why it is of no use any more, until `clear`. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /** Bytes on disk. */
  get size(): number {
    return (this.spool?.size ?? 0) + this.parts.size;
  }

  get isEmpty(): boolean {
    return this.spooled.count === 0 && this.parts.isEmpty;
  }

  /** Nothing is here any more, the window has room, and the last change is long enough ago. */
  mayReturn(nowMs: number): boolean {
    return (
      this.isEmpty &&
      this.#window.usedSize <= this.#window.limit * REFILL_BELOW &&
      nowMs - this.#rungMs >= RUNG_DWELL_MS
    );
  }

  /** From now on operations go straight to the window again. */
  return(nowMs: number): void {
    this.parts.dropGrowing();
    this.#move('window', nowMs);
  }

  /** Takes an operation or barrier in, at once. False: there is no room, or the disk has failed; nothing was taken in. */
  append(
    type: FrameTypeCode,
    flags: number,
    sequence: number,
    offset: number,
    length: number,
    data: Uint8Array | undefined,
    atMs: number,
  ): boolean {
    const { spool } = this;
    const { spoolSize } = this.#settings;
    if (spool === undefined || this.#failure !== undefined || this.#stopping) return false;
    if (this.size + (data?.length ?? 0) + (this.#folding ?? 0) + this.#foldingSize > spoolSize) return false;
    if (!spool.append(type, flags, sequence, offset, length, data, atMs)) return false;
    this.spooled.entered(offset, length, atMs);
    if (this.#rung === 'window') {
      this.#move('spool', atMs);
      this.#world.points.reached('primary-spool-begun');
    }
    if (this.#rung === 'spool' && !this.#mergeless && this.size > spoolSize * MERGE_ABOVE) {
      this.#move('merged', atMs);
      this.#world.points.reached('primary-merge-begun');
    }
    this.feed();
    return true;
  }

  /** Takes from the spool, in the background, what somebody has room for. */
  feed(): void {
    if (this.#feeding !== undefined || this.#consumer(REFILL_BELOW) === undefined) return;
    this.#feeding = this.#feedAll(this.#era).finally(() => {
      this.#feeding = undefined;
      this.feed();
    });
  }

  /** Says that a part is next, if that is so. */
  announce(): void {
    if (this.#window.hasUnsent || this.#handedOut || this.#failure !== undefined || this.#folding !== undefined) return;
    if (!this.parts.isEmpty) this.events.mergedReady();
  }

  /** The part that comes right behind the window, which has been sent; it is frozen if need be. */
  nextMerged(): MergedPart | undefined {
    const part = this.#failure === undefined ? (this.parts.frozen ?? this.#freeze()) : undefined;
    this.#handedOut = part !== undefined;
    return part;
  }

  /** The mirror is at the end of the frozen part. */
  mergedDone(part: MergedPart): void {
    this.#handedOut = false;
    this.parts.dropFrozen();
    this.#window.applied(part.end);
    this.#window.forget(part.end);
  }

  /** A session begins after `sequence`: parts that the mirror has are dropped. */
  rewound(sequence: number): void {
    this.#handedOut = false;
    this.#resumedAfter = sequence;
    const { frozen, growing } = this.parts;
    if (frozen !== undefined && sequence >= frozen.end) this.mergedDone(frozen);
    // The last session may have begun later than this one, and the part behind it.
    if (growing?.isEmpty && growing.base > sequence) growing.beginAfter(sequence);
  }

  /** Drops everything; `visit` is called for every range that it was about. What had failed is tried anew. */
  clear(visit: (offset: number, length: number) => void): void {
    this.#era += 1;
    this.parts.forEach(visit);
    this.spooled.forEach(visit);
    this.spooled.clear();
    this.parts.dropFrozen();
    this.parts.dropGrowing();
    this.spool?.clear();
    this.#failure = undefined;
    this.#mergeless = false;
    this.#folding = undefined;
    this.#handedOut = false;
    if (this.#rung !== 'window') this.#move('window', this.#world.clock.nowMs());
  }

  /** Takes nothing in any more; resolves when what was under way is over. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#feeding;
  }

  /** After `stop`: closes all files. */
  async close(): Promise<void> {
    this.parts.dropFrozen();
    this.parts.dropGrowing();
    await this.parts.removed();
    await this.spool?.close();
  }

  #move(rung: Rung, nowMs: number): void {
    this.#log.debug({ from: this.#rung, to: rung, spooled: this.size }, 'where operations wait for the mirror');
    this.#rung = rung;
    this.#rungMs = nowMs;
    this.#rungChanges += 1;
  }

  #consumer(windowShare: number): 'window' | 'part' | undefined {
    const { spool } = this;
    if (spool === undefined || spool.isEmpty || this.#failure !== undefined || this.#stopping) return undefined;
    if (this.#rung === 'merged') return 'part';
    if (!this.parts.isEmpty) return undefined;
    return this.#window.usedSize <= this.#window.limit * windowShare ? 'window' : undefined;
  }

  async #feedAll(era: number): Promise<void> {
    try {
      for (let to = this.#consumer(REFILL_BELOW); to !== undefined; to = this.#consumer(REFILL_UNTIL)) {
        const part = to === 'part' ? (this.parts.growing ?? (await this.#beginPart(era))) : undefined;
        if (era !== this.#era) return;
        if (to === 'part' && part === undefined) continue;
        // What is being read belongs to this part: it does not end before that is in it.
        this.#folding = part === undefined ? undefined : 0;
        const records = await this.spool!.read(this.#batchSize, ENTRY_OVERHEAD_SIZE);
        if (era !== this.#era) return;
        this.#world.points.reached('primary-spool-read');
        if (part === undefined) this.#intoWindow(records);
        else await this.#intoPart(part, records, era);
        if (era !== this.#era) return;
        this.announce();
      }
    } catch (error) {
      if (!isFailure(error)) throw error;
      if (era === this.#era) this.#failed(error);
    }
  }

  #intoWindow(records: readonly SpoolRecord[]): void {
    const window = this.#window;
    for (const { type, flags, sequence, offset, length, data, atMs } of records) {
      const code = type as FrameTypeCode;
      this.spooled.left(offset, length, atMs);
      // After a restart the mirror may be further than what was kept.
      if (sequence <= window.baseSequence) continue;
      if (sequence <= this.#resumedAfter) {
        // What the session has put there since stands behind it: if the mirror should come back from before, it is compared.
        if (window.hasUnsent) window.forget(sequence);
        else window.pushApplied(code, flags, sequence, offset, length, data, atMs);
      } else if (code === FrameType.BARRIER) window.pushBarrier(sequence, atMs);
      else window.push(code, flags, sequence, offset, length, data, false, atMs);
    }
    // Where nothing was left to send the spool may be empty all the same: the mirror is in step.
    if (window.hasUnsent || this.isEmpty) this.events.refilled();
  }

  async #intoPart(part: MergedPart, records: readonly SpoolRecord[], era: number): Promise<void> {
    const size = records.reduce((sum, { data }) => sum + (data?.length ?? 0), 0);
    await this.#roomToFold(size, era);
    for (const record of records) {
      if (era !== this.#era) return;
      const { type, sequence, offset, length, atMs } = record;
      if (sequence <= part.base && sequence <= this.#resumedAfter) {
        // After a restart the mirror is further than what was kept. If it should come back from before, it is compared.
        this.#window.forget(sequence);
        this.spooled.left(offset, length, atMs);
        continue;
      }
      const folding = fold(part, record);
      if (folding !== undefined) await folding;
      if (era !== this.#era) return;
      this.#folding! -= record.data?.length ?? 0;
      // A part counts as a barrier, but one in which nothing stands is never sent.
      if (type === FrameType.BARRIER && this.parts.isEmpty) this.#barrierBefore(sequence, atMs);
      else part.reached(sequence, atMs);
      this.spooled.left(offset, length, atMs);
    }
    this.#folding = undefined;
  }

  #barrierBefore(sequence: number, atMs: number): void {
    if (sequence < this.#window.lastSequence) return;
    this.#window.pushBarrier(sequence, atMs);
    this.events.refilled();
  }

  /** What was read goes away in the background; `append` has left room until then. */
  async #roomToFold(size: number, era: number): Promise<void> {
    const { spoolSize } = this.#settings;
    this.#folding = size;
    if (this.size + size <= spoolSize) return;
    await this.spool!.removed();
    await this.parts.removed();
    if (era !== this.#era || this.size + size <= spoolSize) return;
    throw new Failure('no-space', `the spool of ${spoolSize} bytes is full`);
  }

  /** What stands in front of the next part. */
  get #nextBase(): number {
    return this.parts.frozen?.end ?? this.#window.lastSequence;
  }

  /** A part that grows from now on; undefined when none can be made: the spool goes on without, in order. */
  async #beginPart(era: number): Promise<MergedPart | undefined> {
    const { parts } = this;
    try {
      const part = await parts.begin(this.#nextBase);
      if (era === this.#era) {
        part.beginAfter(Math.min(part.base, this.#nextBase));
        parts.grow(part);
      } else {
        parts.remove(part);
      }
      return part;
    } catch (error) {
      if (!isFailure(error)) throw error;
      if (era !== this.#era) return undefined;
      this.#log.warn({ code: error.code }, `the spool cannot merge what is rewritten: ${error.message}`);
      this.#mergeless = true;
      this.#move('spool', this.#world.clock.nowMs());
      return undefined;
    }
  }

  /** The growing part ends here. What follows goes into the next one, or in order again when little is left. */
  #freeze(): MergedPart | undefined {
    const { growing } = this.parts;
    if (growing === undefined || growing.isEmpty || this.#folding !== undefined) return undefined;
    // After a restart the mirror may have had it all.
    if (growing.end <= this.#resumedAfter) {
      this.#window.forget(growing.end);
      this.parts.dropGrowing();
      return undefined;
    }
    const part = this.parts.freeze();
    this.#world.points.reached('primary-merge-frozen');
    const nowMs = this.#world.clock.nowMs();
    const little = this.#settings.spoolSize * MERGE_UNTIL;
    if (part.size <= little && this.spool!.size <= little && nowMs - this.#rungMs >= RUNG_DWELL_MS) {
      this.#move('spool', nowMs);
    }
    return part;
  }

  #failed(reason: Failure): void {
    this.#failure = reason;
    this.#folding = undefined;
    this.events.failed(reason);
  }
}
