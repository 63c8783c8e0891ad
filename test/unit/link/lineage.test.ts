import { describe, expect, it } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { type Lineage, relate } from '../../../src/link/lineage.ts';

const A = Buffer.alloc(16, 0xa);
const B = Buffer.alloc(16, 0xb);
const C = Buffer.alloc(16, 0xc);

function run(id: Buffer, parentRun: Buffer = NO_ID, parentSequence = 0): Lineage {
  return { run: id, parentRun, parentSequence };
}

describe('a mirror that follows', () => {
  it('the very run of the primary is related wherever it stands', () => {
    for (const sequence of [0, 7, 2 ** 50]) expect(relate(run(B, A, 5), run(B, A, 5), sequence)).toBe('same-run');
  });

  it('the parent run, at its last operation, is handed on', () => {
    expect(relate(run(B, A, 5), run(A), 5)).toBe('handed-on');
  });

  it('the parent run, before its end, is on the common trunk, and may follow if what it lacks is kept', () => {
    expect(relate(run(B, A, 5), run(A), 4)).toBe('handed-on');
  });

  it('the parent run beyond what the primary knows of it is ahead: the primary was put back', () => {
    expect(relate(run(B, A, 5), run(A), 6)).toBe('mirror-ahead');
  });

  it('another run from the same place is ahead once it has moved, and may be followed as long as it has not', () => {
    expect(relate(run(C, A, 5), run(B, A, 5), 5)).toBe('handed-on');
    expect(relate(run(C, A, 5), run(B, A, 5), 6)).toBe('mirror-ahead');
  });

  it('a run from another place of the parent has to be compared', () => {
    expect(relate(run(C, A, 5), run(B, A, 4), 5)).toBe('unrelated');
  });

  it('nothing, or something unknown, has to be compared', () => {
    expect(relate(run(B, A, 5), run(NO_ID), 5)).toBe('unrelated');
    expect(relate(run(B, A, 5), run(C), 5)).toBe('unrelated');
    expect(relate(run(B), run(A), 5)).toBe('unrelated');
    expect(relate(run(B), run(NO_ID), 0)).toBe('unrelated');
    // Two runs without a parent are no siblings.
    expect(relate(run(B), run(A, NO_ID, 0), 0)).toBe('unrelated');
  });
});
