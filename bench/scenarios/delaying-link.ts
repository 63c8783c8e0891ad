/**
 * A TCP proxy that is a long link: what goes in comes out `delayMs` later, in each direction, in order, as fast as it went
 * in. What is on its way is bounded as on a wire: a sender that has `inFlightMax` bytes there, or whose receiver does
 * not read, is not read from any more.
 *
 * An end of a direction is passed on, behind the bytes before it and as late; an error of either side ends both at once.
 * Nothing comes out early. Timers of Node are up to a millisecond late, twice for a round trip; so the last stretch of
 * the delay is slept through in naps, which hold up the event loop for a tenth of a millisecond each.
 */
import { once } from 'node:events';
import net from 'node:net';

/** 64 MiB at a round trip of 20 ms are 6.7 GB/s: more than one machine sends itself. */
const IN_FLIGHT_MAX = 64 * 2 ** 20;

/** What timers may be late by. */
const TIMER_SLACK_MS = 1.5;
const NAP_MS = 0.1;
const bell = new Int32Array(new SharedArrayBuffer(4));

export interface DelayingLinkOptions {
  /** One way; without one everything is passed on at once. */
  readonly delayMs: number;
  /** Bytes of each direction of a connection. */
  readonly inFlightMax?: number;
}

export class DelayingLink {
  readonly #server: net.Server;
  readonly #targetPort: number;
  readonly #options: Required<DelayingLinkOptions>;
  readonly #sockets = new Set<net.Socket>();

  private constructor(server: net.Server, targetPort: number, options: DelayingLinkOptions) {
    this.#server = server;
    this.#targetPort = targetPort;
    this.#options = { inFlightMax: IN_FLIGHT_MAX, ...options };
  }

  /** Listens on a free port of 127.0.0.1. */
  static async open(targetPort: number, options: DelayingLinkOptions): Promise<DelayingLink> {
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
    const link = new DelayingLink(server, targetPort, options);
    server.on('connection', (client) => link.#accept(client));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return link;
  }

  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  /** Drops every connection and listens no more. */
  async close(): Promise<void> {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await once(this.#server, 'close');
  }

  #accept(client: net.Socket): void {
    const target = net.connect({ port: this.#targetPort, host: '127.0.0.1', allowHalfOpen: true });
    const end = (): void => {
      client.destroy();
      target.destroy();
    };
    for (const socket of [client, target]) {
      this.#sockets.add(socket);
      socket.setNoDelay(true);
      socket.once('error', end).once('close', () => {
        this.#sockets.delete(socket);
        // One that is through in both directions closes by itself, while its last bytes are still on their way.
        if (!socket.readableEnded) end();
      });
    }
    new Direction(client, target, this.#options);
    new Direction(target, client, this.#options);
  }
}

interface Parcel {
  readonly dueMs: number;
  /** Undefined is the end. */
  readonly chunk: Buffer | undefined;
}

/** Carries what `from` sends to `to`, until `from` ends or either is destroyed. */
class Direction {
  readonly #from: net.Socket;
  readonly #to: net.Socket;
  readonly #delayMs: number;
  readonly #inFlightMax: number;
  /** On their way, the oldest at `#first`; what was before it is gone. */
  #parcels: Parcel[] = [];
  #first = 0;
  #inFlight = 0;
  /** A timer or the other socket will call. */
  #waiting = false;

  constructor(from: net.Socket, to: net.Socket, { delayMs, inFlightMax }: Required<DelayingLinkOptions>) {
    this.#from = from;
    this.#to = to;
    this.#delayMs = delayMs;
    this.#inFlightMax = inFlightMax;
    from.on('data', (chunk: Buffer) => this.#take(chunk)).once('end', () => this.#take(undefined));
    from.resume(); // the server hands it over paused
  }

  #take(chunk: Buffer | undefined): void {
    this.#parcels.push({ dueMs: performance.now() + this.#delayMs, chunk });
    this.#inFlight += chunk?.length ?? 0;
    if (this.#inFlight >= this.#inFlightMax) this.#from.pause();
    if (!this.#waiting) this.#deliver();
  }

  /** Hands over what is due, and sees to it that it is called again for what is not. */
  #deliver(): void {
    this.#waiting = false;
    while (this.#first < this.#parcels.length && !this.#to.destroyed) {
      const { dueMs, chunk } = this.#parcels[this.#first]!;
      const earlyMs = dueMs - performance.now();
      if (earlyMs > 0) {
        this.#wait((resume) => {
          if (earlyMs > TIMER_SLACK_MS) setTimeout(resume, earlyMs - TIMER_SLACK_MS);
          else {
            Atomics.wait(bell, 0, 0, Math.min(earlyMs, NAP_MS));
            setImmediate(resume);
          }
        });
        break;
      }
      this.#first += 1;
      if (chunk === undefined) {
        this.#to.end();
        break;
      }
      this.#inFlight -= chunk.length;
      if (!this.#to.write(chunk)) {
        this.#wait((resume) => this.#to.once('drain', resume));
        break;
      }
    }
    if (this.#first * 2 > this.#parcels.length) {
      this.#parcels = this.#parcels.slice(this.#first);
      this.#first = 0;
    }
    if (this.#inFlight < this.#inFlightMax && this.#from.isPaused()) this.#from.resume();
  }

  #wait(begin: (resume: () => void) => void): void {
    this.#waiting = true;
    begin(() => this.#deliver());
  }
}
