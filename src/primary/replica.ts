/**
 * What a primary keeps for one mirror, across sessions: the window and the marks.
 *
 * Two modes:
 * - *keeping*: operations enter the window; together with the marks it covers every difference to the mirror.
 * - *marking*: order has been given up (the window overran, or nothing is known of the mirror): operations only mark
 *   their regions, and a rescan will follow.
 *
 * While a pass of a rescan runs, operations enter the window too, but
 * - one that lies wholly in regions that the pass has still to compare is left to the pass: it stays marked. Not where
 *   an operation has already been streamed in this pass: what is left out after it would be undone by it, unseen, if the
 *   digests were read before it is applied;
 * - one for which the window has no room is left to the next pass: its regions are marked again.
 *
 * Invariant (G4): at any instant each byte that may differ from the mirror's image is under an operation in the window,
 * in a marked region, or in one that the pass still compares.
 */
import { assert } from '../base/assert.ts';
import type { Bitmap } from '../base/bitmap.ts';
import type { Clock } from '../io/clock.ts';
import { FRAME_BARRIER, type FrameType } from '../link/frame.ts';
import { Marks } from '../store/marks.ts';
import { Window } from './window.ts';

export type OperationType = typeof FrameType.WRITE | typeof FrameType.ZERO;

export interface ReplicaEvents {
  /** Something waits to be sent. */
  appended(): void;
  /** The window overran: order has been given up. */
  overran(): void;
}

interface RunningPass {
  /** Regions that the pass compares and that no operation streamed since its start has touched. */
  readonly leavable: Bitmap;
  /** Everything below has been, or is being, compared. */
  cursor: number;
}

export class Replica {
  readonly marks: Marks;
  readonly window: Window;
  readonly #clock: Clock;
  #events: ReplicaEvents = { appended: () => undefined, overran: () => undefined };
  #keeping: boolean;
  #pass: RunningPass | undefined;
  #sequence: number;
  #sentMax = 0;
  #passOverruns = 0;
  /** Since when the mirror lacks operations that only marks tell of; undefined while the window tells it all. */
  #behindSinceMs: number | undefined;

  /** `inStep`: a clean stop vouched that the mirror had everything up to `sequence`. */
  constructor(clock: Clock, size: number, windowSize: number, sequence: number, checkpoint: number, inStep: boolean) {
    this.#clock = clock;
    this.marks = new Marks(size);
    this.marks.startAt(sequence, checkpoint);
    this.window = new Window(windowSize, sequence);
    this.#sequence = sequence;
    this.#keeping = inStep;
    if (inStep) return;
    this.marks.markAll();
    this.#behindSinceMs = clock.nowMs();
  }

  get keeping(): boolean {
    return this.#keeping;
  }

  /** Sequence of the last operation, streamed or not. */
  get sequence(): number {
    return this.#sequence;
  }

  /** The highest sequence ever handed to a stream in this run. */
  get sentMax(): number {
    return this.#sentMax;
  }

  /**
   * What the mirror has not applied: bytes and the age of the oldest. Exact while the window tells it all; while marks
   * do, the bytes are those of the marked regions, an upper bound.
   */
  get lag(): { bytes: number; ms: number } {
    const sinceMs = this.#behindSinceMs ?? this.window.oldestUnappliedMs;
    const markedSize = this.#behindSinceMs === undefined ? 0 : this.marks.markedSize;
    return {
      bytes: this.window.unappliedSize + markedSize,
      ms: sinceMs === undefined ? 0 : this.#clock.nowMs() - sinceMs,
    };
  }

  /** A rescan is complete: the window tells it all again. */
  rescanned(): void {
    this.#behindSinceMs = undefined;
  }

  /** Operations that found no room in the window while the present pass ran: another one must follow. */
  get passOverruns(): number {
    return this.#passOverruns;
  }

  listen(events: ReplicaEvents): void {
    this.#events = events;
  }

