/**
 * What must be true of the mirror's image, and is checked again and again:
 *
 * - after a crash at this very instant (a copy of the mirror's disks is made to lose its power, or is taken as a kill
 *   leaves it): the image, as the next start finds it, is the primary's content at a past position, or a legal crash state
 *   of it (G2), see legality.ts;
 * - while the mirror runs: an image that it calls exact is the primary's content at `applied` (G1).
 */
import { silentLog } from '../../src/base/log.ts';
import type { World } from '../../src/io/world.ts';
import { MirrorImage } from '../../src/mirror/image.ts';
import type { MirrorState } from '../../src/store/mirror-state.ts';
import { STAGED_RESUME } from './features.ts';
import type { History } from './history.ts';
import { Host } from './host.ts';
import { describeDifference, judge } from './legality.ts';
import type { Medium } from './medium.ts';
import { IMAGE_PATH, MIRROR_DIRECTORY, type MirrorSide } from './mirror-side.ts';
import { SimulatedNetwork } from './network.ts';
import { EXPORT_NAME } from './primary-side.ts';
import { SeededRandom } from './random.ts';
import { pickFate, type Shared } from './shared.ts';
import { Timeline } from './timeline.ts';

/** What a crash of the mirror has left. */
export interface CrashState {
  readonly medium: Medium;
  readonly how: string;
  /** Operations beyond this one cannot have reached the image. */
  readonly appliedMax: number;
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
    if (power) copy.powerLost(pickFate(this.#random));
    await this.checkCrashState({
      medium: copy,
      how: power ? 'power loss' : 'kill',
      appliedMax: this.#mirror.appliedMax,
    });
  }

  /** Judges what a crash has left; the medium is not used by anybody else. */
  async checkCrashState({ medium, how, appliedMax }: CrashState): Promise<void> {
    this.checks.crashStates += 1;
    const recovered = await recover(medium);
    const file = medium.file(IMAGE_PATH);
    if (recovered === undefined || file === undefined) return;
    const { state, exact } = recovered;
    if (!state.consistent) {
      if (this.#onceConsistent && this.#restorations === this.#mirror.restorations)
        this.#shared.wrong(`the image after a ${how} of the mirror is not consistent any more`);
      return;
    }
    if (!STAGED_RESUME && this.#mirror.resuming) return;
    const image = file.cache;
    const run = this.#history.get(state.run.toString('hex'));
    const at = `the image after a ${how} of the mirror, ${exact ? 'exact' : 'not exact'}, recorded ${state.recorded} of run ${state.run.toString('hex', 0, 4)}`;
    if (run === undefined) {
      this.#shared.wrong(`${at}: an unknown run`);
      return;
    }
    this.checks.consistent += 1;
    if (state.recorded < run.baseSequence || state.recorded > run.sequence) {
      this.#shared.wrong(`${at}: the run goes from ${run.baseSequence} to ${run.sequence}`);
      return;
    }
    const verdict = judge(image, run, state.recorded, {
      to: exact ? state.recorded : Math.min(appliedMax, run.sequence),
    });
    if (exact) this.checks.exact += 1;
    if (verdict.positions.length === 0) this.#shared.wrong(`${at}: no position of the primary: ${verdict.complaint}`);
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
    this.#onceConsistent = true;
    this.#restorations = this.#mirror.restorations;
    if (status.applied < run.baseSequence || status.applied > run.sequence) {
      this.#shared.wrong(
        `the mirror says it is at ${status.applied}: the run goes from ${run.baseSequence} to ${run.sequence}`,
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

/** What `nbdtwin recover` makes of the disks: a committed staged run is copied. Undefined: there is no image yet. */
function recover(medium: Medium): Promise<{ state: MirrorState; exact: boolean } | undefined> {
  return inSideWorld(medium, async (world) => {
    const image = await MirrorImage.open(world, silentLog, MIRROR_DIRECTORY, EXPORT_NAME);
    await image?.finishCommit();
    return image && { state: image.state, exact: image.exact };
  });
}

/** Runs code on a medium that is nobody else's, in a time of its own, to its end. */
export async function inSideWorld<T>(medium: Medium, run: (world: World) => Promise<T>): Promise<T> {
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
