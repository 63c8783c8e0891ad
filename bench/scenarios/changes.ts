/** Changes of a disk behind everybody's back: what a rescan has to find. */
import { randomFillSync } from 'node:crypto';
import { open } from 'node:fs/promises';
import { Chance } from './chance.ts';

const BLOCK_SIZE = 4096;

/** Gives `share` of the blocks of 4 KiB, chosen at random, new content. Resolves with the bytes changed. */
export async function changeBlocks(path: string, size: number, share: number, seed: number): Promise<number> {
  const chance = new Chance(seed);
  const blocks = Math.floor(size / BLOCK_SIZE);
  const chosen = new Set<number>();
  while (chosen.size < Math.round(blocks * share)) chosen.add(chance.below(blocks));
  return rewrite(
    path,
    [...chosen].map((block) => block * BLOCK_SIZE),
    BLOCK_SIZE,
  );
}

/** Gives `share` of the disk new content, in runs of `runSize` bytes spread evenly. Resolves with the bytes changed. */
export async function changeRuns(path: string, size: number, share: number, runSize: number): Promise<number> {
  const stride = runSize / share;
  const offsets = Array.from({ length: Math.floor(size / stride) }, (_, index) => Math.floor(index * stride));
  return rewrite(
    path,
    offsets.map((offset) => offset - (offset % BLOCK_SIZE)),
    runSize,
  );
}

async function rewrite(path: string, offsets: readonly number[], length: number): Promise<number> {
  const content = Buffer.allocUnsafe(length);
  const file = await open(path, 'r+');
  try {
    for (const offset of offsets) await file.write(randomFillSync(content), 0, length, offset);
    await file.sync();
  } finally {
    await file.close();
  }
  return offsets.length * length;
}
