/**
 * One comparison of the local disk with the mirror's image, over a scope: what a rescan and a verify have in common.
 * It connects the pass (src/rescan/source.ts) with the session: digests, pace, progress.
 */
import { Failure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import type { Clock } from '../io/clock.ts';
import type { ScanPool, ScanResult } from '../io/scan-pool.ts';
import type { DigestUnit } from '../link/digests.ts';
import { type DifferingRange, type Range, runPass, type Stride } from '../rescan/source.ts';
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
  /** The mirror holds nothing yet. */
  readonly seeding: boolean;
  readonly pass: number;
  /** Bytes compared at a time; as many as is good for speed unless given. */
  readonly batchSize?: number | undefined;
  /** PASS has been handed to the stream. */
  passSent(): boolean;
  next(offset: number, lengthMax: number): Range | undefined;
  reached(end: number): void;
  differing(range: DifferingRange): Promise<void>;
  unreadable(range: Range): void;
  compared(range: Range): void;
}

export const BATCH_SIZE_MAX = 32 * MIB;
/** How far ahead to compare: while clients are active the pass works a little at a time. */
const WIDE: Stride = { batchSize: BATCH_SIZE_MAX, batches: 3 };
const NARROW: Stride = { batchSize: 8 * MIB, batches: 1 };

export class Comparison {
  readonly #means: ComparisonMeans;
  readonly #plan: ComparisonPlan;
  readonly #startMs: number;
  #comparedSize = 0;
  #readSize = 0;
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

  /** Bytes of what has been compared that were read here: holes are not. */
  get readSize(): number {
    return this.#readSize;
  }

  /**
   * Questions go beside the stream, and one that overtook its PASS would be answered as one of the pass before: with that
   * one's key, and of an image that lacks what is still on its way. So the first is asked behind PASS. Failures: those of
   * `runPass`.
   */
  async run(): Promise<void> {
    const { scan, local, questions, pacing } = this.#means;
    const plan = this.#plan;
    const ended = (): boolean => this.#means.ended();
    // What is appended is sent at the end of the turn, unless the stream takes no more.
    await Promise.resolve();
    await pacing.until(() => plan.passSent(), ended);
    if (ended()) throw new Failure('connection-lost', 'the session ended before a pass');
    const pass = (): Promise<void> =>
      runPass({
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
        pace: (size) => {
          this.#readSize += size;
          return pacing.pace(size, () => this.#means.ended());
        },
        seeding: plan.seeding,
        stride: () => {
          const { batches, batchSize } = pacing.calm ? WIDE : NARROW;
          return { batches, batchSize: Math.min(batchSize, plan.batchSize ?? batchSize) };
        },
        ended: () => this.#means.ended(),
      });
    await pacing.during(pass);
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
