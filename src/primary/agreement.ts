/**
 * Agreement: which requests wait for the mirror, and for how long.
 *
 * In `flush` a FLUSH or FUA waits until the mirror holds it durably, in `sync` a write waits as well until the mirror has
 * applied it; in `async` nothing waits. Waiting is all that happens here: the operation, and the barrier behind it, stand
 * in the stream already, so both disks work at the same time, requests in flight are pipelined, and one acknowledgement
 * answers all that it covers.
 *
 * The mirror *counts* only in catch-up and streaming, outside staged runs. It is *left out* when for the timeout it has
 * not counted, or something waited and none of its positions moved (a mirror whose disk hangs answers pings). What
 * happens then:
 *
 * | policy     | what waits      | later requests   | ends when the mirror                                          |
 * | ---------- | --------------- | ---------------- | ------------------------------------------------------------- |
 * | `continue` | is answered     | as in `async`    | counts, and holds durably what stood in the stream by then    |
 * | `stall`    | goes on waiting | wait             | counts again, or moves again                                  |
 * | `fail`     | fails           | fail             | counts again, or moves again                                  |
 *
 * | state                           | meaning                                                                          |
 * | ------------------------------- | -------------------------------------------------------------------------------- |
 * | `agreeing`                      | what the mode promises holds for every request answered so far                   |
 * | `waiting`                       | the mirror does not count, but has not been left out yet                         |
 * | `degraded`, `stalled`, `failing` | it is left out; `degraded` lasts until it also holds what was answered without it |
 *
 * Invariants:
 * - A request that needs the mirror resolves only when the mirror counts and has acknowledged it, or while it is left out
 *   under `continue`.
 * - What waits under `continue` or `fail` is settled within twice the timeout after the mirror's last sign of progress.
 * - After `close` nothing waits.
 *
 * Nothing here survives a crash: a request that was not answered promised nothing.
 */
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Mode, OnMirrorLoss } from '../base/mode.ts';
import { formatDuration } from '../base/units.ts';
import type { Clock, Timer } from '../io/clock.ts';
import type { AgreementState, AgreementStatus } from './status.ts';
import { Waiters } from './waiters.ts';

export interface AgreementSettings {
  readonly mode: Mode;
  /** How long a mirror may be away, or stuck, before it is left out. Above 0. */
  readonly mirrorTimeoutMs: number;
  readonly onMirrorLoss: OnMirrorLoss;
}

/** As if there were no mirror. */
export const ASYNC: AgreementSettings = { mode: 'async', mirrorTimeoutMs: 10_000, onMirrorLoss: 'continue' };

/** No position is known, nothing is owed. */
const NONE = -1;

/** What a mirror that is left out means, by policy. */
const LEFT_OUT = {
  continue: { state: 'degraded', effect: 'requests are answered without it, as in async' },
  stall: { state: 'stalled', effect: 'requests that need it wait until it is back' },
  fail: { state: 'failing', effect: 'requests that need it fail until it is back' },
} as const satisfies Record<OnMirrorLoss, { state: AgreementState; effect: string }>;

export class Agreement {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #settings: AgreementSettings;
  /** Sequence of the last operation. */
  readonly #lastSequence: () => number;
  readonly #forApplied = new Waiters();
  readonly #forDurable = new Waiters();
  #counting = false;
  /** What the mirror has acknowledged in this session. */
  #applied = NONE;
  #durable = NONE;
  /** The highest positions of any session: only what lies beyond is progress. */
  #appliedMax = 0;
  #durableMax = 0;
  /** From here the timeout runs: the last progress, or the start of the first wait after it. */
  #soundMs: number;
  /** The mirror has come back since the last progress: coming back again does not start the timeout anew. */
  #cameBack = false;
  #timer: Timer | undefined;
  #leftOut = false;
  /** A mirror that is left out, counts, and holds this durably has come back, whatever the policy. */
  #returnAt = NONE;
  /** Up to here requests may have been answered without the mirror; NONE when it holds all of that. */
  #owedThrough = NONE;
  #state: AgreementState = 'waiting';
  #stateMs: number;
  #closed = false;

  /** The timeout begins to run now. */
  constructor(clock: Clock, log: Log, settings: AgreementSettings, lastSequence: () => number) {
    assert(settings.mirrorTimeoutMs > 0, 'a mirror needs time to answer');
    this.#clock = clock;
    this.#log = log;
    this.#settings = settings;
    this.#lastSequence = lastSequence;
    this.#soundMs = clock.nowMs();
    this.#stateMs = this.#soundMs;
    if (settings.mode !== 'async') this.#arm();
  }

  get mode(): Mode {
    return this.#settings.mode;
  }

