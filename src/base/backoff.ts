/**
 * Jittered exponential back-off: attempt n waits between half and all of `firstMs * 2^n`, at most `lastMs`. The jitter
 * keeps a hundred primaries from coming back in step after their mirror host reboots.
 */
export class Backoff {
  readonly #firstMs: number;
  readonly #lastMs: number;
  readonly #uniform: () => number;
  #attempts = 0;

  /** `uniform` returns numbers in [0, 1). */
  constructor(firstMs: number, lastMs: number, uniform: () => number) {
    this.#firstMs = firstMs;
    this.#lastMs = lastMs;
    this.#uniform = uniform;
  }

  /** The next delay in ms. */
  next(): number {
    const ceilingMs = Math.min(this.#lastMs, this.#firstMs * 2 ** Math.min(this.#attempts, 30));
    this.#attempts += 1;
    return ceilingMs / 2 + (ceilingMs / 2) * this.#uniform();
  }

  /** After a success: the next failure waits briefly again. */
  reset(): void {
    this.#attempts = 0;
  }
}
