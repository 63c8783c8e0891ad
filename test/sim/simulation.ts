/**
 * One simulation: a seed, so many steps, and what became of it.
 *
 * The real primary and the real mirror run on worlds made by the seed; one event after the other happens in virtual time,
 * and after each everything that follows from it runs to the end before the next. So a seed replays exactly. After the
 * steps all misfortunes end, and both sides must come to the same image and to `streaming` in bounded time.
 */
import process from 'node:process';
import type { PointName } from '../../src/io/points.ts';
import { Chaos } from './chaos.ts';
import type { CrashedPair } from './divergence.ts';
import { History } from './history.ts';
import type { Incarnation } from './host.ts';
import { describeDifference } from './legality.ts';
import { IMAGE_PATH, MirrorSide } from './mirror-side.ts';
import { SimulatedNetwork } from './network.ts';
import { type Checks, type CrashState, Oracle } from './oracle.ts';
import { PrimarySide } from './primary-side.ts';
import { type Misfortune, makeProfile, type Profile } from './profile.ts';
import { SeededRandom } from './random.ts';
import type { Shared, SideName } from './shared.ts';
import { turn } from './side-world.ts';
import { Timeline } from './timeline.ts';
import { Trace } from './trace.ts';

/** Virtual time within which all is well again once nothing goes wrong any more, ms. */
const RECOVERY_MS = 300_000;
const RECOVERY_STEPS = 3_000_000;
/** Events between two looks at what a crash would leave: mean. */
const CHECK_INTERVAL = 100;
const ATTEND_MS = 500;
/** Events at one instant. */
const INSTANT_STEPS_MAX = 20_000;

export interface SimulationOptions {
  readonly seed: number;
  readonly steps: number;
  readonly print?: (line: string) => void;
  /** What does not happen, whatever the seed says. */
  readonly without?: readonly string[];
  /** Replaces parts of what the seed would choose. */
  readonly profile?: Partial<Profile>;
}

/** What a script does with a simulation that is on its way. */
export type Script = (until: (what: string, done: () => boolean) => Promise<void>) => Promise<void>;

export interface Outcome {
  readonly seed: number;
  readonly steps: number;
  readonly virtualMs: number;
  readonly hash: string;
  readonly crashes: number;
  readonly requests: number;
  readonly operations: number;
  readonly sessions: number;
  readonly checks: Checks;
  readonly points: ReadonlyMap<PointName, number>;
  readonly misfortunes: ReadonlyMap<Misfortune, number>;
  /** Session states of the primary that were seen. */
  readonly states: ReadonlySet<string>;
}

/** What a simulation has found. The message says how to see it again. */
export class Finding extends Error {
  override name = 'Finding';
  readonly seed: number;
  /** In one line. */
  readonly what: string;

  constructor(seed: number, what: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.seed = seed;
    this.what = what;
  }
}

/** Errors that nobody caught, wherever they came from. */
let onEscaped: ((error: unknown) => void) | undefined;
let watching = false;

export class Simulation implements Shared {
  readonly seed: number;
  readonly random: SeededRandom;
  readonly timeline: Timeline;
  readonly network: SimulatedNetwork;
  readonly profile: Profile;
  readonly history = new History();
  readonly primary: PrimarySide;
  readonly mirror: MirrorSide;
  readonly oracle: Oracle;
  readonly chaos: Chaos;
  readonly points = new Map<PointName, number>();
  readonly states = new Set<string>();
  /** Told of each named point that is passed; what it returns is how the side ends there. */
  onPoint: ((name: PointName) => 'kill' | 'power' | undefined) | undefined;
  /** A script has damaged the image: until that is found and repaired the oracle does not look. */
  damaged = false;
  readonly #trace: Trace;
  readonly #steps: number;
  readonly #crashStates: CrashState[] = [];
  readonly #crashedPairs: CrashedPair[] = [];
  #step = 0;
  #finding: { readonly what: string; readonly cause?: unknown } | undefined;
  /** The step in which somebody died in the middle of running code: that code may say anything until it ends. */
  #deathStep = -1;
  #healing = false;
  #crashes = 0;

