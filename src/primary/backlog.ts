/**
 * The backlog: everything that a mirror has not recorded, in order, on three rungs.
 *
 * - `window`: in memory (window.ts). What a mirror has been sent in order is always here.
 * - `spool`: the window is full; newer operations go to disk, in order (store/spool.ts), and back into the window as it
 *   empties. Back to `window` only when nothing is left on disk.
 * - `merged`: half of the spool is taken; what is in it and what follows is folded into a part that holds only the newest
 *   content of each byte (merged-part.ts). A mirror takes a part as one staged run, after everything before it.
 * When none has room, `append` says no and the caller gives up order: clients never wait.
 *
 * Invariants:
 * - Every operation in (baseSequence, last] that was not left to a pass is in the window, in a part or in the spool,
 *   once, in order.
 * - What was taken from the spool into the window stays there until the mirror has recorded it (`forget`): that is why
 *   the spool may let go of it at once.
 * - Memory: the window's limit and what one batch of reading back adds (an eighth of it, or one operation, and an entry
 *   for each record: under half of the window), the spool's buffer, the index of two parts. Disk: `spoolSize`; of merged
 *   parts the bytes of data count, and a file system may take a whole block for less.
 *
 * Survives a crash: nothing; a clean stop: window and spool, when `persist` says so.
 */
import { assert } from '../base/assert.ts';
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { MIB } from '../base/units.ts';
import { FrameType, type FrameTypeCode } from '../link/frame.ts';
import { Spool, type SpoolKept, type SpoolRecord } from '../store/spool.ts';
import type { MergedPart, MergedTransfer } from './merged-part.ts';
import { type BacklogEvents, type BacklogWorld, Overflow, type OverflowSettings, type Rung } from './overflow.ts';
import { Spooled } from './spooled.ts';
import { Window, type WindowEntry } from './window.ts';

/** Memory for what waits to be written to the spool: more than the largest write. */
const SPOOL_BUFFER_SIZE = 48 * MIB;

/** `spoolSize` 0: no spool, there is only the window. */
export interface BacklogSettings extends OverflowSettings {
  readonly windowSize: number;
  /** Memory for what waits to be written to the spool; for tests. */
  readonly spoolBufferSize?: number;
}

export interface BacklogStatus {
  readonly rung: Rung;
  /** Bytes on disk, and their limit (0: no spool). */
  readonly spooledSize: number;
  readonly spoolLimit: number;
  /** Operations and barriers in the spool; those folded into parts do not count. */
  readonly spooledOperations: number;
  /** Bytes that the mirror has not applied; of parts each byte once. */
  readonly unappliedSize: number;
  /** When the oldest operation that the mirror has not applied was appended, in ms of `nowMs`; about so on disk. */
  readonly oldestMs: number | undefined;
  readonly rungChanges: number;
}

export class Backlog {
  readonly window: Window;
  readonly #world: BacklogWorld;
  readonly #log: Log;
  readonly #settings: BacklogSettings;
  readonly #overflow: Overflow;
  #lastBarrier = -1;

  /** Begins after `base`: empty, or with what is in `spool`, of which `spooled` tells. Without `spool` only the window. */
  constructor(
    world: BacklogWorld,
    log: Log,
    settings: BacklogSettings,
    base: number,
    spool?: Spool,
    spooled: Spooled = new Spooled(settings.diskSize),
  ) {
    this.#world = world;
    this.#log = log;
    this.#settings = settings;
    this.window = new Window(settings.windowSize, base);
    this.#overflow = new Overflow(world, log, settings, this.window, spool, spooled);
  }

