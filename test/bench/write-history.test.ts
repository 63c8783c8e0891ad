import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BLOCK_SIZE,
  BROKEN,
  stampBlocks,
  UNWRITTEN,
  writeOf,
  writesInImage,
} from '../../bench/scenarios/stamped-blocks.ts';
import { WriteHistory } from '../../bench/scenarios/write-history.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

function stamped(firstBlock: number, count: number, write: number): Buffer {
  const blocks = Buffer.alloc(count * BLOCK_SIZE);
  stampBlocks(blocks, firstBlock, write);
  return blocks;
}

describe('a stamped block', () => {
  it('says which write it came by', () => {
    const blocks = stamped(7, 2, 12345);
    expect(writeOf(blocks.subarray(0, BLOCK_SIZE), 7)).toBe(12345);
    expect(writeOf(blocks.subarray(BLOCK_SIZE), 8)).toBe(12345);
    expect(writeOf(Buffer.alloc(BLOCK_SIZE), 8)).toBe(UNWRITTEN);
  });

  it('is broken when any byte of it changed, when it is elsewhere, or when two are mixed', () => {
    fc.assert(
      fc.property(fc.nat(BLOCK_SIZE - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const block = stamped(3, 1, 9);
        block[at]! ^= change;
        expect(writeOf(block, 3)).toBe(BROKEN);
      }),
    );
    expect(writeOf(stamped(3, 1, 9), 4)).toBe(BROKEN);
    expect(writeOf(Buffer.concat([stamped(3, 1, 9).subarray(0, 512), stamped(3, 1, 10).subarray(512)]), 3)).toBe(
      BROKEN,
    );
    expect(writeOf(Buffer.concat([Buffer.alloc(512), stamped(3, 1, 10).subarray(512)]), 3)).toBe(BROKEN);
  });

  it('is found in an image', async () => {
    const path = join(temporaryFolder(), 'disk.img');
    const torn = stamped(299, 1, 5);
    torn[4095]! ^= 1;
    await writeFile(path, Buffer.concat([stamped(0, 2, 8), Buffer.alloc(297 * BLOCK_SIZE), torn, stamped(300, 1, 6)]));
    const writes = await writesInImage(path, 301);
    expect([...writes.entries()].filter(([, write]) => write !== UNWRITTEN)).toEqual([
      [0, 8],
      [1, 8],
      [299, BROKEN],
      [300, 6],
    ]);
    await expect(writesInImage(path, 302)).rejects.toThrow('shorter');
  });
});

describe('a history of writes', () => {
  /** Writes 1 to 4, one after the other: blocks 0-1, 2-3, 1-2, 0. */
  function oneByOne(): WriteHistory {
    const history = new WriteHistory();
    for (const [first, count] of [
      [0, 2],
      [2, 2],
      [1, 2],
      [0, 1],
    ] as const) {
      const number = history.send(first, count);
      history.answer(number, number * 100);
    }
    return history;
  }

  const judge = (history: WriteHistory, found: number[]) => history.judge(Int32Array.from(found), 450);

  it('knows each of its states', () => {
    const history = oneByOne();
    const exact = { problem: undefined };
    expect(judge(history, [0, 0, 0, 0])).toEqual({
      ...exact,
      newest: 0,
      missingWrites: 4,
      missingSize: 7 * BLOCK_SIZE,
      ageMs: 350,
    });
    expect(judge(history, [1, 1, 0, 0])).toEqual({
      ...exact,
      newest: 1,
      missingWrites: 3,
      missingSize: 5 * BLOCK_SIZE,
      ageMs: 250,
    });
    expect(judge(history, [1, 1, 2, 2])).toMatchObject({ ...exact, newest: 2, missingWrites: 2 });
    expect(judge(history, [1, 3, 3, 2])).toMatchObject({ ...exact, newest: 3, missingWrites: 1 });
    expect(judge(history, [4, 3, 3, 2])).toEqual({ ...exact, newest: 4, missingWrites: 0, missingSize: 0, ageMs: 0 });
  });

  it('finds a later write without an earlier one, a write in part, and what was never written', () => {
    const history = oneByOne();
    expect(judge(history, [0, 0, 2, 2]).problem).toBe('write 1 is missing, a later one is there');
    expect(judge(history, [4, 1, 2, 2]).problem).toBe('write 3 is missing, a later one is there');
    expect(judge(history, [1, 3, 2, 2]).problem).toBe('write 3 is there in part');
    expect(judge(history, [1, 1, 1, 0]).problem).toBe('block 2 holds what no write has put there');
    expect(judge(history, [1, 1, 9, 0]).problem).toBe('block 2 holds what no write has put there');
    expect(judge(history, [1, 1, BROKEN, 0]).problem).toBe('block 2 holds what no write has put there');
  });

  it('takes writes that were under way together in any order, and none that waited for them', () => {
    const history = new WriteHistory();
    for (const block of [0, 1]) history.send(block, 1);
    history.answer(2, 10);
    history.send(2, 1);
    expect(judge(history, [0, 2, 0]).problem).toBeUndefined();
    expect(judge(history, [1, 0, 0]).problem).toBeUndefined();
    expect(judge(history, [0, 2, 3]).problem).toBeUndefined();
    expect(judge(history, [1, 0, 3]).problem).toBe('write 2 is missing, a later one is there');
    // A write that was never answered is not missed.
    expect(judge(history, [0, 2, 0])).toMatchObject({ missingWrites: 0, ageMs: 0 });
    expect(history).toMatchObject({ count: 3, answeredCount: 1, answeredSize: BLOCK_SIZE });
  });

  it('does not miss what was answered after the image was taken', () => {
    const history = oneByOne();
    expect(history.judge(Int32Array.from([1, 1, 2, 2]), 320)).toMatchObject({ missingWrites: 1, ageMs: 20 });
  });
});
