import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Fifo } from '../../../src/base/fifo.ts';

describe('a fifo', () => {
  it('is an array of which only the ends are touched', () => {
    const step = fc.constantFrom('push', 'push', 'shift', 'replace', 'drain', 'clear');
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), fc.integer({ min: 1, max: 900 }), (steps, many) => {
        const fifo = new Fifo<number>();
        let model: number[] = [];
        let next = 0;
        const shifted: [number | undefined, number | undefined][] = [];
        for (const what of steps) {
          if (what === 'push') {
            for (let count = 0; count < many; count += 1) {
              next += 1;
              fifo.push(next);
              model.push(next);
            }
          } else if (what === 'shift') shifted.push([fifo.shift(), model.shift()]);
          else if (what === 'drain')
            for (let count = 0; count < many; count += 1) shifted.push([fifo.shift(), model.shift()]);
          else if (what === 'clear') {
            fifo.clear();
            model = [];
          } else if (model.length > 0) {
            fifo.replaceFirst(-1);
            model[0] = -1;
          }
          shifted.push([fifo.first, model[0]], [fifo.length, model.length]);
        }
        expect(shifted.map(([found]) => found)).toEqual(shifted.map(([, wanted]) => wanted));
      }),
    );
  });
});
