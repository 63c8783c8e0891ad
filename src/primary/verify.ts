/**
 * Verify: compares while clients write, and reports what differs; repairs nothing by itself.
 *
 * A difference of digests may only mean that the two sides were read at different moments. So each suspect block is
 * digested again under the range lock, and the digest enters the stream as a CHECK: the mirror compares at that very
 * position, and its answer is exact. While operations wait in the spool, that position is not there to be had: it waits,
 * but not for ever.
 *
 * One run is one pass with a key of its own, over everything or over a part (a slice of the periodic verification). It
 * ends when its means say so (the session is over, or something else needs it); whatever the reason, no check is left
 * open behind it: its result would belong to nobody.
 */
import { Failure, isFailure } from '../base/failure.ts';
import { DIGEST_KEY_SIZE, digestOf } from '../io/digest.ts';
import type { Random } from '../io/random.ts';
import { type Frame, FrameType } from '../link/frame.ts';
import type { Range } from '../rescan/source.ts';
import { Comparison, type ComparisonMeans } from './comparison.ts';
import { DifferingRanges } from './differing-ranges.ts';
import { readLocked } from './local-disk.ts';
import type { Replica } from './replica.ts';
import { DIFFERING_RANGES_MAX, type RescanProgress, type VerifyReport } from './status.ts';

const BLOCK_SIZE = 4096;
/** Checks on their way at a time. */
const OPEN_CHECKS_MAX = 256;
const PROGRESS_INTERVAL_MS = 200;
/** A block waits so long for the spool to become empty; a link that carries less than is written never empties it. */
const PATIENCE_MS = 30_000;

/** What is compared: from there to the end of the disk, or as far as it goes. */
interface VerifyPart {
  /** Bytes; a multiple of 1 MiB. */
  readonly from: number;
  /** Bytes compared at a time, a multiple of 1 MiB; undefined: as many as is good for speed. */
  readonly batchSize: number | undefined;
  /** Asked after each batch, with the bytes read here so far: false ends it once the batches on their way are done. */
  goesOn(readSize: number): boolean;
}

interface VerifyEvents {
  /** A block, 4096 bytes at most, that differed at one position of the stream. Waited for. */
  differs(offset: number, length: number): void | Promise<void>;
  /** The local disk cannot read a range: whether it is the same nobody knows. */
  unreadable(offset: number, length: number): void;
  /** Everything from the beginning of the part to `end` has been compared, and what differed has been told. */
  compared(end: number, progress: () => RescanProgress): void;
}

interface OpenCheck {
  readonly offset: number;
  readonly length: number;
  settle(same: boolean): void;
  fail(reason: Failure): void;
}

export class Verify {
  readonly #means: ComparisonMeans;
  readonly #random: Random;
  readonly #replica: Replica;
  #open: OpenCheck[] = [];

  constructor(means: ComparisonMeans, random: Random, replica: Replica) {
    this.#means = means;
    this.#random = random;
    this.#replica = replica;
  }

  /** Compares everything. Failures: `not-ready` when the spool never gets empty, `connection-lost`. */
  async run(onProgress: (progress: RescanProgress) => void): Promise<VerifyReport> {
    const { clock } = this.#means;
    const startMs = clock.nowMs();
    let shownMs = startMs;
    const found = new DifferingRanges(DIFFERING_RANGES_MAX);
    const add = (offset: number, length: number): void => found.add(offset, length);
    const comparison = await this.runPart(
      { from: 0, batchSize: undefined, goesOn: () => true },
      {
        differs: add,
        unreadable: add,
        compared: (_end, progress) => {
          const nowMs = clock.nowMs();
          if (nowMs - shownMs < PROGRESS_INTERVAL_MS) return;
          shownMs = nowMs;
          onProgress(progress());
        },
      },
    );
    onProgress(comparison.progress());
    return {
      comparedSize: comparison.comparedSize,
      differingSize: found.size,
      ranges: found.ranges,
      truncated: found.truncated,
      elapsedMs: clock.nowMs() - startMs,
    };
  }

