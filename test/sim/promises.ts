/**
 * What answers have promised of the mirror (G5): the highest sequence that was answered while the mode held. In `flush`
 * and `sync` what a FLUSH or FUA covered survives a power loss of the mirror, in `sync` each answered write a kill.
 */
import type { Run } from './history.ts';

export interface Promised {
  readonly run: Run;
  readonly sequence: number;
}

export class Promises {
  /** What a power loss of the mirror leaves in its image. */
  #durable: Promised | undefined;
  /** What a kill leaves. */
  #applied: Promised | undefined;
  /** Sessions whose acknowledgements may be older than what has happened to the mirror since. */
  #withoutDurable: readonly string[] = [];
  #withoutApplied: readonly string[] = [];

  get durable(): Promised | undefined {
    return this.#durable;
  }

  get applied(): Promised | undefined {
    return later(this.#applied, this.#durable);
  }

  /** An answer came with the mirror, `durable` on it or only applied there; `session` names the one of that moment. */
  made(promised: Promised, durable: boolean, session: string): void {
    if (durable && !this.#withoutDurable.includes(session)) this.#durable = later(this.#durable, promised);
    if (!this.#withoutApplied.includes(session)) this.#applied = later(this.#applied, promised);
  }

  /** The mirror lost what was not durable. What it had said in those sessions may be on its way still. */
  lostUnsynced(sessions: readonly string[]): void {
    this.#applied = undefined;
    this.#withoutApplied = sessions;
  }

  /** The mirror's disks are those of another time. */
  void(sessions: readonly string[]): void {
    this.lostUnsynced(sessions);
    this.#durable = undefined;
    this.#withoutDurable = sessions;
  }
}

/** Runs are compared by when they began: a later one goes on from the primary's disk. */
function later(a: Promised | undefined, b: Promised | undefined): Promised | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  if (a.run !== b.run) return a.run.number > b.run.number ? a : b;
  return a.sequence >= b.sequence ? a : b;
}
