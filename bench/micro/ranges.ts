/** What is asked once per write about where it lies. */
import { Bitmap } from '../../dist/base/bitmap.js';
import { RangeLock } from '../../dist/volume/range-lock.js';
import { type Figure, measure } from './measure.ts';

const OPERATIONS = 1024;
export const BLOCK_SIZE = 4096;
const BLOCKS = 1 << 18;

/** Block numbers spread over the disk, the same in every run. */
export function scatteredBlocks(): number[] {
  let state = 1;
  return Array.from({ length: OPERATIONS }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % BLOCKS;
  });
}

function benchRangeLock(depth: number): Figure {
  const blocks = scatteredBlocks();
  return measure(`volume: lock and release a range, ${depth} in flight`, OPERATIONS, () => {
    const lock = new RangeLock();
    const held = [];
    for (const block of blocks) {
      held.push(lock.acquire(block * BLOCK_SIZE, BLOCK_SIZE));
      if (held.length === depth) lock.release(held.shift()!);
    }
    return lock.holdCount;
  });
}

function benchBitmap(): Figure {
  const blocks = scatteredBlocks();
  const bitmap = new Bitmap(BLOCKS);
  return measure('base: set, find and clear a bit', OPERATIONS, () => {
    let sum = 0;
    for (const block of blocks) {
      bitmap.set(block);
      sum += bitmap.nextSet(block);
      bitmap.clear(block);
    }
    return sum;
  });
}

export function benchRanges(): Figure[] {
  return [benchRangeLock(32), benchRangeLock(512), benchBitmap()];
}
