/**
 * The ledger: gives every mutation its sequence at the moment of local completion, and hands it to the replicas.
 *
 * Before the first mutation of a process, and before a rescan begins, `start` makes durable that this run is under way
 * (the clean flag is cleared): whatever happens from then on, the next start knows that it was not a clean stop.
 */
import { assert } from '../base/assert.ts';
import { FrameType } from '../link/frame.ts';
import { EXTENT_UNREPLICATED, type Extent } from '../volume/volume.ts';
import type { OperationType, Replica } from './replica.ts';

export class Ledger {
  readonly #replicas: readonly Replica[];
  readonly #clearCleanFlag: () => Promise<void>;
  #sequence: number;
  #starting: Promise<void> | undefined;
  #started: boolean;
  #bytesWritten = 0;
  readonly #counts = { writes: 0, zeroes: 0, trims: 0, flushes: 0 };

  /** `started`: the clean flag is clear already, as after an unclean stop. */
  constructor(replicas: readonly Replica[], sequence: number, started: boolean, clearCleanFlag: () => Promise<void>) {
    this.#replicas = replicas;
    this.#sequence = sequence;
    this.#started = started;
    this.#clearCleanFlag = clearCleanFlag;
  }

  /** Mutations may proceed. While false, `start` first. */
  get started(): boolean {
    return this.#started;
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

  /** Mutations and flushes so far: whether clients are active. */
  get activity(): number {
    return this.#sequence + this.#counts.flushes;
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
  wrote(offset: number, data: Uint8Array, barrier: boolean): number {
    this.#counts.writes += 1;
    this.#bytesWritten += data.length;
    return this.#append(FrameType.WRITE, offset, data.length, data, barrier);
  }

  /** A range has become zeroes, by command or by trim. Returns the sequence of that. */
  zeroed(offset: number, length: number, barrier: boolean, by: 'zeroes' | 'trims'): number {
    this.#counts[by] += 1;
    return this.#append(FrameType.ZERO, offset, length, undefined, barrier);
  }

  /** A flush was asked for: everything answered so far ends an epoch. */
  flushed(): void {
    this.#counts.flushes += 1;
    for (const replica of this.#replicas) replica.barrier();
  }

  /** A range whose write failed and that cannot be read back. */
  unreadable(offset: number, length: number): void {
    for (const replica of this.#replicas) replica.marks.markUnreadable(offset, length);
  }

  /** A range whose content is no longer known and too large to read back now: a rescan will settle it. */
  uncertain(offset: number, length: number): void {
    for (const replica of this.#replicas) replica.uncertain(offset, length);
  }

  /** Extents that some mirror does not have durably: in marked regions or in a window. */
  unreplicated(offset: number, length: number, countMax: number): Extent[] {
    const end = offset + length;
    const ranges: { start: number; end: number }[] = [];
    const add = (from: number, size: number): void => {
      if (from < end && from + size > offset)
        ranges.push({ start: Math.max(from, offset), end: Math.min(from + size, end) });
    };
    for (const replica of this.#replicas) {
      replica.window.forEachOperation(add);
      let at = offset;
      for (let range = replica.marks.nextMarked(at, length); range !== undefined && range.offset < end; ) {
        add(range.offset, range.length);
        at = range.offset + range.length;
        range = replica.marks.nextMarked(at, length);
      }
    }
    ranges.sort((a, b) => a.start - b.start);
    return toExtents(ranges, offset, end, countMax);
  }

  #append(type: OperationType, offset: number, length: number, data: Uint8Array | undefined, barrier: boolean): number {
    assert(this.#started, 'the run is durable before its first mutation');
    this.#sequence += 1;
    for (const replica of this.#replicas) replica.append(type, this.#sequence, offset, length, data, barrier);
    return this.#sequence;
  }
}

/** Sorted, possibly overlapping ranges as consecutive extents from `offset` to `end`, cut after `countMax`. */
function toExtents(
  ranges: readonly { start: number; end: number }[],
  offset: number,
  end: number,
  countMax: number,
): Extent[] {
  const extents: Extent[] = [];
  let at = offset;
  let index = 0;
  while (at < end && extents.length < countMax) {
    while (index < ranges.length && ranges[index]!.end <= at) index += 1;
    const range = ranges[index];
    if (range === undefined || range.start > at) {
      const cleanEnd = range === undefined ? end : range.start;
      extents.push({ length: cleanEnd - at, flags: 0 });
      at = cleanEnd;
      continue;
    }
    let dirtyEnd = range.end;
    while (index + 1 < ranges.length && ranges[index + 1]!.start <= dirtyEnd) {
      index += 1;
      dirtyEnd = Math.max(dirtyEnd, ranges[index]!.end);
    }
    extents.push({ length: dirtyEnd - at, flags: EXTENT_UNREPLICATED });
    at = dirtyEnd;
  }
  return extents;
}