  /**
   * Opens it after a clean stop (`kept`) with what that has left, or empty after `sequence`. `restored`: all that was left
   * is here; otherwise it is of no use, and the backlog is empty. Reads the spool through.
   * Failures: `state-unwritable`, `directory-busy`.
   */
  static async open(
    world: BacklogWorld,
    log: Log,
    settings: BacklogSettings,
    sequence: number,
    kept: SpoolKept | undefined,
  ): Promise<{ backlog: Backlog; restored: boolean }> {
    const { spoolSize: sizeMax, spoolDirectory: directory, spoolBufferSize: bufferMax = SPOOL_BUFFER_SIZE } = settings;
    const nothingLeft = kept !== undefined && kept.base === kept.sequence;
    if (sizeMax === 0) return { backlog: new Backlog(world, log, settings, sequence), restored: nothingLeft };
    const found = new Spooled(settings.diskSize);
    const asked = nothingLeft ? undefined : kept;
    const spool = await Spool.open(world, { directory, sizeMax, bufferMax }, asked, (record) => {
      checkRecord(record, settings.diskSize);
      found.entered(record.offset, record.length, record.atMs);
    });
    if (kept === undefined || !spool.isRestored) {
      return { backlog: new Backlog(world, log, settings, sequence, spool), restored: nothingLeft };
    }
    return { backlog: new Backlog(world, log, settings, kept.base, spool, found), restored: true };
  }

  /** From now on there is somebody to tell. */
  listen(events: BacklogEvents): void {
    this.#overflow.events = events;
    this.#overflow.feed();
  }

  /** Everything after this sequence is here. */
  get baseSequence(): number {
    return this.window.baseSequence;
  }

