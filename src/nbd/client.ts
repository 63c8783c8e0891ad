/**
 * An NBD client over the io Network: for the demonstration and for tests. Requests may be made without waiting for
 * earlier ones; replies are matched by cookie, in whatever order they come.
 *
 * What is kept: requests without a final reply, and bytes that wait for the socket. Once the connection is lost every
 * request rejects with the same Failure; the client does not reconnect.
 */
import { Command, CommandFlag, encodeRequest, ProtocolError, type Reply, ReplyDecoder, ReplyType } from 'nbd-protocol';
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import { InFlight } from '../base/in-flight.ts';
import type { Address, ByteStream, Network } from '../io/network.ts';
import type { Extent, WriteOptions, ZeroOptions } from '../volume/volume.ts';
import { type Agreed, ClientHandshake, type ClientHandshakeOptions } from './client-handshake.ts';
import { failureOf } from './errors.ts';

export interface NbdClientOptions extends ClientHandshakeOptions {
  readonly network: Network;
  readonly address: Address;
  /** For connecting; the handshake has no limit of its own. Default: 10 s. */
  readonly timeoutMs?: number;
}

/** A request without a final reply. */
interface Pending {
  readonly offset: number;
  readonly length: number;
  /** Of READ: filled by data chunks; holes leave it zero. */
  readonly target: Buffer | undefined;
  /** Bytes of `target` that chunks have spoken for. */
  covered: number;
  readonly extents: Map<string, Extent[]>;
  failure: Failure | undefined;
  readonly resolve: (pending: Pending) => void;
  readonly reject: (error: Error) => void;
}

/** Connects and enters the transmission. Failures: those of `Network.connect`, `peer-foreign`, `tls-config`. */
export async function connectNbd(options: NbdClientOptions): Promise<NbdClient> {
  const stream = await options.network.connect(options.address, options.timeoutMs ?? 10_000);
  const handshake = new ClientHandshake(stream);
  let client: NbdClient | undefined;
  stream.receive({
    data: (chunk) => (client === undefined ? handshake.receive(chunk) : client.receive(chunk)),
    drain: () => client?.drained(),
    end: () => {
      handshake.failed(new Failure('connection-lost', 'the server closed the connection'));
      stream.end();
    },
    close: (reason) => {
      const failure = new Failure('connection-lost', 'the connection to the server was lost', { cause: reason });
      handshake.failed(failure);
      client?.closed(failure);
    },
  });
  try {
    const agreed = await handshake.run(options);
    client = new NbdClient(stream, agreed);
    client.receive(agreed.rest);
    return client;
  } catch (error) {
    stream.destroy();
    throw error;
  }
}

export class NbdClient {
  /** Of the export, in bytes. */
  readonly size: number;
  readonly agreed: Agreed;
  readonly #stream: ByteStream;
  readonly #decoder: ReplyDecoder;
  readonly #pending = new Map<number, Pending>();
  readonly #inFlight = new InFlight();
  #lastCookie = 0;
  #unsent: Uint8Array[] = [];
  #isFull = false;
  #failure: Failure | undefined;
  #isLeaving = false;
  #whenClosed: (() => void)[] = [];

