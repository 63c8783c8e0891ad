/**
 * Decides whether a short call may run on the event loop. Inline calls cost half of what the thread pool costs, until
 * the disk is throttled (too many dirty pages, a slow device): then one call can stop everything for 100 ms. So a call
 * that took over a millisecond sends the next ones to the pool for a while, twice as long each time in a row.
 */

/** An inline call that takes longer than this counts as slow. */
const SLOW_MS = 1;
const POOL_FIRST_MS = 20;
const POOL_LAST_MS = 2000;

export class InlinePace {
  #poolUntilMs = Number.NEGATIVE_INFINITY;
  #poolMs = POOL_FIRST_MS;

  /** True when the next call may run inline. */
  allows(nowMs: number): boolean {
    return nowMs >= this.#poolUntilMs;
  }

  /** Tells how long an inline call took. */
  took(startMs: number, endMs: number): void {
    if (endMs - startMs <= SLOW_MS) {
      this.#poolMs = POOL_FIRST_MS;
      return;
    }
    this.#poolUntilMs = endMs + this.#poolMs;
    this.#poolMs = Math.min(POOL_LAST_MS, this.#poolMs * 2);
  }
}
