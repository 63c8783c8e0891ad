import { randomFillSync } from 'node:crypto';
import { open } from 'node:fs/promises';

const PIECE_SIZE = 1 << 20;

/** Writes `dataSize` bytes in pieces of 1 MiB, all different, spread evenly over a file of `size` bytes, and syncs it. */
export async function fillDisk(path: string, size: number, dataSize: number): Promise<void> {
  const count = Math.floor(dataSize / PIECE_SIZE);
  const stride = Math.floor(size / count / PIECE_SIZE) * PIECE_SIZE;
  const piece = randomFillSync(Buffer.allocUnsafe(PIECE_SIZE));
  const file = await open(path, 'r+');
  try {
    for (let index = 0; index < count; index += 1) {
      piece.writeDoubleLE(index, 0);
      await file.write(piece, 0, piece.length, index * stride);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}
