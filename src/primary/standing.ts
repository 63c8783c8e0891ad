/** Whether a mirror in order is streaming or catching up: by how full the window is, with hysteresis, so that it does not flap. */
import type { Clock } from '../io/clock.ts';
import type { Replica } from './replica.ts';

/** Shares of the window between which a mirror counts as streaming. */
const LAGGING_SHARE = 1 / 2;
const CAUGHT_UP_SHARE = 1 / 16;
/** How soon after a change the state may change again. */
const DWELL_MS = 500;

export class Standing {
  readonly #clock: Clock;
  readonly #replica: Replica;
  readonly #changed: (event: 'caught-up' | 'lagging') => void;
  #streaming = false;
  #changedMs: number;

  constructor(clock: Clock, replica: Replica, changed: (event: 'caught-up' | 'lagging') => void) {
    this.#clock = clock;
    this.#replica = replica;
    this.#changed = changed;
    this.#changedMs = clock.nowMs();
  }

  /** The mirror has just come to be in order: it catches up, until a look shows more. */
  begin(): void {
    this.#streaming = false;
  }

  /** Something has been sent or acknowledged. */
  judge(): void {
    const { unappliedSize, limit } = this.#replica.window;
    const { isInWindow } = this.#replica.backlog;
    if (this.#streaming) {
      if (isInWindow && unappliedSize <= limit * LAGGING_SHARE) return;
      const nowMs = this.#clock.nowMs();
      if (nowMs - this.#changedMs < DWELL_MS) return;
      this.#streaming = false;
      this.#changedMs = nowMs;
      this.#changed('lagging');
    } else if (isInWindow && unappliedSize <= limit * CAUGHT_UP_SHARE) {
      this.#streaming = true;
      this.#changedMs = this.#clock.nowMs();
      this.#changed('caught-up');
    }
  }
}
