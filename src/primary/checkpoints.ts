/**
 * Checkpoints: places in the stream at which the mirror makes everything durable and says so. They let a rescan clear
 * its marks as it goes, so that an interrupted one goes on where it was, and let a clean stop know that nothing is
 * missing.
 *
 * Numbers only ever go up, across sessions and clean restarts: the mirror writes the last one down, and a mirror whose
 * number is lower than ours is an older copy of itself.
 */
import { Failure } from '../base/failure.ts';
import { FRAME_COMPLETE, type Frame, FrameType } from '../link/frame.ts';
import type { Replica } from './replica.ts';

/** Hands out checkpoint numbers. */
export class CheckpointNumbers {
  #last: number;

  constructor(last: number) {
    this.#last = last;
  }

  get last(): number {
    return this.#last;
  }

  next(): number {
    this.#last += 1;
    return this.#last;
  }
}

interface Pending {
  readonly number: number;
  done(sequence: number): void;
  failed(reason: Failure): void;
}

export class Checkpoints {
  readonly #replica: Replica;
  readonly #numbers: CheckpointNumbers;
  #pending: Pending[] = [];
  #ended = false;

  constructor(replica: Replica, numbers: CheckpointNumbers) {
    this.#replica = replica;
    this.#numbers = numbers;
  }

  /**
   * Puts a checkpoint into the stream, synchronously; the mirror is at `sequence` there. Resolves with its sequence and
   * number once the mirror holds everything before it durably; rejects with `connection-lost` when the session ends first.
   */
  place(
    complete: boolean,
    sequence: number = this.#replica.streamSequence,
  ): Promise<{ sequence: number; number: number }> {
    // Nobody would settle it any more.
    if (this.#ended) return Promise.reject(sessionEnded());
    const number = this.#numbers.next();
    const placed = new Promise<{ sequence: number; number: number }>((resolve, reject) => {
      this.#pending.push({ number, done: (sequence) => resolve({ sequence, number }), failed: reject });
    });
    this.#replica.remark(FrameType.CHECKPOINT, complete ? FRAME_COMPLETE : 0, number, 0, undefined, sequence);
    return placed;
  }

  /** A CHECKPOINT_DONE. Failure: `frame-invalid`. */
  done(frame: Frame): void {
    const first = this.#pending.shift();
    if (first === undefined || first.number !== frame.offset || frame.sequence > this.#replica.sequence) {
      throw new Failure('frame-invalid', 'a checkpoint that was not placed');
    }
    first.done(frame.sequence);
  }

  end(): void {
    this.#ended = true;
    for (const pending of this.#pending.splice(0)) pending.failed(sessionEnded());
  }
}

function sessionEnded(): Failure {
  return new Failure('connection-lost', 'the session ended');
}
