/**
 * Notices that a client does not move on while others may be waiting for what it holds. Looks once in an interval, and
 * only from `start` until there is nothing to wait for: one timer at most, and none is set per request.
 */
import type { Clock, Timer } from '../io/clock.ts';

export interface StallWatchOptions {
  readonly clock: Clock;
  readonly intervalMs: number;
  /** A number that changes when the client moves on; undefined when it need not. */
  readonly progress: () => number | undefined;
  /** It has not moved on for an interval, nor for two at most. */
  readonly stalled: () => void;
}

export class StallWatch {
  readonly #options: StallWatchOptions;
  #timer: Timer | undefined;

  constructor(options: StallWatchOptions) {
    this.#options = options;
  }

  /** From now on there is something to wait for. */
  start(): void {
    if (this.#timer === undefined) this.#look(this.#options.progress());
  }

  cancel(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #look(before: number | undefined): void {
    const { clock, intervalMs, progress, stalled } = this.#options;
    this.#timer = clock.after(intervalMs, () => {
      this.#timer = undefined;
      const now = progress();
      if (now === undefined) return;
      if (now === before) stalled();
      else this.#look(now);
    });
  }
}