  constructor(options: SimulationOptions) {
    this.seed = options.seed;
    this.#steps = options.steps;
    this.#trace = new Trace(options.print);
    this.random = new SeededRandom(options.seed);
    this.timeline = new Timeline(this.random.fork());
    this.profile = { ...makeProfile(this.random.fork(), options.seed), ...options.profile };
    for (const misfortune of options.without ?? []) this.profile.intervals.delete(misfortune as Misfortune);
    this.network = new SimulatedNetwork(this.timeline, this.random.fork());
    this.network.pace.latencyMs = this.profile.latencyMs;
    this.network.pace.rate = this.profile.rate;
    this.primary = new PrimarySide(this, this.history);
    this.mirror = new MirrorSide(this, (medium, how, appliedMax) => {
      if (how !== 'clean stop') this.#crashes += 1;
      const { durable, applied } = this.primary.promises;
      const copy = medium.clone(this.random.fork());
      const held = how === 'power' ? durable : applied;
      this.#crashStates.push({ medium: copy, how, appliedMax, durable: false, held });
      if (how === 'power') this.primary.promises.lostUnsynced(this.primary.sessionsUnderWay);
    });
    // What a sync has lost is lost as to a power loss, though the mirror lives on.
    this.mirror.host.medium.syncFailed = () => this.primary.promises.lostUnsynced(this.primary.sessionsUnderWay);
    for (const { pace } of [this.primary.host, this.mirror.host]) {
      pace.atOnce = this.profile.diskAtOnce;
      pace.callMs = this.profile.diskCallMs;
      pace.syncMs = this.profile.diskSyncMs;
    }
    this.oracle = new Oracle(this, this.history, this.primary, this.mirror, options.seed);
    this.chaos = new Chaos(this, this.primary, this.mirror);
  }

