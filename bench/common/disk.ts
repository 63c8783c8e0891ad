/** The disks that servers serve, and what the page cache has of them. */
import { open } from 'node:fs/promises';
import { runChild } from './children.ts';

const CHUNK_SIZE = 1 << 20;

/**
 * A disk whose first `dataSize` bytes, all unless given, are written, so that all servers overwrite and none allocates;
 * what follows is a hole.
 */
export async function writeDisk(path: string, size: number, dataSize = size): Promise<void> {
  const file = await open(path, 'w');
  try {
    const chunk = Buffer.allocUnsafe(CHUNK_SIZE);
    for (let index = 0; index < chunk.length; index += 4) chunk.writeUInt32LE((index * 2654435761) >>> 0, index);
    for (let offset = 0; offset < dataSize; offset += chunk.length) {
      chunk.writeDoubleLE(offset, 0);
      await file.write(chunk, 0, Math.min(chunk.length, dataSize - offset), offset);
    }
    await file.truncate(size);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** What was read or written in large pieces lies in the page cache in large pieces: see docs/benchmarks.md. */
export async function cachePieceByPiece(path: string, size: number): Promise<void> {
  await dropCache(path);
  const pieces = ['--ioengine=psync', '--rw=randread', '--bs=4096', '--fadvise_hint=random', '--invalidate=0'];
  await runChild('fio', ['--name=cache', `--filename=${path}`, `--size=${size}`, '--readonly', ...pieces]);
}

export async function dropCache(path: string): Promise<void> {
  await runChild('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0']);
}