  /** Undefined in `async`: nothing is agreed there. */
  get status(): AgreementStatus | undefined {
    if (this.#settings.mode === 'async') return undefined;
    return {
      state: this.#state,
      stateAgeMs: this.#clock.nowMs() - this.#stateMs,
      waiting: this.#forApplied.count + this.#forDurable.count,
      mirrorTimeoutMs: this.#settings.mirrorTimeoutMs,
      onMirrorLoss: this.#settings.onMirrorLoss,
    };
  }

  /**
   * For a mutation that has entered the stream with `sequence`: nothing when it may be answered now, else resolves when it
   * may. Failures: `io-error` (the mirror is left out, policy `fail`), `shutting-down`.
   */
  written(sequence: number): void | Promise<void> {
    if (this.#settings.mode === 'sync') return this.#await(this.#forApplied, sequence, this.#applied);
  }

  /**
   * For a FLUSH or FUA of what is up to `sequence`, whose barrier is in the stream, once the local disk is synced. Otherwise as
   * `written`.
   */
  durable(sequence: number): void | Promise<void> {
    if (this.#settings.mode !== 'async') return this.#await(this.#forDurable, sequence, this.#durable);
  }

  /** An ACK of the present session, or what its last one said. */
  acknowledged(applied: number, durable: number): void {
    if (this.#settings.mode === 'async') return;
    this.#applied = applied;
    this.#durable = durable;
    if (!this.#counting) return;
    if (applied > this.#appliedMax || durable > this.#durableMax) this.#progressed();
    this.#settle();
  }

  /**
   * True: the mirror counts from now on, by what `acknowledged` has said or will say of this session. False: it does not,
   * or a session has ended, counting or not; what was acknowledged is then forgotten.
   */
  counts(counting: boolean): void {
    if (this.#settings.mode === 'async' || this.#closed) return;
    if (!counting) {
      this.#applied = NONE;
      this.#durable = NONE;
      if (this.#counting) this.#away();
    } else if (!this.#counting) this.#back();
  }

  /** What waits, and whatever comes later, fails with `shutting-down`. The mirror has had its chance. */
  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#failAll(stopping);
  }

  get #waiting(): boolean {
    return this.#forApplied.count > 0 || this.#forDurable.count > 0;
  }

  #await(waiters: Waiters, sequence: number, reached: number): void | Promise<void> {
    const { onMirrorLoss } = this.#settings;
    if (this.#leftOut && onMirrorLoss === 'continue') return undefined;
    if (this.#closed) return Promise.reject(stopping());
    if (this.#leftOut && onMirrorLoss === 'fail') return Promise.reject(this.#lost());
    if (this.#counting && sequence <= reached) return undefined;
    if (this.#counting && !this.#waiting) this.#soundMs = this.#clock.nowMs();
    this.#arm();
    return waiters.add(sequence);
  }

  #progressed(): void {
    this.#appliedMax = Math.max(this.#appliedMax, this.#applied);
    this.#durableMax = Math.max(this.#durableMax, this.#durable);
    this.#soundMs = this.#clock.nowMs();
    this.#cameBack = false;
    if (this.#settings.onMirrorLoss !== 'continue') this.#leftOut = false;
  }

  #away(): void {
    this.#counting = false;
    // What waits already goes on by the time that it has waited.
    if (!this.#waiting) this.#soundMs = this.#clock.nowMs();
    this.#arm();
    this.#judge();
  }

  #back(): void {
    this.#counting = true;
    if (!this.#cameBack) this.#soundMs = this.#clock.nowMs();
    this.#cameBack = true;
    this.#returnAt = this.#lastSequence();
    if (this.#settings.onMirrorLoss !== 'continue') this.#leftOut = false;
    this.#settle();
  }

  /** The mirror counts: answers what it has acknowledged, and takes it in again when it has come far enough. */
  #settle(): void {
    if (this.#leftOut && this.#durable >= this.#returnAt) {
      this.#leftOut = false;
      if (this.#settings.onMirrorLoss === 'continue') this.#owedThrough = this.#lastSequence();
    }
    this.#forApplied.through(this.#applied);
    this.#forDurable.through(this.#durable);
    if (this.#durable >= this.#owedThrough) this.#owedThrough = NONE;
    if (this.#waiting) this.#arm();
    this.#judge();
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#leftOut || this.#closed) return;
    const delayMs = Math.max(0, this.#soundMs + this.#settings.mirrorTimeoutMs - this.#clock.nowMs());
    this.#timer = this.#clock.after(delayMs, () => {
      this.#timer = undefined;
      this.#due();
    });
  }

  #due(): void {
    if (this.#leftOut || (this.#counting && !this.#waiting)) return;
    if (this.#clock.nowMs() < this.#soundMs + this.#settings.mirrorTimeoutMs) this.#arm();
    else this.#leaveOut();
  }

  #leaveOut(): void {
    this.#leftOut = true;
    this.#returnAt = this.#lastSequence();
    this.#judge();
    if (this.#settings.onMirrorLoss === 'continue') {
      this.#forApplied.through(Number.MAX_SAFE_INTEGER);
      this.#forDurable.through(Number.MAX_SAFE_INTEGER);
    } else if (this.#settings.onMirrorLoss === 'fail') this.#failAll(() => this.#lost());
  }

  #failAll(reason: () => Failure): void {
    this.#forApplied.failAll(reason);
    this.#forDurable.failAll(reason);
  }

  #judge(): void {
    const without = this.#leftOut || this.#owedThrough !== NONE;
    const { mode, mirrorTimeoutMs, onMirrorLoss } = this.#settings;
    const leftOut = LEFT_OUT[onMirrorLoss];
    const state = without ? leftOut.state : this.#counting ? 'agreeing' : 'waiting';
    if (state === this.#state) return;
    const wasLeftOut = this.#state === leftOut.state;
    const nowMs = this.#clock.nowMs();
    const ageMs = Math.round(nowMs - this.#stateMs);
    this.#state = state;
    this.#stateMs = nowMs;
    if (without) {
      const time = formatDuration(mirrorTimeoutMs);
      this.#log.error({ mode, connected: this.#counting }, `mode ${mode}: no mirror for ${time}: ${leftOut.effect}`);
    } else if (wasLeftOut) this.#log.info({ mode, afterMs: ageMs }, `mode ${mode} again: the mirror is back`);
  }

  #lost(): Failure {
    const time = formatDuration(this.#settings.mirrorTimeoutMs);
    return new Failure('io-error', `the mirror has been away or stuck for ${time}`);
  }
}

function stopping(): Failure {
  return new Failure('shutting-down', 'stopped before the mirror had it');
}