  /** Where the newest operations go. */
  get rung(): Rung {
    const overflow = this.#overflow;
    return overflow.mayReturn(this.#world.clock.nowMs()) ? 'window' : overflow.rung;
  }

  /** Why nothing more is taken in beyond the window, or what is there is of no use; until order has been given up. */
  get failure(): Failure | undefined {
    return this.#overflow.failure ?? this.#overflow.spool?.failure;
  }

  /** Of the part that was handed out last and is not done: how far a mirror has got with it. */
  get transfer(): MergedTransfer | undefined {
    return this.#overflow.parts.frozen?.transfer;
  }

  /** Part of it will go out as staged runs. */
  get hasParts(): boolean {
    return !this.#overflow.parts.isEmpty;
  }

  /** All there is stands in the window. */
  get isInWindow(): boolean {
    return this.#overflow.isEmpty;
  }

  get status(): BacklogStatus {
    const { window } = this;
    const { parts, spooled, size, rungChanges } = this.#overflow;
    return {
      rung: this.rung,
      spooledSize: size,
      spoolLimit: this.#settings.spoolSize,
      spooledOperations: spooled.count,
      unappliedSize: window.unappliedSize + parts.coveredSize + spooled.size,
      oldestMs: window.oldestUnappliedMs ?? parts.sinceMs ?? spooled.oldestMs,
      rungChanges,
    };
  }

  /**
   * Takes in the next operation, in order; the data belongs to the backlog from now on and is not modified. False when no
   * rung has room, or the disk has failed: nothing was taken in, and the caller gives up order.
   */
  append(
    type: FrameTypeCode,
    sequence: number,
    offset: number,
    length: number,
    data: Uint8Array | undefined,
    atMs: number,
  ): boolean {
    const overflow = this.#overflow;
    if (overflow.rung !== 'window' && !this.#returned(atMs)) {
      return overflow.append(type, 0, sequence, offset, length, data, atMs);
    }
    if (!this.window.hasRoomFor(data?.length ?? 0)) {
      return overflow.append(type, 0, sequence, offset, length, data, atMs);
    }
    this.window.push(type, 0, sequence, offset, length, data, false, atMs);
    return true;
  }

  /**
   * Everything up to here ends an epoch. Barriers that follow each other are one. False as for `append`: one that is left
   * out would make two epochs one.
   */
  barrier(sequence: number, atMs: number): boolean {
    if (this.#overflow.rung === 'window' || this.#returned(atMs)) {
      this.window.pushBarrier(sequence, atMs);
      return true;
    }
    if (this.#lastBarrier === sequence) return true;
    if (!this.#overflow.append(FrameType.BARRIER, 0, sequence, 0, 0, undefined, atMs)) return false;
    this.#lastBarrier = sequence;
    return true;
  }

  /** The mirror has recorded everything up to `sequence`, or holds it durably in the staged run that is open. */
  forget(sequence: number): void {
    this.window.forget(sequence);
    if (this.#overflow.rung === 'window') return;
    this.#overflow.feed();
    this.#overflow.announce();
  }

  /** See Window.releaseRemark: the window may have room now. */
  releaseRemark(entry: WindowEntry): boolean {
    const isLast = this.window.releaseRemark(entry);
    if (this.#overflow.rung !== 'window') this.#overflow.feed();
    return isLast;
  }

  /**
   * A session begins after `sequence`, at most that of the last operation: everything later is sent (again). The mirror
   * holds what is up to there as durably as it ever will; it may stand within a part, which is then sent whole. False when
   * not everything after it is here: nothing has changed then, and the caller gives up order.
   */
  rewind(sequence: number): boolean {
    if (this.#overflow.failure !== undefined || sequence < this.window.baseSequence) return false;
    this.window.rewind(sequence);
    this.#overflow.rewound(sequence);
    this.#overflow.feed();
    return true;
  }

  /** Begins anew and empty after `sequence`; order has been given up before. */
  begin(sequence: number): void {
    assert(this.#overflow.isEmpty, 'order is given up before another begins');
    this.window.clear(sequence, () => undefined);
  }

  /**
   * Gives up order: `visit` is called for every range that the mirror may lack, whole regions where the spool held it.
   * Empty after `sequence` on return; files are removed in the background. What had failed is tried anew.
   */
  giveUp(sequence: number, visit: (offset: number, length: number) => void): void {
    this.window.clear(sequence, (entry) => visit(entry.offset, entry.length));
    this.#overflow.clear(visit);
    this.#lastBarrier = -1;
    this.#world.points.reached('primary-order-given-up');
  }

  /**
   * The part that comes next, once everything before it has been sent; it does not change any more. It is handed out
   * until `mergedDone`. Undefined while there is none, or it is not ready: `mergedReady` will say so.
   */
  nextMerged(): MergedPart | undefined {
    return this.window.hasUnsent ? undefined : this.#overflow.nextMerged();
  }

  /** The mirror holds the part that was handed out durably, in its image or in the staged run that is open. */
  mergedDone(part: MergedPart): void {
    assert(part === this.#overflow.parts.frozen, 'the part that was handed out is done');
    this.#overflow.mergedDone(part);
    this.#world.points.reached('primary-merge-sent');
    this.#overflow.feed();
    this.#overflow.announce();
  }

  /**
   * A clean stop: what is here is durable on return, for `open` with this run and sequence and the base that is returned.
   * Undefined when that cannot be (parts, a failed disk, no room): nothing is kept then. Nothing may be called afterwards
   * but `close`.
   */
  async persist(run: Buffer, sequence: number): Promise<number | undefined> {
    await this.#overflow.stop();
    const base = this.window.baseSequence;
    const { spool, failure, parts } = this.#overflow;
    if (failure !== undefined || !parts.isEmpty) return undefined;
    if (base === sequence) return base;
    if (spool === undefined) return undefined;
    try {
      await spool.persist({ run, base, sequence }, this.window.unrecorded());
      this.#world.points.reached('primary-backlog-persisted');
      return base;
    } catch (error) {
      if (!isFailure(error)) throw error;
      this.#log.warn({ code: error.code }, `what the mirror lacks is not kept for the next start: ${error.message}`);
      return undefined;
    }
  }

  /** Waits for what is under way and closes all files. */
  async close(): Promise<void> {
    await this.#overflow.stop();
    await this.#overflow.close();
  }

  /** Operations go to the window again, now or since before. */
  #returned(nowMs: number): boolean {
    if (!this.#overflow.mayReturn(nowMs)) return false;
    this.#overflow.return(nowMs);
    return true;
  }
}

/** Throws `io-error` for a record that no primary of this disk has written. */
function checkRecord({ type, offset, length, data }: SpoolRecord, diskSize: number): void {
  const whole =
    type === FrameType.WRITE ? data?.length === length : type === FrameType.ZERO || type === FrameType.BARRIER;
  if (!whole || offset + length > diskSize) throw new Failure('io-error', 'the spool holds what does not belong there');
}
