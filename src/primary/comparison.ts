/**
 * One comparison of the local disk with the mirror's image, over a scope: what a rescan and a verify have in common.
 * It connects the pass (src/rescan/source.ts) with the session: digests, pace, progress.
 */
import type { Clock } from '../io/clock.ts';
import type { ScanPool, ScanResult } from '../io/scan-pool.ts';
import type { DigestUnit } from '../link/digests.ts';
import { type DifferingRange, type Range, runPass } from '../rescan/source.ts';
import type { LocalDisk } from './local-disk.ts';
import type { Pacing } from './pacing.ts';
import type { Questions } from './questions.ts';
import type { RescanProgress } from './status.ts';

/** What a session lends to a comparison. */
export interface ComparisonMeans {
  readonly clock: Clock;
  readonly scan: ScanPool;
  readonly local: LocalDisk;
  readonly questions: Questions;
  readonly pacing: Pacing;
  ended(): boolean;
}

export interface ComparisonPlan {
  readonly scope: RescanProgress['scope'];
  /** Bytes in scope. */
  readonly scopeSize: number;
  readonly key: Uint8Array;
  readonly pass: number;
  next(offset: number, lengthMax: number): Range | undefined;
  reached(end: number): void;
  differing(range: DifferingRange): Promise<void>;
  unreadable(range: Range): void;
  compared(range: Range): void;
}

export class Comparison {
  readonly #means: ComparisonMeans;
  readonly #plan: ComparisonPlan;
  readonly #startMs: number;
  #comparedSize = 0;
  shippedSize = 0;
  zeroedSize = 0;

  constructor(means: ComparisonMeans, plan: ComparisonPlan) {
    this.#means = means;
    this.#plan = plan;
    this.#startMs = means.clock.nowMs();
  }

  get comparedSize(): number {
    return this.#comparedSize;
  }

  run(): Promise<void> {
    const { scan, local, questions, pacing } = this.#means;
    const plan = this.#plan;
    return runPass({
      next: (offset, lengthMax) => plan.next(offset, lengthMax),
      seekData: (offset) => local.disk.seekData(offset),
      scanLocal: (offset, length, unit: DigestUnit): Promise<ScanResult> =>
        scan.scan(local.disk, { offset, length, unitSize: unit, key: plan.key }),
      scanRemote: (offset, length, unit) => questions.ask(offset, length, unit),
      reached: (end) => plan.reached(end),
      differing: (range) => plan.differing(range),
      unreadable: (range) => plan.unreadable(range),
      compared: (range) => {
        this.#comparedSize += range.length;
        plan.compared(range);
      },
      pace: (size) => pacing.pace(size, () => this.#means.ended()),
      ended: () => this.#means.ended(),
    });
  }

  progress(): RescanProgress {
    const elapsedMs = this.#means.clock.nowMs() - this.#startMs;
    const scopeSize = Math.max(this.#plan.scopeSize, this.#comparedSize);
    const left = scopeSize - this.#comparedSize;
    return {
      scope: this.#plan.scope,
      scopeSize,
      comparedSize: this.#comparedSize,
      shippedSize: this.shippedSize,
      zeroedSize: this.zeroedSize,
      elapsedMs,
      etaMs: this.#comparedSize === 0 ? undefined : (elapsedMs / this.#comparedSize) * left,
      pass: this.#plan.pass,
      converging: true,
    };
  }
}
