/**
 * A backlog between a client and a mirror, both of them a few bytes in memory. Whatever steps it is driven through, each
 * operation that reaches the mirror is the next one, and at each position the mirror's image is what the primary held
 * then.
 *
 * The disk has ZONE_COUNT zones of ZONE_SIZE bytes that are written, one in every region; here they lie side by side.
 */
import { assert } from '../../../src/base/assert.ts';
import { ID_SIZE } from '../../../src/base/bytes.ts';
import { Failure, isFailure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { MIB } from '../../../src/base/units.ts';
import type { PointName } from '../../../src/io/points.ts';
import { FRAME_BARRIER, FRAME_REPAIR, FrameType } from '../../../src/link/frame.ts';
import { Backlog, type BacklogSettings } from '../../../src/primary/backlog.ts';
import type { MergedPart } from '../../../src/primary/merged-part.ts';
import { ENTRY_OVERHEAD_SIZE, type WindowEntry } from '../../../src/primary/window.ts';
import { RECORD_HEADER_SIZE } from '../../../src/store/spool-format.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { repeatableRandom } from '../../support/memory-world.ts';
import { SlowFiles } from '../../support/slow-files.ts';

export const ZONE_COUNT = 5;
export const ZONE_SIZE = 256;
const DISK_SIZE = ZONE_COUNT * MIB;
/** Window: about twenty small operations. */
const WINDOW_SIZE = 5_000;
/** What a batch that is read back adds when the window has been filled meanwhile: its bytes, and an entry per record. */
const BATCH_SIZE = Math.max(WINDOW_SIZE / 8, RECORD_HEADER_SIZE + ZONE_SIZE);
const WINDOW_SLACK = BATCH_SIZE + Math.ceil(BATCH_SIZE / RECORD_HEADER_SIZE) * ENTRY_OVERHEAD_SIZE;

interface Operation {
  readonly zone: number;
  readonly from: number;
  readonly length: number;
  /** 0: made zero. */
  readonly value: number;
}

export class BacklogModel {
  readonly clock = new ManualClock();
  readonly files = new SlowFiles();
  readonly points = new Map<PointName, number>();
  readonly seen = { givenUp: 0, refused: 0, failed: 0, merged: 0, restored: 0, applied: 0, unusable: 0 };
  backlog!: Backlog;
  /** Sequence of the last operation. */
  sequence = 0;
  readonly #random = repeatableRandom();
  readonly #settings: BacklogSettings;
  readonly #local = new Uint8Array(ZONE_COUNT * ZONE_SIZE);
  /** What the primary held after each operation, from `#historyBase` on. */
  #history: Uint8Array[] = [this.#local.slice()];
  #operations: Operation[] = [];
  #historyBase = 0;
  /** After which operations an epoch ends. */
  #barriers = new Set<number>();
  #image: Uint8Array = this.#local.slice();
  #position = 0;
  #recorded = 0;
  /** Everything up to here is durable on the mirror when the next operation comes. */
  #epochEnd = 0;
  #failed: Failure | undefined;
  /** Since the primary's start no operation has been taken by the mirror: what it has may still be on disk. */
  #restarted = false;

  constructor(spoolSize: number) {
    this.#settings = {
      diskSize: DISK_SIZE,
      windowSize: WINDOW_SIZE,
      spoolSize,
      spoolDirectory: 'spool',
      spoolBufferSize: 4_000,
    };
  }

  get position(): number {
    return this.#position;
  }

  get usable(): boolean {
    return this.#failed === undefined;
  }

  async open(): Promise<void> {
    const { backlog } = await Backlog.open(this.#world, silentLog, this.#settings, this.sequence, undefined);
    this.#take(backlog);
  }

  /** A client's write, or with `value` 0 its zeroing. */
  append(zone: number, from: number, length: number, value: number, fua: boolean): void {
    if (this.#failed !== undefined) this.giveUp();
    this.sequence += 1;
    this.#local.fill(value, zone * ZONE_SIZE + from, zone * ZONE_SIZE + from + length);
    this.#history.push(this.#local.slice());
    this.#operations.push({ zone, from, length, value });
    const data = value === 0 ? undefined : new Uint8Array(length).fill(value);
    const type = value === 0 ? FrameType.ZERO : FrameType.WRITE;
    const nowMs = this.clock.nowMs();
    if (this.backlog.append(type, this.sequence, zone * MIB + from, length, data, nowMs)) {
      if (fua) this.barrier();
      return;
    }
    this.seen.refused += 1;
    this.giveUp();
  }

  barrier(): void {
    if (this.#failed !== undefined) this.giveUp();
    this.#barriers.add(this.sequence);
    if (this.backlog.barrier(this.sequence, this.clock.nowMs())) return;
    this.seen.refused += 1;
    this.giveUp();
  }

  /** A rescan puts a repair of `size` bytes into the stream, if there is room. False: there is none. */
  remark(size: number): boolean {
    const { window, isInWindow } = this.backlog;
    // In front of what the mirror has already it would be compared after a crash of the mirror: the replica's part.
    if (this.#restarted && !isInWindow) return false;
    if (this.#failed !== undefined || !window.hasRoomFor(size)) return false;
    const sequence = isInWindow ? this.sequence : window.lastSequence;
    window.push(FrameType.WRITE, FRAME_REPAIR, sequence, 0, size, new Uint8Array(size), true, this.clock.nowMs());
    return true;
  }

  /** The mirror takes what comes next, `count` entries at most. */
  send(count: number): void {
    for (let index = 0; index < count; index += 1) {
      const entry = this.backlog.window.takeUnsent();
      if (entry === undefined) break;
      this.#apply(entry);
    }
    this.backlog.window.applied(this.#position);
  }

  /** The mirror records where it is, and says so. */
  record(): void {
    this.#recorded = this.#position;
    this.#epochEnd = Math.max(this.#epochEnd, this.#position);
    this.backlog.window.applied(this.#position);
    this.backlog.forget(this.#recorded);
    if (this.#recorded - this.#historyBase < 500) return;
    this.#history = this.#history.slice(this.#recorded - this.#historyBase);
    this.#operations = this.#operations.slice(this.#recorded - this.#historyBase);
    this.#historyBase = this.#recorded;
  }

  /** The part that is next goes over, if it is ready, while the disk does what it does. */
  async sendMerged(): Promise<void> {
    const part = this.#failed === undefined ? this.backlog.nextMerged() : undefined;
    if (part === undefined) return;
    assert(part.base <= this.#position && this.#position < part.end, 'a part comes next');
    const { slow } = this.files;
    this.files.slow = false;
    const image = await overlaid(part, this.#image).catch((error: unknown) => {
      if (!isFailure(error)) throw error;
      return undefined;
    });
    this.files.slow = slow;
    if (image === undefined) {
      this.giveUp();
      return;
    }
    this.seen.merged += 1;
    this.#image = image;
    this.#position = part.end;
    this.#recorded = part.end;
    this.#epochEnd = part.end;
    this.#checkImage();
    this.backlog.mergedDone(part);
  }

  /** A session begins; after a crash the mirror is where it recorded. */
  reconnect(crashed: boolean): void {
    if (this.#failed !== undefined) this.giveUp();
    if (crashed) {
      this.#position = this.#recorded;
      this.#image = this.#past(this.#recorded).slice();
    }
    this.#epochEnd = this.#position;
    assert(this.backlog.rewind(this.#position), 'what the mirror has not recorded is here');
  }

  /** Gives up order, after checking that every range the mirror may lack is named. The mirror is like the primary then. */
  giveUp(): void {
    this.seen.givenUp += 1;
    this.#failed = undefined;
    const named = new Uint8Array(ZONE_COUNT * ZONE_SIZE);
    this.backlog.giveUp(this.sequence, (offset, length) => {
      assert(length > 0 && offset + length <= DISK_SIZE, 'a range of the disk');
      for (let index = 0; index < named.length; index += 1) {
        const at = Math.floor(index / ZONE_SIZE) * MIB + (index % ZONE_SIZE);
        if (at >= offset && at < offset + length) named[index] = 1;
      }
    });
    const recorded = this.#past(this.#recorded);
    for (const [index, value] of this.#local.entries()) {
      // The operation that found no room is the caller's to mark.
      const last = this.#operations.at(-1);
      const own = last !== undefined && index >= last.zone * ZONE_SIZE + last.from;
      if (own && index < last.zone * ZONE_SIZE + last.from + last.length) continue;
      assert(value === recorded[index] || named[index] === 1, `G4: nothing names byte ${index}`);
    }
    assert(this.backlog.isInWindow && this.backlog.rung === 'window', 'nothing is left');
    this.#image = this.#local.slice();
    this.#position = this.sequence;
    this.#recorded = this.sequence;
    this.#epochEnd = this.sequence;
    this.#history = [this.#local.slice()];
    this.#operations = [];
    this.#historyBase = this.sequence;
    this.#barriers = new Set();
    this.backlog.begin(this.sequence);
  }

  /** A clean stop of the primary and its next start. The mirror may have crashed meanwhile. */
  async restart(mirrorCrashed: boolean): Promise<void> {
    const { slow } = this.files;
    this.files.slow = false;
    this.files.finish();
    const run = this.#random.bytes(ID_SIZE);
    const base = await this.backlog.persist(run, this.sequence);
    await this.backlog.close();
    assert(this.files.openCount === 0, 'all files are closed');
    const kept = base === undefined ? undefined : { run, base, sequence: this.sequence };
    const { backlog, restored } = await Backlog.open(this.#world, silentLog, this.#settings, this.sequence, kept);
    const failing = this.files.failure !== undefined || this.files.sizeMax !== Number.POSITIVE_INFINITY;
    assert(restored === (kept !== undefined) || failing, 'what was kept is there');
    this.files.slow = slow;
    this.#failed = undefined;
    this.#take(backlog);
    this.#restarted = true;
    if (restored) {
      this.seen.restored += 1;
      this.reconnect(mirrorCrashed);
    } else {
      this.seen.unusable += 1;
      this.giveUpAfterRestart();
    }
  }

  /** The primary is killed, and starts. */
  async kill(): Promise<void> {
    this.files.slow = false;
    this.files.finish();
    await settled();
    // Its lock ended with it; its calls have taken effect or not, its files are closed.
    await this.backlog.close();
    const { backlog, restored } = await Backlog.open(this.#world, silentLog, this.#settings, this.sequence, undefined);
    assert(!restored && backlog.isInWindow && backlog.window.usedSize === 0, 'an unclean start begins empty');
    assert(this.files.sizeOf('') === 0, 'nothing of the old spool takes room');
    this.#failed = undefined;
    this.#take(backlog);
    this.giveUpAfterRestart();
  }

  /** Everything goes over at last. */
  async settle(): Promise<void> {
    this.files.slow = false;
    this.files.failure = undefined;
    this.files.sizeMax = Number.POSITIVE_INFINITY;
    for (let round = 0; this.#position < this.sequence || !this.backlog.isInWindow; round += 1) {
      assert(round < 3_000, 'it comes to an end');
      this.files.finish();
      await settled();
      if (this.#failed !== undefined) this.giveUp();
      this.send(1_000);
      this.record();
      await this.sendMerged();
    }
    this.files.finish();
    this.#checkImage();
  }

  check(): void {
    const { window, status } = this.backlog;
    assert(window.usedSize <= WINDOW_SIZE + WINDOW_SLACK, `G8: the window takes ${window.usedSize}`);
    assert(status.spooledSize <= status.spoolLimit, `G8: ${status.spooledSize} bytes on disk`);
    const written = this.files.sizeOf('.seg');
    assert(written <= status.spoolLimit, `G8: the segments reach ${written} bytes`);
    assert(status.unappliedSize >= 0 && status.spooledOperations >= 0, 'what is counted is there');
    const lacking = this.#operations.slice(this.#position - this.#historyBase);
    const size = lacking.reduce((sum, { length }) => sum + length, 0);
    assert(status.unappliedSize <= size || !this.backlog.isInWindow, 'bytes are not counted twice');
    assert(lacking.length === 0 || status.unappliedSize > 0, 'what the mirror lacks is counted');
    assert(lacking.length === 0 || status.oldestMs !== undefined, 'what the mirror lacks has an age');
  }

  get #world() {
    const points = {
      reached: (name: PointName) => {
        this.points.set(name, (this.points.get(name) ?? 0) + 1);
      },
    };
    return { clock: this.clock, files: this.files, random: this.#random, points };
  }

  #take(backlog: Backlog): void {
    this.backlog = backlog;
    backlog.listen({
      refilled: () => undefined,
      mergedReady: () => undefined,
      failed: (reason) => {
        this.seen.failed += 1;
        this.#failed = reason;
      },
    });
  }

  /** The mirror was compared. */
  giveUpAfterRestart(): void {
    this.#image = this.#local.slice();
    this.#position = this.sequence;
    this.#recorded = this.sequence;
    this.#epochEnd = this.sequence;
    this.#history = [this.#local.slice()];
    this.#operations = [];
    this.#historyBase = this.sequence;
    this.#barriers = new Set();
  }

  #past(sequence: number): Uint8Array {
    return this.#history[sequence - this.#historyBase]!;
  }

  #apply(entry: WindowEntry): void {
    if (entry.remark) {
      assert(entry.sequence === this.#position, `a remark at ${entry.sequence}, the mirror is at ${this.#position}`);
      this.backlog.releaseRemark(entry);
      return;
    }
    if (entry.type === FrameType.BARRIER) {
      assert(entry.sequence === this.#position, `a barrier at ${entry.sequence}, the mirror is at ${this.#position}`);
      this.#epochEnd = entry.sequence;
      return;
    }
    assert(entry.sequence === this.#position + 1, `operation ${entry.sequence} after ${this.#position}`);
    const ended = !this.#barriers.has(this.#position) || this.#epochEnd >= this.#position;
    assert(ended, `the barrier after operation ${this.#position} is missing`);
    const { zone, from, length, value } = this.#operations[this.#position - this.#historyBase]!;
    assert(entry.offset === zone * MIB + from && entry.length === length, 'an operation is about the same range');
    assert((entry.type === FrameType.ZERO) === (value === 0), 'an operation is of the same kind');
    assert(entry.data === undefined || entry.data.every((byte) => byte === value), 'an operation has the same data');
    assert(value === 0 || entry.data?.length === length, 'an operation has all its data');
    this.#image.fill(value, zone * ZONE_SIZE + from, zone * ZONE_SIZE + from + length);
    this.#position = entry.sequence;
    this.#restarted = false;
    this.seen.applied += 1;
    if ((entry.flags & FRAME_BARRIER) !== 0) this.#epochEnd = entry.sequence;
    this.#checkImage();
  }

  #checkImage(): void {
    const then = this.#past(this.#position);
    assert(
      this.#image.every((value, index) => value === then[index]),
      `G2: the image is not what the primary held after operation ${this.#position}`,
    );
  }
}

/** The image with a part laid over it. */
async function overlaid(part: MergedPart, image: Uint8Array): Promise<Uint8Array> {
  const result = image.slice();
  for (let range = part.next(0); range !== undefined; range = part.next(range.offset + range.length)) {
    const data = Buffer.alloc(range.length);
    if (!range.zero) await part.read(data, range.offset);
    result.set(data, Math.floor(range.offset / MIB) * ZONE_SIZE + (range.offset % MIB));
  }
  return result;
}

/** Everything that needs no disk has been done. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export function brokenDisk(): Failure {
  return new Failure('io-error', 'EIO: made by the test');
}
