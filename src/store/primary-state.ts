/**
 * The primary's superblock: `DISK.twin/primary`.
 *
 * It says which volume this is, which generation and run its operations belong to, and whether the last stop was clean.
 * Every start takes a new run. Only a clean stop is its parent: then the disk is exactly what it was at `sequence`,
 * provided that nobody wrote to it meanwhile (`identity`). What a mirror may lack is in the dirty map, always; after a
 * clean stop that was *in order* it is also in the spool, operation by operation, after `spoolBase`.
 *
 * Content, version 2 (little-endian):
 *
 * | offset | size | field                                                     |
 * | ------ | ---- | --------------------------------------------------------- |
 * | 0      | 16   | volume id                                                 |
 * | 16     | 16   | generation                                                |
 * | 32     | 16   | run                                                       |
 * | 48     | 8    | sequence of the last operation, valid when clean          |
 * | 56     | 8    | last checkpoint number handed out, valid when clean       |
 * | 64     | 4    | flags: bit 0 clean, bit 1 the dirty map is valid, bit 2 in order |
 * | 68     | 4    | zero                                                      |
 * | 72     | 8    | size of the disk in bytes                                 |
 * | 80     | 8    | modification time of the disk, ns, at the clean stop      |
 * | 88     | 8    | sequence after which the spool holds everything, when in order |
 * | 96     | 8    | the checkpoint that a mirror must have, when in order     |
 * | 104    | 8    | dirty map version told while the map was invalid; 0: none |
 * | 112    | 2    | length of the inode text                                  |
 * | 114    | 2    | number of earlier runs, at most 128                       |
 * | 116    | n    | inode text, ASCII, at most 64 bytes                       |
 * | 116 + n | 16 each | earlier runs of this disk, newest first               |
 */
import { assert } from '../base/assert.ts';
import { getUint64, ID_SIZE, putUint64 } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import type { DiskIdentity, FileSystem } from '../io/disk.ts';
import { openStateFile, type StateKind } from './state-file.ts';

export interface PrimaryState {
  readonly volumeId: Buffer;
  readonly generation: Buffer;
  readonly run: Buffer;
  /** Newest first; those beyond EARLIER_RUN_COUNT_MAX are forgotten. */
  readonly earlierRuns: readonly Buffer[];
  readonly sequence: number;
  /** The last number handed out: the next start counts on from it. A mirror need never have got that checkpoint. */
  readonly checkpoint: number;
  readonly clean: boolean;
  /** False: the map could not be written, and every region counts as marked. */
  readonly mapValid: boolean;
  /** Valid when clean: no more than the operations after `spoolBase`, which are in the spool, may be missing on a mirror. */
  readonly inOrder: boolean;
  readonly spoolBase: number;
  /** Valid when in order: the last checkpoint at which something was cleared. A mirror with a lower one is an older copy. */
  readonly clearedCheckpoint: number;
  /** Up to which version of the dirty map a mirror may have been told while that could not be written itself. */
  readonly mapVersionTold: number;
  readonly identity: DiskIdentity;
}

const FLAG_CLEAN = 1;
const FLAG_MAP_VALID = 2;
const FLAG_IN_ORDER = 4;
const FIXED_SIZE = 116;
const EARLIER_RUN_COUNT_MAX = 128;
export const INODE_TEXT_SIZE_MAX = 64;