  /** An operation has taken effect on the local disk. Its range is locked until this returns. */
  append(
    type: OperationType,
    sequence: number,
    offset: number,
    length: number,
    data: Uint8Array | undefined,
    barrier: boolean,
  ): void {
    assert(sequence === this.#sequence + 1, 'sequences have no gaps');
    this.#sequence = sequence;
    if (!this.#keeping) {
      this.marks.mark(offset, length);
      return;
    }
    if (this.#leftToPass(offset, length)) {
      if (barrier) this.barrier();
      return;
    }
    if (!this.window.hasRoomFor(data?.length ?? 0)) {
      this.#overrun(offset, length);
      return;
    }
    this.#streamedInPass(offset, length);
    const flags = barrier ? FRAME_BARRIER : 0;
    this.window.push(type, flags, sequence, offset, length, data, false, this.#clock.nowMs());
    this.#events.appended();
  }

  /**
   * A FLUSH: everything up to here ends an epoch. Where a pass runs and the window is full it is left out: the image is
   * not consistent before the pass is over, and barriers alone must not make the window grow.
   */
  barrier(): void {
    if (!this.#keeping || (this.#pass !== undefined && !this.window.hasRoomFor(0))) return;
    this.window.pushBarrier(this.#sequence, this.#clock.nowMs());
    this.#events.appended();
  }

  /** A range may differ in a way that no operation tells: it is compared. */
  uncertain(offset: number, length: number): void {
    this.#overrun(offset, length);
  }

  /** Something that belongs to this session only, at this place of the stream. */
  remark(
    type: (typeof FrameType)['WRITE' | 'ZERO' | 'PASS' | 'CHECKPOINT' | 'CHECK'],
    flags: number,
    offset: number,
    length: number,
    data?: Uint8Array,
  ): void {
    this.window.push(type, flags, this.#sequence, offset, length, data, true, this.#clock.nowMs());
    this.#events.appended();
  }

  sent(sequence: number): void {
    if (sequence > this.#sentMax) this.#sentMax = sequence;
  }

  /** The mirror has recorded up to `sequence`. */
  recorded(sequence: number): void {
    this.window.forget(sequence);
    this.marks.forgotten(sequence);
  }

  /** A session will resume in order after `sequence`. */
  resume(sequence: number): void {
    assert(this.#keeping, 'only a kept window can be resumed');
    this.window.rewind(sequence);
  }

  /** A session will rescan from here: the window begins empty now. Returns the sequence that the stream follows. */
  startKeeping(): number {
    this.window.clear(this.#sequence, () => undefined);
    this.#keeping = true;
    return this.#sequence;
  }

  /** Gives up order: everything in the window becomes marks. */
  giveUpOrder(): void {
    this.#behindSinceMs ??= this.window.oldestUnappliedMs ?? this.#clock.nowMs();
    this.window.clear(this.#sequence, (entry) => this.marks.mark(entry.offset, entry.length));
    this.#keeping = false;
    this.#pass = undefined;
  }

  /**
   * A pass begins; it may begin again before it has got anywhere, with what has been marked meanwhile. Returns what it
   * has to compare.
   */
  beginPass(): Bitmap {
    assert(this.#keeping, 'what a pass does not compare is streamed');
    const snapshot = this.marks.beginPass();
    this.#pass = { leavable: snapshot.copy(), cursor: 0 };
    this.#passOverruns = 0;
    return snapshot;
  }

  /** The pass compares everything below `end` now or has done so: operations there are streamed from now on. */
  passReached(end: number): void {
    if (this.#pass !== undefined) this.#pass.cursor = end;
  }

  /** From now on every operation is streamed, or order is given up. Marks set during the pass are still remembered. */
  endPass(): void {
    this.#pass = undefined;
  }

  /** The session is over, and with it a pass that had begun. What it had still to compare stays marked. */
  dropPass(): void {
    this.#pass = undefined;
    this.marks.endPass();
  }

  #leftToPass(offset: number, length: number): boolean {
    const pass = this.#pass;
    if (pass === undefined || offset < pass.cursor) return false;
    const regionSize = this.marks.regionSize;
    const last = Math.floor((offset + length - 1) / regionSize);
    for (let index = Math.floor(offset / regionSize); index <= last; index += 1) {
      if (!pass.leavable.get(index)) return false;
    }
    return true;
  }

  /** From now on everything on these regions is streamed too. */
  #streamedInPass(offset: number, length: number): void {
    const pass = this.#pass;
    if (pass === undefined || offset + length <= pass.cursor) return;
    const { regionSize } = this.marks;
    const last = Math.floor((offset + length - 1) / regionSize);
    for (let index = Math.floor(offset / regionSize); index <= last; index += 1) pass.leavable.clear(index);
  }

  #overrun(offset: number, length: number): void {
    this.marks.mark(offset, length);
    if (this.#pass !== undefined) {
      this.#passOverruns += 1;
      return;
    }
    this.giveUpOrder();
    this.#events.overran();
  }
}
