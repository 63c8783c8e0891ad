/**
 * How fast a pass may go: it waits for room in the window, keeps to a rate if there is one, and yields to clients.
 *
 * While clients are active it works and rests in turn, and compares what they get in either: how many requests in the same
 * time, and how long those wait that are not answered at once. What they lose while it works, times the share of the time that it works,
 * is what it costs them; the share is chosen so that this stays below COST_MAX. Where it costs nothing (a machine with
 * CPUs and a disk to spare) it rests just enough to go on measuring; where it costs everything it still gets
 * COST_MAX of the time, so that it ends.
 */
import type { Clock } from '../io/clock.ts';
import type { ClientLoad, LoadTally } from './client-load.ts';
import type { Window } from './window.ts';

/** What clients may lose, as a share of their throughput. */
const COST_MAX = 0.12;
/** Of the time in which a pass works while clients are active. */
const SHARE_MAX = 0.9;
/** And as long as too little is known. */
const SHARE_FIRST = 0.25;
/** Less than this in either phase says nothing. */
const SAMPLE_MS = 20;
const SAMPLE_REQUESTS = 16;
/** What lies back so long counts for a third. */
const MEMORY_MS = 3_000;
/** A rest is no longer, whatever the work before it took; nor one that only shows whether clients have become quiet. */
const REST_MS_MAX = 1_000;
const LOOK_MS_MAX = 20;
/** A pass waits at most this long for the window to be half empty; then any room will do. */
const PATIENCE_MS = 100;
/** A long rest is taken in steps of this length, so that the end of the session is noticed. */
const REST_STEP_MS = 100;
/** How often the window is looked at while waiting. */
const LOOK_INTERVAL_MS = 2;
/** What a rate has not used it may use later, as far as this goes back. */
const RATE_CREDIT_MS = 1_000;

/** Bytes per second that may be read; undefined: as fast as clients allow. May change at any time. */
export interface RateLimit {
  bytesPerSecond: number | undefined;
}

export class Pacing {
  readonly #clock: Clock;
  readonly #window: Window;
  readonly #limit: Readonly<RateLimit>;
  readonly #load: ClientLoad;
  readonly #working = new Phase();
  readonly #resting = new Phase();
  #calm = false;
  /** There was a request during the last rest. */
  #restWasBusy = false;
  /** When the present piece of work began. */
  #startMs: number;
  /** When the rate allows the next byte. */
  #allowedMs: number;

  constructor(clock: Clock, window: Window, limit: Readonly<RateLimit>, load: ClientLoad) {
    this.#clock = clock;
    this.#window = window;
    this.#limit = limit;
    this.#load = load;
    this.#startMs = clock.nowMs();
    this.#allowedMs = this.#startMs;
  }

  /** No client asked for anything during the last piece of work and the rest after it. */
  get calm(): boolean {
    return this.#calm;
  }

  /** Runs a comparison, whose first piece of work begins now. One at a time. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.#calm = false;
    this.#restWasBusy = false;
    this.#startMs = this.#clock.nowMs();
    this.#load.measure(this.#working.tally);
    try {
      return await work();
    } finally {
      this.#load.measure(undefined);
    }
  }

  /** After a piece of work in which `size` bytes were read: rests, unless `ended`. */
  async pace(size: number, ended: () => boolean): Promise<void> {
    const nowMs = this.#clock.nowMs();
    const workMs = nowMs - this.#startMs;
    const busyWorking = this.#working.add(workMs);
    let restMs = 0;
    if (busyWorking || !this.#calm) restMs = Math.min(REST_MS_MAX, workMs * (1 / this.#share() - 1));
    if (!busyWorking && !this.#restWasBusy) restMs = Math.min(LOOK_MS_MAX, restMs);
    const { bytesPerSecond } = this.#limit;
    if (bytesPerSecond !== undefined) {
      this.#allowedMs = Math.max(this.#allowedMs, nowMs - RATE_CREDIT_MS) + (size / bytesPerSecond) * 1000;
      restMs = Math.max(restMs, this.#allowedMs - nowMs);
    }
    this.#load.measure(this.#resting.tally);
    const untilMs = nowMs + restMs;
    const isOther = (): boolean => this.#limit.bytesPerSecond !== bytesPerSecond;
    for (let leftMs = restMs; leftMs >= 1 && !ended() && !isOther(); leftMs = untilMs - this.#clock.nowMs()) {
      await this.#clock.sleep(Math.min(REST_STEP_MS, leftMs));
    }
    // What another rate still owed, hours perhaps, is let go.
    if (isOther()) this.#allowedMs = this.#clock.nowMs();
    this.#startMs = this.#clock.nowMs();
    this.#restWasBusy = this.#resting.add(this.#startMs - nowMs);
    this.#calm = !busyWorking && !this.#restWasBusy;
    this.#load.measure(this.#working.tally);
  }

  /** Waits until something is so, or `ended`. */
  async until(condition: () => boolean, ended: () => boolean): Promise<void> {
    while (!condition() && !ended()) await this.#clock.sleep(LOOK_INTERVAL_MS);
  }

  /** Waits until `size` bytes more may enter the window, or `ended`. */
  async room(size: number, ended: () => boolean): Promise<void> {
    const startMs = this.#clock.nowMs();
    while (!ended()) {
      const patient = this.#clock.nowMs() - startMs < PATIENCE_MS;
      if (patient ? this.#window.usedSize <= this.#window.limit / 2 : this.#window.hasRoomFor(size)) return;
      await this.#clock.sleep(LOOK_INTERVAL_MS);
    }
  }

  /** Of the time, in which to work. */
  #share(): number {
    if (!this.#working.isLong || !this.#resting.isLong || !this.#resting.hasRequests) return SHARE_FIRST;
    const fewer = 1 - this.#working.rate / this.#resting.rate;
    const comparable = this.#working.hasWaits && this.#resting.hasWaits;
    const slower = comparable ? 1 - this.#resting.waitMs / this.#working.waitMs : 0;
    const harm = Math.max(fewer, slower, 0);
    return Math.min(SHARE_MAX, COST_MAX / harm);
  }
}

/** What clients got in one of the two phases, of late. */
class Phase {
  /** Counts while the phase lasts; answers may come later. */
  readonly tally: LoadTally = { requests: 0, waits: 0, waitedMs: 0 };
  #ms = 0;
  #requests = 0;
  #waits = 0;
  #waitedMs = 0;

  /** The phase has lasted for `ms`; takes over what was counted. True when there was a request. */
  add(ms: number): boolean {
    const { requests, waits, waitedMs } = this.tally;
    const kept = Math.exp(-ms / MEMORY_MS);
    this.#ms = this.#ms * kept + ms;
    this.#requests = this.#requests * kept + requests;
    this.#waits = this.#waits * kept + waits;
    this.#waitedMs = this.#waitedMs * kept + waitedMs;
    this.tally.requests = 0;
    this.tally.waits = 0;
    this.tally.waitedMs = 0;
    return requests > 0;
  }

  get isLong(): boolean {
    return this.#ms >= SAMPLE_MS;
  }

  get hasRequests(): boolean {
    return this.#requests >= SAMPLE_REQUESTS;
  }

  get hasWaits(): boolean {
    return this.#waits >= SAMPLE_REQUESTS && this.#waitedMs > 0;
  }

  /** Requests in a millisecond. */
  get rate(): number {
    return this.#requests / this.#ms;
  }

  get waitMs(): number {
    return this.#waitedMs / this.#waits;
  }
}
