/**
 * The network between the hosts: listeners, connections, and what goes wrong with them.
 *
 * A connection is a pair of streams, each with a *pipe* towards the other: bytes that were written and have not left,
 * bytes under way, bytes that have arrived and wait for a paused reader. A pipe carries so many bytes per millisecond,
 * in pieces cut by chance, in order; it stands still while its direction is cut off, and goes on afterwards.
 *
 * What can happen to a connection: it is reset (both ends are told, sooner or later), or lost silently on one side (the
 * other hears nothing until it gives up), or one of its hosts dies. A host that has come up again answers what arrives for
 * a connection of an earlier incarnation with a reset.
 */
import { Failure } from '../../src/base/failure.ts';
import { type Address, type ByteStream, formatAddress, type Listener, type Network } from '../../src/io/network.ts';
import type { Incarnation } from './host.ts';
import type { SeededRandom } from './random.ts';
import { SimulatedStream } from './stream.ts';
import type { Timeline } from './timeline.ts';

/** How links behave now. */
export interface LinkPace {
  /** One way, mean. */
  latencyMs: number;
  /** Bytes per millisecond, each way. */
  rate: number;
  /** Bytes that may be under way or wait for the reader, per direction. */
  bufferSize: number;
  /** Bytes queued by the writer from which it is asked to wait. */
  queueSize: number;
}

interface Listening {
  readonly incarnation: Incarnation;
  accept(stream: ByteStream): void;
}

export class SimulatedNetwork {
  readonly timeline: Timeline;
  readonly random: SeededRandom;
  readonly pace: LinkPace = { latencyMs: 0.5, rate: 20_000, bufferSize: 128 * 1024, queueSize: 32 * 1024 };
  /** Hosts from which nothing gets out at present. */
  readonly cutOff = new Set<string>();
  readonly streams = new Set<SimulatedStream>();
  readonly listeners = new Map<string, Listening>();
  readonly #hosts = new Map<string, HostNetwork>();
  connectionCount = 0;

  constructor(timeline: Timeline, random: SeededRandom) {
    this.timeline = timeline;
    this.random = random;
  }

  host(name: string): HostNetwork {
    let host = this.#hosts.get(name);
    if (host === undefined) {
      host = new HostNetwork(this, name);
      this.#hosts.set(name, host);
    }
    return host;
  }

  /** One way through the network, now. */
  latencyMs(): number {
    return this.random.exponential(this.pace.latencyMs);
  }

  /** What `host` sends does not get through, or does again. */
  cut(host: string, off: boolean): void {
    if (off) this.cutOff.add(host);
    else this.cutOff.delete(host);
    if (!off) for (const stream of this.streams) stream.flow();
  }

  /** Every connection is reset. */
  resetAll(): void {
    for (const stream of this.streams) stream.reset();
  }

  /** On one side of each connection nothing comes in or goes out any more, without anybody being told. */
  loseSilently(host: string): void {
    for (const stream of this.streams) if (stream.host === host) stream.vanish();
  }
}

/** The network as one host has it, over its incarnations. */
export class HostNetwork {
  readonly #network: SimulatedNetwork;
  readonly name: string;
  /** The machine is up: it answers, if only with a reset. */
  up = true;

  constructor(network: SimulatedNetwork, name: string) {
    this.#network = network;
    this.name = name;
  }

  open(incarnation: Incarnation): Network {
    this.up = true;
    return new IncarnationNetwork(this.#network, this, incarnation);
  }

  processDied(how: 'killed' | 'powered off'): void {
    const { listeners, streams } = this.#network;
    for (const [key, listening] of listeners) if (!listening.incarnation.alive) listeners.delete(key);
    this.up = how === 'killed';
    for (const stream of streams) {
      if (stream.host !== this.name || stream.incarnation.alive) continue;
      if (how === 'killed') stream.closedByKernel();
      else stream.vanish();
    }
  }
}

class IncarnationNetwork implements Network {
  readonly #network: SimulatedNetwork;
  readonly #host: HostNetwork;
  readonly #incarnation: Incarnation;

  constructor(network: SimulatedNetwork, host: HostNetwork, incarnation: Incarnation) {
    this.#network = network;
    this.#host = host;
    this.#incarnation = incarnation;
  }

  listen(): Promise<Listener> {
    throw new Error('the simulated network has links only');
  }

  connect(): Promise<ByteStream> {
    throw new Error('the simulated network has links only');
  }

  async listenLink(
    address: Address,
    _tls: unknown,
    onStream: (stream: ByteStream) => void,
    _onRefused: unknown,
  ): Promise<Listener> {
    if (!this.#incarnation.alive) await new Promise<void>(() => undefined);
    const key = formatAddress(address);
    const { listeners } = this.#network;
    if (listeners.has(key)) throw new Failure('address-in-use', key);
    listeners.set(key, { incarnation: this.#incarnation, accept: onStream });
    return {
      address,
      close: () => {
        if (listeners.get(key)?.incarnation === this.#incarnation) listeners.delete(key);
        return Promise.resolve();
      },
    };
  }

  /** Two ways through the network, as TCP and TLS need at least. */
  async connectLink(address: Address, _tls: unknown, timeoutMs: number): Promise<ByteStream> {
    const network = this.#network;
    const { timeline } = network;
    const key = formatAddress(address);
    const untilMs = timeline.nowMs + timeoutMs;
    await this.#sleep(network.latencyMs());
    for (;;) {
      const remote = network.host(address.kind === 'tcp' ? address.host : '');
      const silent = network.cutOff.has(this.#host.name) || network.cutOff.has(remote.name) || !remote.up;
      if (!silent) break;
      // TCP sends its first packet again, at long intervals.
      await this.#sleep(Math.min(100, Math.max(1, untilMs - timeline.nowMs)));
      if (timeline.nowMs >= untilMs) throw new Failure('peer-timeout', `${key} does not answer`);
    }
    await this.#sleep(network.latencyMs());
    const listening = network.listeners.get(key);
    if (listening === undefined || !listening.incarnation.alive) {
      throw new Failure('peer-unreachable', `${key}: connection refused`);
    }
    network.connectionCount += 1;
    const [near, far] = SimulatedStream.pair(network, this.#incarnation, listening.incarnation);
    timeline.after(network.latencyMs(), () => listening.accept(far), listening.incarnation);
    return near;
  }

  #sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.#incarnation.alive) this.#network.timeline.after(delayMs, resolve, this.#incarnation);
    });
  }
}
