/**
 * A rate, as a bucket of tokens that fills with time: in any span of `t` seconds at most `rate * t + burst` are taken.
 * One token is a byte.
 */
export class TokenBucket {
  readonly #rate: number;
  readonly #burst: number;
  #tokens: number;
  #atMs: number;

  /** `rate` per second; full, with `burst` tokens, at `nowMs`. */
  constructor(rate: number, burst: number, nowMs: number) {
    this.#rate = rate;
    this.#burst = burst;
    this.#tokens = burst;
    this.#atMs = nowMs;
  }

  /**
   * Takes as many whole tokens as there are, at most `most`; none when there are fewer than `least`, which is at most
   * the burst. Time never goes back.
   */
  take(least: number, most: number, nowMs: number): number {
    this.#tokens = Math.min(this.#burst, this.#tokens + ((nowMs - this.#atMs) / 1000) * this.#rate);
    this.#atMs = nowMs;
    if (this.#tokens < least) return 0;
    const taken = Math.min(most, Math.floor(this.#tokens));
    this.#tokens -= taken;
    return taken;
  }

  /** Milliseconds until `count` tokens are there, after a `take` at the same time. `count` is at most the burst. */
  waitMs(count: number): number {
    return Math.max(0, ((count - this.#tokens) / this.#rate) * 1000);
  }
}
