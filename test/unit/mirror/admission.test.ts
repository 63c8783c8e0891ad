import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Admission } from '../../../src/mirror/admission.ts';

describe('the admission of rescans', () => {
  it('lets the first in at once and tells the others their place', () => {
    const admission = new Admission(2);
    const places: number[][] = [[], [], [], []];
    const leave = places.map((own) => admission.request((place) => own.push(place)));
    expect(places).toEqual([[0], [0], [1], [2]]);
    leave[0]!();
    expect(places).toEqual([[0], [0], [1, 0], [2, 1]]);
    leave[3]!();
    leave[1]!();
    expect(places.map((own) => own.at(-1))).toEqual([0, 0, 0, 1]);
  });

  it('can be left twice without harm to others', () => {
    const admission = new Admission(1);
    const told: number[] = [];
    const leave = admission.request(() => undefined);
    admission.request((place) => told.push(place));
    const third: number[] = [];
    admission.request((place) => third.push(place));
    leave();
    leave();
    expect(told.at(-1)).toBe(0);
    expect(third.at(-1)).toBe(1);
  });

  it('never lets more in than its limit, lets in by order of arrival, and leaves no place empty', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.oneof(fc.constant('come' as const), fc.nat(30)), { maxLength: 60 }),
        (limit, steps) => {
          const admission = new Admission(limit);
          const all: { place: number; leave: () => void; gone: boolean }[] = [];
          for (const step of steps) {
            const one = { place: -1, leave: (): void => undefined, gone: false };
            if (step === 'come') {
              all.push(one);
              one.leave = admission.request((place) => {
                one.place = place;
              });
            } else if (all.length > 0) {
              const chosen = all[step % all.length]!;
              if (!chosen.gone) chosen.leave();
              chosen.gone = true;
            }
            const present = all.filter(({ gone }) => !gone);
            expect(present.map(({ place }) => place)).toEqual(
              present.map((_, index) => Math.max(0, index + 1 - limit)),
            );
          }
        },
      ),
    );
  });

  it('takes at least one at a time', () => {
    expect(() => new Admission(0)).toThrow('at least one');
  });
});
