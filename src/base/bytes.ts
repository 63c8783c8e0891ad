/** Little-endian integers and identifiers in our own formats and frames. Callers have checked the bounds. */

/** Writes a whole number up to 2^53-1 as 64 bits, little-endian. */
export function putUint64(target: Buffer, offset: number, value: number): void {
  target.writeUInt32LE(value >>> 0, offset);
  target.writeUInt32LE(Math.floor(value / 0x1_0000_0000), offset + 4);
}

/** Reads 64 bits, little-endian; undefined above 2^53-1. */
export function getUint64(source: Buffer, offset: number): number | undefined {
  const value = source.readUInt32LE(offset) + source.readUInt32LE(offset + 4) * 0x1_0000_0000;
  return Number.isSafeInteger(value) ? value : undefined;
}

/** Bytes of a volume id, generation, run or replica id. */
export const ID_SIZE = 16;

/** No id: sixteen zero bytes. */
export const NO_ID: Buffer = Buffer.alloc(ID_SIZE);
