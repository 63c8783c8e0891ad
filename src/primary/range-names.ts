/**
 * Asks what lies at the first ranges of a cycle, such as the files that they belong to, and writes it into log and record.
 * Beside everything else: nothing waits for it.
 */
import type { Log } from '../base/log.ts';
import { type CycleRange, shortOwner } from '../store/verify-state.ts';
import type { PeriodicVerifySettings } from './periodic-verify.ts';
import type { VerifyRecord } from './verify-record.ts';

/** Ranges of a cycle that are looked up: each may take a while. */
const NAMED_MAX = 8;

export class RangeNames {
  readonly #log: Log;
  readonly #record: VerifyRecord;
  readonly #ownersOf: PeriodicVerifySettings['ownersOf'];
  /** Offsets that have been asked about in this cycle. */
  readonly #asked = new Set<number>();

  constructor(log: Log, record: VerifyRecord, ownersOf: PeriodicVerifySettings['ownersOf']) {
    this.#log = log;
    this.#record = record;
    this.#ownersOf = ownersOf;
  }

  /** A cycle begins. */
  begin(): void {
    this.#asked.clear();
  }

  /** More has been found. */
  find(): void {
    if (this.#ownersOf === undefined) return;
    const known = this.#record.cycle?.ranges.slice(0, NAMED_MAX) ?? [];
    const ranges = known.filter(({ offset, owner }) => owner === undefined && !this.#asked.has(offset));
    for (const { offset } of ranges) this.#asked.add(offset);
    if (ranges.length > 0) void this.#ownersOf(ranges).then((owners) => this.#found(ranges, owners));
  }

  async #found(ranges: readonly CycleRange[], owners: readonly (string | undefined)[]): Promise<void> {
    for (const [index, { offset, length }] of ranges.entries()) {
      const owner = owners[index];
      if (owner === undefined) continue;
      this.#record.owned(offset, shortOwner(owner));
      this.#log.warn({ offset, length, owner }, `the range at ${offset} belongs to ${owner}`);
    }
    await this.#record.write();
  }
}