  /** Lives the life of the seed to its end. Throws a Finding. */
  run(): Promise<Outcome> {
    return this.#watched(async () => {
      if (this.profile.lateMisfortunes) {
        await this.#live(() => this.#step >= this.#steps / 2 || this.primary.link?.state === 'streaming');
      }
      this.chaos.begin();
      await this.#live(() => this.#step >= this.#steps);
    });
  }

  /** Instead of `run`: what happens is in a script; what must be true is checked all the same, also at the end. */
  play(script: Script): Promise<Outcome> {
    return this.#watched(() =>
      script(async (what, done) => {
        const untilStep = this.#step + this.#steps;
        await this.#live(() => done() || this.#step > untilStep);
        if (done()) return;
        this.#found(`in ${this.#steps} steps it never came to this: ${what}`);
        this.#fail();
      }),
    );
  }

  async #watched(life: () => Promise<void>): Promise<Outcome> {
    watchEscapes((error) => {
      if (this.#step !== this.#deathStep) this.#found('an error that nobody caught', error);
    });
    try {
      this.primary.start();
      this.mirror.start();
      this.#attendLater();
      await life();
      await this.#heal();
    } finally {
      onEscaped = undefined;
    }
    const { latest } = this.history;
    return {
      seed: this.seed,
      steps: this.#step,
      virtualMs: this.timeline.nowMs,
      hash: this.#trace.hash,
      crashes: this.#crashes,
      requests: this.primary.answered + (this.primary.clients?.answered ?? 0),
      operations: latest?.sequence ?? 0,
      sessions: this.network.connectionCount,
      checks: this.oracle.checks,
      points: this.points,
      misfortunes: this.chaos.counts,
      states: this.states,
    };
  }

  trace(text: string): void {
    this.#trace.line(this.timeline.nowMs, text);
  }

  wrong(what: string): void {
    this.#found(what);
  }

  escaped(error: unknown, incarnation: Incarnation): void {
    if (incarnation.alive) this.#found('an error that nobody caught', error);
  }

  reached(side: SideName, name: PointName): void {
    this.points.set(name, (this.points.get(name) ?? 0) + 1);
    this.trace(`point ${name}`);
    const wanted = this.onPoint?.(name);
    if (this.#healing || (wanted === undefined && !this.random.chance(this.profile.pointCrashes))) return;
    this.#deathStep = this.#step;
    (side === 'primary' ? this.primary : this.mirror).crash(wanted ?? this.random.pick(['kill', 'power']));
  }

  wentDown(side: SideName): void {
    if (side === 'primary') {
      this.#crashes += 1;
      this.#crashedPairs.push(this.oracle.pairNow('an end'));
    }
    this.chaos.wentDown(side === 'primary' ? this.primary : this.mirror);
  }

  /** Requests that overlap wait for each other, so the longest chain counts. */
  patienceMs(): number {
    const { connections, depth, diskCallMs, diskSyncMs } = this.profile;
    return 2_000 + 20 * (connections * depth + 2) * (diskCallMs + diskSyncMs) * this.chaos.slowest;
  }

  /** Runs until `done`, checking on the way. */
  async #live(done: () => boolean): Promise<void> {
    let nextCheck = this.#step;
    let instantUs = -1;
    let instantStep = 0;
    while (!done()) {
      this.#step += 1;
      let stepped: boolean;
      try {
        stepped = this.timeline.step();
      } catch (error) {
        this.#found('an error in an event', error);
        stepped = true;
      }
      if (!stepped) this.#found('nothing happens any more');
      if (this.timeline.nowUs !== instantUs) {
        instantUs = this.timeline.nowUs;
        instantStep = this.#step;
      } else if (this.#step - instantStep > INSTANT_STEPS_MAX)
        this.#found('time stands still: events make each other happen');
      await turn();
      this.#trace.mix(this.timeline.nowUs);
      for (const state of this.#crashStates.splice(0)) await this.oracle.checkCrashState(state);
      for (const pair of this.#crashedPairs.splice(0)) await this.oracle.checkDivergence(pair);
      if (this.#step >= nextCheck) {
        nextCheck = this.#step + 1 + Math.floor(this.random.exponential(CHECK_INTERVAL));
        await this.#check();
      }
      if (this.#finding !== undefined) this.#fail();
    }
  }

  async #check(): Promise<void> {
    const state = this.primary.link?.state;
    if (state !== undefined) this.states.add(state);
    if (this.damaged) return;
    this.oracle.checkLive();
    this.oracle.checkBounds();
    this.primary.clients?.checkPatience();
    await this.oracle.checkCrashNow();
  }

  /** Nothing goes wrong any more: everything must come right, soon. */
  async #heal(): Promise<void> {
    this.trace('all misfortunes end');
    this.#healing = true;
    this.chaos.end();
    this.primary.clientsWanted = false;
    if (this.mirror.staging.limit !== undefined) {
      this.trace('human: staging without a limit');
      this.mirror.staging = { limit: undefined, overflow: 'keep' };
    }
    const untilMs = this.timeline.nowMs + RECOVERY_MS;
    const untilStep = this.#step + RECOVERY_STEPS;
    let quiet = false;
    await this.#stopClients();
    await this.#live(() => {
      quiet = this.#inStep();
      return quiet || this.timeline.nowMs > untilMs || this.#step > untilStep;
    });
    if (!quiet) {
      const link = this.primary.link;
      this.#found(
        `not in step after all misfortunes ended: ${JSON.stringify(link)}, ${JSON.stringify(this.mirror.status)}`,
      );
      this.#fail();
    }
    this.trace('in step');
    const image = this.mirror.host.medium.file(IMAGE_PATH)?.cache;
    const [page] = image === undefined ? [0] : image.differences(this.primary.content, 1);
    if (page !== undefined) {
      const where = image === undefined ? 'there is none' : describeDifference(image, this.primary.content, page);
      this.#found(`streaming, and the images differ: ${where}`);
      this.#fail();
    }
  }

  /** Nobody writes any more; a primary whose flushes fail is started anew. */
  async #stopClients(): Promise<void> {
    const clients = this.primary.clients;
    if (clients === undefined) return;
    let stopped = false;
    const incarnation = this.primary.host.incarnation;
    clients.stop().then(
      () => {
        stopped = true;
      },
      () => undefined,
    );
    await this.#live(() => stopped || this.primary.host.incarnation !== incarnation);
    if (clients.flushFailed) this.primary.stop(0);
  }

  #inStep(): boolean {
    const { primary, mirror } = this;
    if (primary.state !== 'up' || mirror.state !== 'up') return false;
    // A mirror that went away unheard is not in step with whoever still believes so.
    if (mirror.status?.primary === undefined) return false;
    const link = primary.link!;
    return link.state === 'streaming' && link.lag.operations === 0 && link.lag.bytes === 0;
  }

  #attendLater(): void {
    this.timeline.after(ATTEND_MS, () => {
      this.primary.attend();
      this.mirror.attend();
      this.#attendLater();
    });
  }

  #found(what: string, cause?: unknown): void {
    this.#finding ??= { what, cause };
  }

  #fail(): never {
    const { what, cause } = this.#finding!;
    const error =
      cause === undefined ? '' : `\n${cause instanceof Error ? (cause.stack ?? cause.message) : JSON.stringify(cause)}`;
    const lines = this.#trace.last(60).join('\n');
    throw new Finding(
      this.seed,
      `${what}${cause instanceof Error ? `: ${cause.message}` : ''}`,
      `seed ${this.seed}, step ${this.#step}: ${what}${error}\n${lines}\nTo see it again: npm run sim -- --seed ${this.seed} --steps ${this.#steps}`,
      { cause },
    );
  }
}

function watchEscapes(listener: (error: unknown) => void): void {
  onEscaped = listener;
  if (watching) return;
  watching = true;
  process.on('unhandledRejection', (error) => onEscaped?.(error));
}
