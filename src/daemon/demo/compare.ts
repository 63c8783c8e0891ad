import { MIB } from '../../base/units.ts';
import { nodeFileSystem } from '../../io/node-file-system.ts';

const CHUNK_SIZE = 4 * MIB;

/**
 * Compares two files bit for bit, reading all of both. Returns the offset of the first chunk that differs, or
 * undefined when there is none; files of different sizes differ at the end of the shorter one.
 */
export async function firstDifference(
  leftPath: string,
  rightPath: string,
  onProgress: (size: number) => void,
): Promise<number | undefined> {
  const left = await nodeFileSystem.openDisk(leftPath, { readOnly: true, lock: 'none' });
  const right = await nodeFileSystem.openDisk(rightPath, { readOnly: true, lock: 'none' });
  try {
    const size = Math.min(left.size, right.size);
    for (let offset = 0; offset < size; offset += CHUNK_SIZE) {
      const length = Math.min(CHUNK_SIZE, size - offset);
      const [a, b] = [Buffer.allocUnsafe(length), Buffer.allocUnsafe(length)];
      await Promise.all([left.read(a, offset), right.read(b, offset)]);
      if (!a.equals(b)) return offset;
      onProgress(offset + length);
    }
    return left.size === right.size ? undefined : size;
  } finally {
    await left.close();
    await right.close();
  }
}