  /** Compares a part. Failures: those of `run`, and of the events. */
  async runPart(part: VerifyPart, events: VerifyEvents): Promise<Pick<Comparison, 'comparedSize' | 'progress'>> {
    const { size } = this.#means.local.disk;
    const key = this.#random.bytes(DIGEST_KEY_SIZE);
    let goesOn = true;
    const pass = this.#replica.remark(FrameType.PASS, 0, 0, 0, key);
    const comparison: Comparison = new Comparison(this.#means, {
      scope: 'everything',
      scopeSize: size - part.from,
      key,
      pass: 1,
      passSent: () => pass.data === undefined,
      seeding: false,
      batchSize: part.batchSize,
      next: (at, lengthMax) => {
        const offset = Math.max(at, part.from);
        return !goesOn || offset >= size ? undefined : { offset, length: Math.min(lengthMax, size - offset) };
      },
      reached: () => undefined,
      differing: (range) => this.#check(range, key, events),
      unreadable: ({ offset, length }) => events.unreadable(offset, length),
      compared: ({ offset, length }) => {
        goesOn &&= part.goesOn(comparison.readSize);
        events.compared(offset + length, () => comparison.progress());
      },
    });
    await comparison.run();
    return comparison;
  }

  /** A CHECK_RESULT: in the order of the checks. Failure: `frame-invalid`. */
  result(frame: Frame): void {
    const check = this.#open.shift();
    if (check === undefined || check.offset !== frame.offset || check.length !== frame.length) {
      throw new Failure('frame-invalid', 'the result of a check that was not asked for');
    }
    check.settle(frame.flags === 1);
  }

  end(): void {
    for (const check of this.#open.splice(0)) check.fail(new Failure('connection-lost', 'the session ended'));
  }

  async #check(range: Range, key: Uint8Array, events: VerifyEvents): Promise<void> {
    let results: Promise<void>[] = [];
    try {
      for (let at = range.offset; at < range.offset + range.length; at += BLOCK_SIZE) {
        const length = Math.min(BLOCK_SIZE, range.offset + range.length - at);
        let placed: { answer: Promise<boolean> };
        try {
          placed = await this.#place(at, length, key);
        } catch (error) {
          if (!isFailure(error, 'io-error')) throw error;
          // It could be read a moment ago.
          events.unreadable(at, length);
          continue;
        }
        const result = placed.answer.then((equal) => (equal ? undefined : events.differs(at, length)));
        // Awaited below with the others of its lot.
        result.catch(() => undefined);
        results.push(result);
        if (results.length >= OPEN_CHECKS_MAX) {
          await Promise.all(results);
          results = [];
        }
      }
      await Promise.all(results);
    } finally {
      // Nobody would know what to do with an answer that comes later.
      await Promise.allSettled(results);
    }
  }

  /**
   * Puts the check of a block into the stream. Returns its answer to be, in an object: it is not waited for here.
   * Failures: `not-ready`, `connection-lost`, `io-error`.
   */
  async #place(at: number, length: number, key: Uint8Array): Promise<{ answer: Promise<boolean> }> {
    const { pacing, local } = this.#means;
    const ended = (): boolean => this.#means.ended();
    const { clock } = this.#means;
    const startMs = clock.nowMs();
    for (;;) {
      await pacing.until(() => this.#replica.backlog.isInWindow || clock.nowMs() - startMs > PATIENCE_MS, ended);
      if (clock.nowMs() - startMs > PATIENCE_MS) {
        throw new Failure('not-ready', 'more is written than the link carries: blocks that change cannot be compared');
      }
      await pacing.room(BLOCK_SIZE, ended);
      let answer: Promise<boolean> | undefined;
      await readLocked(local, at, length, (data) => {
        // Also while the range was waited for the session may have ended: then nobody would settle the check.
        if (ended()) throw new Failure('connection-lost', 'the session ended');
        if (!this.#replica.backlog.isInWindow) return;
        this.#replica.remark(FrameType.CHECK, 0, at, length, digestOf(data, key, at));
        answer = new Promise((settle, fail) => this.#open.push({ offset: at, length, settle, fail }));
      });
      if (answer !== undefined) return { answer };
    }
  }
}
