/**
 * The record of the periodic verification: the cycle under way and the last complete one, in memory and in the state
 * directory. It tells of one mirror and one size of the disk; for another one it begins anew.
 *
 * Losing it costs the work of one cycle and nothing else. So what cannot be read is replaced, and what cannot be written
 * is said and tried again with the next change.
 */
import { assert } from '../base/assert.ts';
import { isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { FileSystem } from '../io/disk.ts';
import type { Range } from '../rescan/source.ts';
import { createStateFile, openStateFile, type StateFile } from '../store/state-file.ts';
import {
  CYCLE_RANGES_MAX,
  type CycleRange,
  VERIFY_STATE,
  type VerifyCycle,
  type VerifyState,
  verifyStatePath,
} from '../store/verify-state.ts';

/** What a slice has found below the offset that it reached. */
interface Findings {
  readonly differingSize: number;
  readonly unreadableSize: number;
  /** In order. */
  readonly ranges: readonly Range[];
}

export class VerifyRecord {
  readonly #files: FileSystem;
  readonly #log: Log;
  readonly #path: string;
  readonly #size: number;
  #file: StateFile<VerifyState> | undefined;
  #state: VerifyState | undefined;
  #unwritable = false;
  #closed = false;
  /** One after the other. */
  #writing: Promise<void> = Promise.resolve();

  /** `size` of the disk, in bytes. */
  constructor(files: FileSystem, log: Log, stateDirectory: string, size: number) {
    this.#files = files;
    this.#log = log;
    this.#path = verifyStatePath(stateDirectory);
    this.#size = size;
  }

  get cycle(): VerifyCycle | undefined {
    return this.#state?.cycle;
  }

  get last(): VerifyCycle | undefined {
    return this.#state?.last;
  }

  /** Reads what the last process has left. */
  async open(): Promise<void> {
    try {
      this.#file = await openStateFile(this.#files, VERIFY_STATE, this.#path);
      this.#state = this.#file?.state;
    } catch (error) {
      if (!isFailure(error)) throw error;
      this.#log.warn(
        { code: error.code },
        `the record of the periodic verification cannot be read, it begins anew: ${error.message}`,
      );
    }
  }

  /** From now on it tells of that mirror. False when it told of another, or of none. */
  belongsTo(replicaId: string): boolean {
    const state = this.#state;
    const same = state !== undefined && state.replicaId.toString('hex') === replicaId && state.size === this.#size;
    if (same) return true;
    if (state?.cycle !== undefined || state?.last !== undefined) {
      this.#log.info({}, 'the mirror or the size of the disk is another one: the periodic verification begins anew');
    }
    this.#state = {
      replicaId: Buffer.from(replicaId, 'hex'),
      size: this.#size,
      cycle: undefined,
      last: undefined,
    };
    return false;
  }

  begin(wallMs: number): void {
    this.#change({
      beganMs: wallMs,
      finishedMs: 0,
      reached: 0,
      differingSize: 0,
      repairedSize: 0,
      unreadableSize: 0,
      ranges: [],
      truncated: false,
    });
  }

  /** Everything below has been compared. */
  reached(end: number): void {
    this.#change({ ...this.#present(), reached: end });
  }

  found(findings: Findings): void {
    const cycle = this.#present();
    const { ranges, truncated } = appended(cycle.ranges, findings.ranges);
    this.#change({
      ...cycle,
      differingSize: cycle.differingSize + findings.differingSize,
      unreadableSize: cycle.unreadableSize + findings.unreadableSize,
      ranges,
      truncated: cycle.truncated || truncated,
    });
  }

  /** The mirror holds the repair of so many bytes durably. */
  repaired(size: number): void {
    const cycle = this.#present();
    this.#change({ ...cycle, repairedSize: cycle.repairedSize + size });
  }

  /** What lies at a range that was found, in whichever cycle it is still known. */
  owned(offset: number, owner: string): void {
    if (this.#state === undefined) return;
    const name = (cycle: VerifyCycle | undefined): VerifyCycle | undefined =>
      cycle && {
        ...cycle,
        ranges: cycle.ranges.map((range) => (range.offset === offset ? { ...range, owner } : range)),
      };
    this.#state = { ...this.#state, cycle: name(this.#state.cycle), last: name(this.#state.last) };
  }

  /** The cycle is complete. Returns it. */
  finish(wallMs: number): VerifyCycle {
    assert(this.#state !== undefined, 'a cycle belongs to a mirror');
    const last = { ...this.#present(), finishedMs: wallMs };
    this.#state = { ...this.#state, cycle: undefined, last };
    return last;
  }

  /** Durable on return, unless it cannot be written: then it is only said. */
  write(): Promise<void> {
    this.#writing = this.#writing.then(() => this.#writeNow());
    return this.#writing;
  }

  async #writeNow(): Promise<void> {
    const state = this.#state;
    if (state === undefined || this.#closed) return;
    try {
      if (this.#file === undefined) this.#file = await createStateFile(this.#files, VERIFY_STATE, this.#path, state);
      else await this.#file.write(state);
      this.#unwritable = false;
    } catch (error) {
      if (!isFailure(error)) throw error;
      if (!this.#unwritable) {
        this.#log.warn(
          { code: error.code },
          `the record of the periodic verification cannot be written: ${error.message}`,
        );
      }
      this.#unwritable = true;
    }
  }

  /** Nothing is written after this has resolved. */
  async close(): Promise<void> {
    await this.#writing;
    this.#closed = true;
    await this.#file?.close();
  }

  #present(): VerifyCycle {
    const cycle = this.cycle;
    assert(cycle !== undefined, 'a cycle is under way');
    return cycle;
  }

  #change(cycle: VerifyCycle): void {
    assert(this.#state !== undefined, 'a cycle belongs to a mirror');
    this.#state = { ...this.#state, cycle };
  }
}

/** Ranges with others behind them, neighbours joined, as many as are kept. */
function appended(
  known: readonly CycleRange[],
  more: readonly Range[],
): { ranges: readonly CycleRange[]; truncated: boolean } {
  const ranges = [...known];
  let truncated = false;
  for (const { offset, length } of more) {
    const last = ranges.at(-1);
    if (last !== undefined && last.offset + last.length === offset) {
      ranges[ranges.length - 1] = { ...last, length: last.length + length };
    } else if (ranges.length < CYCLE_RANGES_MAX) ranges.push({ offset, length });
    else truncated = true;
  }
  return { ranges, truncated };
}
