/** The judge of crash states: it must neither let a mixture pass nor complain of what an epoch allows. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Content } from './content.ts';
import { Run } from './history.ts';
import { judge } from './legality.ts';

const SIZE = 3 * 4096;

interface Step {
  readonly offset: number;
  readonly length: number;
  readonly zero: boolean;
  readonly barrier: boolean;
}

const steps = fc.array(
  fc.record({
    offset: fc.nat(SIZE - 1),
    length: fc.integer({ min: 1, max: 5000 }),
    zero: fc.boolean(),
    barrier: fc.boolean(),
  }),
  { minLength: 1, maxLength: 25 },
);

function runOf(list: readonly Step[]): Run {
  const run = new Run('run', new Content(SIZE), 0, undefined);
  for (const [index, { offset, length, zero, barrier }] of list.entries()) {
    const size = Math.min(length, SIZE - offset);
    const data = zero ? undefined : Buffer.alloc(size, 1 + index);
    run.append({ sequence: index + 1, offset, length: size, data });
    if (barrier) run.barrier();
  }
  return run;
}

/** What a crash may leave: everything up to a barrier, and of the next epoch's operations those that are chosen. */
function crashed(run: Run, barrier: number, end: number, kept: (sequence: number) => boolean): Content {
  const content = run.contentAt(barrier).clone();
  for (let sequence = barrier + 1; sequence <= end; sequence += 1) {
    const { offset, length, data } = run.operation(sequence);
    if (!kept(sequence)) continue;
    if (data === undefined) content.zero(offset, length);
    else content.write(data, offset);
  }
  return content;
}

describe('the judge of a crash state', () => {
  it('lets pass everything up to a barrier and any part of the epoch after it', () => {
    fc.assert(
      fc.property(steps, fc.nat(), fc.nat(2 ** 25), (list, choice, mask) => {
        const run = runOf(list);
        const places = [0, ...run.barriers];
        const index = choice % places.length;
        const barrier = places[index]!;
        const end = places[index + 1] ?? run.sequence;
        const image = crashed(run, barrier, end, (sequence) => ((mask >> (sequence % 25)) & 1) === 1);
        const verdict = judge(image, run, 0, { allPositions: true });
        expect(verdict.positions).toContain(barrier);
      }),
      { numRuns: 400 },
    );
  });

  it('lets no operation pass that is missing before a barrier over which a later epoch has passed', () => {
    fc.assert(
      fc.property(steps, fc.nat(), (list, choice) => {
        // Operations that do not overlap: each leaves its own trace.
        const apart = list.map((step, index) => ({ ...step, offset: index * 400, length: 400, zero: false }));
        const run = runOf(apart);
        const missing = 1 + (choice % run.sequence);
        const epochEnd = run.barriers.find((barrier) => barrier >= missing);
        fc.pre(epochEnd !== undefined && epochEnd < run.sequence);
        const image = run.contentAt(epochEnd + 1).clone();
        image.zero((missing - 1) * 400, 400);
        expect(judge(image, run, 0).positions).toEqual([]);
      }),
      { numRuns: 400 },
    );
  });

  it('complains of a byte that nobody wrote, and says where', () => {
    const run = runOf([{ offset: 10, length: 20, zero: false, barrier: false }]);
    const image = run.contentAt(1).clone();
    image.write(Buffer.from([77]), 15);
    const verdict = judge(image, run, 0);
    expect(verdict.positions).toEqual([]);
    expect(verdict.complaint).toContain('bytes 15 to 16');
    const elsewhere = run.contentAt(0).clone();
    elsewhere.write(Buffer.from([77]), 9000);
    expect(judge(elsewhere, run, 0).complaint).toContain('bytes 9000 to 9001');
  });

  it('wants the very position of an image that is said to be exact', () => {
    const run = runOf([
      { offset: 0, length: 10, zero: false, barrier: false },
      { offset: 20, length: 10, zero: false, barrier: false },
    ]);
    expect(judge(run.contentAt(1), run, 1, { to: 1 }).positions).toEqual([1]);
    expect(judge(run.contentAt(2), run, 1, { to: 1 }).positions).toEqual([]);
  });

  it('lets a write that was never answered be there, in part, or not', () => {
    const run = runOf([{ offset: 0, length: 10, zero: false, barrier: false }]);
    const loose = [{ offset: 5, length: 100, data: Buffer.alloc(100, 9) }];
    const image = run.contentAt(1).clone();
    image.write(Buffer.alloc(50, 9), 5);
    expect(judge(image, run, 1, { epochs: false, loose }).positions).toEqual([1]);
    expect(judge(image, run, 1, { epochs: false }).positions).toEqual([]);
  });
});
