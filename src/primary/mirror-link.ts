/**
 * Towards one mirror, for as long as the primary runs: connects, opens a session, and when it ends, tries again.
 *
 * The states and their transitions are in transitions.ts. Waiting: jittered exponential back-off after a lost link, a
 * minute after a refusal that needs a human, a moment after the window overran (so that one burst is over before the
 * rescan begins, and nothing flaps).
 * Keys are renewed by a planned reconnect: see key-renewal.ts.
 */
import { Backoff } from '../base/backoff.ts';
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { within } from '../io/clock.ts';
import { formatAddress, type LinkStream } from '../io/network.ts';
import type { World } from '../io/world.ts';
import { Channel, DEFAULT_TIMING } from '../link/channel.ts';
import { NO_POSITIONS, type Positions } from '../link/messages.ts';
import type { Agreement } from './agreement.ts';
import type { CheckpointNumbers } from './checkpoints.ts';
import type { ClientLoad } from './client-load.ts';
import type { Own } from './decide.ts';
import type { DirtyRegions } from './dirty-regions.ts';
import { KeyRenewal } from './key-renewal.ts';
import { lagOf } from './lag.ts';
import type { Ledger } from './ledger.ts';
import type { LocalDisk } from './local-disk.ts';
import { DEFAULT_RETRY, type MirrorLinkSettings, type RetryTiming } from './mirror-link-settings.ts';
import { type Opened, open } from './opening.ts';
import type { Replica } from './replica.ts';
import { PrimarySession } from './session.ts';
import { StagingNeed } from './staging-need.ts';
import type { MirrorLinkStatus, RescanProgress, SessionState } from './status.ts';
import { type SessionEvent, transition } from './transitions.ts';

const CONNECT_TIMEOUT_MS = 10_000;
/** How long a stop waits for what was said last to leave. */
const PARTING_MS_MAX = 100;
const PARTING_STEP_MS = 2;
/** A session that lasted so long has shown that both ends can work with each other. */
const STEADY_MS = 2_000;

export class MirrorLink {
  readonly #world: World;
  readonly #log: Log;
  readonly #settings: MirrorLinkSettings;
  readonly #replica: Replica;
  readonly #local: LocalDisk;
  readonly #numbers: CheckpointNumbers;
  readonly #ledger: Ledger;
  readonly #agreement: Agreement;
  readonly #regions: DirtyRegions;
  readonly #load: ClientLoad;
  readonly #stagingNeed: StagingNeed;
  readonly #retry: RetryTiming;
  readonly #backoff: Backoff;
  #own: Own;
  #state: SessionState = 'offline';
  #stateMs: number;
  #session: PrimarySession | undefined;
  #channel: Channel | undefined;
  #queuePlace: number | undefined;
  #renewal: KeyRenewal | undefined;
  #replicaId: string | undefined;
  #problem: Failure | undefined;
  #positions: Positions = NO_POSITIONS;
  #lastRescan: RescanProgress | undefined;
  /** The session has a staged run open. */
  #staged = false;
  #wireSent = 0;
  #wireReceived = 0;
  #sessions = 0;
  #nextAttemptMs: number | undefined;
  /** Ends a pause, or the wait for a connection; does nothing when that is over. */
  #wake: () => void = () => undefined;
  #stopping = false;
  #running: Promise<void> | undefined;

  constructor(
    world: World,
    log: Log,
    settings: MirrorLinkSettings,
    own: Own,
    replica: Replica,
    local: LocalDisk,
    numbers: CheckpointNumbers,
    ledger: Ledger,
    agreement: Agreement,
    regions: DirtyRegions,
    load: ClientLoad,
  ) {
    this.#world = world;
    this.#log = log.child({ mirror: formatAddress(settings.address) });
    this.#settings = settings;
    this.#own = own;
    this.#replica = replica;
    this.#local = local;
    this.#numbers = numbers;
    this.#ledger = ledger;
    this.#agreement = agreement;
    this.#regions = regions;
    this.#load = load;
    this.#stagingNeed = new StagingNeed(world.clock);
    this.#retry = settings.retry ?? DEFAULT_RETRY;
    this.#backoff = new Backoff(this.#retry.firstMs, this.#retry.lastMs, () => world.random.uniform());
    this.#stateMs = world.clock.nowMs();
    replica.listen({
      appended: (ended) => this.#session?.appended(ended),
      mergedReady: () => this.#session?.mergedReady(),
      overran: () => this.#overran(),
    });
  }

  get replica(): Replica {
    return this.#replica;
  }

  start(): void {
    this.#running = this.#run();
  }

