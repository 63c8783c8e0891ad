import { describe, expect, it } from 'vitest';
import { MIRROR_LOSSES, MODES, type Mode, type OnMirrorLoss } from '../../../src/base/mode.ts';
import { Agreement, type AgreementSettings, ASYNC } from '../../../src/primary/agreement.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { memoryLog } from '../../support/memory-log.ts';

const TIMEOUT_MS = 1_000;

type Outcome = 'at once' | 'answered' | 'waits' | 'io-error' | 'shutting-down';

/** A request that was made, and what has become of it. */
class Request {
  #outcome: Outcome = 'at once';

  constructor(pending: void | Promise<void>) {
    if (pending === undefined) return;
    this.#outcome = 'waits';
    pending.then(
      () => {
        this.#outcome = 'answered';
      },
      (error: { code: Outcome }) => {
        this.#outcome = error.code;
      },
    );
  }

  async outcome(): Promise<Outcome> {
    for (let turn = 0; turn < 4; turn += 1) await Promise.resolve();
    return this.#outcome;
  }
}

class Scene {
  readonly clock = new ManualClock();
  readonly agreement: Agreement;
  readonly lines;
  sequence = 0;

  constructor(settings: Partial<AgreementSettings>) {
    const { log, lines } = memoryLog();
    this.lines = lines;
    this.agreement = new Agreement(
      this.clock,
      log,
      { ...ASYNC, mirrorTimeoutMs: TIMEOUT_MS, ...settings },
      () => this.sequence,
    );
  }

  get state(): string | undefined {
    return this.agreement.status?.state;
  }

  get errors(): string[] {
    return this.lines.filter(({ level }) => level === 'error').map(({ message }) => message);
  }

  write(): Request {
    this.sequence += 1;
    return new Request(this.agreement.written(this.sequence));
  }

  flush(): Request {
    return new Request(this.agreement.durable(this.sequence));
  }

  fua(): Request {
    this.sequence += 1;
    return new Request(this.agreement.durable(this.sequence));
  }

  /** Counting, with everything acknowledged. */
  inStep(): this {
    this.agreement.counts(true);
    this.agreement.acknowledged(this.sequence, this.sequence);
    return this;
  }

  /** Away for so long that it is left out. */
  leftOut(): this {
    this.agreement.counts(false);
    this.clock.advance(TIMEOUT_MS);
    return this;
  }
}

type Kind = 'write' | 'flush' | 'fua';

/** What a mode makes of a request: nothing, or it needs the mirror's applied or durable position. */
const NEEDS: Readonly<Record<Mode, Readonly<Record<Kind, 'nothing' | 'applied' | 'durable'>>>> = {
  async: { write: 'nothing', flush: 'nothing', fua: 'nothing' },
  flush: { write: 'nothing', flush: 'durable', fua: 'durable' },
  sync: { write: 'applied', flush: 'durable', fua: 'durable' },
};

const CELLS = MODES.flatMap((mode) =>
  (['write', 'flush', 'fua'] as const).map((kind) => ({ mode, kind, needs: NEEDS[mode][kind] })),
);
const WAITING_CELLS = CELLS.filter(({ needs }) => needs !== 'nothing').flatMap((cell) =>
  MIRROR_LOSSES.map((onMirrorLoss) => ({ ...cell, onMirrorLoss })),
);

function ask(scene: Scene, kind: Kind): Request {
  // A flush of something that the mirror does not have yet.
  if (kind === 'flush') scene.sequence += 1;
  return scene[kind]();
}

