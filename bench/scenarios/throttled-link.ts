/**
 * A TCP proxy that is a slow link: each direction carries at most `rate` bytes per second, over all its connections.
 *
 * Nothing is taken from a socket without tokens for it, nor while the other socket is full: whoever sends too fast feels
 * it as it would on a slow wire, by a socket that takes no more. What the proxy itself holds is bounded by the buffers of
 * the sockets. An end of a direction is passed on; an error of either side ends both.
 */
import type net from 'node:net';
import { TcpProxy } from './tcp-proxy.ts';
import { TokenBucket } from './token-bucket.ts';

/** Tokens that gather while nothing is sent, as milliseconds of the rate. */
const BURST_MS = 50;
/** Worth waking up for, as milliseconds of the rate: of what waits, no smaller piece is carried. */
const QUANTUM_MS = 5;

/** One direction of the link. */
class Direction {
  readonly bucket: TokenBucket;
  readonly quantum: number;
  /** Bytes so far, and in how many pieces. */
  carried = 0;
  pieces = 0;

  constructor(rate: number) {
    this.bucket = new TokenBucket(rate, Math.ceil((rate * BURST_MS) / 1000), performance.now());
    this.quantum = Math.ceil((rate * QUANTUM_MS) / 1000);
  }
}

export class ThrottledLink {
  readonly #proxy: TcpProxy;
  readonly #toTarget: Direction;
  readonly #toClient: Direction;

  private constructor(proxy: TcpProxy, toTarget: Direction, toClient: Direction) {
    this.#proxy = proxy;
    this.#toTarget = toTarget;
    this.#toClient = toClient;
  }

  /** Listens on a free port of 127.0.0.1; `rate` in bytes per second, for each direction. */
  static async open(targetPort: number, rate: number): Promise<ThrottledLink> {
    const toTarget = new Direction(rate);
    const toClient = new Direction(rate);
    const proxy = await TcpProxy.open(targetPort, (client, target) => {
      carry(client, target, toTarget);
      carry(target, client, toClient);
    });
    return new ThrottledLink(proxy, toTarget, toClient);
  }

  get port(): number {
    return this.#proxy.port;
  }

  /** Bytes from the side that connects, and back. */
  get carried(): { readonly toTarget: number; readonly toClient: number } {
    return { toTarget: this.#toTarget.carried, toClient: this.#toClient.carried };
  }

  /** Pieces that this was carried in. */
  get pieces(): { readonly toTarget: number; readonly toClient: number } {
    return { toTarget: this.#toTarget.pieces, toClient: this.#toClient.pieces };
  }

  /** Connections so far. */
  get connections(): number {
    return this.#proxy.connections;
  }

  /** Drops every connection and listens no more. */
  close(): Promise<void> {
    return this.#proxy.close();
  }
}

/** Carries what `from` sends to `to`, until `from` ends or either is destroyed. */
function carry(from: net.Socket, to: net.Socket, direction: Direction): void {
  /** The pump waits for tokens or for the other socket; what arrives meanwhile must not start it. */
  let waiting = false;
  const resume = (): void => {
    waiting = false;
    pump();
  };
  const pump = (): void => {
    while (!waiting && !from.destroyed && !to.destroyed && from.readableLength > 0) {
      // Never a few bytes because a few tokens are there: that would cost more than it carries.
      const least = Math.min(direction.quantum, from.readableLength);
      const size = direction.bucket.take(least, from.readableLength, performance.now());
      if (size === 0) {
        waiting = true;
        setTimeout(resume, direction.bucket.waitMs(least));
        return;
      }
      direction.pieces += 1;
      direction.carried += size;
      const chunk = from.read(size) as Buffer;
      if (!to.write(chunk)) {
        waiting = true;
        to.once('drain', resume);
      }
    }
    // Asks for more: without this call no 'readable' follows.
    if (!waiting && from.readableLength === 0) from.read(0);
  };
  from.on('readable', () => {
    if (!waiting) pump();
  });
  from.once('end', () => to.end());
}
