/**
 * Random requests, acknowledgements, sessions and time against what agreement.ts promises, judged from outside: by what
 * the mirror said, and by when it last gave a sign of life.
 */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { silentLog } from '../../../src/base/log.ts';
import { MIRROR_LOSSES, type Mode, type OnMirrorLoss } from '../../../src/base/mode.ts';
import { Agreement } from '../../../src/primary/agreement.ts';
import { ManualClock } from '../../support/manual-clock.ts';

const TIMEOUT_MS = 1_000;

type Step =
  | { readonly kind: 'operation'; readonly count: number }
  | { readonly kind: 'written' | 'durable' }
  | { readonly kind: 'acknowledged'; readonly applied: number; readonly durable: number }
  | { readonly kind: 'counts'; readonly counting: boolean }
  | { readonly kind: 'time'; readonly ms: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('operation' as const), count: fc.integer({ min: 1, max: 3 }) }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constantFrom('written' as const, 'durable' as const) }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('acknowledged' as const), applied: fc.nat(8), durable: fc.nat(8) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('counts' as const), counting: fc.constantFrom(true, true, false) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('time' as const),
      ms: fc.constantFrom(1, 10, 300, 700, 999, 1_000, 1_500),
    }),
  },
);

interface Asked {
  readonly need: 'applied' | 'durable';
  readonly sequence: number;
  readonly askedMs: number;
  outcome: 'waits' | 'answered' | 'failed';
  /** Was not answered at once. */
  waited: boolean;
  /** Settled and judged. */
  judged: boolean;
}

function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(`does not hold: ${what}`);
}

class World {
  readonly clock = new ManualClock();
  readonly agreement: Agreement;
  readonly #mode: Mode;
  readonly #onMirrorLoss: OnMirrorLoss;
  readonly asked: Asked[] = [];
  readonly seen = { acknowledged: 0, without: 0, failed: 0, returned: 0 };
  #sequence = 0;
  #counting = false;
  /** What this session has acknowledged; undefined before its first ACK. */
  #session: { applied: number; durable: number } | undefined;
  #applied = 0;
  #durable = 0;
  #appliedMax = 0;
  #durableMax = 0;
  /** The last moment at which the mirror counted and was needed by nobody, or went further than ever. */
  #aliveMs = 0;
  /** Answered without the mirror, at the highest. */
  #withoutThrough = 0;

  constructor(mode: Mode, onMirrorLoss: OnMirrorLoss) {
    this.#mode = mode;
    this.#onMirrorLoss = onMirrorLoss;
    const settings = { mode, mirrorTimeoutMs: TIMEOUT_MS, onMirrorLoss };
    this.agreement = new Agreement(this.clock, silentLog, settings, () => this.#sequence);
  }

  take(step: Step): void {
    switch (step.kind) {
      case 'operation':
        this.#sequence += step.count;
        return;
      case 'written':
      case 'durable':
        this.#ask(step.kind);
        return;
      case 'acknowledged':
        this.#acknowledge(step.applied, step.durable);
        return;
      case 'counts':
        if (!step.counting) {
          // A session ends; the next one begins at what survived at the mirror.
          this.#noteAlive();
          this.#session = undefined;
          this.#applied = this.#durable;
        }
        this.#counting = step.counting;
        this.agreement.counts(step.counting);
        this.#noteAlive();
        return;
      case 'time':
        this.#noteAlive();
        this.clock.advance(step.ms);
        // Nobody needed it until then.
        this.#noteAlive();
    }
  }

  #ask(kind: 'written' | 'durable'): void {
    const need = kind === 'written' ? 'applied' : 'durable';
    const asked: Asked = {
      need,
      sequence: this.#sequence,
      askedMs: this.clock.nowMs(),
      outcome: 'waits',
      waited: false,
      judged: false,
    };
    const pending = this.agreement[kind](this.#sequence);
    if (kind === 'written' && this.#mode !== 'sync') {
      check(pending === undefined, 'a write waits in sync only');
      return;
    }
    this.asked.push(asked);
    asked.waited = pending !== undefined;
    if (pending === undefined) asked.outcome = 'answered';
    else
      pending.then(
        () => {
          asked.outcome = 'answered';
        },
        () => {
          asked.outcome = 'failed';
        },
      );
  }

  #acknowledge(applied: number, durable: number): void {
    this.#applied = Math.min(this.#sequence, this.#applied + applied);
    this.#durable = Math.min(this.#applied, this.#durable + durable);
    this.#session = { applied: this.#applied, durable: this.#durable };
    if (this.#counting && (this.#applied > this.#appliedMax || this.#durable > this.#durableMax)) {
      this.#appliedMax = Math.max(this.#appliedMax, this.#applied);
      this.#durableMax = Math.max(this.#durableMax, this.#durable);
      this.#aliveMs = this.clock.nowMs();
    }
    this.agreement.acknowledged(this.#applied, this.#durable);
  }

  get #pending(): Asked[] {
    return this.asked.filter(({ outcome }) => outcome === 'waits');
  }

