import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import { Ledger } from '../../../src/primary/ledger.ts';
import type { Replica } from '../../../src/primary/replica.ts';
import { EXTENT_UNREPLICATED, type Extent } from '../../../src/volume/volume.ts';
import { turns } from '../../support/memory-world.ts';
import { type ReplicaParts, replicaParts } from './replica-parts.ts';

const SIZE = 4 * MIB + 512;
const BLOCK = 4096;

function started(replicas: readonly Replica[]): Ledger {
  return new Ledger(replicas, 0, true, () => Promise.reject(new Error('not needed')));
}

function parts(inOrder = true, windowSize = 64 * MIB, spoolSize = 0): Promise<ReplicaParts> {
  return replicaParts({ size: SIZE, windowSize, spoolSize, inOrder });
}

async function replica(inOrder = true): Promise<Replica> {
  return (await parts(inOrder)).replica;
}

/** Extents as one flag per block, up to where they end. */
function flagsOf(extents: readonly Extent[], offset: number): boolean[] {
  const flags: boolean[] = [];
  let at = offset;
  for (const extent of extents) {
    for (let end = at + extent.length; at < end; at += Math.min(BLOCK, end - at))
      flags.push(extent.flags === EXTENT_UNREPLICATED);
  }
  return flags;
}

describe('the ledger', () => {
  it('gives out sequences without gaps, to all replicas, and counts by kind', async () => {
    const replicas = [await replica(), await replica(false)];
    const ledger = started(replicas);
    ledger.wrote(0, Buffer.alloc(100));
    ledger.zeroed(0, 50, 'zeroes');
    ledger.zeroed(0, 50, 'trims');
    ledger.flushed();
    expect(ledger.sequence).toBe(3);
    expect(replicas.map(({ sequence }) => sequence)).toEqual([3, 3]);
    expect(ledger.counts).toEqual({ writes: 1, zeroes: 1, trims: 1, flushes: 1 });
    expect(ledger.bytesWritten).toBe(100);
  });

  it('takes no mutation before its run is durable', async () => {
    const ledger = new Ledger([await replica()], 0, false, () => Promise.resolve());
    expect(ledger.started).toBe(false);
    expect(() => ledger.wrote(0, Buffer.alloc(1))).toThrow('durable before its first mutation');
  });

  it('clears the clean flag once for all who wait, and never again', async () => {
    let cleared = 0;
    let done = (): void => undefined;
    const ledger = new Ledger([await replica()], 0, false, () => {
      cleared += 1;
      return new Promise((resolve) => {
        done = resolve;
      });
    });
    const waiters = [ledger.start(), ledger.start()];
    expect(ledger.started).toBe(false);
    done();
    await Promise.all(waiters);
    expect([ledger.started, cleared]).toEqual([true, 1]);
    await ledger.start();
    expect(cleared).toBe(1);
  });

  it('tries again after the clean flag could not be cleared', async () => {
    let attempts = 0;
    const ledger = new Ledger([await replica()], 0, false, async () => {
      attempts += 1;
      if (attempts === 1) throw new Failure('no-space', 'full');
    });
    const both = await Promise.allSettled([ledger.start(), ledger.start()]);
    expect(both.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(ledger.started).toBe(false);
    await ledger.start();
    expect([ledger.started, attempts]).toEqual([true, 2]);
  });

  it('admits nothing any more once it is closed, nor what waited for the clean flag meanwhile', async () => {
    let done = (): void => undefined;
    const ledger = new Ledger(
      [await replica()],
      0,
      false,
      () =>
        new Promise((resolve) => {
          done = resolve;
        }),
    );
    const waiting = ledger.admit(0, 1);
    ledger.close();
    done();
    await expect(waiting).rejects.toMatchObject({ code: 'shutting-down' });
    await expect(ledger.admit(0, 1)).rejects.toMatchObject({ code: 'shutting-down' });
    expect(ledger.admits(0, 1)).toBe(false);
    const open = started([await replica()]);
    expect(open.admits(0, 1)).toBe(true);
    open.close();
    expect(open.admits(0, 1)).toBe(false);
  });

  it('goes on from the sequence of a clean stop', async () => {
    const { replica: own } = await replicaParts({
      size: SIZE,
      windowSize: MIB,
      sequence: 41,
      checkpoint: 3,
      inOrder: true,
    });
    const ledger = new Ledger([own], 41, true, () => Promise.resolve());
    ledger.wrote(0, Buffer.alloc(1));
    expect([ledger.sequence, own.sequence]).toEqual([42, 42]);
  });
});

describe('the extents that are not replicated', () => {
  it('are exactly what some mirror has not recorded or may differ in, consecutive, within the limits', async () => {
    const step = fc.record({
      kind: fc.constantFrom('write' as const, 'zero' as const, 'trim' as const, 'mark' as const, 'recorded' as const),
      block: fc.nat(Math.floor(SIZE / BLOCK) - 1),
      count: fc.integer({ min: 1, max: 40 }),
      mirror: fc.nat(1),
    });
    const query = fc.record({
      block: fc.nat(Math.floor(SIZE / BLOCK)),
      length: fc.integer({ min: 1, max: SIZE }),
      countMax: fc.oneof(fc.integer({ min: 1, max: 5 }), fc.constant(10_000)),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), query, async (steps, asked) => {
        const replicas = [await replica(), await replica()];
        const ledger = started(replicas);
        const blocks = Math.ceil(SIZE / BLOCK);
        const dirty = replicas.map(() => new Array<number>(blocks).fill(0));
        for (const { kind, block, count, mirror } of steps) {
          const offset = block * BLOCK;
          const length = Math.min(count * BLOCK, SIZE - offset);
          const last = Math.ceil((offset + length) / BLOCK);
          if (kind === 'recorded') {
            const own = replicas[mirror]!;
            while (own.window.takeUnsent() !== undefined);
            own.window.applied(ledger.sequence);
            own.acknowledged(ledger.sequence, ledger.sequence);
            dirty[mirror] = dirty[mirror]!.map((flag) => (flag === 2 ? 2 : 0));
          } else if (kind === 'mark') {
            replicas[mirror]!.marks.mark(offset, length);
            const from = Math.floor(offset / MIB) * (MIB / BLOCK);
            const to = Math.min(blocks, (Math.floor((offset + length - 1) / MIB) + 1) * (MIB / BLOCK));
            dirty[mirror]!.fill(2, from, to);
          } else {
            if (kind === 'write') ledger.wrote(offset, new Uint8Array(length));
            else ledger.zeroed(offset, length, kind === 'zero' ? 'zeroes' : 'trims');
            for (const flags of dirty) {
              for (let index = block; index < last; index += 1) flags[index] = Math.max(1, flags[index]!);
            }
          }
        }
        const offset = Math.min(asked.block * BLOCK, SIZE - 1 - ((SIZE - 1) % BLOCK));
        const length = Math.min(asked.length, SIZE - offset);
        const extents = ledger.unreplicated(offset, length, asked.countMax);
        const expected = Array.from({ length: Math.ceil(length / BLOCK) }, (_, index) => {
          const at = offset / BLOCK + index;
          return dirty.some((flags) => flags[at]! > 0);
        });
        const total = extents.reduce((sum, extent) => sum + extent.length, 0);
        const runs = expected.filter((flag, index) => flag !== expected[index - 1]).length;
        expect(extents.length).toBe(Math.min(asked.countMax, runs));
        expect(total === length || extents.length === asked.countMax).toBe(true);
        expect(flagsOf(extents, offset)).toEqual(expected.slice(0, Math.ceil(total / BLOCK)));
      }),
      { numRuns: 100 },
    );
  });

  it('are the whole disk while nothing is known of the mirror', async () => {
    expect(started([await replica(false)]).unreplicated(0, SIZE, 10)).toEqual([
      { length: SIZE, flags: EXTENT_UNREPLICATED },
    ]);
  });

  it('include what is in the spool, in whole regions, until the mirror has recorded it', async () => {
    const { replica: own, world, write } = await parts(true, 1000, 16 * MIB);
    const ledger = started([own]);
    for (const region of [0, 1, 3]) write(region * MIB, 4096, false, new Uint8Array(4096));
    expect(own.backlog.isInWindow).toBe(false);
    const dirty = { length: MIB, flags: EXTENT_UNREPLICATED };
    expect(ledger.unreplicated(0, SIZE, 10)).toEqual([
      { length: 2 * MIB, flags: EXTENT_UNREPLICATED },
      { length: MIB, flags: 0 },
      dirty,
      { length: 512, flags: 0 },
    ]);
    for (let round = 0; round < 50 && own.recorded < 3; round += 1) {
      while (own.window.takeUnsent() !== undefined);
      own.window.applied(own.window.lastSequence);
      own.acknowledged(own.window.lastSequence, own.window.lastSequence);
      await turns(2);
      world.clock.advance(1000);
    }
    expect(ledger.unreplicated(0, SIZE, 10)).toEqual([{ length: SIZE, flags: 0 }]);
  });

  it('include what is only staged: what a pass has mended, and what was streamed', async () => {
    const { replica: own, write } = await parts();
    const ledger = started([own]);
    own.marks.mark(MIB, 1);
    own.beginCompare('marks', 0, 0, 0, Buffer.alloc(16, 5));
    write(2 * MIB, 4096);
    while (own.window.takeUnsent() !== undefined);
    own.window.applied(1);
    own.passCleared(MIB, 2 * MIB, 1, 1);
    own.acknowledged(0, 1);
    expect([own.marks.count, own.window.usedSize]).toEqual([0, 0]);
    expect(ledger.unreplicated(0, SIZE, 10)).toEqual([
      { length: MIB, flags: 0 },
      { length: 2 * MIB, flags: EXTENT_UNREPLICATED },
      { length: MIB + 512, flags: 0 },
    ]);
    own.comparing.complete();
    own.committed(1, 2);
    expect(ledger.unreplicated(0, SIZE, 10)).toEqual([{ length: SIZE, flags: 0 }]);
  });
});
