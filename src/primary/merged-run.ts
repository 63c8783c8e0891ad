/**
 * Sends one frozen part of the backlog over a session: its ranges in order of offset, as repairs, then a checkpoint at
 * which the mirror is at the part's end.
 *
 * Alone it is a staged run of its own: STAGE, the ranges, CHECKPOINT with COMPLETE. Inside a staged run that is open (a
 * rescan) it is part of that, and the last checkpoint only makes it durable there. When the link is lost in its middle
 * and the mirror has kept the staged run, the next session goes on behind the last checkpoint that was done: they come
 * every few seconds, so that also a link that never lasts gets it through.
 *
 * All frames but the last carry the sequence that the stream is at already: the mirror stays there until the whole part
 * is staged.
 */
import { ID_SIZE } from '../base/bytes.ts';
import { Failure, isFailure } from '../base/failure.ts';
import { GIB, KIB } from '../base/units.ts';
import type { Clock } from '../io/clock.ts';
import type { Random } from '../io/random.ts';
import { FRAME_REPAIR, FrameType } from '../link/frame.ts';
import type { MergedPart } from './merged-part.ts';

/** Bytes read and sent at a time. */
const PIECE_SIZE = 256 * KIB;
const ZERO_PIECE_SIZE = GIB;
const CHECKPOINT_INTERVAL_MS = 2_000;

/** What a session lends to it. */
export interface MergedMeans {
  readonly clock: Clock;
  readonly random: Random;
  /** The sequence that the stream is at: that of the last entry of the window, or what the session began after. */
  sequence(): number;
  /** Puts a frame of this session at the end of the window. */
  remark(
    type: (typeof FrameType)['WRITE' | 'ZERO' | 'STAGE'],
    flags: number,
    sequence: number,
    offset: number,
    length: number,
    data?: Uint8Array,
  ): void;
  /** Puts a checkpoint at the end of the window; resolves when the mirror holds everything before it durably. */
  place(complete: boolean, sequence: number): Promise<{ readonly number: number }>;
  /** Waits until so many bytes may enter the window, or the session has ended. */
  room(size: number): Promise<void>;
  ended(): boolean;
}

/**
 * `alone`: no staged run is open. `inside`: one is, and what completes it comes later. `resumed`: the session has begun
 * with the staged run of `part.transfer`, of which the mirror holds that checkpoint.
 */
export type MergedPlace = 'alone' | 'inside' | { readonly resumedCheckpoint: number };

/**
 * Resolves when the mirror holds the part durably: in its image, or (`inside`) in the staged run. Failures:
 * `connection-lost` when the session ends first; `io-error` when the part cannot be read: order must be given up.
 */
export async function sendMerged(part: MergedPart, means: MergedMeans, place: MergedPlace): Promise<void> {
  let offset = 0;
  if (place === 'alone') {
    const stagingId = means.random.bytes(ID_SIZE);
    part.transfer = { stagingId, checkpoint: 0, offset: 0 };
    means.remark(FrameType.STAGE, 0, means.sequence(), 0, 0, stagingId);
  } else if (place === 'inside') {
    part.transfer = undefined;
  } else if (part.transfer !== undefined && place.resumedCheckpoint >= part.transfer.checkpoint) {
    offset = part.transfer.offset;
  }
  let checkpointMs = means.clock.nowMs();
  for (let range = part.next(offset); range !== undefined; range = part.next(offset)) {
    const length = Math.min(range.length, range.zero ? ZERO_PIECE_SIZE : PIECE_SIZE);
    await means.room(range.zero ? 0 : length);
    const data = range.zero ? undefined : await readPiece(part, range.offset, length);
    if (means.ended()) throw new Failure('connection-lost', 'the session ended');
    const type = range.zero ? FrameType.ZERO : FrameType.WRITE;
    means.remark(type, FRAME_REPAIR, means.sequence(), range.offset, length, data);
    offset = range.offset + length;
    if (place === 'inside' || means.clock.nowMs() - checkpointMs < CHECKPOINT_INTERVAL_MS) continue;
    checkpointMs = means.clock.nowMs();
    rememberAt(part, offset, means.place(false, means.sequence()));
  }
  await means.place(place !== 'inside', part.end);
}

async function readPiece(part: MergedPart, offset: number, length: number): Promise<Buffer> {
  const data = Buffer.allocUnsafeSlow(length);
  await part.read(data, offset);
  return data;
}

/** When the mirror holds the checkpoint, a later session may begin at `offset`. */
function rememberAt(part: MergedPart, offset: number, placed: Promise<{ readonly number: number }>): void {
  const { transfer } = part;
  placed.then(
    ({ number }) => {
      // Not where another run has begun meanwhile.
      if (transfer === undefined || part.transfer?.stagingId !== transfer.stagingId) return;
      part.transfer = { stagingId: transfer.stagingId, checkpoint: number, offset };
    },
    (error: unknown) => {
      // The session ended: the last wait says so too.
      if (!isFailure(error)) throw error;
    },
  );
}
