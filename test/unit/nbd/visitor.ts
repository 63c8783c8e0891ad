import { randomBytes } from 'node:crypto';
import net from 'node:net';
import tls from 'node:tls';
import {
  ClientFlag,
  Command,
  encodeClientFlags,
  encodeOptionExportName,
  encodeOptionStartTls,
  encodeRequest,
  Size,
} from 'nbd-protocol';
import { onTestFinished, vi } from 'vitest';
import type { Address } from '../../../src/io/network.ts';
import { NodeStream } from '../../../src/io/node-stream.ts';
import type { NbdServer } from '../../../src/nbd/server.ts';
import { type Collected, collect } from '../io/stream-helpers.ts';

/** Of a visitor that wants TLS. */
export const KEY = { identity: 'alice', key: randomBytes(32) };

/** A client of bare sockets, so that it can leave in every way there is. */
export class Visitor {
  readonly plain: net.Socket;
  readonly socket: net.Socket;
  readonly #collected: Collected;
  #repliesSize = 0;

  private constructor(plain: net.Socket, socket: net.Socket) {
    this.plain = plain;
    this.socket = socket;
    this.#collected = collect(new NodeStream(socket, 'server'));
  }

  static async enter(server: NbdServer, isEncrypted: boolean): Promise<Visitor> {
    const [address] = server.addresses;
    const where = address!.kind === 'tcp' ? { port: address!.port, host: '127.0.0.1' } : { path: pathOf(address!) };
    const plain = net.connect({ ...where, allowHalfOpen: true });
    plain.on('error', () => {});
    onTestFinished(() => void plain.destroy());
    await exactly(plain, 18);
    plain.write(encodeClientFlags(ClientFlag.FIXED_NEWSTYLE | ClientFlag.NO_ZEROES));
    let socket: net.Socket = plain;
    if (isEncrypted) {
      plain.write(encodeOptionStartTls());
      await exactly(plain, 20);
      const pskCallback = () => ({ psk: KEY.key, identity: KEY.identity });
      const ciphers = 'TLS_AES_128_GCM_SHA256';
      socket = tls.connect({ socket: plain, ciphers, pskCallback, checkServerIdentity: () => undefined });
      socket.on('error', () => {});
      await new Promise((resolve) => socket.once('secureConnect', resolve));
    }
    socket.write(encodeOptionExportName('disk'));
    await exactly(socket, 10);
    return new Visitor(plain, socket);
  }

  /** Sends a read without waiting for anything. */
  sendRead(offset: number, length: number): void {
    this.socket.write(encodeRequest({ command: Command.READ, cookieHigh: 0, cookieLow: 0, offset, length }, false));
  }

  /** Sends a write without waiting for anything. */
  send(offset: number, length: number, value: number, flags = 0): void {
    const header = { command: Command.WRITE, flags, cookieHigh: 0, cookieLow: 0, offset, length };
    this.socket.write(encodeRequest(header, false));
    this.socket.write(Buffer.alloc(length, value));
  }

  sayGoodbye(): void {
    const header = { command: Command.DISC, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
    this.socket.write(encodeRequest(header, false));
  }

  /** Sends a write and waits until it has been answered with success. */
  async write(offset: number, length: number, value: number, flags = 0): Promise<void> {
    this.send(offset, length, value, flags);
    await this.replied(1, 0);
  }

  /** Waits for so many replies with so many bytes of data, and that the last is a success. */
  async replied(count: number, dataSize: number): Promise<void> {
    this.#repliesSize += count * Size.SIMPLE_REPLY + dataSize;
    const replies = await this.#collected.received(this.#repliesSize);
    const status = replies.at(-Size.SIMPLE_REPLY + 7);
    if (replies.length !== this.#repliesSize || status !== 0) throw new Error(`${replies.length} bytes of replies`);
  }

  /** Resolves when all that was sent is in the kernel. */
  async sent(): Promise<void> {
    await vi.waitFor(() => {
      if (this.socket.writableLength + this.plain.writableLength > 0) throw new Error('not all is in the kernel yet');
    }, PATIENCE);
  }

  get closed(): Promise<unknown> {
    return this.#collected.closed;
  }
}

export const PATIENCE = { timeout: 20_000, interval: 2 };

function pathOf(address: Address): string {
  if (address.kind !== 'unix') throw new Error('no unix socket');
  return address.path;
}

/** Reads that many bytes, and leaves the socket as it was. */
async function exactly(socket: net.Socket, size: number): Promise<void> {
  for (;;) {
    const bytes = socket.read(size) as Buffer | null;
    if (bytes !== null) return;
    await new Promise((resolve) => socket.once('readable', resolve));
  }
}