describe('a request', () => {
  it.each(CELLS)('in $mode: $kind needs $needs of a mirror that counts', async ({ mode, kind, needs }) => {
    const scene = new Scene({ mode }).inStep();
    const request = ask(scene, kind);
    expect(await request.outcome()).toBe(needs === 'nothing' ? 'at once' : 'waits');
    scene.agreement.acknowledged(scene.sequence, 0);
    expect(await request.outcome()).toBe({ nothing: 'at once', applied: 'answered', durable: 'waits' }[needs]);
    scene.agreement.acknowledged(scene.sequence, scene.sequence);
    expect(await request.outcome()).toBe(needs === 'nothing' ? 'at once' : 'answered');
  });

  it.each(CELLS)('in $mode: $kind of what the mirror has already is answered at once', async ({ mode, kind }) => {
    const scene = new Scene({ mode });
    scene.agreement.counts(true);
    scene.agreement.acknowledged(10, 10);
    expect(await ask(scene, kind).outcome()).toBe('at once');
  });

  it.each(WAITING_CELLS)(
    'in $mode: $kind waits while the mirror does not count, and is answered when it is back in time ($onMirrorLoss)',
    async ({ mode, kind, onMirrorLoss }) => {
      const scene = new Scene({ mode, onMirrorLoss }).inStep();
      const before = ask(scene, kind);
      scene.agreement.counts(false);
      const after = ask(scene, kind);
      scene.clock.advance(TIMEOUT_MS - 1);
      expect([await before.outcome(), await after.outcome(), scene.state]).toEqual(['waits', 'waits', 'waiting']);
      scene.agreement.counts(true);
      expect([await before.outcome(), scene.state]).toEqual(['waits', 'agreeing']);
      scene.agreement.acknowledged(scene.sequence - 1, scene.sequence - 1);
      expect([await before.outcome(), await after.outcome()]).toEqual(['answered', 'waits']);
      scene.agreement.acknowledged(scene.sequence, scene.sequence);
      expect(await after.outcome()).toBe('answered');
      scene.clock.advance(10 * TIMEOUT_MS);
      expect([scene.state, scene.errors]).toEqual(['agreeing', []]);
    },
  );

  const LEFT_OUT = {
    continue: { state: 'degraded', before: 'answered', after: 'at once' },
    stall: { state: 'stalled', before: 'waits', after: 'waits' },
    fail: { state: 'failing', before: 'io-error', after: 'io-error' },
  } as const;

  it.each(WAITING_CELLS)(
    'in $mode: $kind while the mirror is left out, by the policy $onMirrorLoss',
    async ({ mode, kind, onMirrorLoss }) => {
      const scene = new Scene({ mode, onMirrorLoss }).inStep();
      scene.agreement.counts(false);
      const before = ask(scene, kind);
      scene.clock.advance(TIMEOUT_MS);
      const after = ask(scene, kind);
      const outcomes = { state: scene.state, before: await before.outcome(), after: await after.outcome() };
      expect(outcomes).toEqual(LEFT_OUT[onMirrorLoss]);
      scene.clock.advance(100 * TIMEOUT_MS);
      expect(await after.outcome()).toBe(LEFT_OUT[onMirrorLoss].after);
      expect(scene.errors).toHaveLength(1);
    },
  );

  it.each(WAITING_CELLS)(
    'in $mode: $kind after the mirror has come back, with the policy $onMirrorLoss',
    async ({ mode, kind, onMirrorLoss }) => {
      const scene = new Scene({ mode, onMirrorLoss }).inStep().leftOut();
      ask(scene, kind);
      scene.agreement.counts(true);
      scene.agreement.acknowledged(scene.sequence, scene.sequence);
      expect(scene.state).toBe('agreeing');
      const request = ask(scene, kind);
      expect(await request.outcome()).toBe('waits');
      scene.agreement.acknowledged(scene.sequence, scene.sequence);
      expect(await request.outcome()).toBe('answered');
    },
  );

  it.each(WAITING_CELLS)(
    'in $mode: $kind before a mirror has ever counted, with the policy $onMirrorLoss',
    async ({ mode, kind, onMirrorLoss }) => {
      const scene = new Scene({ mode, onMirrorLoss });
      const request = ask(scene, kind);
      scene.clock.advance(TIMEOUT_MS - 1);
      expect([await request.outcome(), scene.state]).toEqual(['waits', 'waiting']);
      scene.clock.advance(1);
      expect([await request.outcome(), scene.state]).toEqual([
        LEFT_OUT[onMirrorLoss].before,
        LEFT_OUT[onMirrorLoss].state,
      ]);
    },
  );

  it.each(WAITING_CELLS)(
    'in $mode: $kind that waits fails when the primary closes ($onMirrorLoss)',
    async ({ mode, kind, onMirrorLoss }) => {
      const scene = new Scene({ mode, onMirrorLoss }).inStep();
      const request = ask(scene, kind);
      scene.agreement.close();
      expect(await request.outcome()).toBe('shutting-down');
      expect(await ask(scene, kind).outcome()).toBe('shutting-down');
      scene.agreement.counts(false);
      scene.clock.advance(10 * TIMEOUT_MS);
      expect(scene.agreement.status?.waiting).toBe(0);
    },
  );

  it.each(MIRROR_LOSSES)('in async never waits and nothing is agreed or logged ($0)', async (onMirrorLoss) => {
    const scene = new Scene({ mode: 'async', onMirrorLoss });
    scene.clock.advance(10 * TIMEOUT_MS);
    for (const kind of ['write', 'flush', 'fua'] as const) expect(await ask(scene, kind).outcome()).toBe('at once');
    scene.agreement.close();
    expect(await scene.fua().outcome()).toBe('at once');
    expect([scene.agreement.mode, scene.agreement.status, scene.lines]).toEqual(['async', undefined, []]);
  });
});

