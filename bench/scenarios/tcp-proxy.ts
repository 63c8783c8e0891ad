/** A TCP proxy on a free port of 127.0.0.1: makes a connection to the target for each that comes, and looks after both. */
import { once } from 'node:events';
import net from 'node:net';

/** Has to carry what either socket sends to the other, ends included. Both are paused and half-open. */
export type Join = (client: net.Socket, target: net.Socket) => void;

export class TcpProxy {
  readonly #server: net.Server;
  readonly #targetPort: number;
  readonly #join: Join;
  readonly #sockets = new Set<net.Socket>();
  #connections = 0;

  private constructor(server: net.Server, targetPort: number, join: Join) {
    this.#server = server;
    this.#targetPort = targetPort;
    this.#join = join;
  }

  static async open(targetPort: number, join: Join): Promise<TcpProxy> {
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
    const proxy = new TcpProxy(server, targetPort, join);
    server.on('connection', (client) => proxy.#accept(client));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  /** Connections so far. */
  get connections(): number {
    return this.#connections;
  }

  /** Drops every connection and listens no more. */
  async close(): Promise<void> {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await once(this.#server, 'close');
  }

  #accept(client: net.Socket): void {
    this.#connections += 1;
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
    this.#join(client, target);
  }
}
