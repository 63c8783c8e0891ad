/**
 * What a primary keeps for one mirror, across sessions: the backlog, the marks, and what is only staged.
 *
 * Two modes:
 * - *keeping*: operations enter the backlog; together with the marks it covers every difference to the mirror's view.
 * - *marking*: order has been given up (the backlog overran, or nothing is known of the mirror): operations only mark
 *   their regions, and a rescan will follow.
 *
 * While a pass of a rescan runs, operations enter the backlog too, but
 * - one that lies wholly in regions that the pass has still to compare is left to the pass: it stays marked. Not where
 *   an operation has already been streamed in this pass, or waits in the spool: what is left out after it would be undone
 *   by it, unseen, if the digests were read before it is applied;
 * - one for which the backlog has no room is left to the next pass: its regions are marked again.
 *
 * Invariant (G4), in memory: at any instant each byte that may differ from the mirror's view is under an operation in
 * the backlog, in a marked region, or in one that the pass still compares; and each that may differ from the image
 * itself is so too, or in an uncommitted region, or in one whose last operation the mirror has not recorded. The dirty
 * map holds all of them, durably.
 */
import { assert } from '../base/assert.ts';
import type { Bitmap } from '../base/bitmap.ts';
import type { Clock } from '../io/clock.ts';
import type { FrameType } from '../link/frame.ts';
import { Marks } from '../store/marks.ts';
import type { Backlog } from './backlog.ts';
import { Comparing } from './comparing.ts';
import type { MergedPart } from './merged-part.ts';
import type { MirrorRegions } from './mirror-regions.ts';
import type { ReplicaEvents, ReplicaStart } from './replica-events.ts';
import { RunningPass } from './running-pass.ts';
import { StagedRun } from './staged-run.ts';
import type { Window, WindowEntry } from './window.ts';

export type OperationType = typeof FrameType.WRITE | typeof FrameType.ZERO;

export class Replica {
  readonly marks: Marks;
  readonly backlog: Backlog;
  readonly regions: MirrorRegions;
  readonly #clock: Clock;
  #events: ReplicaEvents = { appended: () => undefined, mergedReady: () => undefined, overran: () => undefined };
  #keeping: boolean;
  readonly comparing = new Comparing();
  #inSession = false;
  /** A merged part is on its way: what is remarked now stands in its middle. */
  #merging = false;
  #sequence: number;
  #sentMax: number;
  readonly #stagedRun: StagedRun;
  /** What the mirror's image is known to have recorded. */
  #recorded: number;
  /** Since when the mirror lacks operations that only marks tell of; undefined while the backlog tells it all. */
  #behindSinceMs: number | undefined;

  constructor(clock: Clock, regions: MirrorRegions, backlog: Backlog, start: ReplicaStart) {
    this.#clock = clock;
    this.regions = regions;
    this.backlog = backlog;
    this.marks = new Marks(regions.size, regions.regionSize);
    this.#stagedRun = new StagedRun(this.marks.regionCount);
    this.#sequence = start.sequence;
    this.#sentMax = start.sequence;
    this.#keeping = start.inOrder;
    this.#recorded = start.inOrder ? backlog.baseSequence : 0;
    backlog.listen({
      refilled: () => this.#events.appended(false),
      mergedReady: () => this.#events.mergedReady(),
      // What was on disk is lost: it is compared.
      failed: () => this.loseOrder(),
    });
    if (start.inOrder) {
      this.marks.startAt(backlog.baseSequence, start.checkpoint);
      return;
    }
    this.#markMapped();
    this.#behindSinceMs = clock.nowMs();
  }

  get window(): Window {
    return this.backlog.window;
  }

  get keeping(): boolean {
    return this.#keeping;
  }

  /** The backlog alone tells everything that the mirror's image may lack. */
  get inOrder(): boolean {
    return this.#keeping && this.marks.count === 0 && this.#stagedRun.uncommittedCount === 0;
  }

  /** Sequence of the last operation, streamed or not. */
  get sequence(): number {
    return this.#sequence;
  }

  /** The highest sequence ever sent: what may be in the mirror's image. */
  get sentMax(): number {
    return this.#sentMax;
  }

  /** The staged run that the mirror may hold. */
  get stagedRun(): Pick<StagedRun, 'id' | 'kind' | 'holds' | 'isHeld' | 'uncommittedCount'> {
    return this.#stagedRun;
  }

  /** Since when the mirror lacks operations that only marks tell of; undefined while the backlog tells it all. */
  get behindSinceMs(): number | undefined {
    return this.#behindSinceMs;
  }

  /** What the mirror's image is known to have recorded, in this run. */
  get recorded(): number {
    return this.#recorded;
  }

  /** Everything after `sequence` is in the backlog. */
  holdsAfter(sequence: number): boolean {
    return sequence >= this.backlog.baseSequence;
  }

  listen(events: ReplicaEvents): void {
    this.#events = events;
  }

