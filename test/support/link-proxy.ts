import { once } from 'node:events';
import net from 'node:net';

/** A TCP proxy between a primary and its mirror that a test can cut, stall, slow down and listen in on. */
export class LinkProxy {
  readonly #server: net.Server;
  readonly #targetPort: () => number;
  readonly #pairs = new Set<{ client: net.Socket; target: net.Socket }>();
  #cut = false;
  #stalled = false;
  /** Bytes per second from client to target; undefined: as fast as it goes. */
  rate: number | undefined;
  /** Every byte takes this long, each way; order is kept. */
  delayMs = 0;
  /** Everything that went to the target and back, when set. */
  recording: { toTarget: Buffer[]; toClient: Buffer[] } | undefined;
  connections = 0;

  private constructor(server: net.Server, targetPort: () => number) {
    this.#server = server;
    this.#targetPort = targetPort;
  }

  static async open(targetPort: () => number): Promise<LinkProxy> {
    const server = net.createServer({ allowHalfOpen: true });
    const proxy = new LinkProxy(server, targetPort);
    server.on('connection', (client) => proxy.#accept(client));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('the proxy does not listen');
    return address.port;
  }

  /** Drops every connection and refuses new ones. */
  cut(): void {
    this.#cut = true;
    this.drop();
  }

  /** Drops every connection; new ones are welcome. */
  drop(): void {
    for (const { client, target } of this.#pairs) {
      client.resetAndDestroy();
      target.resetAndDestroy();
    }
  }

  /** Forwards nothing any more, but closes nothing: a half-open link. */
  stall(): void {
    this.#stalled = true;
    for (const { client, target } of this.#pairs) {
      client.pause();
      target.pause();
    }
  }

  restore(): void {
    this.#cut = false;
    this.#stalled = false;
    for (const { client, target } of this.#pairs) {
      client.resume();
      target.resume();
    }
  }

  async close(): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #after(action: () => void): void {
    if (this.delayMs === 0) action();
    else setTimeout(action, this.delayMs);
  }

  #accept(client: net.Socket): void {
    if (this.#cut) {
      client.resetAndDestroy();
      return;
    }
    this.connections += 1;
    const target = net.connect({ port: this.#targetPort(), host: '127.0.0.1', allowHalfOpen: true });
    const pair = { client, target };
    this.#pairs.add(pair);
    client.setNoDelay(true);
    target.setNoDelay(true);
    for (const [from, to] of [
      [client, target],
      [target, client],
    ] as const) {
      // What one side has said before it ended its direction reaches the other, which may go on in its own.
      from.on('end', () => this.#after(() => to.end()));
      from.on('error', () => to.destroy());
      from.on('close', () => {
        this.#pairs.delete(pair);
        if (!from.readableEnded) to.destroy();
      });
    }
    client.on('data', (chunk) => {
      this.recording?.toTarget.push(chunk);
      this.#after(() => target.write(chunk));
      if (this.rate === undefined) return;
      client.pause();
      setTimeout(
        () => {
          if (!this.#stalled) client.resume();
        },
        (chunk.length / this.rate) * 1000,
      );
    });
    target.on('data', (chunk) => {
      this.recording?.toClient.push(chunk);
      this.#after(() => client.write(chunk));
    });
    if (this.#stalled) {
      client.pause();
      target.pause();
    }
  }
}
