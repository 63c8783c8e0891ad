/**
 * Towards one mirror, for as long as the primary runs: connects, opens a session, and when it ends, tries again.
 *
 * The states and their transitions are in transitions.ts. Waiting: jittered exponential back-off after a lost link, a
 * minute after a refusal that needs a human, a moment after the window overran (so that one burst is over before the
 * rescan begins, and nothing flaps).
 * Keys are renewed by a planned reconnect: see key-renewal.ts.
 */
import { Backoff } from '../base/backoff.ts';
import { ID_SIZE, NO_ID } from '../base/bytes.ts';
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { type Address, type ByteStream, formatAddress } from '../io/network.ts';
import type { World } from '../io/world.ts';
import { Channel, type ChannelTiming, DEFAULT_TIMING } from '../link/channel.ts';
import { FrameType } from '../link/frame.ts';
import {
  BeginKind,
  decodeAck,
  decodeRefused,
  decodeWelcome,
  encodeBegin,
  encodeHello,
  NO_POSITIONS,
  type Positions,
  VERSION_MAX,
  VERSION_MIN,
  type Welcome,
} from '../link/messages.ts';
import type { LinkTls } from '../secure/tls.ts';
import { admission } from './admission.ts';
import type { Agreement } from './agreement.ts';
import type { CheckpointNumbers } from './checkpoints.ts';
import { type Decision, decide, type Own } from './decide.ts';
import { KeyRenewal } from './key-renewal.ts';
import type { Ledger } from './ledger.ts';
import type { LocalDisk } from './local-disk.ts';
import type { Replica } from './replica.ts';
import { PrimarySession } from './session.ts';
import type { MirrorLinkStatus, RescanProgress, SessionState, VerifyReport } from './status.ts';
import { type SessionEvent, transition } from './transitions.ts';

const CONNECT_TIMEOUT_MS = 10_000;
/** A session that lasted so long has shown that both ends can work with each other. */
const STEADY_MS = 2_000;
const OPENING_TIMEOUT_MS = 30_000;

export interface RetryTiming {
  readonly firstMs: number;
  readonly lastMs: number;
  /** After a refusal that needs a human. */
  readonly refusedMs: number;
  /** After the window overran. */
  readonly behindMs: number;
}

const DEFAULT_RETRY: RetryTiming = { firstMs: 200, lastMs: 10_000, refusedMs: 60_000, behindMs: 1_000 };

export interface MirrorLinkSettings {
  readonly address: Address;
  readonly tls: LinkTls;
  readonly exportName: string;
  readonly volumeId: Buffer;
  readonly windowSize: number;
  readonly rescanRate: number | undefined;
  readonly rekeySize: number;
  readonly rekeyIntervalMs: number;
  readonly timing?: ChannelTiming | undefined;
  readonly retry?: RetryTiming | undefined;
}

