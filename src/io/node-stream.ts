/**
 * A byte stream over a socket of Node, plain or TLS.
 *
 * States: held (nothing is read from the socket until `receive`), open, handed over to TLS, gone. A loss before
 * `receive` is kept and told then, so that nobody misses it. `close` is the last event, once, in every order of
 * events; after it, and after `startTls`, the old stream does nothing any more.
 *
 * Sockets are opened with allowHalfOpen: the end of the peer's direction does not end ours.
 */
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import type { NbdTls } from '../secure/tls.ts';
import { receiveNow, socketPeerGone, socketSendQueueSize } from './libc.ts';
import type { ByteStream, StreamEvents } from './network.ts';
import { lostFailure } from './network-failure.ts';
import { acceptNbdTls, type Take } from './node-handshake.ts';

/** Bytes queued from which `write` asks to wait. Node's own mark of 16 KiB would stop at every reply. */
const QUEUE_HIGH_SIZE = MIB;

/** What Node keeps to itself: the only ways to a socket's descriptor, and to how much of a large write has left. */
interface SocketHandle {
  readonly fd: number;
  readonly writeQueueSize: number;
}

export class NodeStream implements ByteStream {
  readonly peerName: string;
  readonly identity: string | undefined;
  readonly encrypted: boolean;
  readonly #socket: Socket;
  /** The socket that holds the descriptor: below TLS, the one that TLS was started on. */
  readonly #carrier: Socket;
  #events: StreamEvents | undefined;
  #bytesWritten = 0;
  #bytesRead = 0;
  /** `write` has asked to wait, `drain` is owed. */
  #drainOwed = false;
  #ended = false;
  #peerEnded = false;
  #handedOver = false;
  /** Set when the socket is gone. */
  #gone: { readonly reason: Error | undefined } | undefined;
  /** The first reason known: what we gave to `destroy`, or the socket's error. */
  #reason: Error | undefined;

  readonly #onError = (error: Error): void => {
    this.#reason ??= lostFailure(error, this.peerName);
  };
  readonly #onClose = (): void => {
    this.#gone = { reason: this.#reason };
    this.#events?.close(this.#reason);
  };
  readonly #onData = (chunk: Buffer): void => {
    this.#bytesRead += chunk.length;
    this.#events?.data(chunk);
  };
  readonly #onEnd = (): void => {
    this.#peerEnded = true;
    this.#events?.end();
  };
  readonly #onDrain = (): void => {
    if (!this.#drainOwed) return;
    this.#drainOwed = false;
    this.#events?.drain();
  };

  constructor(socket: Socket, peerName: string, identity?: string, carrier: Socket = socket) {
    this.#socket = socket;
    this.#carrier = carrier;
    this.peerName = peerName;
    this.identity = identity;
    this.encrypted = socket instanceof TLSSocket;
    socket.on('error', this.#onError);
    socket.on('end', this.#onEnd);
    if (socket.closed) this.#gone = { reason: undefined };
    else socket.on('close', this.#onClose);
  }

  get queuedSize(): number {
    return this.#socket.writableLength;
  }

  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  get bytesRead(): number {
    return this.#bytesRead;
  }

  undeliveredSize(): number {
    const handle = this.#handle();
    if (handle === undefined) return 0;
    // What waits behind the write under way does not move, and so needs not be known.
    return handle.writeQueueSize + socketSendQueueSize(handle.fd);
  }

  peerGone(): boolean {
    const handle = this.#handle();
    return handle === undefined || this.#peerEnded || socketPeerGone(handle.fd);
  }

  receive(events: StreamEvents): void {
    assert(this.#events === undefined && !this.#handedOver, 'a stream is received once');
    this.#events = events;
    const gone = this.#gone;
    // Later, as every other event: the caller is still setting itself up.
    if (this.#peerEnded) queueMicrotask(() => events.end());
    if (gone !== undefined) {
      queueMicrotask(() => events.close(gone.reason));
      return;
    }
    this.#socket.on('drain', this.#onDrain);
    // Adding this listener starts the flow.
    this.#socket.on('data', this.#onData);
  }

  write(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    // What is written to a stream that has just gone is lost, as it would be a moment earlier; `close` tells.
    if (this.#ended || this.#handedOver || this.#socket.destroyed) return false;
    const socket = this.#socket;
    if (chunks.length > 1) socket.cork();
    const last = chunks.length - 1;
    for (let index = 0; index <= last; index += 1) {
      const chunk = chunks[index]!;
      this.#bytesWritten += chunk.length;
      if (sent === undefined || index < last) socket.write(chunk);
      // Node calls back without an error when the socket was destroyed meanwhile.
      else socket.write(chunk, (error) => !error && !socket.destroyed && sent());
    }
    if (chunks.length > 1) socket.uncork();
    // Beyond our mark the socket is beyond its own, lower one, and will emit `drain`.
    if (socket.writableLength < QUEUE_HIGH_SIZE) return true;
    this.#drainOwed = true;
    return false;
  }

  receiveNow(target: Uint8Array): number {
    const socket = this.#socket;
    // What Node holds back comes first.
    if (socket !== this.#carrier || this.encrypted || this.#handedOver || this.#peerEnded) return 0;
    if (socket.isPaused() || socket.readableLength > 0) return 0;
    const handle = this.#handle();
    if (handle === undefined) return 0;
    try {
      const size = receiveNow(handle.fd, target);
      this.#bytesRead += size;
      return size;
    } catch (error) {
      // The kernel tells it once: Node would take the next look for a clean end.
      socket.destroy(error as Error);
      return 0;
    }
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  takeUnread(): Buffer | undefined {
    // Node forgets to tell of it, but not what it was.
    return (this.#socket.read() as Buffer | null) ?? undefined;
  }

  end(): void {
    if (this.#ended || this.#handedOver) return;
    this.#ended = true;
    this.#socket.end();
  }

  destroy(reason?: Error): void {
    if (this.#handedOver) return;
    this.#reason ??= reason;
    this.#socket.destroy();
  }

  async startTls(tls: NbdTls): Promise<ByteStream> {
    assert(!this.encrypted && !this.#handedOver, 'TLS starts once');
    if (this.#socket.destroyed) throw this.#reason ?? new Failure('connection-lost', `${this.peerName}: closed`);
    this.#handedOver = true;
    // From here on nothing that arrives may be taken for plaintext: it waits in the socket and goes through TLS.
    this.#socket.pause();
    this.#socket.off('data', this.#onData);
    this.#socket.off('end', this.#onEnd);
    this.#socket.off('drain', this.#onDrain);
    this.#socket.off('close', this.#onClose);
    const take: Take<ByteStream> = (accepted, identity) =>
      new NodeStream(accepted, this.peerName, identity, this.#socket);
    return await acceptNbdTls(this.#socket, this.peerName, tls, take);
  }

  /** Undefined once the socket is closed. */
  #handle(): SocketHandle | undefined {
    const handle = (this.#carrier as unknown as { readonly _handle?: SocketHandle | null })._handle;
    return handle === null || handle === undefined || handle.fd < 0 ? undefined : handle;
  }
}
