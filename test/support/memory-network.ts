import { assert } from '../../src/base/assert.ts';
import { Failure } from '../../src/base/failure.ts';
import type { Address, ByteStream, Listener, Network, StreamEvents } from '../../src/io/network.ts';
import { formatAddress } from '../../src/io/network.ts';
import type { NbdTls } from '../../src/secure/tls.ts';

/** Bytes that one direction holds before `write` asks to wait. */
const QUEUE_HIGH_SIZE = 256 * 1024;

/**
 * One end of a connection in memory. Bytes arrive in a later turn of the event loop, in the chunks in which they were
 * written, and wait while the receiver has paused.
 */
export class MemoryStream implements ByteStream {
  readonly peerName: string;
  identity: string | undefined;
  encrypted = false;
  bytesWritten = 0;
  bytesRead = 0;
  /** True while the receiver does not want data. */
  isPaused = false;
  /** Sizes of the socket writes so far. */
  readonly writes: number[] = [];
  #other: MemoryStream | undefined;
  #events: StreamEvents | undefined;
  #incoming: Buffer[] = [];
  #incomingSize = 0;
  #endReceived = false;
  #endDelivered = false;
  #endSent = false;
  #drainOwed = false;
  #isScheduled = false;
  #gone = false;
  #reason: Error | undefined;
  #handedOver: MemoryStream | undefined;

  private constructor(peerName: string) {
    this.peerName = peerName;
  }

  static pair(): [server: MemoryStream, client: MemoryStream] {
    const server = new MemoryStream('memory-client');
    const client = new MemoryStream('memory-server');
    server.#other = client;
    client.#other = server;
    return [server, client];
  }

  get queuedSize(): number {
    return this.#other!.#incomingSize;
  }

  undeliveredSize(): number {
    return this.#other!.#incomingSize;
  }

  peerGone(): boolean {
    return this.#gone || this.#endReceived;
  }

  receive(events: StreamEvents): void {
    assert(this.#events === undefined, 'a stream is received once');
    this.#events = events;
    this.#schedule();
  }

  write(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    if (this.#endSent || this.#gone) return false;
    const size = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    this.writes.push(size);
    this.bytesWritten += size;
    const other = this.#other!;
    // Copies, as a socket does: what the writer does to its buffers afterwards must not matter to the test's reader.
    other.#incoming.push(Buffer.concat(chunks));
    sent?.();
    other.#incomingSize += size;
    other.#schedule();
    if (other.#incomingSize < QUEUE_HIGH_SIZE) return true;
    this.#drainOwed = true;
    return false;
  }

  receiveNow(target: Uint8Array): number {
    const chunk = this.#incoming[0];
    if (chunk === undefined || this.isPaused || this.encrypted || this.#gone) return 0;
    const size = Math.min(chunk.length, target.length);
    target.set(chunk.subarray(0, size));
    if (size === chunk.length) this.#incoming.shift();
    else this.#incoming[0] = chunk.subarray(size);
    this.#incomingSize -= size;
    this.bytesRead += size;
    if (this.#incomingSize === 0) this.#other!.#drained();
    return size;
  }

  pause(): void {
    this.isPaused = true;
  }

  resume(): void {
    this.isPaused = false;
    this.#schedule();
  }

  takeUnread(): Buffer | undefined {
    return this.#incoming.length === 0 ? undefined : Buffer.concat(this.#incoming.splice(0));
  }

  end(): void {
    if (this.#endSent || this.#gone) return;
    this.#endSent = true;
    this.#other!.#endReceived = true;
    this.#other!.#schedule();
    this.#closeIfEnded();
  }

  destroy(reason?: Error): void {
    if (this.#gone) return;
    this.#reason = reason;
    this.#close();
    this.#other!.#close();
  }

  /** Pretends: bytes go on in the clear, but through a new stream that says it is encrypted. */
  async startTls(_tls: NbdTls): Promise<ByteStream> {
    const secure = new MemoryStream(this.peerName);
    secure.encrypted = true;
    secure.identity = 'memory';
    secure.#other = this.#other;
    this.#other!.#other = secure;
    this.#handedOver = secure;
    secure.#incoming = this.#incoming;
    secure.#incomingSize = this.#incomingSize;
    return secure;
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      (this.#handedOver ?? this).#deliver();
    });
  }

  #deliver(): void {
    if (this.#gone || this.#events === undefined || this.isPaused) return;
    const chunk = this.#incoming.shift();
    if (chunk !== undefined) {
      this.#incomingSize -= chunk.length;
      this.bytesRead += chunk.length;
      this.#events.data(chunk);
      if (this.#incomingSize === 0) this.#other!.#drained();
      this.#schedule();
    } else if (this.#endReceived && !this.#endDelivered) {
      this.#endDelivered = true;
      this.#events.end();
      this.#closeIfEnded();
    }
  }

  #drained(): void {
    if (!this.#drainOwed) return;
    this.#drainOwed = false;
    setImmediate(() => {
      if (!this.#gone) this.#events?.drain();
    });
  }

  #closeIfEnded(): void {
    if (this.#endSent && this.#endDelivered) this.#close();
  }

  #close(): void {
    if (this.#gone) return;
    this.#gone = true;
    setImmediate(() => this.#events?.close(this.#reason));
  }
}

/** A network inside the process, for plain listeners and connections. */
export class MemoryNetwork implements Network {
  /** Server ends of the connections so far. */
  readonly accepted: MemoryStream[] = [];
  readonly #listeners = new Map<string, (stream: ByteStream) => void>();

  async listen(address: Address, onStream: (stream: ByteStream) => void): Promise<Listener> {
    const key = formatAddress(address);
    if (this.#listeners.has(key)) throw new Failure('address-in-use', key);
    this.#listeners.set(key, onStream);
    return {
      address,
      close: async () => {
        this.#listeners.delete(key);
      },
    };
  }

  async connect(address: Address): Promise<MemoryStream> {
    const onStream = this.#listeners.get(formatAddress(address));
    if (onStream === undefined) throw new Failure('peer-unreachable', formatAddress(address));
    const [server, client] = MemoryStream.pair();
    this.accepted.push(server);
    setImmediate(() => onStream(server));
    return client;
  }

  async listenLink(): Promise<Listener> {
    throw new Error('the memory network has no link');
  }

  async connectLink(): Promise<ByteStream> {
    throw new Error('the memory network has no link');
  }
}