  /** Made by `connectNbd`. */
  constructor(stream: ByteStream, agreed: Agreed) {
    this.#stream = stream;
    this.agreed = agreed;
    this.size = agreed.size;
    this.#decoder = new ReplyDecoder({
      mode: agreed.mode,
      payloadMax: agreed.payloadMax,
      lengthOf: (_, cookie) => this.#dataLengthOf(cookie),
    });
  }

  /** Requests without a final reply. */
  get inFlightCount(): number {
    return this.#inFlight.count;
  }

  /** Up to `agreed.payloadMax` bytes, in a buffer of their own. */
  async read(offset: number, length: number, options: { readonly whole?: boolean } = {}): Promise<Buffer> {
    const target = Buffer.alloc(length);
    const flags = options.whole === true ? CommandFlag.DF : 0;
    const { covered } = await this.#request(Command.READ, flags, offset, length, { target });
    if (covered !== length) throw new Failure('peer-foreign', `the server sent ${covered} of ${length} bytes`);
    return target;
  }

  /** The data must not change until the promise has settled. */
  async write(offset: number, data: Uint8Array, options: WriteOptions = { fua: false }): Promise<void> {
    await this.#request(Command.WRITE, fuaFlag(options), offset, data.length, { data });
  }

  async zero(offset: number, length: number, options: Partial<ZeroOptions> = {}): Promise<void> {
    const flags =
      fuaFlag(options) |
      (options.allocate === true ? CommandFlag.NO_HOLE : 0) |
      (options.fast === true ? CommandFlag.FAST_ZERO : 0);
    await this.#request(Command.WRITE_ZEROES, flags, offset, length);
  }

  async trim(offset: number, length: number, options: WriteOptions = { fua: false }): Promise<void> {
    await this.#request(Command.TRIM, fuaFlag(options), offset, length);
  }

  async cache(offset: number, length: number): Promise<void> {
    await this.#request(Command.CACHE, 0, offset, length);
  }

  async flush(): Promise<void> {
    await this.#request(Command.FLUSH, 0, 0, 0);
  }

  /** Extents of each selected context by name, from `offset`; they may cover less than was asked. */
  async blockStatus(
    offset: number,
    length: number,
    options: { readonly one?: boolean; readonly contextIds?: readonly number[] } = {},
  ): Promise<ReadonlyMap<string, readonly Extent[]>> {
    const flags = options.one === true ? CommandFlag.REQ_ONE : 0;
    const { contextIds } = options;
    return (await this.#request(Command.BLOCK_STATUS, flags, offset, length, { contextIds })).extents;
  }

  /** Soft disconnect: waits for requests in flight, says goodbye, resolves when the connection is closed. */
  async close(): Promise<void> {
    await this.#inFlight.idle();
    if (this.#failure === undefined && !this.#isLeaving) {
      this.#isLeaving = true;
      this.#send([this.#header(Command.DISC, 0, 0, 0)]);
      this.#stream.end();
    }
    if (this.#failure === undefined) await new Promise<void>((resolve) => this.#whenClosed.push(resolve));
  }

  /** Hard disconnect. */
  destroy(): void {
    this.#stream.destroy();
  }

  /** Bytes from the server. */
  receive(chunk: Uint8Array): void {
    try {
      this.#decoder.push(chunk);
      for (let reply = this.#decoder.next(); reply !== undefined; reply = this.#decoder.next()) this.#take(reply);
    } catch (error) {
      if (!(error instanceof ProtocolError || error instanceof Failure)) throw error;
      this.#stream.destroy(error);
    }
  }

  /** The socket takes more. */
  drained(): void {
    this.#isFull = false;
    const unsent = this.#unsent;
    this.#unsent = [];
    if (unsent.length > 0) this.#send(unsent);
  }

  /** The connection is gone. */
  closed(failure: Failure): void {
    this.#failure = failure;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const request of pending) {
      this.#inFlight.leave();
      request.reject(failure);
    }
    for (const resolve of this.#whenClosed.splice(0)) resolve();
  }

  #request(
    command: Command,
    flags: number,
    offset: number,
    length: number,
    more: {
      readonly target?: Buffer;
      readonly data?: Uint8Array;
      readonly contextIds?: readonly number[] | undefined;
    } = {},
  ): Promise<Pending> {
    assert(!this.#isLeaving, 'no request after close');
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      const header = this.#header(command, flags, offset, length, more.contextIds);
      const request = { offset, length, target: more.target, covered: 0, extents: new Map(), failure: undefined };
      this.#pending.set(this.#lastCookie, { ...request, resolve, reject });
      this.#inFlight.enter();
      this.#send(more.data === undefined || more.data.length === 0 ? [header] : [header, more.data]);
    });
  }

  #header(command: Command, flags: number, offset: number, length: number, contextIds?: readonly number[]): Uint8Array {
    do this.#lastCookie = (this.#lastCookie + 1) >>> 0;
    while (this.#pending.has(this.#lastCookie));
    const cookie = { cookieHigh: 0, cookieLow: this.#lastCookie };
    return encodeRequest({ command, flags, offset, length, contextIds, ...cookie }, this.agreed.mode === 'extended');
  }

  #send(chunks: readonly Uint8Array[]): void {
    if (this.#isFull) this.#unsent.push(...chunks);
    else this.#isFull = !this.#stream.write(chunks);
  }

  #dataLengthOf(cookie: number): number | undefined {
    const pending = this.#pending.get(cookie);
    return pending === undefined ? undefined : (pending.target?.length ?? 0);
  }

  #take(reply: Reply): void {
    const pending = reply.cookieHigh === 0 ? this.#pending.get(reply.cookieLow) : undefined;
    if (pending === undefined) throw new Failure('peer-foreign', 'a reply to no request');
    this.#note(pending, reply);
    if (reply.kind !== 'simple' && !reply.done) return;
    this.#pending.delete(reply.cookieLow);
    this.#inFlight.leave();
    if (pending.failure === undefined) pending.resolve(pending);
    else pending.reject(pending.failure);
  }

  #note(pending: Pending, reply: Reply): void {
    if (reply.kind === 'unknown-error') {
      pending.failure ??= failureOf(reply.error, reply.message);
    } else if (reply.kind === 'simple') {
      if (reply.error === 0) this.#fill(pending, pending.offset, reply.payload);
      else pending.failure = failureOf(reply.error, '');
    } else {
      switch (reply.type) {
        case ReplyType.NONE:
          break;
        case ReplyType.OFFSET_DATA:
          this.#fill(pending, reply.offset, reply.payload);
          break;
        case ReplyType.OFFSET_HOLE:
          this.#cover(pending, reply.offset, reply.length);
          break;
        case ReplyType.BLOCK_STATUS:
        case ReplyType.BLOCK_STATUS_EXT: {
          const name = this.agreed.contexts.get(reply.contextId);
          if (name === undefined) throw new Failure('peer-foreign', 'extents of a context that was not selected');
          pending.extents.set(name, [...reply.extents]);
          break;
        }
        default:
          pending.failure ??= failureOf(reply.error, reply.message);
      }
    }
  }

  #fill(pending: Pending, offset: number, data: Uint8Array): void {
    if (data.length === 0) return;
    this.#cover(pending, offset, data.length);
    pending.target!.set(data, offset - pending.offset);
  }

  #cover(pending: Pending, offset: number, length: number): void {
    const isInside = offset >= pending.offset && offset + length <= pending.offset + pending.length;
    if (pending.target === undefined || !isInside) throw new Failure('peer-foreign', 'data that was not asked for');
    pending.covered += length;
  }
}

function fuaFlag(options: Partial<WriteOptions>): number {
  return options.fua === true ? CommandFlag.FUA : 0;
}
