import type { Clock } from '../io/clock.ts';

/** A start that finds a cycle due waits at most so long, and at most this part of the period: many start together. */
const DELAY_MS_MAX = 300_000;
const DELAY_SHARE = 1 / 10;

/** When the next cycle begins: a period after the last one began, or soon after the start. */
export class Cadence {
  readonly #clock: Clock;
  readonly #everyMs: number;
  readonly #notBeforeMs: number;

  /** `chance`: a number in [0, 1) that decides how soon after the start. */
  constructor(clock: Clock, everyMs: number, chance: number) {
    this.#clock = clock;
    this.#everyMs = everyMs;
    this.#notBeforeMs = clock.nowMs() + chance * Math.min(DELAY_MS_MAX, everyMs * DELAY_SHARE);
  }

  /**
   * Milliseconds until the next cycle, 0 when it is due. `beganMs`: when the last one began, since 1970. A clock that was put
   * back delays it by a period at most.
   */
  dueInMs(beganMs: number | undefined): number {
    const leftMs = beganMs === undefined ? 0 : beganMs + this.#everyMs - this.#clock.wallMs();
    return Math.max(0, this.#notBeforeMs - this.#clock.nowMs(), Math.min(leftMs, this.#everyMs));
  }
}
