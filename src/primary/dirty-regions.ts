/**
 * When a region of the dirty map may be cleared for one mirror, and which stay set though the mirror is in step.
 *
 * A region may be cleared when
 * (a) the last operation on it is recorded in the mirror's image, not in its staging alone,
 * (b) and is covered by a sync of the local disk that succeeded; after a failed one nothing is cleared any more,
 * (c) nothing else says that it may differ: marks, a rescan that the mirror has not committed, a range that cannot be read,
 * (d) and no mutation holds it that has begun but has no sequence yet: what is admitted counts on the mark.
 *
 * The *active set*: up to `activeMax` regions that might be cleared stay set, those that were written last, so that a
 * steady load finds its regions set and waits for no mark. When there are an eighth more, the least recently written are
 * cleared in one group, in the background, a moment after `reconcile` was told that something may have changed. What
 * nobody has written in this process is not in it, and is cleared as soon as it may be: after a seeding or a rescan
 * everything compared is set, and to keep a part of it would only give the start after a crash more to compare.
 *
 * Nothing here survives a crash: the map then has more set than need be.
 */
import { isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Clock, Timer } from '../io/clock.ts';
import type { ClearedPosition, DirtyMap } from '../store/dirty-map.ts';
import type { RegionSequences } from './region-sequences.ts';

/** From the first word of something to clear until it is looked for: one group for what comes together. */
const RECONCILE_DELAY_MS = 200;
/** How much the active set may be exceeded, as a part of it: clearing one by one would cost a sync each. */
const SLACK_DIVISOR = 8;

/** What stands in the way of a clear, as the replica and the local disk know it. */
export interface DirtyRegionsView {
  /**
   * Where the mirror's image stands durably, staging aside, in the present run. Undefined while that is unknown, and
   * before the run is durable.
   */
  recorded(): ClearedPosition | undefined;
  /** True when something other than an operation says that the region may differ. */
  mustStay(region: number): boolean;
  /** How many regions `mustStay`, roughly: where it is too high for a while, what may be cleared is looked for later. */
  stayCount(): number;
  /** Everything up to this sequence has been on the local disk when a sync of it that succeeded began. */
  locallyDurable(): number;
  /** A sync of the local disk has failed: what it holds is no longer known. */
  syncFailed(): boolean;
  /** Syncs the local disk. Rejects with a Failure. */
  syncLocal(): Promise<void>;
  /** True when no mutation of the range is under way. */
  isFree(offset: number, length: number): boolean;
}

export class DirtyRegions {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #map: DirtyMap;
  readonly #plane: number;
  readonly #sequences: RegionSequences;
  readonly #activeMax: number;
  readonly #view: DirtyRegionsView;
  #timer: Timer | undefined;
  #running: Promise<void> | undefined;
  #closed = false;

  constructor(
    clock: Clock,
    log: Log,
    map: DirtyMap,
    plane: number,
    sequences: RegionSequences,
    activeMax: number,
    view: DirtyRegionsView,
  ) {
    this.#clock = clock;
    this.#log = log;
    this.#map = map;
    this.#plane = plane;
    this.#sequences = sequences;
    this.#activeMax = activeMax;
    this.#view = view;
  }

  /**
   * The mirror recorded more, a sync succeeded, or a rescan was committed: looks soon whether there is enough to clear.
   * Costs a comparison when there is not.
   */
  reconcile(): void {
    if (this.#timer !== undefined || this.#running !== undefined || this.#closed || !this.#isWorthALook()) return;
    this.#timer = this.#clock.after(RECONCILE_DELAY_MS, () => {
      this.#timer = undefined;
      if (this.#isWorthALook()) this.#start(this.#activeMax);
    });
  }

  /** Clears everything that may be cleared, the active set too: before a clean stop, with no mutation under way. */
  async settle(): Promise<void> {
    this.#timer?.cancel();
    this.#timer = undefined;
    await this.#running;
    this.#start(0);
    await this.#running;
  }

  /** Nothing is cleared after this has resolved. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    await this.#running;
  }

  /** Something not in use may be there to clear, or more than the active set and its slack: without looking at regions. */
  #isWorthALook(): boolean {
    if (!this.#map.valid || this.#view.syncFailed()) return false;
    const clearable = this.#map.count(this.#plane) - this.#view.stayCount();
    const slack = Math.floor(this.#activeMax / SLACK_DIVISOR);
    return clearable > Math.min(this.#sequences.inUseCount, this.#activeMax + slack);
  }

  /** Clears in the background until no more than `activeMax` regions could be cleared. */
  #start(activeMax: number): void {
    this.#running = this.#clearDownTo(activeMax).finally(() => {
      this.#running = undefined;
    });
  }

  async #clearDownTo(activeMax: number): Promise<void> {
    try {
      const slack = Math.floor(activeMax / SLACK_DIVISOR);
      const oldest = this.#oldest(activeMax, slack);
      if (oldest.length === 0) return;
      const durable = this.#view.locallyDurable();
      if (oldest.some((region) => this.#sequences.of(region) > durable)) {
        // Nobody has flushed since.
        await this.#view.syncLocal();
      }
      await this.#clear(this.#oldest(activeMax, slack));
    } catch (error) {
      if (!isFailure(error)) throw error;
      this.#log.warn({ code: error.code }, `regions of the dirty map stay set: ${error.message}`);
    }
  }

  /**
   * Of the regions to which (a) and (c) apply: those that are not in use, and the least recently written of the others,
   * all but `activeMax` of them; none of the others when there are not more than `slack` of those.
   */
  #oldest(activeMax: number, slack: number): number[] {
    const recorded = this.#view.recorded();
    if (recorded === undefined || !this.#map.valid || this.#view.syncFailed()) return [];
    const idle: number[] = [];
    const inUse: number[] = [];
    const map = this.#map;
    for (let region = map.nextSet(this.#plane, 0); region >= 0; region = map.nextSet(this.#plane, region + 1)) {
      if (!map.isSet(this.#plane, region) || this.#sequences.of(region) > recorded.sequence) continue;
      if (!this.#view.mustStay(region)) (this.#sequences.isInUse(region) ? inUse : idle).push(region);
    }
    const excess = inUse.length - activeMax;
    if (excess <= slack) return idle;
    const sorted = Float64Array.from(inUse, (region) => this.#sequences.of(region)).sort();
    const cut = sorted[excess - 1]!;
    // As many of those written at the very cut as are wanted beside all that are older.
    let atCut = excess - sorted.indexOf(cut);
    const oldest = inUse.filter((region) => {
      const last = this.#sequences.of(region);
      if (last !== cut) return last < cut;
      atCut -= 1;
      return atCut >= 0;
    });
    return [...idle, ...oldest];
  }

  /** Clears those of the regions to which (b) and (d) apply too. From the test to the clear nothing can come between. */
  async #clear(oldest: readonly number[]): Promise<void> {
    const recorded = this.#view.recorded();
    const durable = this.#view.locallyDurable();
    const { regionSize, size } = this.#map;
    const regions = oldest.filter((region) => {
      if (this.#sequences.of(region) > durable) return false;
      const offset = region * regionSize;
      return this.#view.isFree(offset, Math.min(regionSize, size - offset));
    });
    if (recorded === undefined || regions.length === 0) return;
    for (const region of regions) this.#sequences.letGo(region);
    await this.#map.clear(this.#plane, regions, recorded);
  }
}
