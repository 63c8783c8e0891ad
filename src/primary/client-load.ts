/**
 * What clients ask of the primary and how long they wait for it, for whoever works beside them and wants to know what that
 * costs them. Costs next to nothing while nobody measures.
 */
import type { Clock } from '../io/clock.ts';

/** Sums; whoever measures may take away what it has seen. */
export interface LoadTally {
  /** Requests taken. */
  requests: number;
  /** Those of them that were not answered at once: how many have been answered, and the milliseconds until then. */
  waits: number;
  waitedMs: number;
}

export class ClientLoad {
  readonly #clock: Clock;
  #tally: LoadTally | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Requests taken from now on count in `tally`, whenever they are answered; undefined: nowhere. */
  measure(tally: LoadTally | undefined): void {
    this.#tally = tally;
  }

  /** A request was taken; returns what it is answered with: a promise, where that is not at once. */
  request<Answer>(answer: Answer): Answer {
    const tally = this.#tally;
    if (tally === undefined) return answer;
    tally.requests += 1;
    if (answer instanceof Promise) this.#wait(answer, tally);
    return answer;
  }

  #wait(answer: Promise<unknown>, tally: LoadTally): void {
    const startMs = this.#clock.nowMs();
    const answered = (): void => {
      tally.waits += 1;
      tally.waitedMs += this.#clock.nowMs() - startMs;
    };
    answer.then(answered, answered);
  }
}
