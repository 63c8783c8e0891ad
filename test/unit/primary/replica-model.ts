/**
 * One primary and one mirror as plain arrays of cells, around a real Replica with its marks and its window, and decide:
 * what sessions, the stream, staged runs and the passes of a rescan do is done here step by step, in any order that the
 * seed brings.
 *
 * A cell holds one of few values, so that it often comes back to what it was. What is checked after every step:
 *
 * - G4: a cell that differs from the mirror's image lies in a region that is set in the dirty map and that nothing allows
 *   to be cleared: marked, mended in a staged run only, or with an operation that the mirror has not recorded; or it
 *   belongs to an operation that has not entered the stream yet. One that differs from the mirror's *view* lies under an
 *   operation in the window or in a marked region.
 * - G2, G3: while the mirror calls its image consistent and exact, it is what the primary was after `applied`, also while
 *   a staged run is open.
 * - The mirror's own checks: sequences without gaps outside of staged runs and seedings, never backwards.
 */
import { assert } from '../../../src/base/assert.ts';
import type { Bitmap } from '../../../src/base/bitmap.ts';
import { NO_ID } from '../../../src/base/bytes.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { FRAME_COMPLETE, FRAME_REPAIR, FrameType, type FrameTypeCode } from '../../../src/link/frame.ts';
import { decide } from '../../../src/primary/decide.ts';
import type { Replica } from '../../../src/primary/replica.ts';
import { ENTRY_OVERHEAD_SIZE } from '../../../src/primary/window.ts';
import { REPLICA_ID, type ReplicaParts, RUN, replicaParts } from './replica-parts.ts';

