import { randomFillSync } from 'node:crypto';
import { open } from 'node:fs/promises';

const PIECE_SIZE = 1 << 20;

/**
 * Writes `dataSize` bytes in pieces of `pieceSize`, 1 MiB unless given, spread evenly over the first `size` bytes of a
 * file, each piece different, and syncs it.
 */
export async function fillDisk(path: string, size: number, dataSize: number, pieceSize = PIECE_SIZE): Promise<void> {
  const count = Math.floor(dataSize / pieceSize);
  const stride = Math.floor(size / count / pieceSize) * pieceSize;
  const piece = randomFillSync(Buffer.allocUnsafe(pieceSize));
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
