import { describe, expect, it } from 'vitest';
import { FrameType } from '../../../src/link/frame.ts';
import { ClientLoad } from '../../../src/primary/client-load.ts';
import { Pacing, type RateLimit } from '../../../src/primary/pacing.ts';
import { Window } from '../../../src/primary/window.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { turns } from '../../support/memory-world.ts';

/** True once the promise has settled. */
function watch(work: Promise<unknown>): { readonly done: boolean } {
  const seen = { done: false };
  const settle = (): void => {
    seen.done = true;
  };
  work.then(settle, settle);
  return seen;
}

describe('pacing', () => {
  const pacing = (options: { rate?: number; limit?: number } = {}) => {
    const clock = new ManualClock();
    const window = new Window(options.limit ?? 10_000, 0);
    const load = new ClientLoad(clock);
    const rate: RateLimit = { bytesPerSecond: options.rate };
    return { clock, window, load, rate, pacing: new Pacing(clock, window, rate, load) };
  };
  const never = (): boolean => false;

  /** How long a rest takes, in ms, with the clock moved in steps of 1 ms, each followed by what clients do in it. */
  async function restMs(clock: ManualClock, rest: Promise<void>, clients = (): void => undefined): Promise<number> {
    const seen = watch(rest);
    for (let ms = 0; ; ms += 1) {
      for (let count = 0; count < 10; count += 1) await Promise.resolve();
      if (seen.done) return ms;
      clock.advance(1);
      clients();
    }
  }

  /** Pieces of 10 ms; `requests` answered at once per ms, while the pass works and while it rests. Share of time worked at the end. */
  async function shareOf(requests: { readonly working: number; readonly resting: number }): Promise<number> {
    const { clock, load, pacing: own } = pacing();
    void own.during(() => new Promise<void>(() => undefined));
    const ask = (count: number) => (): void => {
      for (let request = 0; request < count; request += 1) load.request(undefined);
    };
    const ms = { working: 0, resting: 0 };
    for (let piece = 0; piece < 200; piece += 1) {
      for (let done = 0; done < 10; done += 1) {
        clock.advance(1);
        ask(requests.working)();
      }
      const rested = await restMs(clock, own.pace(1000, never), ask(requests.resting));
      if (piece < 100) continue;
      ms.working += 10;
      ms.resting += rested;
    }
    return ms.working / (ms.working + ms.resting);
  }

  it('rests once to see whether clients are active, and not again while they are quiet and no rate is set', async () => {
    const { clock, pacing: own } = pacing();
    expect(own.calm).toBe(false);
    clock.advance(10);
    expect(await restMs(clock, own.pace(2 ** 30, never))).toBe(20);
    expect(own.calm).toBe(true);
    clock.advance(1000);
    expect(await restMs(clock, own.pace(2 ** 30, never))).toBe(0);
    expect(own.calm).toBe(true);
  });

  it('is calm no more as soon as a client asks for something, while it works or rests', async () => {
    const { clock, load, pacing: own } = pacing();
    void own.during(() => new Promise<void>(() => undefined));
    await restMs(clock, own.pace(1, never));
    expect(own.calm).toBe(true);
    load.request(undefined);
    clock.advance(10);
    await restMs(clock, own.pace(1, never));
    expect(own.calm).toBe(false);
    clock.advance(10);
    await restMs(clock, own.pace(1, never), () => load.request(undefined));
    expect(own.calm).toBe(false);
  });

  it('works nine tenths of the time where clients get as much while it does', async () => {
    // Rests are whole milliseconds here.
    expect(await shareOf({ working: 20, resting: 20 })).toBeGreaterThan(0.8);
  });

  it('works so much of the time that clients lose an eighth at most', async () => {
    for (const [working, resting] of [
      [10, 20],
      [5, 20],
      [15, 20],
    ] as const) {
      const share = await shareOf({ working, resting });
      const lost = share * (1 - working / resting);
      expect(lost).toBeGreaterThan(0.08);
      expect(lost).toBeLessThanOrEqual(0.125);
    }
  });

  it('goes on, slowly, where clients get nothing while it works', async () => {
    const share = await shareOf({ working: 0, resting: 20 });
    expect(share).toBeGreaterThan(0.05);
    expect(share).toBeLessThan(0.2);
  });

  it('counts what clients wait, too: requests as many as ever that take four times as long', async () => {
    const { clock, load, pacing: own } = pacing();
    void own.during(() => new Promise<void>(() => undefined));
    /** One request per ms, answered after `waitMs`. */
    const ask = (waitMs: number) => (): void => {
      void load.request(clock.sleep(waitMs));
    };
    let working = 0;
    let resting = 0;
    for (let piece = 0; piece < 200; piece += 1) {
      for (let done = 0; done < 10; done += 1) {
        clock.advance(1);
        ask(8)();
        await turns(1);
      }
      const rested = await restMs(clock, own.pace(1000, never), ask(2));
      if (piece < 100) continue;
      working += 10;
      resting += rested;
    }
    expect(working / (working + resting)).toBeLessThan(0.5);
  });

  it('follows a rate that is set, changed and lifted while it runs', async () => {
    const { clock, rate, pacing: own } = pacing({ rate: 1000 });
    expect(await restMs(clock, own.pace(500, never))).toBe(500);
    rate.bytesPerSecond = 100;
    expect(await restMs(clock, own.pace(50, never))).toBe(500);
    rate.bytesPerSecond = undefined;
    expect(await restMs(clock, own.pace(2 ** 30, never))).toBe(0);
  });

  it('rests no longer for a rate that is not wanted any more', async () => {
    const { clock, rate, pacing: own } = pacing({ rate: 1 });
    const rest = own.pace(1_000_000, never);
    await turns(2);
    rate.bytesPerSecond = 1000;
    expect(await restMs(clock, rest)).toBeLessThanOrEqual(100);
    expect(await restMs(clock, own.pace(500, never))).toBe(500);
  });

  it('keeps to the rate over time, and saves up no more than a second of it', async () => {
    const { clock, pacing: own } = pacing({ rate: 1000 });
    expect(await restMs(clock, own.pace(500, never))).toBe(500);
    let total = 0;
    const startMs = clock.nowMs();
    for (let count = 0; count < 20; count += 1) {
      clock.advance(count * 7);
      await restMs(clock, own.pace(250, never));
      total += 250;
    }
    expect(clock.nowMs() - startMs).toBe(total);
    clock.advance(60_000);
    expect(await restMs(clock, own.pace(1000, never))).toBe(0);
    expect(await restMs(clock, own.pace(1000, never))).toBe(1000);
  });

  it('does not rest on when the session ends', async () => {
    const { clock, pacing: own } = pacing({ rate: 1 });
    let over = false;
    const rest = watch(own.pace(3600, () => over));
    clock.advance(10_000);
    await turns(2);
    expect(rest.done).toBe(false);
    over = true;
    for (let count = 0; count < 5; count += 1) {
      clock.advance(100);
      await turns(1);
    }
    expect(rest.done).toBe(true);
  });

  it('waits for the window to be half empty, then for any room', async () => {
    const { clock, window, pacing: own } = pacing();
    window.push(FrameType.WRITE, 0, 1, 0, 5000, new Uint8Array(5000), false, 0);
    expect(window.usedSize).toBeGreaterThan(5000);
    expect(await restMs(clock, own.room(100, never))).toBeGreaterThanOrEqual(100);
    window.push(FrameType.WRITE, 0, 2, 0, 4000, new Uint8Array(4000), false, 0);
    const waiting = watch(own.room(2000, never));
    for (let count = 0; count < 500; count += 1) {
      clock.advance(2);
      await turns(1);
    }
    expect(waiting.done).toBe(false);
    window.takeUnsent();
    window.takeUnsent();
    window.applied(2);
    window.forget(1);
    clock.advance(2);
    await turns(1);
    expect(waiting.done).toBe(true);
  });

  it('waits for no room once the session has ended', async () => {
    const { clock, window, pacing: own } = pacing();
    window.push(FrameType.WRITE, 0, 1, 0, 9990, new Uint8Array(9990), false, 0);
    let over = false;
    const waiting = watch(own.room(100, () => over));
    clock.advance(500);
    await turns(2);
    expect(waiting.done).toBe(false);
    over = true;
    clock.advance(2);
    await turns(2);
    expect(waiting.done).toBe(true);
  });
});
