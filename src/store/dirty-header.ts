/**
 * The header of the dirty map: what disk and which mirrors it is about. Two slots of a record-file stand at the start of
 * the map's file and are written in turn, so that one is whole whatever a power cut leaves.
 *
 * Content, kind `DMAP`, version 1 (little-endian):
 *
 * | offset | size    | field                                                  |
 * | ------ | ------- | ------------------------------------------------------ |
 * | 0      | 8       | size of the disk in bytes                              |
 * | 8      | 8       | bytes of a region                                      |
 * | 16     | 8       | map version when this was written                      |
 * | 24     | 2       | number of planes                                       |
 * | 26     | 6       | zero                                                   |
 * | 32     | 8       | the highest version that a mirror may have been told   |
 * | 40     | 16 each | replica id of each plane, zero before there is one     |
 */
import { getUint64, ID_SIZE, putUint64 } from '../base/bytes.ts';
import { isFailure } from '../base/failure.ts';
import { decodeSlot, encodeSlot, type RecordKind, SLOT_SIZE } from './record-file.ts';

/** Mirrors of a primary. */
export const PLANES_MAX = 16;
/** Both slots: the pages begin behind them. */
export const HEADER_SIZE: number = 2 * SLOT_SIZE;

const KIND: RecordKind = { letters: 'DMAP', version: 1 };
const FIXED_SIZE = 40;

export interface DirtyHeader {
  readonly size: number;
  readonly regionSize: number;
  readonly version: number;
  readonly versionTold: number;
  readonly replicaIds: readonly Buffer[];
}

/** Where in the file the slot of a counter lies. */
export function headerOffset(counter: number): number {
  return (counter % 2) * SLOT_SIZE;
}

/** One slot, to be written at `headerOffset(counter)`. */
export function encodeHeader(header: DirtyHeader, counter: number): Buffer {
  const content = Buffer.alloc(FIXED_SIZE + header.replicaIds.length * ID_SIZE);
  putUint64(content, 0, header.size);
  putUint64(content, 8, header.regionSize);
  putUint64(content, 16, header.version);
  content.writeUInt16LE(header.replicaIds.length, 24);
  putUint64(content, 32, header.versionTold);
  for (const [plane, id] of header.replicaIds.entries()) id.copy(content, FIXED_SIZE + plane * ID_SIZE);
  return encodeSlot(KIND, counter, content);
}

/** The newer of the whole slots at the start of `bytes`; undefined when there is none. */
export function decodeHeader(bytes: Buffer): { counter: number; header: DirtyHeader } | undefined {
  let newest: { counter: number; header: DirtyHeader } | undefined;
  for (const at of [0, SLOT_SIZE]) {
    const slot = wholeSlot(bytes.subarray(at, at + SLOT_SIZE));
    const header = slot === undefined ? undefined : decodeContent(slot.content);
    if (slot === undefined || header === undefined) continue;
    if (newest === undefined || slot.counter > newest.counter) newest = { counter: slot.counter, header };
  }
  return newest;
}

/** A slot of another kind or version is none: what it says cannot be used, and the map is made anew. */
function wholeSlot(slot: Buffer): { counter: number; content: Buffer } | undefined {
  try {
    return decodeSlot(KIND, slot);
  } catch (error) {
    if (isFailure(error, 'state-corrupt')) return undefined;
    throw error;
  }
}

function decodeContent(content: Buffer): DirtyHeader | undefined {
  if (content.length < FIXED_SIZE) return undefined;
  const size = getUint64(content, 0);
  const regionSize = getUint64(content, 8);
  const version = getUint64(content, 16);
  const versionTold = getUint64(content, 32);
  const planeCount = content.readUInt16LE(24);
  if (size === undefined || regionSize === undefined || version === undefined) return undefined;
  if (versionTold === undefined) return undefined;
  if (planeCount > PLANES_MAX || content.length !== FIXED_SIZE + planeCount * ID_SIZE) return undefined;
  const replicaIds = Array.from({ length: planeCount }, (_, plane) =>
    content.subarray(FIXED_SIZE + plane * ID_SIZE, FIXED_SIZE + (plane + 1) * ID_SIZE),
  );
  return { size, regionSize, version, versionTold, replicaIds };
}
