/**
 * A rescan: passes over what is marked, until nothing is; all of them are one staged run (or one seeding).
 *
 * Each pass compares a snapshot of the marks and puts what differs into the stream. Its marks are cleared at
 * checkpoints, when the mirror holds the outcome durably in its view. Operations that find no room in the backlog
 * meanwhile mark their regions again, and another pass follows. When none did, and the stream has got past the last
 * thing that the pass has read, the last checkpoint commits the run: the image becomes the view in one step.
 */
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { alignDown, KIB } from '../base/units.ts';
import { DIGEST_KEY_SIZE } from '../io/digest.ts';
import type { Random } from '../io/random.ts';
import { FRAME_REPAIR, FrameType } from '../link/frame.ts';
import type { DifferingRange, Range } from '../rescan/source.ts';
import type { Checkpoints } from './checkpoints.ts';
import { Comparison, type ComparisonMeans } from './comparison.ts';
import { readLocked } from './local-disk.ts';
import type { Replica } from './replica.ts';
import { runsOfZeroes } from './runs-of-zeroes.ts';
import type { RescanProgress } from './status.ts';

/** A differing range is read and sent in pieces of this size: how long a client's write may have to wait for its range. */
const PIECE_SIZE = 256 * KIB;
/** What cannot be read is told apart in blocks of this size. */
const BLOCK_SIZE = 4 * KIB;
const CHECKPOINT_INTERVAL_MS = 5_000;
/**
 * A few bad blocks must not keep a mirror from existing: it keeps what it has there, and `status` shows them. But a disk
 * of which more than this share cannot be read is not taken for compared.
 */
const UNREADABLE_SHARE_MAX = 1 / 100;
/** A pass that leaves more than this share of what the one before it had in scope does not converge. */
const SHRINKING_SHARE = 3 / 4;

export class Rescan {
  readonly #means: ComparisonMeans;
  readonly #random: Random;
  readonly #log: Log;
  readonly #replica: Replica;
  readonly #checkpoints: Checkpoints;
  readonly #scope: RescanProgress['scope'];
  readonly #startMs: number;
  #comparison: Comparison | undefined;
  #pass = 0;
  #shippedSize = 0;
  #zeroedSize = 0;
  /** Bytes of this pass that the local disk could not read. */
  #unreadableSize = 0;
  /** Scope of the last pass that was not the last, in bytes. */
  #lastScopeSize = Number.POSITIVE_INFINITY;
  #converging = true;
  /** Compared, and what differed stands in the stream: cleared at the next checkpoint. */
  #toClear: Range[] = [];
  #checkpointMs: number;
  #clearing: Promise<void> = Promise.resolve();
  /** Repairs have been sent since the last checkpoint was placed. */
  #unsettled = false;

  constructor(
    means: ComparisonMeans,
    random: Random,
    log: Log,
    replica: Replica,
    checkpoints: Checkpoints,
    scope: RescanProgress['scope'],
  ) {
    this.#means = means;
    this.#random = random;
    this.#log = log;
    this.#replica = replica;
    this.#checkpoints = checkpoints;
    this.#scope = scope;
    this.#startMs = means.clock.nowMs();
    this.#checkpointMs = this.#startMs;
  }

  /**
   * Runs to the end: image and view are then one, at the sequence returned. Rejects when the session ends first; marks
   * not cleared stay.
   */
  async run(): Promise<number> {
    const { marks } = this.#replica;
    try {
      for (;;) {
        await this.#streamPastLeftOut();
        const scopeSize = await this.#runPass();
        await this.#whatWasReadStreams();
        this.#replica.comparing.endPass();
        await this.#streamPast(this.#replica.sequence);
        // From here to the placing nothing may come in between: an operation left out would not be seen.
        const complete = this.#replica.comparing.overruns === 0;
        if (complete) this.#replica.comparing.complete();
        const placed = this.#checkpoints.place(complete);
        this.#clearAt(placed);
        await this.#clearing;
        marks.endPass();
        if (complete) {
          const { sequence, number } = await placed;
          this.#replica.committed(sequence, number);
          return sequence;
        }
        this.#judge(scopeSize);
      }
    } finally {
      this.#replica.comparing.endPass();
      marks.endPass();
    }
  }