  /** Waits until the mirror holds everything, for at most `drainMs`, then ends the session. */
  async stop(drainMs: number): Promise<void> {
    const session = this.#session;
    if (session !== undefined && !session.comparing && drainMs > 0) {
      const settled = session.settle().catch(() => undefined);
      await within(this.#world.clock, drainMs, settled);
    }
    this.#stopping = true;
    const channel = this.#channel;
    channel?.close();
    this.#wake();
    await this.#running;
    if (channel !== undefined) await this.#part(channel);
    this.#move('stopped');
  }

  /** The process may end now: what was said last should have left it. */
  async #part(channel: Channel): Promise<void> {
    const { clock } = this.#world;
    const untilMs = clock.nowMs() + PARTING_MS_MAX;
    while (channel.queuedSize > 0 && clock.nowMs() < untilMs) await clock.sleep(PARTING_STEP_MS);
  }

  /** The session, when it can be used for a verify. Failure: `not-ready`. */
  inStep(): PrimarySession {
    if (this.#session === undefined || (this.#state !== 'streaming' && this.#state !== 'catch-up')) {
      throw new Failure('not-ready', `the mirror is ${this.#state}, not streaming`);
    }
    return this.#session;
  }

  /** The keys are to be renewed, as soon as no comparison runs. */
  get renewalDue(): boolean {
    return this.#renewal?.isDue === true;
  }

  /** Hexadecimal, once known. */
  get replicaId(): string | undefined {
    return this.#replicaId;
  }

