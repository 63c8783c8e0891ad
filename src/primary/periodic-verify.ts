/**
 * The periodic verification: every so often a slow comparison of everything, which finds what changed on either side
 * without a write: a bit that flipped, a sector that went elsewhere, a hand in the wrong file.
 *
 * A *cycle* goes once over the disk, in *slices*. Each slice is a verify of its own (one pass, one key) and short, so that
 * nothing waits for it long: between two of them keys are renewed, a verify on request gets its turn, the record is
 * written. It gives way at once to a stop and to a verify on request, and then goes on where it was; so it does after a
 * restart. It runs while the mirror is streaming or catching up, and counts for nothing else.
 *
 * What differs is reported. Which side is wrong no digest can tell. With `repair` the disk of the primary is taken for the
 * truth: what it holds is sent once more, as an operation like any other (`restate`), after the check that found the
 * difference. So order is kept, the range is marked until the mirror holds it durably, and a session that ends meanwhile loses
 * nothing. `repaired` counts what the mirror has acknowledged as durable; whether it helped the next cycle tells.
 *
 * What was found beyond the offset that an interrupted slice had reached is compared again, so it is not counted, unless
 * it has been repaired already: then it will not be found again.
 */
import { isFailure } from '../base/failure.ts';
import { Fifo } from '../base/fifo.ts';
import type { Log } from '../base/log.ts';
import { alignDown, formatSize, MIB } from '../base/units.ts';
import type { Clock } from '../io/clock.ts';
import type { Range } from '../rescan/source.ts';
import type { VerifyCycle } from '../store/verify-state.ts';
import { Cadence } from './cadence.ts';
import { BATCH_SIZE_MAX } from './comparison.ts';
import { DifferingRanges } from './differing-ranges.ts';
import type { Pacing } from './pacing.ts';
import { RangeNames } from './range-names.ts';
import type { PrimarySession } from './session.ts';
import type { VerificationStatus } from './status.ts';
import { verificationStatus } from './verification-status.ts';
import type { VerifyRecord } from './verify-record.ts';

/** A slice ends when so much has been read here, or after so long, or when so many blocks differ. */
const SLICE_SIZE = 256 * MIB;
const SLICE_MS = 30_000;
const SLICE_FOUND_MAX = 10_000;
/** How often is looked whether a slice may begin. */
const LOOK_MS = 500;
const PAUSE_MS_MAX = 60_000;
/** Keys that cannot be renewed for so long do not keep it waiting any longer. */
const RENEWAL_PATIENCE_MS = 60_000;
/** After slices that failed: a mirror that cannot read its image ends the session each time it is asked. */
const RETRY_FIRST_MS = 5_000;
const RETRY_MAX_MS = 3_600_000;
/** Ranges of one cycle of which the log tells, at least. */
const LOGGED_MAX = 64;

export interface PeriodicVerifySettings {
  /** From the beginning of a cycle to that of the next. */
  readonly everyMs: number;
  /** Bytes per second read on each side, at most. */
  readonly rate: number;
  readonly repair: boolean;
  /** What lies at each of some ranges, as far as can be told. Never rejects; settles in bounded time. */
  readonly ownersOf?: ((ranges: readonly Range[]) => Promise<readonly (string | undefined)[]>) | undefined;
}

/** What it needs of the link. */
interface VerifyLink {
  /** Failure: `not-ready`. */
  inStep(): Pick<PrimarySession, 'verify' | 'comparing'>;
  readonly renewalDue: boolean;
  readonly replicaId: string | undefined;
  readonly durable: number;
}

interface PeriodicVerifyMeans {
  readonly clock: Clock;
  readonly link: VerifyLink;
  readonly record: VerifyRecord;
  readonly pacing: Pacing;
  /** Bytes of the disk. */
  readonly size: number;
  /** A number in [0, 1). */
  uniform(): number;
  /** @see ReplicatingVolume.restate */
  restate(offset: number, length: number): Promise<number>;
}

/** A block that differed, or a range that cannot be read here. */
interface Found extends Range {
  readonly unreadable: boolean;
  /** Its repair has been sent. */
  readonly sent: boolean;
}

export class PeriodicVerify {
  readonly #means: PeriodicVerifyMeans;
  readonly #log: Log;
  readonly #settings: PeriodicVerifySettings;
  readonly #cadence: Cadence;
  readonly #names: RangeNames;
  /** Repairs that the mirror has not acknowledged, by the operation at which it holds them. */
  readonly #unconfirmed = new Fifo<{ sequence: number; size: number }>();
  /** Bytes per second, of the last slice. */
  #rate: number | undefined;
  /** Ranges of this cycle that the log has told of. */
  #logged = 0;
  #failures = 0;
  #problem: string | undefined;
  /** Somebody else needs the session. */
  #wanted = false;
  #stopping = false;
  #renewalSinceMs: number | undefined;
  #slice: Promise<void> | undefined;
  #wake: () => void = () => undefined;
  #running: Promise<void> | undefined;

