/**
 * What must be true of the mirror's image, and is checked again and again:
 *
 * - after a crash at this very instant (a copy of the mirror's disks is made to lose its power, or is taken as a kill
 *   leaves it): the image, as the next start finds it, is the primary's content at a past position, or a legal crash state
 *   of it (G2), see legality.ts;
 * - while the mirror runs: an image that it calls exact is the primary's content at `applied` (G1).
 */
import { isFailure } from '../../src/base/failure.ts';
import { silentLog } from '../../src/base/log.ts';
import type { World } from '../../src/io/world.ts';
import { type RecoverReport, recoverImage } from '../../src/mirror/recover.ts';
import type { History } from './history.ts';
import { Host } from './host.ts';
import { describeDifference, judge } from './legality.ts';
import type { Medium } from './medium.ts';
import { IMAGE_PATH, type MirrorSide } from './mirror-side.ts';
import { SimulatedNetwork } from './network.ts';
import { SeededRandom } from './random.ts';
import { pickFate, type Shared } from './shared.ts';
import { Timeline } from './timeline.ts';

/** What a crash of the mirror has left. */
export interface CrashState {
  readonly medium: Medium;
  readonly how: string;
  /** Operations beyond this one cannot have reached the image. */
  readonly appliedMax: number;
  /** Nothing is there but what is durable for certain: what is true of this state stays true. */
  readonly durable: boolean;
}

export interface Checks {
  /** Crash states that were judged, and how many of them made a promise that could be held against them. */
  crashStates: number;
  consistent: number;
  exact: number;
  live: number;
}

export class Oracle {
  readonly checks: Checks = { crashStates: 0, consistent: 0, exact: 0, live: 0 };
  readonly #shared: Shared;
  readonly #history: History;
  readonly #mirror: MirrorSide;
  /** Of its own: how often is checked must not change what happens. */
  readonly #random: SeededRandom;
  /** The image was in step once: from then on it is a usable disk, for ever (G2, G3). */
  #onceConsistent = false;
  #restorations = 0;

  constructor(shared: Shared, history: History, mirror: MirrorSide, seed: number) {
    this.#shared = shared;
    this.#history = history;
    this.#mirror = mirror;
    this.#random = new SeededRandom(seed + 77_777);
  }

  /** Judges what a crash of the mirror now would leave. */
  async checkCrashNow(): Promise<void> {
    const copy = this.#mirror.host.medium.clone(this.#random.fork());
    const power = this.#random.chance(0.7);
    const fate = pickFate(this.#random);
    if (power) copy.powerLost(fate);
    await this.checkCrashState({
      medium: copy,
      how: power ? 'power loss' : 'kill',
      appliedMax: this.#mirror.appliedMax,
      durable: power && fate.kept === 0 && fate.torn === 0,
    });
  }

  /** Judges what a crash has left; the medium is not used by anybody else. */
  async checkCrashState({ medium, how, appliedMax, durable }: CrashState): Promise<void> {
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
    // A run that went on without room is told as complete a moment before its position is.
    if (!status.consistent || !status.exact || status.committing || status.staging?.through === true) return;
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

/** Runs code on a medium that is nobody else's, in a time of its own, to its end. */
async function inSideWorld<T>(medium: Medium, run: (world: World) => Promise<T>): Promise<T> {
  const random = new SeededRandom(1);
  const timeline = new Timeline(random);
  const host = new Host('side', timeline, random, new SimulatedNetwork(timeline, random), medium);
  const { world } = host.boot(() => undefined);
  host.pace.atOnce = 1;
  let settled = false;
  const result = run(world).finally(() => {
    settled = true;
  });
  // Whoever waits for it takes the failure.
  result.catch(() => undefined);
  while (!settled) {
    await turn();
    if (!settled && !timeline.step()) throw new Error('code in a side world waits for something that never happens');
  }
  return result;
}

/** Lets everything that has settled be taken note of: all microtasks, to the last. */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