export class MirrorLink {
  readonly #world: World;
  readonly #log: Log;
  readonly #settings: MirrorLinkSettings;
  readonly #replica: Replica;
  readonly #local: LocalDisk;
  readonly #numbers: CheckpointNumbers;
  readonly #ledger: Ledger;
  readonly #agreement: Agreement;
  readonly #retry: RetryTiming;
  readonly #backoff: Backoff;
  #own: Own;
  #state: SessionState = 'offline';
  #stateMs: number;
  #session: PrimarySession | undefined;
  #channel: Channel | undefined;
  #replicaId: string | undefined;
  #problem: Failure | undefined;
  #positions: Positions = NO_POSITIONS;
  #lastRescan: RescanProgress | undefined;
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
    this.#retry = settings.retry ?? DEFAULT_RETRY;
    this.#backoff = new Backoff(this.#retry.firstMs, this.#retry.lastMs, () => world.random.uniform());
    this.#stateMs = world.clock.nowMs();
    replica.listen({
      appended: () => this.#session?.appended(),
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
      await Promise.race([settled, this.#world.clock.sleep(drainMs)]);
    }
    this.#stopping = true;
    this.#channel?.close();
    this.#wake();
    await this.#running;
    this.#move('stopped');
  }

  verify(onProgress: (progress: RescanProgress) => void): Promise<VerifyReport> {
    if (this.#session === undefined || (this.#state !== 'streaming' && this.#state !== 'catch-up')) {
      return Promise.reject(new Failure('not-ready', `the mirror is ${this.#state}, not streaming`));
    }
    return this.#session.verify(onProgress);
  }

  status(): MirrorLinkStatus {
    const nowMs = this.#world.clock.nowMs();
    const { window, marks } = this.#replica;
    const positions = this.#session?.positions ?? this.#positions;
    return {
      mirror: formatAddress(this.#settings.address),
      state: this.#state,
      stateAgeMs: nowMs - this.#stateMs,
      replicaId: this.#replicaId,
      problem: this.#problem?.problem,
      mode: this.#agreement.mode,
      agreement: this.#agreement.status,
      ...positions,
      lag: { operations: this.#replica.sequence - positions.applied, ...this.#replica.lag },
      window: { used: window.usedSize, limit: window.limit },
      markedSize: marks.markedSize,
      unreadableSize: marks.unreadableSize,
      regionSize: marks.regionSize,
      rescan: this.#session?.rescan,
      lastRescan: this.#lastRescan,
      wireSent: this.#wireSent + (this.#channel?.bytesSent ?? 0),
      wireReceived: this.#wireReceived + (this.#channel?.bytesReceived ?? 0),
      sessions: this.#sessions,
      nextAttemptMs: this.#nextAttemptMs === undefined ? undefined : Math.max(0, this.#nextAttemptMs - nowMs),
    };
  }

  async #run(): Promise<void> {
    let renewed: ByteStream | undefined;
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
  async #serve(renewed: ByteStream | undefined): Promise<ByteStream | undefined> {
    this.#move('attempt');
    const stream = renewed ?? (await this.#connect());
    if (this.#stopping) {
      stream.destroy();
      return undefined;
    }
    const channel = new Channel(stream, this.#world.clock, this.#settings.timing ?? DEFAULT_TIMING);
    this.#channel = channel;
    this.#move('linked');
    let renewal: KeyRenewal | undefined;
    try {
      const { session, first, scope } = await this.#open(channel);
      this.#session = session;
      // While the mirror was getting ready the window may have overrun: this session has nothing to go on with.
      if (!this.#replica.keeping) channel.close();
      this.#sessions += 1;
      this.#problem = undefined;
      renewal = new KeyRenewal(this.#world, this.#log, session, this.#settings, () => this.#connect());
      const openedMs = this.#world.clock.nowMs();
      const reason = await session.run(first, scope);
      // A session that lasted was a success: the next failure waits briefly again.
      const steadyMs = Math.min(this.#retry.lastMs, STEADY_MS);
      if (this.#world.clock.nowMs() - openedMs > steadyMs || reason === undefined) this.#backoff.reset();
      if (reason !== undefined) throw reason;
      this.#move('lost');
      return renewal.stream;
    } catch (error) {
      // The mirror should know why, too.
      if (isFailure(error) && !channel.ended) channel.refuse(error);
      throw error;
    } finally {
      renewal?.stop();
      this.#replica.dropPass();
      if (this.#session !== undefined) this.#positions = this.#session.positions;
      this.#session = undefined;
      this.#channel = undefined;
      this.#agreement.counts(false);
      this.#wireSent += channel.bytesSent;
      this.#wireReceived += channel.bytesReceived;
      if (!channel.ended) channel.close();
    }
  }

  /** A stop does not wait for a host that does not answer; the connection, should it come about, is closed. */
  #connect(): Promise<ByteStream> {
    const { address, tls } = this.#settings;
    const connecting = this.#world.network.connectLink(address, tls, CONNECT_TIMEOUT_MS);
    return new Promise((resolve, reject) => {
      this.#wake = () => reject(new Failure('shutting-down', 'the primary is stopping'));
      connecting.then((stream) => (this.#stopping ? stream.destroy() : resolve(stream)), reject);
    });
  }

  /** HELLO, WELCOME, the decision, the queue of rescans, BEGIN, and the mirror's first ACK. */
  async #open(channel: Channel): Promise<{
    session: PrimarySession;
    first: Positions;
    scope: RescanProgress['scope'] | undefined;
  }> {
    const settings = this.#settings;
    const own = this.#own;
    channel.send([
      encodeHello({
        versionMin: VERSION_MIN,
        versionMax: VERSION_MAX,
        mode: this.#agreement.mode,
        volumeId: settings.volumeId,
        generation: own.generation,
        run: own.run,
        parentRun: own.parentRun,
        parentSequence: own.parentSequence,
        size: own.size,
        windowSize: settings.windowSize,
        mapVersion: 0,
        exportName: settings.exportName,
      }),
    ]);
    const welcome = decodeWelcome(await channel.take(OPENING_TIMEOUT_MS));
    this.#replicaId = welcome.fresh ? undefined : welcome.replicaId.toString('hex');
    const decision = decide(own, welcome, this.#replica);
    const scope = await this.#begin(channel, welcome, decision);
    const ready = await channel.take(OPENING_TIMEOUT_MS);
    if (ready.type === FrameType.REFUSED) throw decodeRefused(ready);
    const first = decodeAck(ready);
    // Asked for once: the marks remember what is still to be compared.
    this.#own = { ...this.#own, rescanAll: false };
    const session = new PrimarySession(
      this.#world,
      this.#log,
      channel,
      this.#replica,
      this.#local,
      this.#numbers,
      () => this.#ledger.activity,
      { rescanRate: settings.rescanRate },
      {
        state: (event) => this.#move(event),
        rescanned: (progress) => {
          this.#lastRescan = progress;
          this.#replica.rescanned();
          this.#log.info(progress, 'the rescan is complete: the mirror is in step');
        },
        acknowledged: ({ applied, durable }) => this.#agreement.acknowledged(applied, durable),
      },
    );
    return { session, first, scope };
  }

  /** Carries the decision out; from its last line on, operations enter the window of the new session. */
  async #begin(channel: Channel, welcome: Welcome, decision: Decision): Promise<RescanProgress['scope'] | undefined> {
    const replica = this.#replica;
    if (decision.kind === 'catch-up') {
      replica.resume(decision.after);
      this.#move('resumed');
      channel.send([
        encodeBegin({ kind: BeginKind.CATCH_UP, sequence: decision.after, sentMax: replica.sentMax, stagingId: NO_ID }),
      ]);
      this.#log.info({ after: decision.after }, 'connected: the stream goes on');
      return undefined;
    }
    this.#move('scope-needed');
    await admission(channel, this.#log);
    // The marks live in memory: a clean flag on disk must not vouch for an image that is about to be in the middle of
    // a rescan.
    await this.#ledger.start();
    let after = decision.resumeAfter;
    // While this primary waited its window may have overrun.
    if (after !== undefined && (!replica.keeping || after < replica.window.baseSequence)) after = undefined;
    if (decision.markAll) replica.marks.markAll();
    if (after === undefined) {
      replica.giveUpOrder();
      after = replica.startKeeping();
    } else {
      replica.resume(after);
    }
    // From here on, not only once the mirror has answered: a burst of writes meanwhile is left to the pass.
    replica.beginPass();
    const seeding = !welcome.seeded;
    const scope = replica.marks.count === replica.marks.regionCount ? 'everything' : 'marked';
    this.#move(seeding ? 'seeding-admitted' : 'rescan-admitted');
    channel.send([
      encodeBegin({
        kind: seeding ? BeginKind.SEEDING : BeginKind.RESCAN,
        sequence: after,
        sentMax: replica.sentMax,
        stagingId: seeding ? NO_ID : this.#world.random.bytes(ID_SIZE),
      }),
    ]);
    this.#log.info(
      { scope, marked: replica.marks.markedSize },
      seeding ? 'connected: seeding' : 'connected: a rescan begins',
    );
    return scope;
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
      'the mirror is too slow or away: the window overran, a rescan will follow',
    );
    this.#move('overran');
    this.#session?.channel.close();
  }

  #move(event: SessionEvent): void {
    const next = transition(this.#state, event);
    if (next === this.#state) return;
    this.#log.debug({ from: this.#state, to: next }, 'state');
    this.#state = next;
    this.#stateMs = this.#world.clock.nowMs();
    this.#agreement.counts(next === 'catch-up' || next === 'streaming');
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
