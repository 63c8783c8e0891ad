/**
 * The NBD server: any number of volumes, any number of listeners. It knows nothing of replication.
 *
 * What is kept: listeners, live connections, and the budgets that the connections share.
 */
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Clock } from '../io/clock.ts';
import type { Address, ByteStream, Listener, Network } from '../io/network.ts';
import type { NbdTls } from '../secure/tls.ts';
import { Budget } from './budget.ts';
import { Connection, type ConnectionStatus } from './connection.ts';
import { type Export, ExportTable } from './exports.ts';
import type { TlsPolicy } from './handshake.ts';
import { DEFAULT_LIMITS, type NbdLimits } from './limits.ts';

export interface NbdServerOptions {
  readonly network: Network;
  readonly clock: Clock;
  readonly log: Log;
  /** At least one. The server does not close their volumes. */
  readonly exports: readonly Export[];
  readonly listeners: readonly Address[];
  /** `require`: nothing without TLS; `on`: for who wants it; `off`: none. */
  readonly tls: TlsPolicy;
  /** Keys or a certificate; needed unless `tls` is `off`. */
  readonly nbdTls?: NbdTls | undefined;
  readonly limits?: Partial<NbdLimits>;
}

export interface NbdServer {
  /** Where it listens, with the ports chosen. */
  readonly addresses: readonly Address[];
  /** One for each client, also those whose socket is gone but not their requests. */
  connections(): ConnectionStatus[];
  /**
   * Stops: accepts nobody, finishes and answers what is in flight, answers later requests with ESHUTDOWN, then ends the
   * connections. After `drainMs` cuts off those that are left. Resolves when no connection will make a request of a
   * volume any more; only then close the volumes, which wait for what they are still working on.
   */
  close(drainMs: number): Promise<void>;
}

/**
 * Starts serving. Failures: `config-invalid` (exports), `tls-config` (TLS without keys), and those of
 * `Network.listen`; nothing is left listening then.
 */
export async function startNbdServer(options: NbdServerOptions): Promise<NbdServer> {
  const server = new Server(options);
  await server.listen(options.listeners);
  return server;
}

class Server implements NbdServer {
  readonly #options: NbdServerOptions;
  readonly #exports: ExportTable;
  readonly #limits: NbdLimits;
  readonly #budget: Budget;
  readonly #partingBudget: Budget;
  readonly #connections = new Set<Connection>();
  readonly #listeners: Listener[] = [];
  #isStopping = false;
  #whenEmpty: (() => void) | undefined;

  constructor(options: NbdServerOptions) {
    assert(options.exports.length > 0, 'a server has an export');
    const { keys, certificate } = options.nbdTls ?? {};
    if (options.tls !== 'off' && keys === undefined && certificate === undefined) {
      throw new Failure('tls-config', `TLS is ‘${options.tls}’, but there are neither keys nor a certificate`);
    }
    this.#options = options;
    this.#exports = new ExportTable(options.exports);
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#budget = new Budget(this.#limits.serverInFlight);
    this.#partingBudget = new Budget(this.#limits.partingSize);
  }

  get addresses(): readonly Address[] {
    return this.#listeners.map((listener) => listener.address);
  }

  async listen(addresses: readonly Address[]): Promise<void> {
    try {
      for (const address of addresses) {
        this.#listeners.push(await this.#options.network.listen(address, (stream) => this.#accept(stream)));
      }
    } catch (error) {
      await this.close(0);
      throw error;
    }
  }

  connections(): ConnectionStatus[] {
    return [...this.#connections].map((connection) => connection.status());
  }

  async close(drainMs: number): Promise<void> {
    this.#isStopping = true;
    const listenersClosed = Promise.all(this.#listeners.map((listener) => listener.close()));
    for (const connection of [...this.#connections]) connection.stop();
    await this.#emptyWithin(drainMs);
    for (const connection of [...this.#connections]) connection.destroy();
    await listenersClosed;
  }

  #accept(stream: ByteStream): void {
    const isFull = this.#connections.size >= this.#limits.connections;
    if (isFull || this.#isStopping) {
      const reason = this.#isStopping ? 'stopping' : `${this.#limits.connections} are connected`;
      this.#options.log.warn({ peer: stream.peerName }, `client refused: ${reason}`);
      stream.destroy();
      return;
    }
    const connection = new Connection(stream, {
      exports: this.#exports,
      tls: this.#options.tls,
      nbdTls: this.#options.nbdTls,
      budget: this.#budget,
      partingBudget: this.#partingBudget,
      limits: this.#limits,
      clock: this.#options.clock,
      log: this.#options.log,
      gone: (gone) => this.#forget(gone),
    });
    this.#connections.add(connection);
    connection.begin();
  }

  #forget(connection: Connection): void {
    this.#connections.delete(connection);
    if (this.#connections.size === 0) this.#whenEmpty?.();
  }

  #emptyWithin(drainMs: number): Promise<void> {
    if (this.#connections.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = this.#options.clock.after(drainMs, resolve);
      this.#whenEmpty = () => {
        timer.cancel();
        resolve();
      };
    });
  }
}