export function encodePrimaryState(state: PrimaryState): Buffer {
  assert(state.identity.inode.length <= INODE_TEXT_SIZE_MAX, 'inode text length');
  assert(state.earlierRuns.length <= EARLIER_RUN_COUNT_MAX, 'earlier runs within their limit');
  const runsAt = FIXED_SIZE + state.identity.inode.length;
  const content = Buffer.alloc(runsAt + state.earlierRuns.length * ID_SIZE);
  state.volumeId.copy(content, 0);
  state.generation.copy(content, 16);
  state.run.copy(content, 32);
  putUint64(content, 48, state.sequence);
  putUint64(content, 56, state.checkpoint);
  const flags =
    (state.clean ? FLAG_CLEAN : 0) | (state.mapValid ? FLAG_MAP_VALID : 0) | (state.inOrder ? FLAG_IN_ORDER : 0);
  content.writeUInt32LE(flags, 64);
  putUint64(content, 72, state.identity.size);
  content.writeBigUInt64LE(state.identity.modifiedNs, 80);
  putUint64(content, 88, state.spoolBase);
  putUint64(content, 96, state.clearedCheckpoint);
  putUint64(content, 104, state.mapVersionTold);
  content.writeUInt16LE(state.identity.inode.length, 112);
  content.writeUInt16LE(state.earlierRuns.length, 114);
  content.write(state.identity.inode, FIXED_SIZE, 'ascii');
  for (const [index, run] of state.earlierRuns.entries()) run.copy(content, runsAt + index * ID_SIZE);
  return content;
}

export function decodePrimaryState(content: Buffer): PrimaryState {
  const long = content.length >= FIXED_SIZE;
  const inodeLength = long ? content.readUInt16LE(112) : 0;
  const runCount = long ? content.readUInt16LE(114) : 0;
  const runsAt = FIXED_SIZE + inodeLength;
  const fits = long && inodeLength <= INODE_TEXT_SIZE_MAX && runCount <= EARLIER_RUN_COUNT_MAX;
  if (!fits || content.length !== runsAt + runCount * ID_SIZE) {
    throw new Failure('state-corrupt', 'the primary’s state has the wrong length');
  }
  const flags = content.readUInt32LE(64);
  return {
    volumeId: content.subarray(0, ID_SIZE),
    generation: content.subarray(16, 32),
    run: content.subarray(32, 48),
    earlierRuns: Array.from({ length: runCount }, (_, index) =>
      content.subarray(runsAt + index * ID_SIZE, runsAt + (index + 1) * ID_SIZE),
    ),
    sequence: numberAt(content, 48),
    checkpoint: numberAt(content, 56),
    clean: (flags & FLAG_CLEAN) !== 0,
    mapValid: (flags & FLAG_MAP_VALID) !== 0,
    inOrder: (flags & FLAG_IN_ORDER) !== 0,
    spoolBase: numberAt(content, 88),
    clearedCheckpoint: numberAt(content, 96),
    mapVersionTold: numberAt(content, 104),
    identity: {
      size: numberAt(content, 72),
      modifiedNs: content.readBigUInt64LE(80),
      inode: content.toString('ascii', FIXED_SIZE, runsAt),
    },
  };
}

/** Failure: `state-corrupt`. */
function numberAt(content: Buffer, offset: number): number {
  const value = getUint64(content, offset);
  if (value === undefined) throw new Failure('state-corrupt', 'the primary’s state has impossible values');
  return value;
}

/** What a start after this state remembers of the runs before its own. */
export function runsUpTo(state: PrimaryState): Buffer[] {
  return [state.run, ...state.earlierRuns].slice(0, EARLIER_RUN_COUNT_MAX);
}

export const PRIMARY_STATE: StateKind<PrimaryState> = {
  kind: { letters: 'PRIM', version: 2 },
  encode: encodePrimaryState,
  decode: decodePrimaryState,
};

export function primaryStatePath(stateDirectory: string): string {
  return `${stateDirectory}/primary`;
}

/**
 * Serving without replication: nobody marks what is written, and what a clean stop vouched for will no longer be true.
 * Does nothing where there is no state. Must be durable before the first write, and is on return.
 */
export async function forgetCleanStop(files: FileSystem, stateDirectory: string): Promise<void> {
  const file = await openStateFile(files, PRIMARY_STATE, primaryStatePath(stateDirectory));
  if (file === undefined) return;
  const { clean, mapValid } = file.state;
  if (clean || mapValid) await file.write({ ...file.state, clean: false, mapValid: false });
  await file.close();
}
