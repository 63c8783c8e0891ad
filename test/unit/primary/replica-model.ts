/**
 * One primary and one mirror as plain arrays of cells, around a real Replica, Marks, Window and decide: what the
 * sessions, the stream and the passes of a rescan do is done here step by step, in any order that the seed brings.
 *
 * A cell holds one of few values, so that it often comes back to what it was. What is checked after every step:
 *
 * - G4: a cell that differs from the mirror's image lies under an operation in the window or in a marked region, or
 *   belongs to an operation that has not entered the stream yet.
 * - G2: while the mirror calls its image consistent, it is what the primary was after `applied`. (After a crash only once
 *   everything that was ever sent has been applied again.)
 * - The mirror's own checks: sequences without gaps outside a rescan, never backwards.
 */
import { assert } from '../../../src/base/assert.ts';
import type { Bitmap } from '../../../src/base/bitmap.ts';
import { NO_ID } from '../../../src/base/bytes.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { FRAME_BARRIER, FRAME_COMPLETE, FRAME_REPAIR, FrameType, type FrameTypeCode } from '../../../src/link/frame.ts';
import { decide } from '../../../src/primary/decide.ts';
import { Replica } from '../../../src/primary/replica.ts';
import { ENTRY_OVERHEAD_SIZE } from '../../../src/primary/window.ts';
import { ManualClock } from '../../support/manual-clock.ts';

const CELL_SIZE = 256 * KIB;
const CELL_COUNT = 18;
/** Four cells to a region; the last region has only half. */
const SIZE = CELL_COUNT * CELL_SIZE;
const WINDOW_OPERATIONS = 10;
const OWN = {
  generation: Buffer.alloc(16, 1),
  run: Buffer.alloc(16, 2),
  parentRun: NO_ID,
  parentSequence: 0,
  earlierRuns: [],
  size: SIZE,
  rescanAll: false,
};

/** What a frame of the stream carries. */
interface Sent {
  readonly type: FrameTypeCode;
  readonly flags: number;
  readonly sequence: number;
  readonly offset: number;
  readonly length: number;
  readonly data: Uint8Array | undefined;
}

interface Pass {
  readonly snapshot: Bitmap;
  cursor: number;
  /** Under comparison, in order. */
  readonly batches: Batch[];
  readonly toClear: { from: number; end: number }[];
  /** Its last checkpoint is placed. */
  ending: boolean;
}

interface Batch {
  readonly from: number;
  readonly end: number;
  local: number[] | undefined;
  remote: number[] | undefined;
}

interface Checkpoint {
  readonly number: number;
  readonly kind: 'between' | 'last' | 'complete';
  readonly ranges: readonly { from: number; end: number }[];
}

type Random = (limit: number) => number;

export class ReplicaModel {
  readonly #random: Random;
  readonly #load: number;
  readonly replica: Replica;
  readonly local: number[] = new Array<number>(CELL_COUNT).fill(0);
  #sequence = 0;
  /** Contents of the primary after each sequence. */
  readonly #history: number[][] = [[...this.local]];
  /** Effect on the local disk is there, the operation is not in the stream yet; its range is locked. */
  #pending: { first: number; count: number; type: typeof FrameType.WRITE | typeof FrameType.ZERO } | undefined;

  image: number[] = new Array<number>(CELL_COUNT).fill(0);
  #durable: number[] = [...this.image];
  #applied = 0;
  #recorded = 0;
  #exactFrom = 0;
  #consistent = false;
  #seeded = false;
  #mirrorCheckpoint = 0;
  #backup: { image: number[]; recorded: number; consistent: boolean; checkpoint: number } | undefined;
  /** The image is an older copy, and the primary has not met it yet: it cannot know. */
  #restored = false;

  #connected = false;
  #stream: Sent[] = [];
  /** The mirror has reached the PASS of the present pass. */
  #passApplied = false;
  #pass: Pass | undefined;
  #rescanDue = false;
  #checkpoints: Checkpoint[] = [];
  #done: { number: number; sequence: number }[] = [];
  #numbers = 0;

  readonly seen = { passes: 0, overruns: 0, catchUps: 0, rescans: 0, completions: 0, crashes: 0, restores: 0, left: 0 };

  /** `load`: how busy the clients are, in percent; at 100 the window overruns all the time. */
  constructor(random: Random, inStep: boolean, load: number) {
    this.#random = random;
    this.#load = load;
    this.replica = new Replica(new ManualClock(), SIZE, WINDOW_OPERATIONS * (ENTRY_OVERHEAD_SIZE + 1), 0, 0, inStep);
    this.#consistent = inStep;
    this.#seeded = inStep;
    if (!inStep) this.image = this.image.map(() => random(3));
    this.#durable = [...this.image];
    this.replica.listen({
      appended: () => undefined,
      overran: () => {
        this.seen.overruns += 1;
        this.disconnect();
      },
    });
  }

