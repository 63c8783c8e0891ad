/** Streams for tests: collected instead of handled. */
import net from 'node:net';
import { onTestFinished } from 'vitest';
import type { Address, ByteStream, LinkStream, Listener } from '../../../src/io/network.ts';

/** Everything that a stream told, and promises of its milestones. */
export interface Collected<Stream extends LinkStream = ByteStream> {
  readonly stream: Stream;
  readonly events: string[];
  readonly data: () => Buffer;
  /** Resolves when at least that many bytes have arrived, or the stream is gone. */
  readonly received: (size: number) => Promise<Buffer>;
  readonly ended: Promise<void>;
  readonly closed: Promise<Error | undefined>;
  readonly drained: () => Promise<void>;
}

/** Receives a stream, and destroys it after the test. */
export function collect<Stream extends LinkStream>(stream: Stream): Collected<Stream> {
  const events: string[] = [];
  const chunks: Buffer[] = [];
  let waiters: (() => void)[] = [];
  let drains: (() => void)[] = [];
  let gone = false;
  let size = 0;
  let onEnd!: () => void;
  let onClose!: (reason: Error | undefined) => void;
  const ended = new Promise<void>((resolve) => {
    onEnd = resolve;
  });
  const closed = new Promise<Error | undefined>((resolve) => {
    onClose = resolve;
  });
  const wake = (): void => {
    const woken = waiters;
    waiters = [];
    for (const waiter of woken) waiter();
  };
  stream.receive({
    data(chunk) {
      if (events.at(-1) !== 'data') events.push('data');
      chunks.push(chunk);
      size += chunk.length;
      wake();
    },
    drain() {
      events.push('drain');
      const woken = drains;
      drains = [];
      for (const waiter of woken) waiter();
    },
    end() {
      events.push('end');
      onEnd();
    },
    close(reason) {
      events.push('close');
      gone = true;
      onClose(reason);
      wake();
    },
  });
  onTestFinished(() => stream.destroy());
  return {
    stream,
    events,
    data: () => Buffer.concat(chunks),
    async received(wanted) {
      while (size < wanted && !gone) await new Promise<void>((resolve) => waiters.push(resolve));
      return Buffer.concat(chunks);
    },
    ended,
    closed,
    drained: () => new Promise((resolve) => drains.push(resolve)),
  };
}

/** Values that arrive one by one, each awaited once. */
export class Queue<Value> {
  readonly #values: Value[] = [];
  readonly #waiters: ((value: Value) => void)[] = [];

  readonly push = (value: Value): void => {
    const waiter = this.#waiters.shift();
    if (waiter === undefined) this.#values.push(value);
    else waiter(value);
  };

  get size(): number {
    return this.#values.length;
  }

  next(): Promise<Value> {
    const value = this.#values.shift();
    if (value !== undefined) return Promise.resolve(value);
    return new Promise((resolve) => this.#waiters.push(resolve));
  }
}

export const LOOPBACK: Address = { kind: 'tcp', host: '127.0.0.1', port: 0 };

/** Closes the listener after the test, and returns the port that it found. */
export function closing(listener: Listener): Listener {
  onTestFinished(() => listener.close());
  return listener;
}

export function portOf(listener: Listener): number {
  if (listener.address.kind !== 'tcp') throw new Error('no TCP listener');
  return listener.address.port;
}

/** A plain TCP server that is no nbdtwin. */
export async function foreignServer(onSocket: (socket: net.Socket) => void): Promise<Address> {
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    onTestFinished(() => void socket.destroy());
    onSocket(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  return { kind: 'tcp', host: '127.0.0.1', port: (server.address() as net.AddressInfo).port };
}
