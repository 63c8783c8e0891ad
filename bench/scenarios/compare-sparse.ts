/** Whether two files hold the same bytes, reading only what is data in either. */
import { setImmediate as turn } from 'node:timers/promises';
import type { Disk } from '../../dist/io/disk.js';
import { nodeFileSystem } from '../../dist/io/node-file-system.js';

const CHUNK_SIZE = 1 << 20;

export interface Comparison {
  /** Bytes that were data in at least one of them. */
  readonly comparedSize: number;
  /** Chunks of up to 1 MiB that differ: how many, and where the first one begins. */
  readonly differingChunks: number;
  readonly firstDifference: number | undefined;
}

/** Files of different sizes differ from the end of the shorter one on. */
export async function compareSparse(first: string, second: string): Promise<Comparison> {
  const disks = [await openShared(first), await openShared(second)] as const;
  try {
    return await compareDisks(...disks);
  } finally {
    for (const disk of disks) await disk.close();
  }
}

function openShared(path: string): Promise<Disk> {
  return nodeFileSystem.openDisk(path, { readOnly: true, lock: 'shared' });
}

async function compareDisks(a: Disk, b: Disk): Promise<Comparison> {
  const size = Math.max(a.size, b.size);
  const buffers = [Buffer.alloc(CHUNK_SIZE), Buffer.alloc(CHUNK_SIZE)] as const;
  let comparedSize = 0;
  let differingChunks = a.size === b.size ? 0 : 1;
  let firstDifference = a.size === b.size ? undefined : Math.min(a.size, b.size);
  for (let offset = 0; offset < size; ) {
    offset = Math.min(dataFrom(a, offset, size), dataFrom(b, offset, size));
    if (offset >= size) break;
    const length = Math.min(CHUNK_SIZE - (offset % CHUNK_SIZE), size - offset);
    const pieces = [buffers[0].subarray(0, length), buffers[1].subarray(0, length)] as const;
    // Bytes past the end read as zeroes.
    await a.read(pieces[0], offset);
    await b.read(pieces[1], offset);
    if (!pieces[0].equals(pieces[1])) {
      differingChunks += 1;
      firstDifference = Math.min(firstDifference ?? offset, offset);
    }
    comparedSize += length;
    offset += length;
    await turn();
  }
  return { comparedSize, differingChunks, firstDifference };
}

function dataFrom(disk: Disk, offset: number, size: number): number {
  if (offset >= disk.size) return size;
  const found = disk.seekData(offset);
  return found >= disk.size ? size : found;
}
