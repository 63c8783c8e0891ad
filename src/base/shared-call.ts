/**
 * Groups calls of something slow: one runs, callers that arrive meanwhile share the next one.
 *
 * Invariant: a caller's call *starts* after the caller asked, so that it covers everything that was done before.
 */
export class SharedCall {
  readonly #call: () => Promise<void>;
  readonly #turn: () => void | Promise<void>;
  /** Runs now, or undefined. Never rejects. */
  #current: Promise<void> | undefined;
  /** Has callers but has not started yet, so that more may join. */
  #next: Promise<void> | undefined;

  /** `turn` is waited for before each call; more callers may join in that time. It does not reject. */
  constructor(call: () => Promise<void>, turn: () => void | Promise<void> = () => undefined) {
    this.#call = call;
    this.#turn = turn;
  }

  /** Resolves when one that started after this call has succeeded; rejects when it failed. */
  run(): Promise<void> {
    this.#next ??= this.#start(this.#current);
    return this.#next;
  }

  async #start(previous: Promise<void> | undefined): Promise<void> {
    await previous;
    await this.#turn();
    // From here on the call may already be under way: who comes now needs another one.
    this.#next = undefined;
    const call = (async () => this.#call())();
    const settled = call.then(
      () => {},
      () => {},
    );
    this.#current = settled;
    try {
      await call;
    } finally {
      if (this.#current === settled) this.#current = undefined;
    }
  }
}