  constructor(means: PeriodicVerifyMeans, log: Log, settings: PeriodicVerifySettings) {
    this.#means = means;
    this.#log = log;
    this.#settings = settings;
    this.#cadence = new Cadence(means.clock, settings.everyMs, means.uniform());
    this.#names = new RangeNames(log, means.record, settings.ownersOf);
  }

  start(): void {
    this.#running = this.#run();
  }

  /** A slice that runs ends, and none begins until `goOn`. Resolves when none runs. */
  async giveWay(): Promise<void> {
    this.#wanted = true;
    await this.#slice;
  }

  goOn(): void {
    this.#wanted = false;
    this.#wake();
  }

  /** A slice that runs ends, and none begins any more. Resolves when that is so: at the latest when the session ends. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#wake();
    await this.#running;
  }

  /** After `stop`, and after the mirror has been given time: writes down what it has acknowledged. */
  async close(): Promise<void> {
    this.#confirm();
    await this.#means.record.write();
    await this.#means.record.close();
  }

  status(): VerificationStatus {
    const { clock, record, size } = this.#means;
    const nextInMs = record.cycle === undefined ? this.#cadence.dueInMs(record.last?.beganMs) : undefined;
    return verificationStatus(this.#settings, record, size, clock.wallMs(), {
      nextInMs,
      rate: this.#rate,
      problem: this.#problem,
    });
  }

  async #run(): Promise<void> {
    await this.#means.record.open();
    while (!this.#stopping) {
      const waitMs = await this.#step();
      if (waitMs > 0 && !this.#stopping) await this.#pause(waitMs);
    }
  }

  /** Does what is to be done now. Returns after how long to look again, ms. */
  async #step(): Promise<number> {
    const { clock, link, record, size } = this.#means;
    if (link.replicaId === undefined) return LOOK_MS;
    if (!record.belongsTo(link.replicaId)) this.#unconfirmed.clear();
    if (record.cycle === undefined) {
      const dueInMs = this.#cadence.dueInMs(record.last?.beganMs);
      if (dueInMs > 0) return Math.min(dueInMs, PAUSE_MS_MAX);
      if (!this.#mayGoOn()) return LOOK_MS;
      record.begin(clock.wallMs());
      this.#names.begin();
      this.#logged = 0;
      this.#log.info({}, 'the periodic verification begins');
    }
    this.#confirm();
    if (record.cycle?.reached === size) {
      if (this.#unconfirmed.length > 0) return LOOK_MS;
      await this.#finish();
      return 0;
    }
    if (!this.#mayGoOn()) return LOOK_MS;
    this.#slice = this.#runSlice();
    await this.#slice;
    this.#slice = undefined;
    return this.#failures === 0 ? 0 : Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** (this.#failures - 1));
  }

  /** A slice may begin now. */
  #mayGoOn(): boolean {
    if (this.#wanted) return false;
    const nowMs = this.#means.clock.nowMs();
    if (!this.#means.link.renewalDue) this.#renewalSinceMs = undefined;
    else this.#renewalSinceMs ??= nowMs;
    if (this.#renewalSinceMs !== undefined && nowMs - this.#renewalSinceMs < RENEWAL_PATIENCE_MS) return false;
    return this.#isInStep() && !this.#means.link.inStep().comparing;
  }

  #isInStep(): boolean {
    try {
      this.#means.link.inStep();
      return true;
    } catch (error) {
      if (!isFailure(error, 'not-ready')) throw error;
      return false;
    }
  }

  async #runSlice(): Promise<void> {
    const { clock, link, record, pacing } = this.#means;
    const from = record.cycle!.reached;
    const startMs = clock.nowMs();
    let found: Found[] = [];
    let foundCount = 0;
    const isOver = (): boolean => this.#stopping || this.#wanted;
    const batchSize = Math.max(MIB, Math.min(BATCH_SIZE_MAX, alignDown(this.#settings.rate, MIB)));
    const goesOn = (readSize: number): boolean =>
      readSize < SLICE_SIZE &&
      clock.nowMs() - startMs < SLICE_MS &&
      foundCount < SLICE_FOUND_MAX &&
      // Where keys could not be renewed before it began, they can wait for its end.
      (!link.renewalDue || this.#renewalSinceMs !== undefined);
    try {
      await link.inStep().verify({ pacing, isOver }, (verify) =>
        verify.runPart(
          { from, batchSize, goesOn },
          {
            differs: async (offset, length) => {
              const one = await this.#differs(offset, length, isOver);
              found.push(one);
              foundCount += 1;
            },
            unreadable: (offset, length) => found.push({ offset, length, unreadable: true, sent: false }),
            compared: (end) => {
              record.reached(end);
              found = this.#tell(found);
            },
          },
        ),
      );
      this.#problem = undefined;
      this.#failures = 0;
    } catch (error) {
      if (!isFailure(error)) throw error;
      if (!isOver()) this.#failed(error.message, record.cycle!.reached > from);
    }
    const elapsedMs = clock.nowMs() - startMs;
    if (elapsedMs > 0) this.#rate = ((record.cycle!.reached - from) / elapsedMs) * 1000;
    this.#tell(found);
    this.#confirm();
    await record.write();
  }

  /** A block differs: repairs it, where that is wanted and possible. */
  async #differs(offset: number, length: number, isOver: () => boolean): Promise<Found> {
    const found = { offset, length, unreadable: false, sent: false };
    if (!this.#settings.repair) return found;
    // Without a session the window may stay full for days; it will be found again.
    const isLost = (): boolean => isOver() || !this.#isInStep();
    await this.#means.pacing.room(length, isLost);
    if (isLost()) return found;
    try {
      const sequence = await this.#means.restate(offset, length);
      this.#unconfirmed.push({ sequence, size: length });
      return { ...found, sent: true };
    } catch (error) {
      if (!isFailure(error)) throw error;
      if (!isOver()) this.#log.error({ offset, length, code: error.code }, `not repaired: ${error.message}`);
      return found;
    }
  }

  /** Counts what the mirror holds durably by now. */
  #confirm(): void {
    const { durable } = this.#means.link;
    let size = 0;
    for (let one = this.#unconfirmed.first; one !== undefined; one = this.#unconfirmed.first) {
      if (one.sequence > durable) break;
      size += one.size;
      this.#unconfirmed.shift();
    }
    if (size === 0 || this.#means.record.cycle === undefined) return;
    this.#means.record.repaired(size);
    this.#log.info({ size }, 'the mirror holds repairs durably');
  }

  /** Logs and counts what was found below what has been compared, or has been repaired. Returns the rest. */
  #tell(found: readonly Found[]): Found[] {
    const { record } = this.#means;
    const { reached } = record.cycle!;
    const isCertain = ({ offset, sent }: Found): boolean => offset < reached || sent;
    const certain = found.filter(isCertain).sort((a, b) => a.offset - b.offset);
    const rest = found.filter((one) => !isCertain(one));
    if (certain.length === 0) return rest;
    const differing = new DifferingRanges(SLICE_FOUND_MAX);
    const unreadable = new DifferingRanges(SLICE_FOUND_MAX);
    const ranges = new DifferingRanges(SLICE_FOUND_MAX);
    for (const one of certain) {
      (one.unreadable ? unreadable : differing).add(one.offset, one.length);
      ranges.add(one.offset, one.length);
    }
    for (const range of differing.ranges) this.#logRange(range, 'the mirror’s image differs from the disk');
    for (const range of unreadable.ranges) this.#logRange(range, 'the disk cannot be read: not compared');
    record.found({ differingSize: differing.size, unreadableSize: unreadable.size, ranges: ranges.ranges });
    this.#names.find();
    return rest;
  }

  #logRange(range: Range, message: string): void {
    this.#logged += 1;
    if (this.#logged <= LOGGED_MAX) this.#log.error(range, message);
    else if (this.#logged === LOGGED_MAX + 1)
      this.#log.error({}, 'more differs: the end of the verification tells how much');
  }

  #failed(message: string, gotOn: boolean): void {
    this.#failures = gotOn ? 1 : Math.min(this.#failures + 1, 16);
    if (this.#problem !== message) this.#log.info({}, `the periodic verification is interrupted: ${message}`);
    this.#problem = message;
  }

  async #finish(): Promise<void> {
    const cycle = this.#means.record.finish(this.#means.clock.wallMs());
    await this.#means.record.write();
    this.#logResult(cycle);
  }

  #logResult({ beganMs, finishedMs, reached, differingSize, repairedSize, unreadableSize }: VerifyCycle): void {
    const fields = { size: reached, elapsedMs: finishedMs - beganMs, differingSize, repairedSize, unreadableSize };
    if (differingSize + unreadableSize === 0) {
      this.#log.info(fields, 'the periodic verification is complete: all the same');
      return;
    }
    const repaired = repairedSize > 0 ? `, ${formatSize(repairedSize)} repaired` : '';
    const unread = unreadableSize > 0 ? `, ${formatSize(unreadableSize)} could not be read` : '';
    this.#log.error(
      fields,
      `the periodic verification is complete: ${formatSize(differingSize)} differed${repaired}${unread}`,
    );
  }

  async #pause(waitMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = this.#means.clock.after(waitMs, resolve);
      this.#wake = () => {
        timer.cancel();
        resolve();
      };
    });
  }
}