describe('one acknowledgement', () => {
  it('answers everything that it covers and nothing beyond', async () => {
    const scene = new Scene({ mode: 'sync' }).inStep();
    const requests = Array.from({ length: 32 }, () => scene.write());
    const flush = scene.flush();
    expect(scene.agreement.status?.waiting).toBe(33);
    scene.agreement.acknowledged(20, 0);
    const outcomes = await Promise.all(requests.map((request) => request.outcome()));
    expect(outcomes).toEqual(Array.from({ length: 32 }, (_, index) => (index < 20 ? 'answered' : 'waits')));
    scene.agreement.acknowledged(32, 31);
    expect([await requests[31]!.outcome(), await flush.outcome()]).toEqual(['answered', 'waits']);
    scene.agreement.acknowledged(32, 32);
    expect([await flush.outcome(), scene.agreement.status?.waiting]).toEqual(['answered', 0]);
  });

  it('answers in any order of asking, and flushes of one sequence together', async () => {
    const scene = new Scene({ mode: 'flush' }).inStep();
    const order = [5, 3, 4, 3, 5, 1].map((sequence) => ({
      sequence,
      request: new Request(scene.agreement.durable(sequence)),
    }));
    expect(scene.agreement.status?.waiting).toBe(6);
    for (let durable = 1; durable <= 5; durable += 1) {
      scene.agreement.acknowledged(5, durable);
      for (const { sequence, request } of order) {
        expect(await request.outcome()).toBe(sequence <= durable ? 'answered' : 'waits');
      }
    }
    expect(scene.agreement.status?.waiting).toBe(0);
  });

  it('keeps thousands apart while the oldest wait longest', async () => {
    const scene = new Scene({ mode: 'sync' }).inStep();
    const requests: Request[] = [];
    for (let step = 1; step <= 40; step += 1) {
      for (let index = 0; index < 100; index += 1) requests.push(scene.write());
      scene.agreement.acknowledged(step * 80, 0);
      expect(scene.agreement.status?.waiting).toBe(step * 20);
      expect([await requests[step * 80 - 1]!.outcome(), await requests[step * 80]!.outcome()]).toEqual([
        'answered',
        'waits',
      ]);
    }
  });
});

describe('what an earlier session acknowledged', () => {
  it('does not answer in a later one that has said nothing yet', async () => {
    const scene = new Scene({ mode: 'flush' });
    scene.sequence = 7;
    scene.inStep();
    scene.agreement.counts(false);
    scene.agreement.counts(true);
    const request = scene.flush();
    expect(await request.outcome()).toBe('waits');
    scene.agreement.acknowledged(7, 6);
    expect(await request.outcome()).toBe('waits');
    scene.agreement.acknowledged(7, 7);
    expect(await request.outcome()).toBe('answered');
  });

  it('does not answer either when that session never counted', async () => {
    const scene = new Scene({ mode: 'flush' });
    scene.sequence = 7;
    scene.agreement.acknowledged(7, 7);
    scene.agreement.counts(false);
    scene.agreement.counts(true);
    expect(await scene.flush().outcome()).toBe('waits');
  });

  it('answers nothing while the mirror does not count, but as soon as it does: at the commit of a staged run', async () => {
    const scene = new Scene({ mode: 'sync' }).inStep();
    scene.agreement.counts(false);
    const [write, flush] = [scene.write(), scene.flush()];
    scene.agreement.acknowledged(1, 1);
    expect([await write.outcome(), await flush.outcome()]).toEqual(['waits', 'waits']);
    scene.agreement.counts(true);
    expect([await write.outcome(), await flush.outcome(), scene.state]).toEqual(['answered', 'answered', 'agreeing']);
  });
});

