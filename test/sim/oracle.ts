/**
 * What must be true of the mirror's image, and is checked again and again:
 *
 * - after a crash at this very instant (a copy of the mirror's disks is made to lose its power, or is taken as a kill
 *   leaves it): the image, as the next start finds it, is the primary's content at a past position, or a legal crash state
 *   of it (G2), see legality.ts;
 * - and it holds what answers have promised of it (G5);
 * - after a crash of the primary, and of both, nothing differs that is not marked (G4), see divergence.ts;
 * - while the mirror runs: an image that it calls exact is the primary's content at `applied` (G1);
 * - memory and disk in use stay within their limits (G8).
 */
import { isFailure } from '../../src/base/failure.ts';
import { silentLog } from '../../src/base/log.ts';
import { KIB } from '../../src/base/units.ts';
import { type RecoverReport, recoverImage } from '../../src/mirror/recover.ts';
import type { Content } from './content.ts';
import { type CrashedPair, divergenceOf } from './divergence.ts';
import type { History, Run } from './history.ts';
import { describeDifference, judge } from './legality.ts';
import type { Medium } from './medium.ts';
import { IMAGE_PATH, type MirrorSide } from './mirror-side.ts';
import type { PrimarySide } from './primary-side.ts';
import type { Promised } from './promises.ts';
import { SeededRandom } from './random.ts';
import { pickFate, type Shared } from './shared.ts';
import { inSideWorld } from './side-world.ts';

/** What a crash of the mirror has left. */
export interface CrashState {
  readonly medium: Medium;
  readonly how: string;
  /** Operations beyond this one cannot have reached the image. */
  readonly appliedMax: number;
  /** Nothing is there but what is durable for certain: what is true of this state stays true. */
  readonly durable: boolean;
  /** What was promised of it. */
  readonly held: Promised | undefined;
}

export interface Checks {
  /** Crash states that were judged, and how many of them made a promise that could be held against them. */
  crashStates: number;
  consistent: number;
  exact: number;
  live: number;
  /** Crash states of which answers had promised something. */
  promised: number;
  /** Pairs of disks whose difference was looked for in the marks, and those that differed at all. */
  marked: number;
  differing: number;
  /** Pairs of which nothing depended on the marks. */
  unmarkedFine: number;
  /** Looks at what is in use, by a primary with a mirror. */
  bounds: number;
}

export const NO_CHECKS: Checks = {
  crashStates: 0,
  consistent: 0,
  exact: 0,
  live: 0,
  promised: 0,
  marked: 0,
  differing: 0,
  unmarkedFine: 0,
  bounds: 0,
};

/** Of the looks at a crash, how many look at both sides. */
const PAIR_SHARE = 0.3;
/** What the memory of a small write may take more than its bytes: it lies in a block of Node's that others share. */
const BUFFER_SLACK = 16 * KIB;

export class Oracle {
  readonly checks: Checks = { ...NO_CHECKS };
  readonly #shared: Shared;
  readonly #history: History;
  readonly #primary: PrimarySide;
  readonly #mirror: MirrorSide;
  /** Of its own: how often is checked must not change what happens. */
  readonly #random: SeededRandom;
  /** The image was in step once: from then on it is a usable disk, for ever (G2, G3). */
  #onceConsistent = false;
  #restorations = 0;

  constructor(shared: Shared, history: History, primary: PrimarySide, mirror: MirrorSide, seed: number) {
    this.#shared = shared;
    this.#history = history;
    this.#primary = primary;
    this.#mirror = mirror;
    this.#random = new SeededRandom(seed + 77_777);
  }

