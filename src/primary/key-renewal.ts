/**
 * Renews the keys of the link by a planned reconnect: when a session is old, or has carried much, a second connection is
 * made and authenticated first, then the session is closed, and the next one resumes on that connection after what the
 * mirror has applied. (Node's TLS cannot renew keys within a connection.) While a comparison runs, which would have to go
 * back to its last checkpoint, it waits, until the number of records makes it urgent.
 */
import { isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Timer } from '../io/clock.ts';
import type { LinkStream } from '../io/network.ts';
import type { World } from '../io/world.ts';
import type { PrimarySession } from './session.ts';

const LOOK_INTERVAL_MS = 1_000;
/** TLS records under one key. AES-GCM is good for 2^24.5 of them. */
const RECORDS_MAX = 2 ** 23;

export interface KeyRenewalLimits {
  /** Bytes sent with one set of keys. */
  readonly rekeySize: number;
  readonly rekeyIntervalMs: number;
}

export class KeyRenewal {
  readonly #world: World;
  readonly #log: Log;
  readonly #session: PrimarySession;
  readonly #limits: KeyRenewalLimits;
  readonly #connect: () => Promise<LinkStream>;
  readonly #startMs: number;
  #stream: LinkStream | undefined;
  #timer: Timer;
  #stopped = false;

  constructor(
    world: World,
    log: Log,
    session: PrimarySession,
    limits: KeyRenewalLimits,
    connect: () => Promise<LinkStream>,
  ) {
    this.#world = world;
    this.#log = log;
    this.#session = session;
    this.#limits = limits;
    this.#connect = connect;
    this.#startMs = world.clock.nowMs();
    this.#timer = world.clock.after(LOOK_INTERVAL_MS, () => this.#look());
  }

  /** The new connection, when the session was closed for its sake. */
  get stream(): LinkStream | undefined {
    return this.#stream;
  }

  /** It waits for a comparison to end, or is under way. */
  get isDue(): boolean {
    const ageMs = this.#world.clock.nowMs() - this.#startMs;
    return this.#session.channel.bytesSent >= this.#limits.rekeySize || ageMs >= this.#limits.rekeyIntervalMs;
  }

  /** The session has ended. */
  stop(): void {
    this.#stopped = true;
    this.#timer.cancel();
  }

  #look(): void {
    const { recordsSent } = this.#session.channel;
    if (recordsSent < RECORDS_MAX && (!this.isDue || this.#session.comparing)) {
      this.#timer = this.#world.clock.after(LOOK_INTERVAL_MS, () => this.#look());
      return;
    }
    this.#renew().catch((error: unknown) => {
      if (!isFailure(error)) throw error;
      this.#log.warn({ code: error.code }, `the keys could not be renewed: ${error.message}`);
      if (!this.#stopped) this.#timer = this.#world.clock.after(LOOK_INTERVAL_MS, () => this.#look());
    });
  }

  async #renew(): Promise<void> {
    const stream = await this.#connect();
    if (this.#stopped || this.#session.channel.ended) {
      stream.destroy();
      return;
    }
    this.#log.info({ sent: this.#session.channel.bytesSent }, 'renewing the keys of the link');
    this.#stream = stream;
    this.#session.channel.close();
  }
}
