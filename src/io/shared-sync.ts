/**
 * Groups calls of fdatasync (or fsync) on one disk: one runs, callers that arrive meanwhile share the next one. Across all disks
 * at most SYNCS_MAX run at a time, since each holds a thread of the pool for as long as the disk needs, and reads must
 * find a thread free.
 *
 * Invariant: a caller's call *starts* after the call, so that it covers everything written before the call.
 */

/** Such calls in the thread pool at a time, over all disks of the process. The pool has four threads. */
const SYNCS_MAX = 2;

let running = 0;
const waiting: (() => void)[] = [];

/** Resolves when this caller may run; it must then call `leave` once. */
function enter(): Promise<void> | void {
  if (running < SYNCS_MAX) {
    running += 1;
    return;
  }
  return new Promise((resolve) => waiting.push(resolve));
}

function leave(): void {
  const next = waiting.shift();
  if (next === undefined) running -= 1;
  else next();
}

export class SharedSync {
  readonly #sync: () => Promise<void>;
  /** Runs now, or undefined. Never rejects. */
  #current: Promise<void> | undefined;
  /** Has callers but has not started yet, so that more may join. */
  #next: Promise<void> | undefined;

  constructor(sync: () => Promise<void>) {
    this.#sync = sync;
  }

  /** Resolves when one that started after this call has succeeded; rejects when it failed. */
  run(): Promise<void> {
    this.#next ??= this.#start(this.#current);
    return this.#next;
  }

  async #start(previous: Promise<void> | undefined): Promise<void> {
    await previous;
    await enter();
    // From here on the call may already be under way: who comes now needs another one.
    this.#next = undefined;
    const call = (async () => this.#sync())();
    const settled = call.then(
      () => {},
      () => {},
    );
    this.#current = settled;
    try {
      await call;
    } finally {
      leave();
      if (this.#current === settled) this.#current = undefined;
    }
  }
}