  /** An operation has taken effect on the local disk. Its range is locked until this returns. */
  append(type: OperationType, sequence: number, offset: number, length: number, data: Uint8Array | undefined): void {
    assert(sequence === this.#sequence + 1, 'sequences have no gaps');
    this.#sequence = sequence;
    if (!this.#keeping || this.comparing.isCutShort) {
      this.marks.mark(offset, length);
      return;
    }
    if (this.comparing.willCompare(offset, length)) return;
    if (!this.backlog.append(type, sequence, offset, length, data, this.#clock.nowMs())) {
      this.#overrun(offset, length);
      return;
    }
    this.comparing.streamed(offset, length);
    this.#events.appended(false);
  }

  /**
   * Everything up to here ends an epoch. Nothing to say while comparing, as long as what completes that will
   * stand behind it: then it reaches the image all at once, or an image that is not consistent anyway.
   */
  barrier(): void {
    if (!this.#keeping || this.comparing.isCutShort) return;
    if (this.comparing.isOpen && this.backlog.isInWindow) return;
    if (this.backlog.barrier(this.#sequence, this.#clock.nowMs())) {
      this.#events.appended(true);
      return;
    }
    // What follows must not be taken for the same epoch.
    this.#leaveOut();
  }

  /** A range may differ in a way that no operation tells: it is compared. */
  uncertain(sequence: number, offset: number, length: number): void {
    assert(sequence === this.#sequence + 1, 'sequences have no gaps');
    this.#sequence = sequence;
    this.#overrun(offset, length);
  }

  /**
   * Something that belongs to this session only, at the place of the stream up to which operations are on their way. What
   * is returned keeps its `data` until it has been sent, or the session is over.
   */
  remark(
    type: (typeof FrameType)['WRITE' | 'ZERO' | 'PASS' | 'CHECKPOINT' | 'CHECK' | 'STAGE'],
    flags: number,
    offset: number,
    length: number,
    data?: Uint8Array,
    sequence = this.streamSequence,
  ): Pick<WindowEntry, 'data'> {
    const entry = this.window.push(type, flags, sequence, offset, length, data, true, this.#clock.nowMs());
    this.#events.appended(false);
    return entry;
  }

  /** The last operation in front of what is remarked now: of all, or of those that are not in the spool. */
  get streamSequence(): number {
    return this.backlog.isInWindow ? this.#sequence : this.window.lastSequence;
  }

  /** What is remarked now stands behind operation `sequence`, and not in the middle of a merged part. */
  isPast(sequence: number): boolean {
    return !this.#merging && (this.backlog.isInWindow || this.window.lastSequence >= sequence);
  }

  /** The dirty map has a new version: the mirror must know before it gets an operation that relies on it. */
  mapChanged(version: number): void {
    if (!this.#inSession) return;
    this.regions.told(version);
    this.window.pushMapVersion(version, this.streamSequence, this.#clock.nowMs());
    this.#events.appended(false);
  }

  sent(sequence: number): void {
    if (sequence > this.#sentMax) this.#sentMax = sequence;
  }

  /** The mirror's image has recorded up to `recorded`, and its view holds durably what is up to `viewed`. */
  acknowledged(recorded: number, viewed: number): void {
    if (recorded > this.#recorded) {
      this.#recorded = recorded;
      this.marks.settled(recorded, 0);
    }
    this.backlog.forget(Math.max(recorded, viewed));
  }

  /** A session goes on in order after `sequence`; `stagedId`: as one staged run at first. */
  beginCatchUp(sequence: number, stagedId: Buffer | undefined): void {
    assert(this.inOrder, 'only what is in order can be caught up');
    this.#stagedRun.begin(stagedId, 'catch-up', (region) => this.marks.markRegion(region));
    this.#resume(sequence);
  }

  /**
   * A session goes on with the staged run that the mirror holds up to `sequence`. Returns the sequence that the stream
   * follows: that one, or the present one where order has been given up.
   */
  resumeStaged(sequence: number): number {
    assert(this.#stagedRun.kind !== undefined, 'a staged run to resume');
    const after = this.#streamAfter(sequence, sequence);
    if (this.#stagedRun.kind === 'rescan') this.#beginComparing();
    return after;
  }

  /**
   * A session compares with a mirror whose image stands at `position` of this run (undefined: elsewhere). The stream goes
   * on after `resumeAfter`, or begins anew now. `stagedId` undefined: straight into the image. Returns the sequence that
   * the stream follows.
   */
  beginCompare(
    scope: 'everything' | 'map' | 'marks',
    position: number | undefined,
    checkpoint: number,
    resumeAfter: number | undefined,
    stagedId: Buffer | undefined,
  ): number {
    this.#stagedRun.begin(stagedId, 'rescan', (region) => this.marks.markRegion(region));
    if (scope === 'everything') this.marks.markAll();
    else if (scope === 'map') this.#markMapped();
    const after = this.#streamAfter(resumeAfter, position ?? this.#recorded);
    this.marks.startAt(position ?? after, checkpoint);
    this.#beginComparing();
    return after;
  }

  /**
   * A merged part goes out from now on: as a staged run of its own, or within the one that is open. There, what the
   * mirror stages of it is of no position before the part's end: the run is not complete short of that, nor for a later
   * session that goes on with it.
   */
  beginMerged(stagedId: Buffer | undefined, part: Pick<MergedPart, 'end'>): void {
    this.#merging = true;
    if (stagedId === undefined) this.sent(part.end);
    else this.#stagedRun.begin(stagedId, 'merged', (region) => this.marks.markRegion(region));
  }

  /** The mirror's view holds the part. */
  endMerged(part: MergedPart): void {
    this.#merging = false;
    this.backlog.mergedDone(part);
  }

  /** Order cannot be kept any longer: what the mirror has not recorded becomes marks, and the session ends. */
  loseOrder(): void {
    if (!this.#keeping) return;
    this.#giveUp(this.#recorded);
    this.#events.overran();
  }

  /**
   * A pass begins; it may begin again before it has got anywhere, with what has been marked meanwhile. Returns what it
   * has to compare.
   */
  beginPass(): Bitmap {
    assert(this.#keeping, 'what a pass does not compare is streamed');
    const snapshot = this.marks.beginPass();
    const leavable = snapshot.copy();
    // What is still in the spool will be applied after the digests: a later operation must not be left out.
    if (!this.backlog.isInWindow) this.regions.forEachAfter(this.window.lastSequence, (index) => leavable.clear(index));
    this.comparing.beginPass(new RunningPass(leavable, this.marks.regionSize));
    return snapshot;
  }

  /** The mirror's view holds, durably at `checkpoint`, what the pass has found in [from, end). */
  passCleared(from: number, end: number, sequence: number, checkpoint: number): void {
    if (this.#stagedRun.kind === undefined) {
      this.marks.settled(sequence, checkpoint);
      this.marks.clearThrough(from, end, () => undefined);
    } else {
      this.marks.clearThrough(from, end, (region) => this.#stagedRun.mended(region, checkpoint));
    }
  }

  /** The staged run or seeding is complete: view and image are one. */
  committed(sequence: number, checkpoint: number): void {
    this.#stagedRun.committed();
    this.#behindSinceMs = undefined;
    this.marks.settled(sequence, checkpoint);
    this.acknowledged(sequence, sequence);
    if (!this.comparing.isCompleting) return;
    const { isCutShort } = this.comparing;
    this.comparing.end();
    if (!isCutShort) return;
    // The next session compares what was left out; this one first learns that it has come to its end.
    this.#giveUp(sequence);
    queueMicrotask(() => this.#events.overran());
  }

  /** The session is over, and with it a pass that had begun. What it had still to compare stays marked. */
  sessionEnded(): void {
    if (this.comparing.isCutShort) this.#giveUp(this.#recorded);
    this.comparing.end();
    this.#merging = false;
    this.#inSession = false;
    this.regions.endTelling();
    this.marks.endPass();
  }

  #resume(sequence: number): void {
    const whole = this.backlog.rewind(sequence);
    assert(whole, 'everything after the position is in the backlog');
    this.#beginSession();
  }

  /** The stream goes on after `resumeAfter`, or else now, with everything that came after `position` marked. */
  #streamAfter(resumeAfter: number | undefined, position: number): number {
    if (resumeAfter !== undefined && this.#keeping && this.holdsAfter(resumeAfter)) {
      this.#resume(resumeAfter);
      return resumeAfter;
    }
    this.#giveUp(position);
    this.backlog.begin(this.#sequence);
    this.#keeping = true;
    this.#beginSession();
    return this.#sequence;
  }

  #beginSession(): void {
    this.#inSession = true;
    // Its first frame says so, in front of all that is kept: what waits there may rely on it.
    this.regions.told(this.regions.version);
  }

  #beginComparing(): void {
    this.comparing.begin();
    // From here on, not only once the mirror has answered: a burst of writes meanwhile is left to the pass.
    this.beginPass();
  }

  #markMapped(): void {
    this.regions.forEachSet((index) => this.marks.markRegion(index));
  }

  /** Everything that an image at `position` may lack, and that the backlog told, becomes marks. */
  #giveUp(position: number): void {
    this.#behindSinceMs ??= this.backlog.status.oldestMs ?? this.#clock.nowMs();
    if (this.#keeping)
      this.regions.forEachAfter(Math.min(position, this.#recorded), (index) => this.marks.markRegion(index));
    this.backlog.giveUp(this.#sequence, (offset, length) => this.marks.mark(offset, length));
    this.#keeping = false;
    this.comparing.endPass();
  }

  #overrun(offset: number, length: number): void {
    this.marks.mark(offset, length);
    this.#leaveOut();
  }

  /** There is no room for what comes now: a pass, the next session, or a rescan makes up for it. */
  #leaveOut(): void {
    if (this.comparing.isOpen) this.comparing.leftOut(this.#sequence);
    else if (this.comparing.isCompleting) this.comparing.cutShort();
    else this.loseOrder();
  }
}
