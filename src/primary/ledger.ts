/**
 * The ledger: lets a mutation begin, gives it its sequence at the moment of local completion, and hands it to the
 * replicas.
 *
 * A mutation is admitted when what the next start must know of it is durable:
 * - that this run is under way (the clean flag is cleared; `start`, also before a rescan begins): so whatever happens, the
 *   next start knows that it was not a clean stop;
 * - that its regions may differ from the mirrors: their marks in the dirty map. As long as the mutation holds its range
 *   and has no sequence, nobody may clear them.
 *
 * It also knows how much of all this a power cut here could not undo: `locallyDurable`.
 */
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import { FrameType } from '../link/frame.ts';
import type { DirtyMap } from '../store/dirty-map.ts';
import type { Extent } from '../volume/volume.ts';
import type { RegionSequences } from './region-sequences.ts';
import type { OperationType, Replica } from './replica.ts';
import { unreplicatedExtents } from './unreplicated.ts';

export class Ledger {
  readonly #replicas: readonly Replica[];
  readonly #clearCleanFlag: () => Promise<void>;
  readonly #map: DirtyMap | undefined;
  /** When each region of the dirty map was last written; undefined without a map. */
  readonly #regionSequences: RegionSequences | undefined;
  #sequence: number;
  #starting: Promise<void> | undefined;
  #started: boolean;
  #closed = false;
  #bytesWritten = 0;
  readonly #counts = { writes: 0, zeroes: 0, trims: 0, flushes: 0 };
  /** Nothing: what was there before this process may be in the kernel's cache alone. */
  #locallyDurable = -1;
  #syncFailed = false;

  /**
   * `started`: the clean flag is clear already, as after an unclean stop. `regions`: where marks are made durable, and
   * what was last written when; without them a mutation needs none.
   */
  constructor(
    replicas: readonly Replica[],
    sequence: number,
    started: boolean,
    clearCleanFlag: () => Promise<void>,
    regions?: { readonly map: DirtyMap; readonly sequences: RegionSequences },
  ) {
    this.#replicas = replicas;
    this.#sequence = sequence;
    this.#started = started;
    this.#clearCleanFlag = clearCleanFlag;
    this.#map = regions?.map;
    this.#regionSequences = regions?.sequences;
  }

  /** This run is durable. While false, `start` first. */
  get started(): boolean {
    return this.#started;
  }

  /**
   * Every operation up to this sequence would survive a power cut of this host: it had taken effect when a sync that
   * succeeded was asked for. -1: nothing is known to.
   */
  get locallyDurable(): number {
    return this.#locallyDurable;
  }

  /** A sync of the local disk failed: nothing more becomes known to be durable. */
  get syncFailed(): boolean {
    return this.#syncFailed;
  }

  /** Sequence of the last operation. */
  get sequence(): number {
    return this.#sequence;
  }

  get counts(): Readonly<{ writes: number; zeroes: number; trims: number; flushes: number }> {
    return this.#counts;
  }

  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  /** True when a mutation of the range may touch the disk now. */
  admits(offset: number, length: number): boolean {
    return this.#started && !this.#closed && (this.#map === undefined || this.#map.covers(offset, length));
  }

  /**
   * Makes durable what a mutation of the range needs, which must be locked: on return it is admitted. When this fails
   * the disk must not be touched; a later call tries again. Failures: those of `start`, `io-error`, `shutting-down`.
   */
  async admit(offset: number, length: number): Promise<void> {
    this.#mustBeOpen();
    await this.start();
    this.#mustBeOpen();
    await this.#map?.set(offset, length);
  }

  /** No mutation is admitted any more: what vouches for the disk is about to be written down. */
  close(): void {
    this.#closed = true;
  }

  /** Syncs the local disk by `flush`, whose failure it passes on, and remembers what that made durable. */
  async sync(flush: () => Promise<void>): Promise<void> {
    const sequence = this.#sequence;
    try {
      await flush();
    } catch (error) {
      this.#syncFailed = true;
      throw error;
    }
    if (!this.#syncFailed) this.#locallyDurable = Math.max(this.#locallyDurable, sequence);
  }

  /** Durable on return. When it fails nothing has been mutated; a later call tries again. */
  async start(): Promise<void> {
    if (this.#started) return;
    this.#starting ??= this.#clearCleanFlag().finally(() => {
      this.#starting = undefined;
    });
    await this.#starting;
    this.#started = true;
  }

  /** A write has taken effect; the buffer stays as it is for good. Returns its sequence. */
  wrote(offset: number, data: Uint8Array): number {
    this.#counts.writes += 1;
    this.#bytesWritten += data.length;
    return this.#append(FrameType.WRITE, offset, data.length, data);
  }

  /** A range has become zeroes, by command or by trim. Returns the sequence of that. */
  zeroed(offset: number, length: number, by: 'zeroes' | 'trims'): number {
    this.#counts[by] += 1;
    return this.#append(FrameType.ZERO, offset, length, undefined);
  }

  /** A flush was asked for. */
  flushed(): void {
    this.#counts.flushes += 1;
  }

  /** Everything that has its sequence ends an epoch. */
  endEpoch(): void {
    for (const replica of this.#replicas) replica.barrier();
  }

  /** A range whose write failed and that cannot be read back. */
  unreadable(offset: number, length: number): void {
    for (const replica of this.#replicas) replica.marks.markUnreadable(offset, length);
  }

  /** A range whose content is no longer known and too large to read back now: a rescan will settle it. */
  uncertain(offset: number, length: number): void {
    // The content has changed: it gets a sequence, though no operation carries it. A sync that is under way does not
    // cover it, and a mirror that stands before it is not where this disk is.
    this.#sequence += 1;
    this.#regionSequences?.note(offset, length, this.#sequence);
    for (const replica of this.#replicas) replica.uncertain(this.#sequence, offset, length);
  }

  /** Extents that some mirror does not have durably. */
  unreplicated(offset: number, length: number, countMax: number): Extent[] {
    return unreplicatedExtents(this.#replicas, offset, length, countMax);
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new Failure('shutting-down', 'the primary is stopping');
  }

  #append(type: OperationType, offset: number, length: number, data: Uint8Array | undefined): number {
    assert(this.#started, 'the run is durable before its first mutation');
    assert(this.#map === undefined || this.#map.covers(offset, length), 'a region is marked before it is mutated');
    this.#sequence += 1;
    this.#regionSequences?.note(offset, length, this.#sequence);
    for (const replica of this.#replicas) replica.append(type, this.#sequence, offset, length, data);
    return this.#sequence;
  }
}