describe('a mirror', () => {
  it.each(MIRROR_LOSSES)('that is connected and does not move while something waits is left out (%s)', async (loss) => {
    const scene = new Scene({ mode: 'sync', onMirrorLoss: loss }).inStep();
    scene.clock.advance(5 * TIMEOUT_MS);
    const request = scene.write();
    scene.clock.advance(TIMEOUT_MS - 1);
    expect([await request.outcome(), scene.state]).toEqual(['waits', 'agreeing']);
    scene.clock.advance(1);
    expect(scene.state).toBe({ continue: 'degraded', stall: 'stalled', fail: 'failing' }[loss]);
    expect(scene.errors).toHaveLength(1);
    // It moves again, and is taken in again without having been away.
    scene.agreement.acknowledged(scene.sequence, scene.sequence);
    expect([scene.state, await request.outcome()]).toEqual(['agreeing', loss === 'fail' ? 'io-error' : 'answered']);
  });

  it.each(MIRROR_LOSSES)('that was only late to say that it has everything is taken in again (%s)', async (loss) => {
    const scene = new Scene({ mode: 'flush', onMirrorLoss: loss });
    scene.sequence = 7;
    scene.inStep().agreement.counts(false);
    scene.agreement.counts(true);
    scene.flush();
    scene.clock.advance(TIMEOUT_MS);
    expect(scene.state).toBe({ continue: 'degraded', stall: 'stalled', fail: 'failing' }[loss]);
    scene.agreement.acknowledged(7, 7);
    expect([scene.state, await scene.flush().outcome()]).toEqual(['agreeing', 'at once']);
  });

  it('that moves, however slowly, is waited for', async () => {
    const scene = new Scene({ mode: 'sync' }).inStep();
    scene.sequence = 50;
    const request = scene.write();
    for (let applied = 1; applied <= 50; applied += 1) {
      scene.clock.advance(TIMEOUT_MS - 1);
      scene.agreement.acknowledged(applied, 0);
      expect([await request.outcome(), scene.state]).toEqual(['waits', 'agreeing']);
    }
    scene.agreement.acknowledged(51, 0);
    expect(await request.outcome()).toBe('answered');
  });

  it.each(['continue', 'fail'] as const)(
    'that comes and goes without moving does not hold requests up for ever (%s)',
    async (loss) => {
      const scene = new Scene({ mode: 'sync', onMirrorLoss: loss }).inStep();
      scene.agreement.counts(false);
      const request = scene.write();
      let waitedMs = 0;
      while ((await request.outcome()) === 'waits') {
        scene.agreement.counts(true);
        scene.agreement.acknowledged(0, 0);
        scene.clock.advance(TIMEOUT_MS / 4);
        scene.agreement.counts(false);
        scene.clock.advance(TIMEOUT_MS / 4);
        waitedMs += TIMEOUT_MS / 2;
        expect(waitedMs).toBeLessThanOrEqual(2 * TIMEOUT_MS);
      }
      expect(await request.outcome()).toBe(loss === 'fail' ? 'io-error' : 'answered');
    },
  );

  it('that is stuck and then away is left out by the time that was waited in all', async () => {
    const scene = new Scene({ mode: 'sync' }).inStep();
    const request = scene.write();
    scene.clock.advance(TIMEOUT_MS - 100);
    scene.agreement.counts(false);
    scene.clock.advance(99);
    expect(await request.outcome()).toBe('waits');
    scene.clock.advance(1);
    expect(await request.outcome()).toBe('answered');
  });

  it('that is away while nothing waits has its time from when it went', async () => {
    const scene = new Scene({ mode: 'sync' }).inStep();
    scene.clock.advance(50 * TIMEOUT_MS);
    scene.agreement.counts(false);
    scene.clock.advance(TIMEOUT_MS - 1);
    expect([await scene.write().outcome(), scene.state]).toEqual(['waits', 'waiting']);
  });

  it('that comes back is trusted again only with everything of that moment, and then with what was answered meanwhile', async () => {
    const scene = new Scene({ mode: 'flush' }).inStep().leftOut();
    scene.sequence = 10;
    scene.agreement.counts(true);
    scene.agreement.acknowledged(9, 9);
    scene.sequence = 20;
    expect([await scene.flush().outcome(), scene.state]).toEqual(['at once', 'degraded']);
    // Everything of the moment of its return is there: from now on flushes wait, but not all that was answered is there.
    scene.agreement.acknowledged(10, 10);
    const request = scene.fua();
    expect([await request.outcome(), scene.state]).toEqual(['waits', 'degraded']);
    scene.agreement.acknowledged(19, 19);
    expect(scene.state).toBe('degraded');
    scene.agreement.acknowledged(20, 20);
    expect([await request.outcome(), scene.state]).toEqual(['waits', 'agreeing']);
    scene.agreement.acknowledged(21, 21);
    expect(await request.outcome()).toBe('answered');
    expect(scene.errors).toHaveLength(1);
    expect(scene.lines.filter(({ level }) => level === 'info')).toHaveLength(1);
  });

  it('that was stuck is trusted again only with everything of the moment at which it was left out', async () => {
    const scene = new Scene({ mode: 'flush' }).inStep();
    scene.sequence = 9;
    scene.fua();
    scene.clock.advance(TIMEOUT_MS);
    for (const durable of [1, 5, 9]) {
      expect([await scene.flush().outcome(), scene.state]).toEqual(['at once', 'degraded']);
      scene.agreement.acknowledged(10, durable);
    }
    scene.agreement.acknowledged(10, 10);
    expect([await scene.fua().outcome(), scene.state]).toEqual(['waits', 'agreeing']);
  });

  it('that comes back and gets nowhere is left out again, and what waited all the time is counted', async () => {
    const scene = new Scene({ mode: 'sync', onMirrorLoss: 'stall' }).inStep();
    const request = scene.write();
    scene.leftOut();
    scene.agreement.counts(true);
    expect([scene.state, scene.agreement.status?.waiting]).toEqual(['agreeing', 1]);
    scene.clock.advance(TIMEOUT_MS);
    expect([scene.state, await request.outcome()]).toEqual(['stalled', 'waits']);
  });

  it('that goes again on its way back is waited for once more, and said to be missing once', async () => {
    const scene = new Scene({ mode: 'flush' }).inStep().leftOut();
    scene.sequence = 10;
    scene.agreement.counts(true);
    scene.sequence = 20;
    scene.agreement.acknowledged(10, 10);
    scene.agreement.counts(false);
    const request = scene.fua();
    scene.clock.advance(TIMEOUT_MS - 1);
    expect([await request.outcome(), scene.state]).toEqual(['waits', 'degraded']);
    scene.clock.advance(1);
    expect([await request.outcome(), scene.state]).toEqual(['answered', 'degraded']);
    expect(scene.errors).toHaveLength(1);
    scene.inStep();
    expect(scene.state).toBe('agreeing');
  });

  it('is said to be missing in words that name the mode and the effect', () => {
    const effects = MIRROR_LOSSES.map((onMirrorLoss: OnMirrorLoss) => {
      const scene = new Scene({ mode: 'flush', onMirrorLoss }).leftOut();
      return scene.errors;
    });
    expect(effects).toEqual([
      ['mode flush: no mirror for 1.0 s: requests are answered without it, as in async'],
      ['mode flush: no mirror for 1.0 s: requests that need it wait until it is back'],
      ['mode flush: no mirror for 1.0 s: requests that need it fail until it is back'],
    ]);
  });

  it('is shown with the time in its state', () => {
    const scene = new Scene({ mode: 'flush' }).inStep();
    scene.clock.advance(300);
    expect(scene.agreement.status).toEqual({
      state: 'agreeing',
      stateAgeMs: 300,
      waiting: 0,
      mirrorTimeoutMs: TIMEOUT_MS,
      onMirrorLoss: 'continue',
    });
    scene.leftOut();
    scene.clock.advance(70);
    expect(scene.agreement.status).toMatchObject({ state: 'degraded', stateAgeMs: 70 });
  });
});
