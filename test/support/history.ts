/**
 * The history of a disk as its clients know it: what each operation was, when it was begun and when it was answered, in
 * one order of events. What a crash leaves is judged by it (judge.ts).
 *
 * Moments are numbers of events: `clock` is the one of the latest event, and an operation was under way at moment t when
 * `begun <= t` and t < `answered`.
 *
 * Invariants:
 * - No two operations on the same byte are under way at once, but for those that were never answered: whoever records
 *   sees to it (recorder.ts). So every byte has one order of writers, and it is known.
 * - An operation that was never answered, or answered with an error, may have taken effect or not: `answered` is Infinity.
 */

export interface Mutation {
  readonly offset: number;
  readonly length: number;
  /** What was written, never to be changed; undefined: zeroes. */
  readonly data: Uint8Array | undefined;
  /** A barrier too: the last operation of its epoch. */
  readonly fua: boolean;
  readonly begun: number;
  answered: number;
}

export interface Flush {
  readonly begun: number;
  answered: number;
}

/** What happened at a moment. */
export interface HistoryEvent {
  readonly operation: Mutation | Flush;
  readonly isAnswer: boolean;
}

export class History {
  /** Content of the disk when the history began. */
  readonly base: Buffer;
  /** In the order in which they were begun. */
  readonly mutations: Mutation[] = [];
  readonly flushes: Flush[] = [];
  /** One for each moment from 1 on. */
  readonly events: HistoryEvent[] = [];

  constructor(base: Buffer) {
    this.base = base;
  }

  /** Moment of the latest event; 0 before the first. */
  get clock(): number {
    return this.events.length;
  }

  /** The data must stay as it is. */
  beginWrite(offset: number, data: Uint8Array, fua = false): Mutation {
    return this.#begin({ offset, length: data.length, data, fua });
  }

  beginZero(offset: number, length: number, fua = false): Mutation {
    return this.#begin({ offset, length, data: undefined, fua });
  }

  beginFlush(): Flush {
    const flush = { begun: this.clock + 1, answered: Number.POSITIVE_INFINITY };
    this.flushes.push(flush);
    this.events.push({ operation: flush, isAnswer: false });
    return flush;
  }

  /** It was answered, without an error. */
  answer(operation: Mutation | Flush): void {
    operation.answered = this.clock + 1;
    this.events.push({ operation, isAnswer: true });
  }

  /**
   * Moment at which the latest flush that was answered had been begun: everything answered before it was promised to be
   * durable. 0 when none was.
   */
  get promised(): number {
    const answered = this.flushes.filter((flush) => flush.answered < Number.POSITIVE_INFINITY);
    return Math.max(0, ...answered.map((flush) => flush.begun));
  }

  #begin(what: Pick<Mutation, 'offset' | 'length' | 'data' | 'fua'>): Mutation {
    const mutation = { ...what, begun: this.clock + 1, answered: Number.POSITIVE_INFINITY };
    this.mutations.push(mutation);
    this.events.push({ operation: mutation, isAnswer: false });
    return mutation;
  }
}