  get inStep(): boolean {
    return this.#connected && this.#consistent && !this.#rescanDue && this.#applied === this.#sequence;
  }

  /** One step, drawn by chance; what is impossible at present does nothing. */
  step(): void {
    const kind = this.#random(100);
    if (kind < 22) this.takeEffect();
    else if (kind < 40) this.enterStream();
    else if (kind < 44) this.replica.barrier();
    else if (kind < 58) this.send();
    else if (kind < 72) this.apply();
    else if (kind < 76) this.acknowledge();
    else if (kind < 78) this.record();
    else if (kind < 92) this.compare();
    else if (kind < 94) this.checkpoint();
    else if (kind < 96) this.checkpointDone();
    else if (kind < 98) this.connect();
    else if (kind === 98) this.disconnect();
    else if (this.#random(4) > 0) this.crashMirror();
    else this.restoreMirror();
    this.check();
  }

  /** Clients rest, everything else goes on to the end. */
  settle(): void {
    this.enterStream();
    for (let round = 0; round < 2000 && !this.inStep; round += 1) {
      this.connect();
      this.send();
      this.apply();
      this.acknowledge();
      if (round % 5 === 0) this.record();
      this.compare();
      this.checkpointDone();
      this.check();
    }
    assert(this.inStep, 'comes into step once clients rest');
  }

  takeEffect(): void {
    if (this.#pending !== undefined || this.#random(100) >= this.#load) return;
    const first = this.#random(CELL_COUNT);
    const count = Math.min(1 + this.#random(6), CELL_COUNT - first);
    const value = this.#random(3);
    for (let cell = first; cell < first + count; cell += 1) this.local[cell] = value;
    this.#pending = { first, count, type: value === 0 ? FrameType.ZERO : FrameType.WRITE };
  }

  enterStream(): void {
    const pending = this.#pending;
    if (pending === undefined) return;
    this.#pending = undefined;
    this.#sequence += 1;
    this.#history.push([...this.local]);
    const data = pending.type === FrameType.ZERO ? undefined : Uint8Array.of(this.local[pending.first]!);
    const { usedSize } = this.replica.window;
    const [offset, length] = [pending.first * CELL_SIZE, pending.count * CELL_SIZE];
    this.replica.append(pending.type, this.#sequence, offset, length, data, this.#random(6) === 0);
    if (this.#pass !== undefined && this.replica.window.usedSize === usedSize) this.seen.left += 1;
  }

  /** The sender hands the next entry to the connection. */
  send(): void {
    if (!this.#connected) return;
    const entry = this.replica.window.takeUnsent();
    if (entry === undefined) return;
    if (!entry.remark && entry.type !== FrameType.BARRIER) this.replica.sent(entry.sequence);
    this.#stream.push({ ...entry });
    if (entry.remark) this.replica.window.releaseRemark(entry);
  }

  /** The mirror takes the next frame of the stream. */
  apply(): void {
    const frame = this.#stream.shift();
    if (frame === undefined) return;
    const repair = (frame.flags & FRAME_REPAIR) !== 0;
    if (frame.type === FrameType.WRITE || frame.type === FrameType.ZERO) {
      const expected = this.#applied + (repair ? 0 : 1);
      assert(frame.sequence >= expected, `operation ${frame.sequence} after ${this.#applied}`);
      if (!repair && this.#consistent) assert(frame.sequence === expected, `a gap before operation ${frame.sequence}`);
      const first = frame.offset / CELL_SIZE;
      for (let index = 0; index < frame.length / CELL_SIZE; index += 1) {
        this.image[first + index] = frame.data?.[Math.min(index, frame.data.length - 1)] ?? 0;
      }
      if (!repair) this.#applied = frame.sequence;
      if ((frame.flags & FRAME_BARRIER) !== 0) this.#placed(frame.sequence);
    } else if (frame.type === FrameType.BARRIER) {
      this.#placed(frame.sequence);
      this.#applied = frame.sequence;
    } else if (frame.type === FrameType.PASS) {
      this.#passApplied = true;
    } else {
      this.#placed(frame.sequence);
      const complete = (frame.flags & FRAME_COMPLETE) !== 0;
      if (complete) this.#applied = frame.sequence;
      this.#mirrorCheckpoint = frame.offset;
      if (complete) this.#consistent = true;
      if (complete) this.#seeded = true;
      this.record();
      this.#done.push({ number: frame.offset, sequence: frame.sequence });
    }
  }

  #placed(sequence: number): void {
    assert(sequence >= this.#applied, `a barrier at ${sequence} after ${this.#applied}`);
    if (this.#consistent) assert(sequence === this.#applied, `a barrier at ${sequence}, applied ${this.#applied}`);
  }

  /** The mirror syncs and writes its position down. */
  record(): void {
    this.#durable = [...this.image];
    this.#recorded = this.#applied;
    if (this.#random(10) > 0) return;
    this.#backup = {
      image: [...this.image],
      recorded: this.#recorded,
      consistent: this.#consistent,
      checkpoint: this.#mirrorCheckpoint,
    };
  }

  /** The positions reach the primary. */
  acknowledge(): void {
    if (!this.#connected) return;
    this.replica.window.applied(this.#applied);
    this.replica.recorded(this.#recorded);
  }

  connect(): void {
    if (this.#connected) return;
    const decision = decide(
      OWN,
      {
        version: 2,
        consistent: this.#consistent,
        fresh: false,
        seeded: this.#seeded,
        replicaId: NO_ID,
        generation: OWN.generation,
        run: OWN.run,
        parentRun: NO_ID,
        parentSequence: 0,
        resumeAfter: this.#applied,
        recorded: this.#recorded,
        checkpoint: this.#mirrorCheckpoint,
        size: SIZE,
        exact: true,
        mapVersion: 0,
        stagingId: NO_ID,
        stagedSequence: 0,
        stagedCheckpoint: 0,
        stagingRoom: Number.MAX_SAFE_INTEGER,
      },
      this.replica,
    );
    this.#connected = true;
    this.#restored = false;
    // The mirror syncs before a session begins.
    this.#durable = [...this.image];
    if (decision.kind === 'catch-up') {
      this.seen.catchUps += 1;
      this.replica.resume(decision.after);
      if (this.#applied < this.#exactFrom) this.#exactFrom = this.replica.sentMax;
      return;
    }
    this.seen.rescans += 1;
    if (decision.markAll) this.replica.marks.markAll();
    let after = decision.resumeAfter;
    if (after === undefined) {
      this.replica.giveUpOrder();
      after = this.replica.startKeeping();
    } else {
      this.replica.resume(after);
    }
    this.replica.beginPass();
    this.#rescanDue = true;
    if (after < this.#applied) this.#mirrorCheckpoint = 0;
    this.#applied = after;
    this.#recorded = after;
    this.#exactFrom = after;
    this.#consistent = false;
  }

  disconnect(): void {
    if (!this.#connected) return;
    this.#connected = false;
    this.#stream = [];
    this.#pass = undefined;
    this.#rescanDue = false;
    this.#checkpoints = [];
    this.#done = [];
    this.replica.dropPass();
  }

  /** The mirror's process dies: what was not durable may be there or not, cell by cell. */
  crashMirror(): void {
    this.disconnect();
    this.seen.crashes += 1;
    this.image = this.image.map((value, cell) => (this.#random(2) === 0 ? value : this.#durable[cell]!));
    this.#applied = this.#recorded;
    this.#exactFrom = Number.POSITIVE_INFINITY;
  }

  /** Somebody puts the mirror's image and state back to an older copy of both. */
  restoreMirror(): void {
    const backup = this.#backup;
    if (backup === undefined) return;
    this.disconnect();
    this.seen.restores += 1;
    this.image = [...backup.image];
    this.#durable = [...backup.image];
    this.#applied = backup.recorded;
    this.#recorded = backup.recorded;
    this.#consistent = backup.consistent;
    this.#mirrorCheckpoint = backup.checkpoint;
    this.#exactFrom = Number.POSITIVE_INFINITY;
    this.#restored = true;
  }

  /** A step of the comparison: begins a pass, takes a batch up, reads one side of one, or settles the oldest. */
  compare(): void {
    if (!this.#connected || !this.#rescanDue) return;
    const pass = this.#pass;
    if (pass === undefined) {
      this.#beginPass();
      return;
    }
    if (pass.ending) return;
    const { marks } = this.replica;
    const next = marks.nextOf(pass.snapshot, pass.cursor, this.#random(2) === 0 ? MIB : 2 * CELL_SIZE);
    if (next !== undefined && pass.batches.length < 3 && this.#random(2) === 0) {
      pass.cursor = next.offset + next.length;
      this.replica.passReached(pass.cursor);
      const from = next.offset / CELL_SIZE;
      pass.batches.push({ from, end: from + next.length / CELL_SIZE, local: undefined, remote: undefined });
      return;
    }
    const unread = pass.batches.find(({ local, remote }) => local === undefined || remote === undefined);
    if (unread !== undefined && this.#random(3) > 0) {
      // The digests of either side are read at any moment, in any order, the mirror's only after the PASS.
      if (unread.local === undefined && (unread.remote !== undefined || this.#random(2) === 0)) {
        unread.local = this.local.slice(unread.from, unread.end);
      } else if (this.#passApplied) {
        unread.remote = this.image.slice(unread.from, unread.end);
      }
      return;
    }
    const batch = pass.batches[0];
    if (batch === undefined) {
      if (next === undefined) this.#endPass(pass);
    } else if (batch.local !== undefined && batch.remote !== undefined) {
      this.#settleBatch(pass, batch, batch.local, batch.remote);
    }
  }

  #beginPass(): void {
    this.seen.passes += 1;
    this.#pass = { snapshot: this.replica.beginPass(), cursor: 0, batches: [], toClear: [], ending: false };
    this.#passApplied = false;
    this.replica.remark(FrameType.PASS, 0, 0, 0);
  }

  #settleBatch(pass: Pass, batch: Batch, local: readonly number[], remote: readonly number[]): void {
    for (let cell = batch.from; cell < batch.end; cell += 1) {
      if (local[cell - batch.from] === remote[cell - batch.from]) continue;
      // Read again under the lock: not while an operation holds the range.
      if (
        this.#pending !== undefined &&
        cell >= this.#pending.first &&
        cell < this.#pending.first + this.#pending.count
      )
        return;
    }
    for (let cell = batch.from; cell < batch.end; cell += 1) {
      const there = remote[cell - batch.from]!;
      if (local[cell - batch.from] === there) continue;
      const value = this.local[cell]!;
      if (value === 0 && there === 0) continue;
      const type = value === 0 ? FrameType.ZERO : FrameType.WRITE;
      this.replica.remark(type, FRAME_REPAIR, cell * CELL_SIZE, CELL_SIZE, Uint8Array.of(value));
    }
    pass.batches.shift();
    pass.toClear.push({ from: batch.from * CELL_SIZE, end: batch.end * CELL_SIZE });
  }

  #endPass(pass: Pass): void {
    pass.ending = true;
    const complete = this.replica.passOverruns === 0;
    if (complete) this.replica.endPass();
    this.#place(pass, complete ? 'complete' : 'last');
  }

  checkpoint(): void {
    const pass = this.#pass;
    if (pass !== undefined && !pass.ending && pass.toClear.length > 0) this.#place(pass, 'between');
  }

  #place(pass: Pass, kind: Checkpoint['kind']): void {
    this.#numbers += 1;
    this.#checkpoints.push({ number: this.#numbers, kind, ranges: pass.toClear.splice(0) });
    this.replica.remark(FrameType.CHECKPOINT, kind === 'complete' ? FRAME_COMPLETE : 0, this.#numbers, 0);
  }

  /** A CHECKPOINT_DONE reaches the primary. */
  checkpointDone(): void {
    const done = this.#done.shift();
    if (done === undefined) return;
    const checkpoint = this.#checkpoints.shift();
    assert(checkpoint?.number === done.number, 'checkpoints are done in order');
    for (const { from, end } of checkpoint.ranges) {
      this.replica.marks.clearThrough(from, end, done.sequence, done.number);
    }
    if (checkpoint.kind === 'between') return;
    // Another pass follows, or the rescan is over.
    this.#pass = undefined;
    this.replica.marks.endPass();
    if (checkpoint.kind !== 'complete') return;
    this.seen.completions += 1;
    this.replica.dropPass();
    this.#rescanDue = false;
  }

  check(): void {
    const { window, marks } = this.replica;
    const covered = new Array<boolean>(CELL_COUNT).fill(false);
    const cover = (offset: number, length: number): void => {
      for (let cell = Math.floor(offset / CELL_SIZE); cell * CELL_SIZE < offset + length; cell += 1)
        covered[cell] = true;
    };
    window.forEachOperation(cover);
    for (let range = marks.nextMarked(0, SIZE); range !== undefined; ) {
      cover(range.offset, range.length);
      range = marks.nextMarked(range.offset + range.length, SIZE);
    }
    if (this.#restored) return;
    if (this.#pending !== undefined) cover(this.#pending.first * CELL_SIZE, this.#pending.count * CELL_SIZE);
    for (let cell = 0; cell < CELL_COUNT; cell += 1) {
      const differs = this.image[cell] !== this.local[cell] || this.#durable[cell] !== this.local[cell];
      assert(!differs || covered[cell]!, `G4: cell ${cell} differs, and nothing tells of it`);
    }
    if (!this.#consistent || this.#applied < this.#exactFrom) return;
    const then = this.#history[this.#applied]!;
    assert(
      this.image.every((value, cell) => value === then[cell]),
      `G2: the image is not what the primary was after operation ${this.#applied}`,
    );
  }
}
