/**
 * What clients wrote, and whether an image is an exact past state of it.
 *
 * Writes are numbered from 1 in the order in which they were sent. Of two that overlap the later one was sent after the
 * earlier had been answered, so each block has one order of writers: that of their numbers. Writes that do not overlap may
 * have been under way together, and then either order is right.
 *
 * An image is an exact past state when its writes are a set that is closed under "was answered before ... was sent":
 * whenever a write is in it, so is every write that had been answered before that one was sent; and each write is in it
 * whole. A write that later ones have covered counts as in it where they are.
 */
import { BLOCK_SIZE, BROKEN } from './stamped-blocks.ts';

interface Write {
  readonly firstBlock: number;
  readonly blockCount: number;
  /** Moments: numbers of events, in one order. Infinity while not answered. */
  readonly sent: number;
  answered: number;
  answeredMs: number;
}

/** What an image is. */
export interface Judgement {
  /** Undefined for an exact past state; otherwise what is wrong with it. */
  readonly problem: string | undefined;
  /** The newest write in it; 0 when there is none. */
  readonly newest: number;
  /** Writes that had been answered when the image was taken and are not in it, and their bytes. */
  readonly missingWrites: number;
  readonly missingSize: number;
  /** Since when it is out of date: from the answer to the first missing write to the moment it was taken; 0 for none. */
  readonly ageMs: number;
}

export class WriteHistory {
  readonly #writes: Write[] = [];
  #moment = 0;
  #answeredSize = 0;
  #answeredCount = 0;

  /** Writes sent so far. */
  get count(): number {
    return this.#writes.length;
  }

  /** Writes that have been answered, and their bytes. */
  get answeredCount(): number {
    return this.#answeredCount;
  }

  get answeredSize(): number {
    return this.#answeredSize;
  }

  /** A write is about to be sent. No write on one of its blocks is under way. Returns its number. */
  send(firstBlock: number, blockCount: number): number {
    this.#moment += 1;
    const sent = this.#moment;
    this.#writes.push({ firstBlock, blockCount, sent, answered: Number.POSITIVE_INFINITY, answeredMs: 0 });
    return this.#writes.length;
  }

  answer(number: number, nowMs: number): void {
    const write = this.#writes[number - 1]!;
    this.#moment += 1;
    write.answered = this.#moment;
    write.answeredMs = nowMs;
    this.#answeredCount += 1;
    this.#answeredSize += write.blockCount * BLOCK_SIZE;
  }

  /** Judges an image taken at `takenMs` by the write that each block holds, as `writesInImage` tells. */
  judge(found: Int32Array, takenMs: number): Judgement {
    let newest = 0;
    let lastSent = 0;
    for (const [block, number] of found.entries()) {
      const write = number > 0 ? this.#writes[number - 1] : undefined;
      const covers = write !== undefined && block >= write.firstBlock && block < write.firstBlock + write.blockCount;
      if (number === BROKEN || (number > 0 && !covers))
        return wrong(`block ${block} holds what no write has put there`);
      if (write === undefined) continue;
      newest = Math.max(newest, number);
      lastSent = Math.max(lastSent, write.sent);
    }
    let missingWrites = 0;
    let missingSize = 0;
    let oldestMs = takenMs;
    for (const [index, write] of this.#writes.entries()) {
      const number = index + 1;
      const { older, same } = this.#stateOf(write, number, found);
      if (older === 0) continue;
      if (same > 0) return wrong(`write ${number} is there in part`);
      if (write.answered < lastSent) return wrong(`write ${number} is missing, a later one is there`);
      if (write.answered === Number.POSITIVE_INFINITY || write.answeredMs > takenMs) continue;
      missingWrites += 1;
      missingSize += write.blockCount * BLOCK_SIZE;
      oldestMs = Math.min(oldestMs, write.answeredMs);
    }
    return { problem: undefined, newest, missingWrites, missingSize, ageMs: takenMs - oldestMs };
  }

  /** Of the blocks of a write, how many hold something older, and how many hold it or something that came upon it. */
  #stateOf(write: Write, number: number, found: Int32Array): { older: number; same: number } {
    let older = 0;
    for (let block = write.firstBlock; block < write.firstBlock + write.blockCount; block += 1) {
      if (found[block]! < number) older += 1;
    }
    return { older, same: write.blockCount - older };
  }
}

function wrong(problem: string): Judgement {
  return { problem, newest: 0, missingWrites: 0, missingSize: 0, ageMs: 0 };
}