  /** Judges what a crash of the mirror now would leave. */
  async checkCrashNow(): Promise<void> {
    if (this.#random.chance(PAIR_SHARE)) await this.checkDivergence(this.pairNow('a crash'));
    const copy = this.#mirror.host.medium.clone(this.#random.fork());
    const { durable, applied } = this.#primary.promises;
    const power = this.#random.chance(0.7);
    const fate = pickFate(this.#random);
    if (power) copy.powerLost(fate);
    await this.checkCrashState({
      medium: copy,
      how: power ? 'power loss' : 'kill',
      appliedMax: this.#mirror.appliedMax,
      durable: power && fate.kept === 0 && fate.torn === 0,
      held: power ? durable : applied,
    });
  }

  /** Judges what a crash has left; the medium is not used by anybody else. */
  async checkCrashState({ medium, how, appliedMax, durable, held }: CrashState): Promise<void> {
    this.checks.crashStates += 1;
    const recovered = await this.#recover(medium, how === 'power loss' || how === 'power');
    const file = medium.file(IMAGE_PATH);
    if (recovered === undefined || file === undefined) return;
    const { exact, sequence } = recovered;
    if (!recovered.consistent) {
      const net = this.#shared.profile.stagingOverflow === 'keep';
      if (net && this.#onceConsistent && this.#restorations === this.#mirror.restorations)
        this.#shared.wrong(`the image after a ${how} of the mirror is not consistent any more`);
      return;
    }
    if (durable) {
      this.#onceConsistent = true;
      this.#restorations = this.#mirror.restorations;
    }
    const image = file.cache;
    const run = this.#history.get(recovered.run);
    const at = `the image after a ${how} of the mirror, ${exact ? 'exact' : 'not exact'}, recorded ${sequence} of run ${recovered.run.slice(0, 8)}`;
    if (run === undefined) {
      this.#shared.wrong(`${at}: an unknown run`);
      return;
    }
    this.checks.consistent += 1;
    if (sequence < run.firstSequence || sequence > run.sequence) {
      this.#shared.wrong(`${at}: the run goes from ${run.firstSequence} to ${run.sequence}`);
      return;
    }
    const verdict = judge(image, run, sequence, {
      to: exact ? sequence : Math.min(appliedMax, run.sequence),
    });
    if (exact) this.checks.exact += 1;
    if (verdict.positions.length === 0) this.#shared.wrong(`${at}: no position of the primary: ${verdict.complaint}`);
    if (held !== undefined) this.#checkHeld(file.cache, run, recovered, held, appliedMax, at);
  }

  /** What was promised is in the image, as far as it is not that of a later run: the primary then had its own disk. */
  #checkHeld(
    image: Content,
    run: Run,
    { sequence, exact }: RecoverReport,
    held: Promised,
    appliedMax: number,
    at: string,
  ): void {
    if (!run.goesOnFrom(held.run)) {
      if (run.number < held.run.number) this.#shared.wrong(`${at}: answers have promised a later run`);
      return;
    }
    this.checks.promised += 1;
    if (held.sequence <= sequence) return;
    const promise = `answers have promised all up to ${held.sequence}`;
    if (exact) {
      this.#shared.wrong(`${at}: ${promise}`);
      return;
    }
    const to = Math.max(held.sequence, Math.min(appliedMax, run.sequence));
    const verdict = judge(image, run, held.sequence, { to });
    if (verdict.positions.length === 0) this.#shared.wrong(`${at}: ${promise}: ${verdict.complaint}`);
  }

  /** Both sides as they are now, or as a crash of them now would leave them. */
  pairNow(how: string): CrashedPair {
    const primary = this.#primary.host.medium.clone(this.#random.fork());
    const mirror = this.#mirror.host.medium.clone(this.#random.fork());
    const powers = [primary, mirror].map((medium) => {
      const power = this.#random.chance(0.6);
      if (power) medium.powerLost(pickFate(this.#random));
      return power ? 'power loss' : 'kill';
    });
    return { primary, mirror, how: `${how}: ${powers.join(' of the primary, ')} of the mirror` };
  }

  /** What differs is marked. */
  async checkDivergence(pair: CrashedPair): Promise<void> {
    const { outcome, differing, unmarked } = await divergenceOf(pair, this.#shared.profile);
    if (outcome === 'no-start' && !this.#primary.faulty) this.#shared.wrong(`after ${pair.how}: it would not start`);
    if (outcome !== 'marked') {
      this.checks.unmarkedFine += 1;
      return;
    }
    this.checks.marked += 1;
    if (differing > 0) this.checks.differing += 1;
    if (unmarked.length > 0) {
      const pages = unmarked.slice(0, 8).join(' ');
      this.#shared.wrong(
        `after ${pair.how}: ${unmarked.length} of ${differing} pages that differ are not marked: ${pages}`,
      );
    }
  }

  /** Memory and disk in use have their limits. */
  checkBounds(): void {
    const { profile } = this.#shared;
    const link = this.#primary.link;
    const staged = this.#mirror.status?.staging;
    if (staged?.limit !== undefined && !staged.through && staged.size > staged.limit)
      this.#shared.wrong(`the mirror has staged ${staged.size} bytes, and may ${staged.limit}`);
    if (link === undefined) return;
    this.checks.bounds += 1;
    const { window, spool } = link;
    // One operation beyond, or what one reading back of the spool adds.
    const windowMax = window.limit + Math.max(profile.writeSizeMax + BUFFER_SLACK, Math.ceil(window.limit / 8));
    if (window.used > windowMax) this.#shared.wrong(`the window takes ${window.used} bytes, and may ${windowMax}`);
    if (spool.used > spool.limit) this.#shared.wrong(`the spool takes ${spool.used} bytes, and may ${spool.limit}`);
  }

  /**
   * What `nbdtwin recover` makes of the disks, and says of them. Undefined: there is no image yet. `settled`: the cache
   * shows what the medium holds.
   */
  #recover(medium: Medium, settled: boolean): Promise<RecoverReport | undefined> {
    // Whoever recovers an image of a full disk makes room first: it says so.
    medium.capacity = Number.POSITIVE_INFINITY;
    return inSideWorld(medium, async (world) => {
      try {
        const promised = await recoverImage(world, silentLog, IMAGE_PATH, true);
        const report = await recoverImage(world, silentLog, IMAGE_PATH, false);
        // A dry run reads what the cache shows, which after a failed sync is not what the medium holds.
        // Of an image that cannot be used, only that is promised.
        const told = report.consistent ? ['run', 'sequence', 'consistent', 'exact'] : ['consistent'];
        const same = told.every((key) => Reflect.get(promised, key) === Reflect.get(report, key));
        if (settled && !same) {
          this.#shared.wrong(
            `recover: the dry run says ${JSON.stringify(promised)}, then it is ${JSON.stringify(report)}`,
          );
        }
        return report;
      } catch (error) {
        // It was being made when the power went: there was never anything in it.
        const isNone = ['image-unknown', 'image-missing', 'disk-missing', 'disk-empty'].some(
          (code) => isFailure(error) && error.code === code,
        );
        if (isNone) return undefined;
        throw error;
      }
    });
  }

  /** What the mirror says of its image while it runs must be true. */
  checkLive(): void {
    const status = this.#mirror.status;
    const incarnation = this.#mirror.host.incarnation;
    if (status === undefined || incarnation === undefined || incarnation.pending.size > 0) return;
    if (!status.consistent || !status.exact || status.committing) return;
    const run = this.#history.get(status.run);
    const image = this.#mirror.host.medium.file(IMAGE_PATH)?.cache;
    if (run === undefined || image === undefined) {
      this.#shared.wrong(`the mirror stands in an unknown run ${status.run}`);
      return;
    }
    this.checks.live += 1;
    if (status.applied < run.firstSequence || status.applied > run.sequence) {
      this.#shared.wrong(
        `the mirror says it is at ${status.applied}: the run goes from ${run.firstSequence} to ${run.sequence}`,
      );
      return;
    }
    const wanted = run.contentAt(status.applied);
    const [page] = image.differences(wanted, 1);
    if (page !== undefined) {
      this.#shared.wrong(
        `the mirror says its image is that of ${status.applied}: ${describeDifference(image, wanted, page)}`,
      );
    }
  }
}