  /** Every operation up to here is durably in the mirror's image, as far as it has said in this run. */
  get durable(): number {
    return (this.#session?.positions ?? this.#positions).durable;
  }

  status(): MirrorLinkStatus {
    const nowMs = this.#world.clock.nowMs();
    const { backlog, window, marks, regions } = this.#replica;
    const { spooledSize, spoolLimit, rung, rungChanges } = backlog.status;
    const positions = this.#session?.positions ?? this.#positions;
    return {
      mirror: formatAddress(this.#settings.address),
      state: this.#state,
      stateAgeMs: nowMs - this.#stateMs,
      mode: this.#agreement.mode,
      agreement: this.#agreement.status,
      queuePlace: this.#queuePlace,
      replicaId: this.#replicaId,
      problem: this.#problem?.problem,
      ...positions,
      lag: { operations: this.#replica.sequence - positions.applied, ...lagOf(this.#replica, nowMs) },
      window: { used: window.usedSize, limit: window.limit },
      spool: { used: spooledSize, limit: spoolLimit, rung, rungChanges },
      staging: { used: positions.stagedSize, needed: this.#stagingNeed.size },
      map: { valid: regions.valid, set: regions.setCount, version: regions.version },
      markedSize: marks.markedSize,
      unreadableSize: marks.unreadableSize,
      regionSize: marks.regionSize,
      rescanRate: this.#settings.rescanLimit.bytesPerSecond,
      rescan: this.#session?.rescan,
      lastRescan: this.#lastRescan,
      wireSent: this.#wireSent + (this.#channel?.bytesSent ?? 0),
      wireReceived: this.#wireReceived + (this.#channel?.bytesReceived ?? 0),
      sessions: this.#sessions,
      nextAttemptMs: this.#nextAttemptMs === undefined ? undefined : Math.max(0, this.#nextAttemptMs - nowMs),
    };
  }

  async #run(): Promise<void> {
    let renewed: LinkStream | undefined;
    while (!this.#stopping) {
      let waitMs: number;
      try {
        renewed = await this.#serve(renewed);
        waitMs = renewed === undefined ? this.#backoff.next() : 0;
      } catch (error) {
        renewed = undefined;
        if (!isFailure(error)) throw error;
        waitMs = this.#failed(error);
      }
      if (this.#state === 'behind') waitMs = Math.max(waitMs, this.#retry.behindMs);
      if (waitMs > 0 && !this.#stopping) await this.#pause(waitMs);
    }
    renewed?.destroy();
  }

  /** One session from connect to end. Resolves with a connection made for the next one, when keys were renewed. */
  async #serve(renewed: LinkStream | undefined): Promise<LinkStream | undefined> {
    this.#move('attempt');
    const stream = renewed ?? (await this.#connect());
    if (this.#stopping) {
      stream.destroy();
      return undefined;
    }
    const channel = new Channel(stream, this.#world.clock, this.#settings.timing ?? DEFAULT_TIMING);
    this.#channel = channel;
    this.#move('linked');
    let stagingRoom = 0;
    try {
      const opened = await this.#opening(channel);
      this.#replicaId = opened.replicaId;
      stagingRoom = opened.stagingRoom;
      const session = this.#newSession(channel);
      this.#session = session;
      // While the mirror was getting ready the backlog may have overrun: this session has nothing to go on with.
      if (!this.#replica.keeping) channel.close();
      this.#sessions += 1;
      this.#problem = undefined;
      const renewal = new KeyRenewal(this.#world, this.#log, session, this.#settings, () => this.#connect());
      this.#renewal = renewal;
      const openedMs = this.#world.clock.nowMs();
      const reason = await session.run(opened.first, opened.begun);
      // A session that lasted was a success: the next failure waits briefly again.
      const steadyMs = Math.min(this.#retry.lastMs, STEADY_MS);
      if (this.#world.clock.nowMs() - openedMs > steadyMs || reason === undefined) this.#backoff.reset();
      if (reason !== undefined) throw reason;
      this.#move('lost');
      return renewal.stream;
    } catch (error) {
      // The mirror should know why, too.
      if (isFailure(error) && !channel.ended) channel.refuse(error);
      if (isFailure(error, 'staging-full') && this.#session !== undefined) {
        this.#stagingNeed.wasFull(this.#session.positions.stagedSize, stagingRoom);
      }
      throw error;
    } finally {
      this.#renewal?.stop();
      this.#renewal = undefined;
      this.#replica.sessionEnded();
      this.#staged = false;
      this.#agreement.counts(false);
      if (this.#session !== undefined) this.#positions = this.#session.positions;
      this.#session = undefined;
      this.#channel = undefined;
      this.#wireSent += channel.bytesSent;
      this.#wireReceived += channel.bytesReceived;
      if (!channel.ended) channel.close();
    }
  }

  /** A stop does not wait for a host that does not answer; the connection, should it come about, is closed. */
  #connect(): Promise<LinkStream> {
    const { address, tls } = this.#settings;
    const connecting = this.#world.network.connectLink(address, tls, CONNECT_TIMEOUT_MS);
    return new Promise((resolve, reject) => {
      this.#wake = () => reject(new Failure('shutting-down', 'the primary is stopping'));
      connecting.then((stream) => (this.#stopping ? stream.destroy() : resolve(stream)), reject);
    });
  }

  #opening(channel: Channel): Promise<Opened> {
    return open({
      channel,
      log: this.#log,
      random: this.#world.random,
      replica: this.#replica,
      ledger: this.#ledger,
      introduction: { ...this.#settings.introduction, mode: this.#agreement.mode },
      own: this.#own,
      stagingNeeded: this.#stagingNeed.binding,
      staging: () => {
        this.#staged = true;
      },
      placed: (place) => {
        this.#queuePlace = place;
      },
      moved: (event) => this.#move(event),
    });
  }

  #newSession(channel: Channel): PrimarySession {
    return new PrimarySession(
      this.#world,
      this.#log,
      channel,
      this.#replica,
      this.#local,
      this.#numbers,
      this.#load,
      { mode: this.#agreement.mode, rescanLimit: this.#settings.rescanLimit },
      {
        state: (event) => this.#move(event),
        acknowledged: ({ applied, durable }) => {
          this.#agreement.acknowledged(applied, durable);
          this.#regions.reconcile();
        },
        staged: (open) => {
          this.#staged = open;
          if (!open) this.#stagingNeed.wasMet();
          this.#count();
        },
        rescanned: (progress) => {
          this.#lastRescan = progress;
          // Asked for once.
          this.#own = { ...this.#own, rescanAll: false };
          this.#log.info(progress, 'the rescan is complete: the mirror is in step');
        },
      },
    );
  }

  /** A session or an attempt failed: says so, and how long to wait. */
  #failed(failure: Failure): number {
    if (this.#stopping) return 0;
    const known = this.#problem?.code === failure.code && this.#problem.message === failure.message;
    this.#problem = failure;
    const needsHuman = failure.retry !== 'backoff';
    this.#move(needsHuman ? 'refused' : 'lost');
    const waitMs = needsHuman ? this.#retry.refusedMs : this.#backoff.next();
    const fields = { code: failure.code, retryMs: Math.round(waitMs), hint: failure.hint };
    // The same thing again and again is said once.
    if (known) this.#log.debug(fields, failure.message);
    else this.#log.warn(fields, `${needsHuman ? 'refused' : 'not connected'}: ${failure.message}`);
    return waitMs;
  }

  #overran(): void {
    this.#log.warn(
      { marked: this.#replica.marks.markedSize },
      'the mirror is too slow or away: the backlog overran, a rescan will follow',
    );
    this.#move('overran');
    this.#session?.channel.close();
  }

  #move(event: SessionEvent): void {
    const next = transition(this.#state, event);
    if (next === this.#state) return;
    this.#log.debug({ from: this.#state, to: next }, 'state');
    this.#state = next;
    this.#queuePlace = undefined;
    this.#stateMs = this.#world.clock.nowMs();
    this.#count();
  }

  /** A mirror counts towards a mode only while it is in step or nearly so, and its image moves. */
  #count(): void {
    const near = this.#state === 'streaming' || this.#state === 'catch-up';
    this.#agreement.counts(near && !this.#staged);
  }

  async #pause(waitMs: number): Promise<void> {
    this.#nextAttemptMs = this.#world.clock.nowMs() + waitMs;
    await new Promise<void>((resolve) => {
      const timer = this.#world.clock.after(waitMs, resolve);
      this.#wake = () => {
        timer.cancel();
        resolve();
      };
    });
    this.#nextAttemptMs = undefined;
  }
}
