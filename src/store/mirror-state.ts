/**
 * The mirror's superblock of one export: `DIR/NAME.img.twin/mirror`.
 *
 * The recorded position says: the image holds, durably, every operation of that run up to the sequence. `consistent`
 * says more: the image is the primary's content at that position, or a legal crash state of it: operations that followed
 * may be in it, as on a disk after a power cut. It is false from before the first byte of a seeding, or of a staged run
 * that goes on without room, until after the last one is durable. A staged run changes nothing here until it has been
 * copied into the image.
 *
 * Content, version 2 (little-endian):
 *
 * | offset | size | field                                                          |
 * | ------ | ---- | -------------------------------------------------------------- |
 * | 0      | 16   | replica id, random, made with the image                        |
 * | 16     | 16   | volume id of the primary                                       |
 * | 32     | 16   | generation                                                     |
 * | 48     | 16   | run, zero before the first position                            |
 * | 64     | 8    | recorded sequence                                              |
 * | 72     | 8    | last checkpoint of a rescan that is durable                    |
 * | 80     | 16   | parent of that run, zero without one                           |
 * | 96     | 8    | sequence of the parent run at which that run began             |
 * | 104    | 4    | flags: bit 0 consistent, bit 1 clean stop, bit 2 ever seeded, bit 3 a staged run is being copied |
 * | 108    | 4    | zero                                                           |
 * | 112    | 8    | when the position was recorded, ms since 1970                  |
 * | 120    | 8    | size of the image in bytes, at the clean stop                  |
 * | 128    | 8    | modification time of the image, ns, at the clean stop          |
 * | 136    | 8    | version of the primary's dirty map last seen                   |
 * | 144    | 16   | id of the staged run that was copied last, zero without one    |
 * | 160    | 2    | length of the inode text                                       |
 * | 162    | n    | inode text of the image, ASCII, at most 64 bytes               |
 */
import { assert } from '../base/assert.ts';
import { getUint64, ID_SIZE, putUint64 } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import type { DiskIdentity } from '../io/disk.ts';
import { INODE_TEXT_SIZE_MAX } from './primary-state.ts';
import type { StateKind } from './state-file.ts';

export interface MirrorState {
  readonly replicaId: Buffer;
  readonly volumeId: Buffer;
  readonly generation: Buffer;
  readonly run: Buffer;
  readonly parentRun: Buffer;
  readonly parentSequence: number;
  readonly recorded: number;
  readonly checkpoint: number;
  readonly consistent: boolean;
  readonly clean: boolean;
  readonly seeded: boolean;
  /** Durably true before the first byte of a committed staged run is copied, false again with the position of its end. */
  readonly committing: boolean;
  readonly recordedAtMs: number;
  /** The inode is that of the image always; size and time are those of the clean stop. */
  readonly identity: DiskIdentity;
  /** Never goes down, but for a comparison of everything that is complete. */
  readonly mapVersion: number;
  /** The staged run that was copied last: where it is still there it is not copied again. */
  readonly copiedId: Buffer;
}

const FLAG_CONSISTENT = 1;
const FLAG_CLEAN = 2;
const FLAG_SEEDED = 4;
const FLAG_COMMITTING = 8;
const FIXED_SIZE = 162;

function encode(state: MirrorState): Buffer {
  assert(state.identity.inode.length <= INODE_TEXT_SIZE_MAX, 'inode text length');
  const content = Buffer.alloc(FIXED_SIZE + state.identity.inode.length);
  state.replicaId.copy(content, 0);
  state.volumeId.copy(content, 16);
  state.generation.copy(content, 32);
  state.run.copy(content, 48);
  putUint64(content, 64, state.recorded);
  putUint64(content, 72, state.checkpoint);
  state.parentRun.copy(content, 80);
  putUint64(content, 96, state.parentSequence);
  const flags =
    (state.consistent ? FLAG_CONSISTENT : 0) | (state.clean ? FLAG_CLEAN : 0) | (state.seeded ? FLAG_SEEDED : 0);
  content.writeUInt32LE(flags | (state.committing ? FLAG_COMMITTING : 0), 104);
  putUint64(content, 112, state.recordedAtMs);
  putUint64(content, 120, state.identity.size);
  content.writeBigUInt64LE(state.identity.modifiedNs, 128);
  putUint64(content, 136, state.mapVersion);
  state.copiedId.copy(content, 144);
  content.writeUInt16LE(state.identity.inode.length, 160);
  content.write(state.identity.inode, FIXED_SIZE, 'ascii');
  return content;
}

function decode(content: Buffer): MirrorState {
  if (content.length < FIXED_SIZE) throw new Failure('state-corrupt', 'the mirror’s state is too short');
  const recorded = getUint64(content, 64);
  const checkpoint = getUint64(content, 72);
  const parentSequence = getUint64(content, 96);
  const recordedAtMs = getUint64(content, 112);
  const size = getUint64(content, 120);
  const mapVersion = getUint64(content, 136);
  const inodeLength = content.readUInt16LE(160);
  if (
    recorded === undefined ||
    checkpoint === undefined ||
    parentSequence === undefined ||
    recordedAtMs === undefined ||
    size === undefined ||
    mapVersion === undefined
  ) {
    throw new Failure('state-corrupt', 'the mirror’s state has impossible values');
  }
  if (inodeLength > INODE_TEXT_SIZE_MAX || content.length !== FIXED_SIZE + inodeLength) {
    throw new Failure('state-corrupt', 'the mirror’s state has the wrong length');
  }
  const flags = content.readUInt32LE(104);
  return {
    replicaId: content.subarray(0, ID_SIZE),
    volumeId: content.subarray(16, 32),
    generation: content.subarray(32, 48),
    run: content.subarray(48, 64),
    parentRun: content.subarray(80, 96),
    parentSequence,
    recorded,
    checkpoint,
    consistent: (flags & FLAG_CONSISTENT) !== 0,
    clean: (flags & FLAG_CLEAN) !== 0,
    seeded: (flags & FLAG_SEEDED) !== 0,
    committing: (flags & FLAG_COMMITTING) !== 0,
    recordedAtMs,
    mapVersion,
    copiedId: content.subarray(144, 144 + ID_SIZE),
    identity: {
      size,
      modifiedNs: content.readBigUInt64LE(128),
      inode: content.toString('ascii', FIXED_SIZE, FIXED_SIZE + inodeLength),
    },
  };
}

export const MIRROR_STATE: StateKind<MirrorState> = { kind: { letters: 'MIRR', version: 2 }, encode, decode };

/** Name of the state inside `NAME.img.twin/`. */
export const MIRROR_STATE_NAME = 'mirror';