  #noteAlive(): void {
    // One that is left out and needed by nobody gives no sign of life.
    const agreeing = this.agreement.status!.state === 'agreeing';
    if (agreeing && this.#counting && this.#pending.length === 0) this.#aliveMs = this.clock.nowMs();
  }

  #has({ need, sequence }: Asked): boolean {
    return this.#counting && this.#session !== undefined && this.#session[need] >= sequence;
  }

  /** Judges what has been settled since the last call. */
  async judge(): Promise<void> {
    for (let turn = 0; turn < 4; turn += 1) await Promise.resolve();
    const { state, waiting } = this.agreement.status!;
    const nowMs = this.clock.nowMs();
    for (const asked of this.asked) {
      if (asked.outcome === 'waits') {
        check(!this.#has(asked), 'what the mirror has is not kept waiting');
        if (this.#onMirrorLoss !== 'stall') {
          const sinceMs = Math.max(asked.askedMs, this.#aliveMs);
          check(nowMs - sinceMs < 2 * TIMEOUT_MS, 'nothing waits for ever');
        }
        continue;
      }
      if (asked.judged) continue;
      asked.judged = true;
      if (asked.outcome === 'failed') {
        this.seen.failed += 1;
        check(this.#onMirrorLoss === 'fail', 'failed');
        check(nowMs - this.#aliveMs >= TIMEOUT_MS, 'failed no sooner than the timeout');
      } else if (this.#has(asked)) {
        this.seen.acknowledged += 1;
      } else {
        this.seen.without += 1;
        check(this.#onMirrorLoss === 'continue' && state === 'degraded', 'answered without the mirror');
        check(!asked.waited || nowMs - this.#aliveMs >= TIMEOUT_MS, 'waited for as long as the timeout');
        this.#withoutThrough = Math.max(this.#withoutThrough, asked.sequence);
      }
    }
    check(waiting === this.#pending.length, 'what waits is counted');
    if (state === 'agreeing') {
      check(this.#counting, 'agreeing: the mirror counts');
      if (this.#withoutThrough > 0) this.seen.returned += 1;
      check(this.#durable >= this.#withoutThrough, 'agreeing: the mirror has what was answered without it');
      this.#withoutThrough = 0;
    }
  }

  async end(): Promise<void> {
    this.agreement.close();
    for (let turn = 0; turn < 4; turn += 1) await Promise.resolve();
    check(this.#pending.length === 0 && this.agreement.status!.waiting === 0, 'nothing waits after close');
  }
}

it.each(MIRROR_LOSSES)(
  'no request is answered before the mirror has it or the policy lets it, and none is left behind (%s)',
  async (onMirrorLoss) => {
    const seen = { acknowledged: 0, without: 0, failed: 0, returned: 0 };
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('flush' as const, 'sync' as const),
        fc.array(step, { minLength: 40, maxLength: 100, size: 'max' }),
        async (mode, steps) => {
          const world = new World(mode, onMirrorLoss);
          for (const each of steps) {
            world.take(each);
            await world.judge();
          }
          await world.end();
          for (const key of Object.keys(seen) as (keyof typeof seen)[]) seen[key] += world.seen[key];
        },
      ),
      { numRuns: 1_000 },
    );
    // Every way of being settled that the policy has was taken, many times.
    expect(seen.acknowledged).toBeGreaterThan(100);
    expect(seen.without > 100).toBe(onMirrorLoss === 'continue');
    expect(seen.returned > 10).toBe(onMirrorLoss === 'continue');
    expect(seen.failed > 100).toBe(onMirrorLoss === 'fail');
  },
);
