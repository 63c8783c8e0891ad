/**
 * Requests that wait for a position of the mirror, in the order of their sequences. Those of one sequence share a promise.
 *
 * As many as requests in flight, which the NBD server bounds.
 */
interface Waiter {
  readonly sequence: number;
  readonly settled: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (reason: Error) => void;
  /** Requests behind the promise. */
  count: number;
}

export class Waiters {
  #waiters: Waiter[] = [];
  /** Index of the oldest: those before it have been answered. */
  #head = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** Resolves with `through` of that sequence or a later one. Sequences may come a little out of order. */
  add(sequence: number): Promise<void> {
    this.#count += 1;
    let index = this.#waiters.length;
    while (index > this.#head && this.#waiters[index - 1]!.sequence > sequence) index -= 1;
    const same = index > this.#head ? this.#waiters[index - 1]! : undefined;
    if (same?.sequence === sequence) {
      same.count += 1;
      return same.settled;
    }
    let resolve!: () => void;
    let reject!: (reason: Error) => void;
    const settled = new Promise<void>((whenResolved, whenRejected) => {
      resolve = whenResolved;
      reject = whenRejected;
    });
    this.#waiters.splice(index, 0, { sequence, settled, resolve, reject, count: 1 });
    return settled;
  }

  /** Answers everything up to `sequence`. */
  through(sequence: number): void {
    while (this.#head < this.#waiters.length && this.#waiters[this.#head]!.sequence <= sequence) {
      const waiter = this.#waiters[this.#head]!;
      this.#head += 1;
      this.#count -= waiter.count;
      waiter.resolve();
    }
    this.#compact();
  }

  /** Everything that waits fails. */
  failAll(reason: () => Error): void {
    const failed = this.#waiters.slice(this.#head);
    this.#waiters = [];
    this.#head = 0;
    this.#count = 0;
    for (const waiter of failed) waiter.reject(reason());
  }

  #compact(): void {
    if (this.#head === this.#waiters.length) {
      if (this.#head > 0) this.#waiters = [];
      this.#head = 0;
    } else if (this.#head >= COMPACT_COUNT) {
      this.#waiters.splice(0, this.#head);
      this.#head = 0;
    }
  }
}

/** Answered ones are dropped from the head in lots of this many. */
const COMPACT_COUNT = 1024;