  progress(): RescanProgress | undefined {
    const progress = this.#comparison?.progress();
    if (progress === undefined) return undefined;
    return {
      ...progress,
      shippedSize: this.#shippedSize,
      zeroedSize: this.#zeroedSize,
      elapsedMs: this.#means.clock.nowMs() - this.#startMs,
      etaMs: this.#etaMs(progress),
      converging: this.#converging,
    };
  }

  /** What has been marked again meanwhile is still to come, and more of it will. */
  #etaMs({ scopeSize, comparedSize, elapsedMs }: RescanProgress): number | undefined {
    const { remarkedSize } = this.#replica.marks;
    const netSize = comparedSize - remarkedSize;
    return netSize <= 0 ? undefined : ((scopeSize - comparedSize + remarkedSize) / netSize) * elapsedMs;
  }

  /** Returns the bytes that were in its scope. */
  async #runPass(): Promise<number> {
    // Order may have been given up, and the session with it, before it came to this.
    if (this.#means.ended()) throw new Failure('connection-lost', 'the session ended during a rescan');
    this.#pass += 1;
    this.#unreadableSize = 0;
    const key = this.#random.bytes(DIGEST_KEY_SIZE);
    const snapshot = this.#replica.beginPass();
    const scopeSize = this.#replica.marks.markedSize;
    const pass = this.#replica.remark(FrameType.PASS, 0, 0, 0, key);
    this.#comparison = new Comparison(this.#means, {
      scope: this.#scope,
      scopeSize,
      key,
      seeding: this.#replica.stagedRun.kind === undefined,
      pass: this.#pass,
      passSent: () => pass.data === undefined,
      next: (offset, lengthMax) => this.#replica.marks.nextOf(snapshot, offset, lengthMax),
      reached: (end) => this.#replica.comparing.passReached(end),
      differing: (range) => this.#repair(range),
      unreadable: (range) => this.#unreadable(range),
      compared: (range) => this.#compared(range),
    });
    await this.#comparison.run();
    return scopeSize;
  }

  /** A repair of what only marks tell of must not stand in front of an older operation on the same place. */
  async #streamPastLeftOut(): Promise<void> {
    while (!this.#replica.isPast(this.#replica.comparing.leftOutThrough))
      await this.#streamPast(this.#replica.comparing.leftOutThrough);
  }

  /**
   * A mutation that is under way on the local disk may have been read in part, and has no sequence yet: what completes the
   * rescan must stand behind it, else the image would hold some of it and not what it covered.
   */
  async #whatWasReadStreams(): Promise<void> {
    let settled = false;
    void this.#means.local.lock.settled().then(() => {
      settled = true;
    });
    await this.#means.pacing.until(
      () => settled,
      () => this.#means.ended(),
    );
  }

  /** Waits until the stream has got past an operation: what a pass has read may be newer than what is still spooled. */
  async #streamPast(sequence: number): Promise<void> {
    // Repairs that stay in the window take the room that reading back the spool needs.
    if (!this.#replica.isPast(sequence)) this.#settleRepairs();
    await this.#means.pacing.until(
      () => this.#replica.isPast(sequence),
      () => this.#means.ended(),
    );
    if (this.#means.ended()) throw new Failure('connection-lost', 'the session ended during a rescan');
  }

  /** A pass was not the last: does the link carry more than is dirtied meanwhile? */
  #judge(scopeSize: number): void {
    const { markedSize } = this.#replica.marks;
    const converging = markedSize < this.#lastScopeSize * SHRINKING_SHARE;
    this.#lastScopeSize = Math.min(scopeSize, this.#lastScopeSize);
    if (converging === this.#converging) {
      this.#log.info({ marked: markedSize }, 'writes outran the link during the pass: another pass follows');
    } else if (converging) {
      this.#log.info({ marked: markedSize }, 'the rescan is converging again');
    } else {
      this.#log.warn({ marked: markedSize }, 'not converging: more is written than the link carries');
    }
    this.#converging = converging;
  }

  /** Reads the range again, piece by piece, while nothing can change it, and puts it into the stream. */
  async #repair(range: DifferingRange): Promise<void> {
    const end = range.offset + range.length;
    for (let at = range.offset; at < end; ) {
      const length = Math.min(end, alignDown(at, PIECE_SIZE) + PIECE_SIZE) - at;
      await this.#repairPiece(at, length, range.remoteZero);
      at += length;
    }
  }

  async #repairPiece(offset: number, length: number, remoteZero: boolean): Promise<void> {
    if (!this.#replica.window.hasRoomFor(length)) this.#settleRepairs();
    await this.#means.pacing.room(length, () => this.#means.ended());
    if (this.#means.ended()) return;
    try {
      await readLocked(this.#means.local, offset, length, (data) => this.#ship(offset, data, remoteZero));
    } catch (error) {
      if (!isFailure(error, 'io-error')) throw error;
      if (length <= BLOCK_SIZE) {
        this.#unreadable({ offset, length });
        return;
      }
      // One bad block must not hide its neighbours.
      const end = offset + length;
      for (let at = offset; at < end; at += BLOCK_SIZE) {
        await this.#repairPiece(at, Math.min(BLOCK_SIZE, end - at), remoteZero);
      }
    }
  }

  /** The window keeps repairs until the mirror has dealt with a checkpoint behind them: one is placed before it is waited for. */
  #settleRepairs(): void {
    if (!this.#unsettled) return;
    this.#unsettled = false;
    this.#checkpointMs = this.#means.clock.nowMs();
    this.#clearAt(this.#checkpoints.place(false));
  }

  #ship(offset: number, data: Buffer, remoteZero: boolean): void {
    this.#unsettled = true;
    for (const run of runsOfZeroes(data, offset)) {
      const length = run.to - run.from;
      if (run.zero) {
        if (remoteZero) continue;
        this.#replica.remark(FrameType.ZERO, FRAME_REPAIR, offset + run.from, length);
        this.#zeroedSize += length;
      } else {
        this.#replica.remark(FrameType.WRITE, FRAME_REPAIR, offset + run.from, length, data.subarray(run.from, run.to));
        this.#shippedSize += length;
      }
    }
  }

  #unreadable(range: Range): void {
    this.#log.error(
      { offset: range.offset, length: range.length },
      'the local disk cannot read a range that may differ from the mirror',
    );
    this.#replica.marks.markUnreadable(range.offset, range.length);
    this.#unreadableSize += range.length;
    const allowed = Math.max(PIECE_SIZE, this.#means.local.disk.size * UNREADABLE_SHARE_MAX);
    if (this.#unreadableSize > allowed) {
      throw new Failure('io-error', `${this.#unreadableSize} bytes of ${this.#means.local.disk.path} cannot be read`);
    }
  }

  #compared(range: Range): void {
    this.#toClear.push(range);
    if (this.#means.clock.nowMs() - this.#checkpointMs < CHECKPOINT_INTERVAL_MS) return;
    this.#checkpointMs = this.#means.clock.nowMs();
    this.#clearAt(this.#checkpoints.place(false));
  }

  /** Once the checkpoint is durable on the mirror, what was compared before it is no longer marked. */
  #clearAt(checkpoint: Promise<{ sequence: number; number: number }>): void {
    const ranges = this.#toClear;
    this.#toClear = [];
    const cleared = checkpoint.then(({ sequence, number }) => {
      for (const { offset, length } of ranges) this.#replica.passCleared(offset, offset + length, sequence, number);
    });
    this.#clearing = Promise.all([this.#clearing, cleared]).then(() => undefined);
    // Awaited at the end of the pass; a session that ends before must not leave it unhandled.
    this.#clearing.catch(() => undefined);
  }
}
