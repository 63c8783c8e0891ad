/**
 * Blocks whose content says by which write they came, so that an image can be read as a statement about the past.
 *
 * A block, little-endian:
 *
 * | offset | size | field                                               |
 * | ------ | ---- | --------------------------------------------------- |
 * | 0      | 4    | CRC-32 of the rest of the block                     |
 * | 4      | 4    | number of the write, from 1                         |
 * | 8      | 4    | number of the block on the disk                     |
 * | 12     | 4084 | noise, which differs from write to write            |
 *
 * A block of zeroes was never written.
 */
import { randomFillSync } from 'node:crypto';
import { open } from 'node:fs/promises';
import { setImmediate as turn } from 'node:timers/promises';
import { crc32 } from 'node:zlib';

export const BLOCK_SIZE = 4096;

const HEADER_SIZE = 12;
/** A prime, so that blocks begin anywhere in the noise. */
const NOISE_STRIDE = 7919;
const NOISE = randomFillSync(Buffer.allocUnsafe(1 << 20));
const ZEROES = Buffer.alloc(BLOCK_SIZE);
/** Read at a time when an image is looked through. */
const CHUNK_SIZE = 1 << 20;

/** What a block can be besides the work of a write. */
export const UNWRITTEN = 0;
export const BROKEN = -1;

/** Fills `target`, whole blocks from `firstBlock` on, with the content that write number `write` gives them. */
export function stampBlocks(target: Buffer, firstBlock: number, write: number): void {
  for (let at = 0, block = firstBlock; at < target.length; at += BLOCK_SIZE, block += 1) {
    const from = ((write * 31 + block) * NOISE_STRIDE) % (NOISE.length - BLOCK_SIZE);
    NOISE.copy(target, at + HEADER_SIZE, from, from + BLOCK_SIZE - HEADER_SIZE);
    target.writeUInt32LE(write, at + 4);
    target.writeUInt32LE(block, at + 8);
    target.writeUInt32LE(crc32(target.subarray(at + 4, at + BLOCK_SIZE)), at);
  }
}

/** The number of the write that the block `number` holds, UNWRITTEN, or BROKEN: torn, mixed or of another place. */
export function writeOf(block: Buffer, number: number): number {
  if (block.readUInt32LE(4) === 0) return block.equals(ZEROES) ? UNWRITTEN : BROKEN;
  const sound = block.readUInt32LE(8) === number && block.readUInt32LE(0) === crc32(block.subarray(4));
  return sound ? block.readUInt32LE(4) : BROKEN;
}

/** `writeOf` each of the first `count` blocks of an image. Lets other work go on meanwhile. */
export async function writesInImage(path: string, count: number): Promise<Int32Array> {
  const writes = new Int32Array(count);
  const chunk = Buffer.alloc(CHUNK_SIZE);
  const file = await open(path, 'r');
  try {
    for (let block = 0; block < count; ) {
      const size = Math.min(chunk.length, (count - block) * BLOCK_SIZE);
      for (let filled = 0; filled < size; ) {
        const { bytesRead } = await file.read(chunk, filled, size - filled, block * BLOCK_SIZE + filled);
        if (bytesRead === 0) throw new Error(`${path} is shorter than ${count} blocks`);
        filled += bytesRead;
      }
      for (let at = 0; at < size; at += BLOCK_SIZE, block += 1) {
        writes[block] = writeOf(chunk.subarray(at, at + BLOCK_SIZE), block);
      }
      await turn();
    }
  } finally {
    await file.close();
  }
  return writes;
}
