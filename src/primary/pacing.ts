/**
 * How fast a pass may go: it waits for room in the window, keeps to `--rescan-rate`, and yields to clients. Clients are
 * never delayed by it for longer than one piece takes; it in turn is never starved: after a while it takes its turn.
 */
import type { Clock } from '../io/clock.ts';
import type { Window } from './window.ts';

/** While clients are active a pass rests about as long as it worked, at most this long at a time. */
const YIELD_MS_MAX = 50;
/** A pass waits at most this long for the window to be half empty; then any room will do. */
const PATIENCE_MS = 100;
/** A long rest is taken in steps of this length, so that the end of the session is noticed. */
const REST_STEP_MS = 100;
/** How often the window is looked at while waiting. */
const LOOK_INTERVAL_MS = 2;

export class Pacing {
  readonly #clock: Clock;
  readonly #window: Window;
  readonly #rate: number | undefined;
  /** Grows whenever a client mutates something. */
  readonly #activity: () => number;
  #lastActivity: number;
  #lastMs: number;
  /** When the rate allows the next byte. */
  #allowedMs: number;

  /** `rate` in bytes per second. */
  constructor(clock: Clock, window: Window, rate: number | undefined, activity: () => number) {
    this.#clock = clock;
    this.#window = window;
    this.#rate = rate;
    this.#activity = activity;
    this.#lastActivity = activity();
    this.#lastMs = clock.nowMs();
    this.#allowedMs = this.#lastMs;
  }

  /** After a batch of which `size` bytes were read has been compared: rests, unless `ended`. */
  async pace(size: number, ended: () => boolean): Promise<void> {
    const nowMs = this.#clock.nowMs();
    let restMs = 0;
    if (this.#activity() !== this.#lastActivity) restMs = Math.min(YIELD_MS_MAX, nowMs - this.#lastMs);
    if (this.#rate !== undefined) {
      this.#allowedMs = Math.max(this.#allowedMs, nowMs - 1000) + (size / this.#rate) * 1000;
      restMs = Math.max(restMs, this.#allowedMs - nowMs);
    }
    const untilMs = nowMs + restMs;
    for (let leftMs = restMs; leftMs >= 1 && !ended(); leftMs = untilMs - this.#clock.nowMs()) {
      await this.#clock.sleep(Math.min(REST_STEP_MS, leftMs));
    }
    this.#lastActivity = this.#activity();
    this.#lastMs = this.#clock.nowMs();
  }

  /** Waits until something is so, or `ended`. */
  async until(condition: () => boolean, ended: () => boolean): Promise<void> {
    while (!condition() && !ended()) await this.#clock.sleep(LOOK_INTERVAL_MS);
  }

  /** Waits until `size` bytes more may enter the window, or `ended`. */
  async room(size: number, ended: () => boolean): Promise<void> {
    const startMs = this.#clock.nowMs();
    while (!ended()) {
      const patient = this.#clock.nowMs() - startMs < PATIENCE_MS;
      if (patient ? this.#window.usedSize <= this.#window.limit / 2 : this.#window.hasRoomFor(size)) return;
      await this.#clock.sleep(LOOK_INTERVAL_MS);
    }
  }
}
