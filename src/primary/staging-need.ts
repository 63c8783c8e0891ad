/** How much room a staged run is known to need on the mirror: with less it is not tried again, at least not soon. */
import type { Clock } from '../io/clock.ts';

/** Where a run has taken what there was, more room is waited for; after so long it is tried all the same. */
const PATIENCE_MS = 600_000;
/** Where there was more than it had taken, what the mirror says of its room is not the limit (quotas, thin pools). */
const UNTOLD_PATIENCE_MS = 60_000;

export class StagingNeed {
  readonly #clock: Clock;
  #size = 0;
  #untilMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Bytes that the last run that found no room would have needed at least; 0 when there is none. */
  get size(): number {
    return this.#size;
  }

  /** The same, as far as it counts now. */
  get binding(): number {
    return this.#clock.nowMs() < this.#untilMs ? this.#size : 0;
  }

  /** A run found no more room when it had taken so much; at its beginning the mirror said that it had `room` bytes. */
  wasFull(takenSize: number, room: number): void {
    this.#size = Math.max(takenSize, room) + 1;
    this.#untilMs = this.#clock.nowMs() + (room > takenSize ? UNTOLD_PATIENCE_MS : PATIENCE_MS);
  }

  /** There was room after all. */
  wasMet(): void {
    this.#size = 0;
  }
}
