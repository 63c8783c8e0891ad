import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Admission } from '../../../src/mirror/admission.ts';
import { ManualClock } from '../../support/manual-clock.ts';

/** The share of the time for which a place was held that it stays empty afterwards, at most. */
const PAUSE_SHARE = 0.05;
const STUCK_MS = 120_000;

/** An admission whose clock and chance are the test's. */
function rig(limit: number, uniform = 0) {
  const chance = { uniform };
  const clock = new ManualClock();
  const random = { bytes: (size: number) => Buffer.alloc(size), uniform: () => chance.uniform };
  return { clock, chance, admission: new Admission(limit, { clock, random }) };
}

/** Asks for a place; `places` are all that it was told. */
function candidate(admission: Admission, movedMs: () => number | undefined = () => undefined) {
  const places: number[] = [];
  const leave = admission.request({ told: (place) => places.push(place), movedMs });
  return { places, leave };
}

describe('the admission of rescans', () => {
  it('lets the first in at once and tells the others their place', () => {
    const { admission } = rig(2);
    const all = Array.from({ length: 4 }, () => candidate(admission));
    expect(all.map(({ places }) => places)).toEqual([[0], [0], [1], [2]]);
    expect(admission.status).toEqual({ limit: 2, running: 2, stuck: 0, waiting: 2 });
    all[0]!.leave();
    expect(all.map(({ places }) => places)).toEqual([[0], [0], [1, 0], [2, 1]]);
    all[3]!.leave();
    all[1]!.leave();
    expect(all.map(({ places }) => places.at(-1))).toEqual([0, 0, 0, 1]);
    expect(admission.status).toEqual({ limit: 2, running: 1, stuck: 0, waiting: 0 });
  });

  it('can be left twice without harm to others', () => {
    const { admission } = rig(1);
    const [first, second, third] = [candidate(admission), candidate(admission), candidate(admission)];
    first.leave();
    first.leave();
    expect(second.places.at(-1)).toBe(0);
    expect(third.places.at(-1)).toBe(1);
    // Told once, not at every change that is none.
    expect(third.places).toEqual([2, 1]);
  });

  it('never lets more in than its limit, lets in by order of arrival, and leaves no place empty for long', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.oneof(fc.constant('come' as const), fc.constant('wait' as const), fc.nat(30)), { maxLength: 60 }),
        fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
        (limit, steps, uniform) => {
          const { admission, clock } = rig(limit, uniform);
          const all: { places: number[]; leave: () => void; gone: boolean }[] = [];
          for (const step of steps) {
            if (step === 'come') all.push({ ...candidate(admission), gone: false });
            else if (step === 'wait') clock.advance(1_000);
            else if (all.length > 0) {
              const chosen = all[step % all.length]!;
              if (!chosen.gone) chosen.leave();
              chosen.gone = true;
            }
            const present = all.filter(({ gone }) => !gone);
            const now = present.map(({ places }) => places.at(-1)!);
            const running = now.filter((place) => place === 0).length;
            expect(running).toBeLessThanOrEqual(limit);
            // Whoever runs came before whoever waits; those who wait stand in order.
            expect(now).toEqual(now.map((_, index) => Math.max(0, index + 1 - running)));
            expect(admission.status).toEqual({ limit, running, stuck: 0, waiting: present.length - running });
          }
          clock.advance(1_000);
          const present = all.filter(({ gone }) => !gone);
          expect(present.map(({ places }) => places.at(-1))).toEqual(
            present.map((_, index) => Math.max(0, index + 1 - limit)),
          );
        },
      ),
    );
  });

  it('takes at least one at a time', () => {
    expect(() => rig(0)).toThrow('at least one');
  });
});

describe('a place that becomes free', () => {
  it.each([
    [2_000, 0.5, 50],
    [2_000, 0.999, 2_000 * PAUSE_SHARE * 0.999],
    [100, 0.5, 2.5],
    [3_600_000, 0.5, 500],
  ])('after %i ms stays empty for a random share of that, %d of what it may be: %d ms', (heldMs, uniform, pauseMs) => {
    const { admission, clock } = rig(1, uniform);
    const first = candidate(admission, () => clock.nowMs());
    const second = candidate(admission);
    clock.advance(heldMs);
    first.leave();
    clock.advance(pauseMs - 0.001);
    expect(second.places).toEqual([1]);
    clock.advance(0.002);
    expect(second.places).toEqual([1, 0]);
  });

  it('is free at once when nobody waits for it', () => {
    const { admission, clock } = rig(1, 0.9);
    const first = candidate(admission);
    clock.advance(10_000);
    first.leave();
    expect(candidate(admission).places).toEqual([0]);
  });

  it('goes to the next in the queue, also when the one that was next has left meanwhile', () => {
    const { admission, clock } = rig(1, 0.9);
    const all = Array.from({ length: 3 }, () => candidate(admission));
    clock.advance(10_000);
    all[0]!.leave();
    all[1]!.leave();
    const late = candidate(admission);
    expect([all[2]!.places, late.places]).toEqual([[2, 1], [2]]);
    clock.advance(1_000);
    expect([all[2]!.places, late.places]).toEqual([
      [2, 1, 0],
      [2, 1],
    ]);
  });

  it('does not let in more than the limit when several become free together', () => {
    const { admission, clock, chance } = rig(2, 0.9);
    const all = Array.from({ length: 6 }, () => candidate(admission));
    clock.advance(10_000);
    all[0]!.leave();
    chance.uniform = 0.1;
    all[1]!.leave();
    const places = () => all.slice(2).map((one) => one.places.at(-1));
    expect(places()).toEqual([1, 2, 3, 4]);
    clock.advance(100);
    expect(places()).toEqual([0, 1, 2, 3]);
    clock.advance(1_000);
    expect(places()).toEqual([0, 0, 1, 2]);
  });
});

describe('a rescan that does not get on', () => {
  it('lends its place after two minutes, and takes up its own again when it does', () => {
    const { admission, clock } = rig(1);
    let movedMs = 5_000;
    const stuck = candidate(admission, () => movedMs);
    const second = candidate(admission, () => clock.nowMs());
    const third = candidate(admission);
    clock.advance(STUCK_MS + 4_000);
    expect(second.places).toEqual([1]);
    clock.advance(7_000);
    expect([second.places, third.places]).toEqual([
      [1, 0],
      [2, 1],
    ]);
    expect(admission.status).toEqual({ limit: 1, running: 2, stuck: 1, waiting: 1 });
    // It goes on, beside the other: nobody else is let in until both have left.
    movedMs = clock.nowMs();
    expect(admission.status).toMatchObject({ running: 2, stuck: 0 });
    second.leave();
    clock.advance(10_000);
    expect(third.places).toEqual([2, 1]);
    stuck.leave();
    clock.advance(1_000);
    expect(third.places).toEqual([2, 1, 0]);
  });

  it('is told from one that has just been let in and has not begun', () => {
    const { admission, clock } = rig(1);
    clock.advance(10 * STUCK_MS);
    candidate(admission);
    const second = candidate(admission);
    clock.advance(STUCK_MS);
    expect(second.places).toEqual([1]);
    clock.advance(10_000);
    expect(second.places).toEqual([1, 0]);
  });

  it('keeps its place while nobody else wants it, and nobody looks', () => {
    const { admission, clock } = rig(1);
    candidate(admission);
    clock.advance(10 * STUCK_MS);
    expect(admission.status).toEqual({ limit: 1, running: 1, stuck: 1, waiting: 0 });
    // Whoever comes then need not wait for it.
    expect(candidate(admission).places).toEqual([0]);
  });
});
