/**
 * A gate in front of a mirror: while it is shut, whoever connects is held, and when it opens all are let through at the same
 * moment, as after the reboot of a host that many waited for.
 */
import { once } from 'node:events';
import net from 'node:net';

export class Gate {
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();
  readonly #held = new Set<net.Socket>();
  #targetPort: number | undefined;

  private constructor(server: net.Server) {
    this.#server = server;
    server.on('connection', (client) => this.#accept(client));
  }

  /** Listens on a free port of 127.0.0.1, shut. */
  static async make(): Promise<Gate> {
    const gate = new Gate(net.createServer({ allowHalfOpen: true, pauseOnConnect: true }));
    gate.#server.listen(0, '127.0.0.1');
    await once(gate.#server, 'listening');
    return gate;
  }

  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  /** Drops everything; who comes from now on is held. */
  shut(): void {
    this.#targetPort = undefined;
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Lets through who is held, and who comes from now on. */
  openTo(port: number): void {
    this.#targetPort = port;
    const held = [...this.#held];
    this.#held.clear();
    for (const client of held) this.#join(client, port);
  }

  async close(): Promise<void> {
    this.#server.close();
    this.shut();
    await once(this.#server, 'close');
  }

  #accept(client: net.Socket): void {
    this.#track(client);
    if (this.#targetPort !== undefined) {
      this.#join(client, this.#targetPort);
      return;
    }
    // Nobody reads it, so nobody notices when it gives up: then it is let through to no effect.
    this.#held.add(client);
    client.once('close', () => this.#held.delete(client));
  }

  #join(client: net.Socket, port: number): void {
    const target = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    this.#track(target);
    client.once('close', () => target.destroy());
    target.once('close', () => client.destroy());
    client.pipe(target);
    target.pipe(client);
  }

  #track(socket: net.Socket): void {
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.on('error', () => socket.destroy());
    socket.once('close', () => this.#sockets.delete(socket));
  }
}
