import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isZero } from '../../../src/io/digest.ts';
import { encodeFrame, FRAME_COMPLETE, type Frame, FrameDecoder, FrameType } from '../../../src/link/frame.ts';
import { CheckpointNumbers, Checkpoints } from '../../../src/primary/checkpoints.ts';
import { runsOfZeroes } from '../../../src/primary/runs-of-zeroes.ts';
import { replicaParts } from './replica-parts.ts';

const failed = (code: string) => expect.objectContaining({ code });

describe('runs of zeroes', () => {
  it('cover the data in order, are whole blocks of the disk, alternate, and are zero only where all is zero', () => {
    const content = fc.array(
      fc.record({ length: fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.constant(4096)), fill: fc.nat(1) }),
      { minLength: 1, maxLength: 8 },
    );
    fc.assert(
      fc.property(
        content,
        fc.oneof(
          fc.nat(20_000),
          fc.nat(5).map((block) => block * 4096),
        ),
        (pieces, offset) => {
          const data = Buffer.concat(pieces.map(({ length, fill }) => Buffer.alloc(length, fill)));
          const runs = runsOfZeroes(data, offset);
          expect(runs[0]!.from).toBe(0);
          expect(runs.at(-1)!.to).toBe(data.length);
          runs.forEach((run, index) => {
            const next = runs[index + 1];
            expect(run.to).toBeGreaterThan(run.from);
            expect(next === undefined || (next.from === run.to && next.zero !== run.zero)).toBe(true);
            expect(next === undefined || (offset + run.to) % 4096 === 0).toBe(true);
            expect(!run.zero || isZero(data.subarray(run.from, run.to))).toBe(true);
          });
          // Every block that is all zeroes lies in a run of zeroes: nothing is sent that need not be.
          for (let at = 0; at < data.length; ) {
            const to = Math.min(data.length, at + 4096 - ((offset + at) % 4096));
            const run = runs.find(({ from, to: end }) => from <= at && at < end)!;
            expect(run.zero).toBe(isZero(data.subarray(at, to)));
            at = to;
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('of a block with one byte that is not zero are data', () => {
    for (const at of [0, 1, 4095]) {
      const data = Buffer.alloc(3 * 4096);
      data[4096 + at] = 1;
      expect(runsOfZeroes(data, 8192)).toEqual([
        { from: 0, to: 4096, zero: true },
        { from: 4096, to: 8192, zero: false },
        { from: 8192, to: 12_288, zero: true },
      ]);
    }
  });

  it('of nothing are none', () => {
    expect(runsOfZeroes(Buffer.alloc(0), 7)).toEqual([]);
  });
});

describe('checkpoints', () => {
  const SIZE = 2 ** 22;
  async function placed() {
    const { replica } = await replicaParts({ size: SIZE, windowSize: SIZE, sequence: 7, inOrder: true });
    const numbers = new CheckpointNumbers(40);
    return { replica, numbers, checkpoints: new Checkpoints(replica, numbers) };
  }
  function done(offset: number, sequence: number): Frame {
    const decoder = new FrameDecoder();
    decoder.push(encodeFrame(FrameType.CHECKPOINT_DONE, { offset, sequence }));
    return decoder.next()!;
  }

  it('stand in the stream at once, numbered upwards', async () => {
    const { replica, numbers, checkpoints } = await placed();
    checkpoints.place(false).catch(() => undefined);
    checkpoints.place(true).catch(() => undefined);
    expect(replica.window.takeUnsent()).toMatchObject({
      type: FrameType.CHECKPOINT,
      offset: 41,
      sequence: 7,
      flags: 0,
    });
    expect(replica.window.takeUnsent()).toMatchObject({ offset: 42, flags: FRAME_COMPLETE, remark: true });
    expect(numbers.last).toBe(42);
  });

  it('are settled in order with their sequence and number', async () => {
    const { checkpoints } = await placed();
    const both = [checkpoints.place(false), checkpoints.place(false)];
    checkpoints.done(done(41, 6));
    checkpoints.done(done(42, 7));
    expect(await Promise.all(both)).toEqual([
      { sequence: 6, number: 41 },
      { sequence: 7, number: 42 },
    ]);
  });

  it('that were not placed, come in another order, or lie in the future are refused', async () => {
    const invalid = failed('frame-invalid');
    const { checkpoints: none } = await placed();
    expect(() => none.done(done(41, 7))).toThrow(invalid);
    for (const wrong of [done(42, 7), done(40, 7), done(41, 8)]) {
      const { checkpoints } = await placed();
      checkpoints.place(false).catch(() => undefined);
      checkpoints.place(false).catch(() => undefined);
      expect(() => checkpoints.done(wrong)).toThrow(invalid);
    }
  });

  it('fail when the session ends first, and at once when it has ended', async () => {
    const { replica, checkpoints } = await placed();
    const before = checkpoints.place(false);
    checkpoints.end();
    await expect(before).rejects.toEqual(failed('connection-lost'));
    const { usedSize } = replica.window;
    await expect(checkpoints.place(true)).rejects.toEqual(failed('connection-lost'));
    expect(replica.window.usedSize).toBe(usedSize);
  });
});
