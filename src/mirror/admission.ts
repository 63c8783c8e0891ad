/**
 * How many rescans and first seedings a mirror host takes at a time. The others wait in the order of their arrival and are
 * told their place, so that a hundred primaries do not trample a mirror that has just rebooted.
 *
 * - A free place that nobody waits for is taken at once. One that becomes free while others wait stays empty for a random
 *   moment: rescans that began together, of disks that are alike, end together, and without it they would read together
 *   and commit together from then on. The moment is a share of the time for which the place was held, so that a queue takes
 *   at most that share longer, and half of it on average.
 * - Who is admitted holds its place until it leaves: its rescan is complete, or its channel has ended (a dead peer is found
 *   out by the channel, while it waits too). One whose channel lives but whose rescan has not got on for STUCK_MS keeps running
 *   and lends its place to the next, so that a disk that hangs on one primary does not keep all others out.
 *
 * Invariants: whoever came first is let in first; when somebody is let in, fewer than the limit run that get on.
 */
import { assert } from '../base/assert.ts';
import type { Timer } from '../io/clock.ts';
import type { World } from '../io/world.ts';
import type { RescansStatus } from './status.ts';

/** Of the time for which a place was held. */
const PAUSE_SHARE_MAX = 0.05;
const PAUSE_MS_MAX = 1_000;
/** One that a very low rate holds back further than that, or that only drains its stream, lends its place too: no harm. */
const STUCK_MS = 120_000;
const LOOK_INTERVAL_MS = 5_000;

export interface Candidate {
  /** Place in the queue from 1, 0 when admitted. Called at once, and whenever the place changes. */
  told(place: number): void;
  /** When it last got on, by the world's clock; undefined: not since it was admitted. */
  movedMs(): number | undefined;
}

interface Waiter {
  readonly candidate: Candidate;
  place: number | undefined;
  admittedMs: number;
}

export class Admission {
  readonly #limit: number;
  readonly #world: Pick<World, 'clock' | 'random'>;
  readonly #running = new Set<Waiter>();
  readonly #waiting: Waiter[] = [];
  /** Places that stay empty for a moment. */
  #paused = 0;
  /** While somebody waits: looks for places that can be lent. */
  #looking: Timer | undefined;

  constructor(limit: number, world: Pick<World, 'clock' | 'random'>) {
    assert(limit >= 1, 'at least one rescan at a time');
    this.#limit = limit;
    this.#world = world;
  }

  get status(): RescansStatus {
    return {
      limit: this.#limit,
      running: this.#running.size,
      stuck: this.#stuckCount(),
      waiting: this.#waiting.length,
    };
  }

  /** Queues. Returns how to leave, once or more often: the queue, or the place that was held. */
  request(candidate: Candidate): () => void {
    const waiter: Waiter = { candidate, place: undefined, admittedMs: 0 };
    this.#waiting.push(waiter);
    this.#admit();
    return () => this.#leave(waiter);
  }

  #leave(waiter: Waiter): void {
    const index = this.#waiting.indexOf(waiter);
    if (index >= 0) this.#waiting.splice(index, 1);
    if (this.#running.delete(waiter) && this.#waiting.length > 0) this.#pause(waiter);
    this.#admit();
  }

  #pause({ admittedMs }: Waiter): void {
    const { clock, random } = this.#world;
    const pauseMs = random.uniform() * Math.min(PAUSE_MS_MAX, (clock.nowMs() - admittedMs) * PAUSE_SHARE_MAX);
    if (pauseMs === 0) return;
    this.#paused += 1;
    clock.after(pauseMs, () => {
      this.#paused -= 1;
      this.#admit();
    });
  }

  /** Lets in who may come in, and tells the others their places. */
  #admit(): void {
    // Where everything is slow, all look stuck: no more places are lent than there are.
    const lent = Math.min(this.#stuckCount(), this.#limit);
    while (this.#running.size - lent + this.#paused < this.#limit) {
      const waiter = this.#waiting.shift();
      if (waiter === undefined) break;
      this.#running.add(waiter);
      waiter.admittedMs = this.#world.clock.nowMs();
      tell(waiter, 0);
    }
    this.#waiting.forEach((waiter, index) => {
      tell(waiter, index + 1);
    });
    this.#look();
  }

  #look(): void {
    if (this.#waiting.length === 0) {
      this.#looking?.cancel();
      this.#looking = undefined;
      return;
    }
    this.#looking ??= this.#world.clock.after(LOOK_INTERVAL_MS, () => {
      this.#looking = undefined;
      this.#admit();
    });
  }

  #stuckCount(): number {
    const sinceMs = this.#world.clock.nowMs() - STUCK_MS;
    let count = 0;
    for (const { candidate, admittedMs } of this.#running) {
      if (Math.max(admittedMs, candidate.movedMs() ?? 0) < sinceMs) count += 1;
    }
    return count;
  }
}

function tell(waiter: Waiter, place: number): void {
  if (waiter.place === place) return;
  waiter.place = place;
  waiter.candidate.told(place);
}