const CELL_SIZE = 256 * KIB;
const CELL_COUNT = 18;
/** Four cells to a region; the last region has only half. */
const SIZE = CELL_COUNT * CELL_SIZE;
const WINDOW_OPERATIONS = 10;
const OWN = {
  generation: Buffer.alloc(16, 1),
  run: RUN,
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

/** What the mirror keeps beside its image: what is in it, and what of it would survive a crash. */
interface Staged {
  readonly id: Buffer;
  readonly kind: 'rescan' | 'catch-up';
  cells: Map<number, number>;
  position: number;
  durable: { cells: Map<number, number>; position: number; checkpoint: number };
}

interface Checkpoint {
  readonly number: number;
  readonly kind: 'between' | 'last' | 'complete' | 'commit';
  readonly ranges: readonly { from: number; end: number }[];
}

type Random = (limit: number) => number;

export class ReplicaModel {
  readonly #random: Random;
  readonly #load: number;
  readonly #parts: ReplicaParts;
  readonly replica: Replica;
  readonly local: number[] = new Array<number>(CELL_COUNT).fill(0);
  #sequence = 0;
  /** Contents of the primary after each sequence. */
  readonly #history: number[][] = [[...this.local]];
  /** Effect on the local disk is there, the operation is not in the stream yet; its range is locked. */
  #pending: { first: number; count: number; type: typeof FrameType.WRITE | typeof FrameType.ZERO } | undefined;

  image: number[] = new Array<number>(CELL_COUNT).fill(0);
  #durable: number[] = [...this.image];
  #staged: Staged | undefined;
  #applied = 0;
  #recorded = 0;
  /** Nothing beyond `#applied` can be in the image. */
  #exact = true;
  #consistent = false;
  #seeded = false;
  #mirrorCheckpoint = 0;
  #backup:
    | { image: number[]; recorded: number; consistent: boolean; checkpoint: number; staged: Staged | undefined }
    | undefined;
  /** The image is an older copy, and the primary has not met it yet: it cannot know. */
  #restored = false;

  #connected = false;
  #stream: Sent[] = [];
  /** The mirror has reached the PASS of the present pass. */
  #passApplied = false;
  #pass: Pass | undefined;
  #rescanDue = false;
  /** A staged catch-up is to be completed. */
  #commitDue = false;
  #ids = 0;
  #checkpoints: Checkpoint[] = [];
  #done: { number: number; sequence: number }[] = [];
  #numbers = 0;

  readonly seen = {
    passes: 0,
    overruns: 0,
    catchUps: 0,
    stagedCatchUps: 0,
    rescans: 0,
    resumes: 0,
    completions: 0,
    crashes: 0,
    stagedLost: 0,
    restores: 0,
    left: 0,
  };

  /** `load`: how busy the clients are, in percent; at 100 the window overruns all the time. */
  static async make(random: Random, inStep: boolean, load: number): Promise<ReplicaModel> {
    const windowSize = WINDOW_OPERATIONS * (ENTRY_OVERHEAD_SIZE + 1);
    return new ReplicaModel(random, await replicaParts({ size: SIZE, windowSize, inOrder: inStep }), inStep, load);
  }

  private constructor(random: Random, parts: ReplicaParts, inStep: boolean, load: number) {
    this.#random = random;
    this.#load = load;
    this.#parts = parts;
    this.replica = parts.replica;
    this.#consistent = inStep;
    this.#seeded = inStep;
    if (!inStep) this.image = this.image.map(() => random(3));
    this.#durable = [...this.image];
    this.replica.listen({
      appended: () => undefined,
      mergedReady: () => undefined,
      overran: () => {
        this.seen.overruns += 1;
        this.disconnect();
      },
    });
  }

  get inStep(): boolean {
    const due = this.#rescanDue || this.#commitDue || this.#staged !== undefined;
    return this.#connected && this.#consistent && !due && this.#applied === this.#sequence;
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
    const data = Uint8Array.of(this.local[pending.first]!);
    const { usedSize } = this.replica.window;
    const [offset, length] = [pending.first * CELL_SIZE, pending.count * CELL_SIZE];
    this.#parts.write(offset, length, this.#random(6) === 0, data, pending.type);
    if (this.#pass !== undefined && this.replica.window.usedSize === usedSize) this.seen.left += 1;
  }

  /** The sender hands the next entry to the connection. */
  send(): void {
    if (!this.#connected) return;
    const entry = this.replica.window.takeUnsent();
    if (entry === undefined) return;
    if (!entry.remark && entry.type !== FrameType.BARRIER) this.replica.sent(entry.sequence);
    this.#stream.push({ ...entry });
    if (entry.remark) this.replica.backlog.releaseRemark(entry);
  }

  /** What the mirror reads where it is asked for digests. */
  #viewed(cell: number): number {
    return this.#staged?.cells.get(cell) ?? this.image[cell]!;
  }

  /** The mirror takes the next frame of the stream. */
  apply(): void {
    const frame = this.#stream.shift();
    if (frame === undefined) return;
    const staged = this.#staged;
    const position = staged?.position ?? this.#applied;
    const repair = (frame.flags & FRAME_REPAIR) !== 0;
    const inOrder = staged === undefined ? this.#consistent : staged.kind === 'catch-up';
    if (frame.type === FrameType.WRITE || frame.type === FrameType.ZERO) {
      const expected = position + (repair ? 0 : 1);
      assert(frame.sequence >= expected, `operation ${frame.sequence} after ${position}`);
      if (!repair && inOrder) assert(frame.sequence === expected, `a gap before operation ${frame.sequence}`);
      const first = frame.offset / CELL_SIZE;
      for (let index = 0; index < frame.length / CELL_SIZE; index += 1) {
        const value = frame.data?.[Math.min(index, frame.data.length - 1)] ?? 0;
        if (staged === undefined) this.image[first + index] = value;
        else staged.cells.set(first + index, value);
      }
      if (!repair) this.#move(frame.sequence);
    } else if (frame.type === FrameType.BARRIER) {
      this.#placed(frame.sequence, position, inOrder);
      this.#move(frame.sequence);
    } else if (frame.type === FrameType.PASS) {
      this.#passApplied = true;
    } else if (frame.type === FrameType.CHECKPOINT) {
      this.#placed(frame.sequence, position, inOrder);
      this.#move(frame.sequence);
      if ((frame.flags & FRAME_COMPLETE) !== 0) this.#complete();
      if (this.#staged === undefined) this.#mirrorCheckpoint = frame.offset;
      else this.#staged.durable.checkpoint = frame.offset;
      this.record();
      this.#done.push({ number: frame.offset, sequence: frame.sequence });
    }
  }

  #move(sequence: number): void {
    if (this.#staged === undefined) this.#applied = sequence;
    else this.#staged.position = sequence;
  }

  #complete(): void {
    const staged = this.#staged;
    if (staged !== undefined) {
      this.image = this.image.map((_, cell) => this.#viewed(cell));
      this.#applied = staged.position;
      this.#staged = undefined;
    }
    this.#exact = true;
    this.#consistent = true;
    this.#seeded = true;
  }

  #placed(sequence: number, position: number, inOrder: boolean): void {
    assert(sequence >= position, `a barrier at ${sequence} after ${position}`);
    if (inOrder) assert(sequence === position, `a barrier at ${sequence}, the stream is at ${position}`);
  }

  /** The mirror syncs and writes its position down: of the image, or of what is staged. */
  record(): void {
    if (this.#staged === undefined) {
      this.#durable = [...this.image];
      this.#recorded = this.#applied;
    } else {
      const { cells, position, durable } = this.#staged;
      this.#staged.durable = { cells: new Map(cells), position, checkpoint: durable.checkpoint };
    }
    if (this.#random(10) > 0) return;
    this.#backup = {
      image: [...this.#durable],
      recorded: this.#recorded,
      consistent: this.#consistent,
      checkpoint: this.#mirrorCheckpoint,
      staged: this.#staged && onlyDurable(this.#staged),
    };
  }

  /** The positions reach the primary. */
  acknowledge(): void {
    if (!this.#connected) return;
    const staged = this.#staged;
    this.replica.window.applied(staged?.position ?? this.#applied);
    // While the primary has not been told that the run is committed, it does not believe the image's position.
    const open = this.#rescanDue || this.#commitDue;
    this.replica.acknowledged(staged !== undefined || open ? 0 : this.#recorded, staged?.durable.position ?? 0);
  }

  connect(): void {
    if (this.#connected) return;
    const staged = this.#staged;
    const decision = decide(
      OWN,
      {
        version: 2,
        consistent: this.#consistent,
        fresh: false,
        seeded: this.#seeded,
        replicaId: REPLICA_ID,
        generation: OWN.generation,
        run: OWN.run,
        parentRun: NO_ID,
        parentSequence: 0,
        resumeAfter: this.#exact ? this.#applied : this.#recorded,
        recorded: this.#recorded,
        checkpoint: this.#mirrorCheckpoint,
        size: SIZE,
        exact: this.#exact,
        mapVersion: 0,
        stagingId: staged?.id ?? NO_ID,
        stagedSequence: staged?.durable.position ?? 0,
        stagedCheckpoint: staged?.durable.checkpoint ?? 0,
        stagingRoom: Number.MAX_SAFE_INTEGER,
      },
      this.replica,
    );
    this.#connected = true;
    this.#restored = false;
    if (!this.#exact) this.#applied = this.#recorded;
    // The mirror syncs before a session begins.
    this.#durable = [...this.image];
    if (decision.kind === 'catch-up') this.#beginCatchUp(decision.after, decision.staged);
    else if (decision.kind === 'resume-staged') this.#resumeStaged(decision.after);
    else this.#beginCompare(decision.scope, decision.resumeAfter);
  }

  #newId(): Buffer {
    this.#ids += 1;
    const id = Buffer.alloc(16, 9);
    id.writeUInt32LE(this.#ids, 0);
    return id;
  }

  #stage(id: Buffer, kind: Staged['kind'], position: number): void {
    this.#staged = { id, kind, cells: new Map(), position, durable: { cells: new Map(), position, checkpoint: 0 } };
  }

  #beginCatchUp(after: number, staged: boolean): void {
    this.#staged = undefined;
    if (!staged) {
      this.seen.catchUps += 1;
      this.replica.beginCatchUp(after, undefined);
      return;
    }
    this.seen.stagedCatchUps += 1;
    const id = this.#newId();
    this.replica.beginCatchUp(after, id);
    this.#stage(id, 'catch-up', after);
    this.#commitDue = true;
  }

  #resumeStaged(sequence: number): void {
    this.seen.resumes += 1;
    const staged = this.#staged!;
    staged.position = this.replica.resumeStaged(sequence);
    if (staged.kind === 'rescan') this.#rescanDue = true;
    else this.#commitDue = true;
  }

  #beginCompare(scope: 'everything' | 'map' | 'marks', resumeAfter: number | undefined): void {
    this.seen.rescans += 1;
    const seeding = !this.#seeded;
    const id = seeding ? undefined : this.#newId();
    const after = this.replica.beginCompare(scope, this.#applied, this.#mirrorCheckpoint, resumeAfter, id);
    this.#rescanDue = true;
    this.#staged = undefined;
    if (id !== undefined) {
      this.#stage(id, 'rescan', after);
      return;
    }
    if (after < this.#applied) this.#mirrorCheckpoint = 0;
    this.#applied = after;
    this.#recorded = after;
    this.#exact = true;
    this.#consistent = false;
  }

  disconnect(): void {
    if (!this.#connected) return;
    this.#connected = false;
    this.#stream = [];
    this.#pass = undefined;
    this.#rescanDue = false;
    this.#commitDue = false;
    this.#checkpoints = [];
    this.#done = [];
    this.replica.sessionEnded();
    // A mirror that lives on makes durable what it has staged.
    if (this.#staged !== undefined) this.record();
  }

  /** The mirror's process dies: what was not durable may be there or not, cell by cell. */
  crashMirror(): void {
    const staged = this.#staged && {
      ...this.#staged,
      cells: new Map(this.#staged.cells),
      durable: this.#staged.durable,
    };
    this.disconnect();
    this.seen.crashes += 1;
    this.image = this.image.map((value, cell) => (this.#random(2) === 0 ? value : this.#durable[cell]!));
    this.#applied = this.#recorded;
    this.#exact = false;
    if (staged === undefined) return;
    if (this.#random(3) === 0) {
      // Its disk was full, or somebody has recovered the image.
      this.#staged = undefined;
      this.seen.stagedLost += 1;
      return;
    }
    // What was staged again since it was durable lies in the same place: it may be there or not.
    const { cells, position, checkpoint } = staged.durable;
    const left = new Map(
      [...cells].map(([cell, value]) => [cell, this.#random(2) === 0 ? value : staged.cells.get(cell)!]),
    );
    this.#staged = { ...staged, cells: left, position, durable: { cells: new Map(left), position, checkpoint } };
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
    this.#staged = backup.staged && onlyDurable(backup.staged);
    this.#exact = false;
    this.#restored = true;
  }

  /** A step of the comparison: begins a pass, takes a batch up, reads one side of one, or settles the oldest. */
  compare(): void {
    if (this.#connected && this.#commitDue && this.#checkpoints.length === 0) this.#placeCommit();
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
      this.replica.comparing.passReached(pass.cursor);
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
        unread.remote = Array.from({ length: unread.end - unread.from }, (_, at) => this.#viewed(unread.from + at));
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
    // What has been read of it must stand in the stream in front of what completes the rescan.
    if (this.#pending !== undefined) return;
    pass.ending = true;
    this.replica.comparing.endPass();
    const complete = this.replica.comparing.overruns === 0;
    if (complete) this.replica.comparing.complete();
    this.#place(pass, complete ? 'complete' : 'last');
  }

  #placeCommit(): void {
    this.#numbers += 1;
    this.#checkpoints.push({ number: this.#numbers, kind: 'commit', ranges: [] });
    this.replica.remark(FrameType.CHECKPOINT, FRAME_COMPLETE, this.#numbers, 0);
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
    for (const { from, end } of checkpoint.ranges) this.replica.passCleared(from, end, done.sequence, done.number);
    if (checkpoint.kind === 'between') return;
    if (checkpoint.kind !== 'commit') {
      // Another pass follows, or the rescan is over.
      this.#pass = undefined;
      this.replica.marks.endPass();
    }
    if (checkpoint.kind === 'last') return;
    this.seen.completions += 1;
    this.#rescanDue = false;
    this.#commitDue = false;
    this.replica.committed(done.sequence, done.number);
    if (this.replica.keeping) return;
    // It will be told of an overrun, in a moment that does not come here.
    this.disconnect();
  }

  check(): void {
    if (!this.#restored) this.#checkMarks();
    if (!this.#consistent || !this.#exact) return;
    const then = this.#history[this.#applied]!;
    for (let cell = 0; cell < CELL_COUNT; cell += 1) {
      assert(this.image[cell] === then[cell], `G2: cell ${cell} is not as it was after operation ${this.#applied}`);
    }
  }

  #checkMarks(): void {
    const { window, marks } = this.replica;
    const covered = new Array<boolean>(CELL_COUNT).fill(false);
    const pending = new Array<boolean>(CELL_COUNT).fill(false);
    const cover = (cells: boolean[], offset: number, length: number): void => {
      for (let cell = Math.floor(offset / CELL_SIZE); cell * CELL_SIZE < offset + length; cell += 1) cells[cell] = true;
    };
    window.forEachOperation((offset, length) => cover(covered, offset, length));
    for (let range = marks.nextMarked(0, SIZE); range !== undefined; ) {
      cover(covered, range.offset, range.length);
      range = marks.nextMarked(range.offset + range.length, SIZE);
    }
    if (this.#pending !== undefined) cover(pending, this.#pending.first * CELL_SIZE, this.#pending.count * CELL_SIZE);
    // What the primary does not know to be lost it cannot have marked.
    const viewCounts = this.replica.stagedRun.id.equals(this.#staged?.id ?? NO_ID);
    for (let cell = 0; cell < CELL_COUNT; cell += 1) {
      if (pending[cell]) continue;
      const local = this.local[cell];
      if (viewCounts && this.#viewed(cell) !== local) assert(covered[cell]!, `G4: the view of cell ${cell} differs`);
      if (this.image[cell] === local && this.#durable[cell] === local) continue;
      const region = Math.floor((cell * CELL_SIZE) / marks.regionSize);
      const stays =
        marks.holds(region) ||
        this.replica.stagedRun.holds(region) ||
        this.#parts.sequences.of(region) > this.replica.recorded;
      assert(stays, `G4: cell ${cell} differs, and its region may be cleared`);
      assert(this.#parts.map.nextSet(0, region) === region, `G4: cell ${cell} differs, and its region is not set`);
    }
  }
}

/** What survives of it. */
function onlyDurable(staged: Staged): Staged {
  const { cells, position, checkpoint } = staged.durable;
  return { ...staged, cells: new Map(cells), position, durable: { cells: new Map(cells), position, checkpoint } };
}
