/**
 * Decides whether a short call may run on the event loop. Inline calls cost half of what the thread pool costs, until
 * the disk is throttled (too many dirty pages, a slow device): then one call can stop everything for 100 ms. So a call
 * that had to wait sends the next ones to the pool for a while, twice as long each time in a row.
 *
 * A call that took long need not have waited: on a busy machine the scheduler may have given the CPU to others in the
 * middle of it, and the pool would only add to that. The kernel knows which it was, but must be asked before the call
 * too, at half a microsecond or more. So the first slow call only begins a watch, in which it is asked, and not again before
 * a call that follows the one before closely: in between this thread can hardly have waited for its clients.
 */

/** An inline call that takes longer than this counts as slow. */
const SLOW_MS = 1;
/** One that takes longer than this has waited: no scheduler is that unfair. */
const STALLED_MS = 20;
const POOL_FIRST_MS = 20;
const POOL_LAST_MS = 2000;
/** How long calls are watched after a slow one: a disk that is slow may be asked seldom. */
const WATCH_MS = POOL_LAST_MS;
/** Between two calls, in ms: shorter than an event loop takes to fall asleep, be woken and find out what for. */
const CLOSE_MS = 0.005;

export class InlinePace {
  readonly #waits: () => number;
  #poolUntilMs = Number.NEGATIVE_INFINITY;
  #watchUntilMs = Number.NEGATIVE_INFINITY;
  #poolMs = POOL_FIRST_MS;
  /** How often the thread had waited before the call under way, or before others close to it; undefined while nobody watches. */
  #waitsBefore: number | undefined;
  /** When the call before ended. */
  #endedMs = Number.NEGATIVE_INFINITY;

  /** `waits` tells how often this thread has given up its CPU to wait for something. */
  constructor(waits: () => number) {
    this.#waits = waits;
  }

  /** True when the next call may run inline; then `took` follows when it has. */
  allows(nowMs: number): boolean {
    if (nowMs < this.#poolUntilMs) return false;
    if (nowMs >= this.#watchUntilMs) this.#waitsBefore = undefined;
    else if (this.#waitsBefore === undefined || nowMs - this.#endedMs > CLOSE_MS) this.#waitsBefore = this.#waits();
    return true;
  }

  /** Tells how long an inline call took. */
  took(startMs: number, endMs: number): void {
    this.#endedMs = endMs;
    if (endMs - startMs <= SLOW_MS) {
      this.#poolMs = POOL_FIRST_MS;
      return;
    }
    this.#watchUntilMs = endMs + WATCH_MS;
    if (!this.#hasWaited() && endMs - startMs <= STALLED_MS) return;
    this.#poolUntilMs = endMs + this.#poolMs;
    // What comes back from the pool is watched from its first call.
    this.#watchUntilMs = this.#poolUntilMs + WATCH_MS;
    this.#poolMs = Math.min(POOL_LAST_MS, this.#poolMs * 2);
  }

  /** True when the thread has waited since it was asked last. */
  #hasWaited(): boolean {
    const before = this.#waitsBefore;
    if (before === undefined) return false;
    this.#waitsBefore = this.#waits();
    return this.#waitsBefore > before;
  }
}
