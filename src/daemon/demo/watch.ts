/** Follows the state of the replication: shows it, and remembers how far behind the mirror was at most. */
import { Failure } from '../../base/failure.ts';
import type { Clock } from '../../io/clock.ts';
import type { MirrorLinkStatus } from '../../primary/status.ts';
import type { ServeStatus } from '../status.ts';
import type { Display } from './display.ts';
import type { Stage } from './stage.ts';

const INTERVAL_MS = 100;

export interface Lag {
  readonly operations: number;
  readonly bytes: number;
  readonly ms: number;
}

const NO_LAG: Lag = { operations: 0, bytes: 0, ms: 0 };

/** The last moment at which the mirror had everything. */
interface InStep {
  readonly atMs: number;
  readonly bytesWritten: number;
}

export class Watch {
  readonly #stage: Stage;
  readonly #clock: Clock;
  readonly #display: Display;
  #mostLag = NO_LAG;
  #inStep: InStep = { atMs: 0, bytesWritten: 0 };
  #stopped = false;
  #ended: Promise<void>;

  constructor(stage: Stage, clock: Clock, display: Display) {
    this.#stage = stage;
    this.#clock = clock;
    this.#display = display;
    this.#ended = this.#run();
    this.#ended.catch(() => {});
  }

  /** The most lag since the last call, each figure for itself. */
  takeMostLag(): Lag {
    const most = this.#mostLag;
    this.#mostLag = NO_LAG;
    return most;
  }

  /**
   * Resolves once `condition` holds. Rejects with `not-ready` when the primary says that a human is needed, or when
   * `timeoutMs` are over.
   */
  async until(
    condition: (link: MirrorLinkStatus, status: ServeStatus) => boolean,
    timeoutMs: number,
  ): Promise<ServeStatus> {
    const endMs = this.#clock.nowMs() + timeoutMs;
    for (;;) {
      const status = await this.#poll();
      const link = linkOf(status);
      if (condition(link, status)) return status;
      if (link.state === 'refused') throw new Failure('not-ready', `the mirror refused: ${link.problem?.message}`);
      if (this.#clock.nowMs() > endMs) {
        throw new Failure(
          'not-ready',
          `the mirror is still ${link.state} (${link.problem?.message ?? 'no problem reported'})`,
        );
      }
      await this.#clock.sleep(INTERVAL_MS);
    }
  }

  /** Everything that was written has been applied by the mirror. `onRescan` is called while a rescan runs. */
  inStep(timeoutMs: number, onRescan: () => void = () => {}): Promise<ServeStatus> {
    return this.until((link, status) => {
      if (link.state === 'rescan') onRescan();
      return link.state === 'streaming' && link.applied === status.replication!.sequence;
    }, timeoutMs);
  }

  /** Stops following; resolves when nothing is asked any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#ended.catch(() => {});
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      this.#display.status(await this.#poll());
      await this.#clock.sleep(INTERVAL_MS);
    }
  }

  async #poll(): Promise<ServeStatus> {
    const status = await this.#stage.status();
    const lag = this.#lagOf(status);
    const most = this.#mostLag;
    this.#mostLag = {
      operations: Math.max(most.operations, lag.operations),
      bytes: Math.max(most.bytes, lag.bytes),
      ms: Math.max(most.ms, lag.ms),
    };
    return status;
  }

  /**
   * What the mirror lacks. The primary knows it in bytes while its window holds it all; past that only the operations
   * are counted, and the rest is measured from when the mirror was last seen to have everything.
   */
  #lagOf(status: ServeStatus): Lag {
    const link = linkOf(status);
    const { sequence, bytesWritten } = status.replication!;
    const nowMs = this.#clock.nowMs();
    const operations = sequence - link.applied;
    if (operations === 0 && link.state === 'streaming') this.#inStep = { atMs: nowMs, bytesWritten };
    if (link.state === 'streaming' || link.state === 'catch-up') return { ...link.lag, operations };
    const { atMs, bytesWritten: bytesThen } = this.#inStep;
    return { operations, bytes: bytesWritten - bytesThen, ms: atMs === 0 ? 0 : nowMs - atMs };
  }
}

/** The one mirror of the demonstration. */
export function linkOf(status: ServeStatus): MirrorLinkStatus {
  const link = status.replication?.mirrors[0];
  if (link === undefined) throw new Failure('program-failed', 'the primary reports no mirror');
  return link;
}
