/** Whether a mirror in order is streaming or catching up: by how full the window is, with hysteresis, so that it does not flap. */
import type { Clock, Timer } from '../io/clock.ts';
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
  /** A change was due too early: nothing else may ever happen on a link whose mirror hangs. */
  #later: Timer | undefined;
  #ended = false;
  readonly #look: () => void;

  /** `look`: time to `judge` again, where that makes sense. */
  constructor(clock: Clock, replica: Replica, changed: (event: 'caught-up' | 'lagging') => void, look: () => void) {
    this.#clock = clock;
    this.#replica = replica;
    this.#changed = changed;
    this.#look = look;
    this.#changedMs = clock.nowMs();
  }

  /** The mirror has just come to be in order: it catches up, until a look shows more. */
  begin(): void {
    this.#streaming = false;
  }

  /** The session has ended: nothing is called any more, whatever is still on its way in it. */
  end(): void {
    this.#ended = true;
    this.#later?.cancel();
  }

  /** Something has been sent or acknowledged. */
  judge(): void {
    if (this.#ended) return;
    const { unappliedSize, limit } = this.#replica.window;
    const { isInWindow } = this.#replica.backlog;
    if (this.#streaming) {
      if (isInWindow && unappliedSize <= limit * LAGGING_SHARE) return;
      const nowMs = this.#clock.nowMs();
      const earliestMs = this.#changedMs + DWELL_MS;
      if (nowMs < earliestMs) {
        this.#later ??= this.#clock.after(earliestMs - nowMs, () => {
          this.#later = undefined;
          this.#look();
        });
        return;
      }
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
