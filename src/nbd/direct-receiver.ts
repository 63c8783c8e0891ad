/**
 * Receives what follows in a connection straight to where it belongs: the rest of a large payload into its buffer, and behind
 * one the next header. Spares the making of chunks and the copy out of them: for requests of 64 KiB and more that is most of
 * what a server does.
 *
 * Only while data is being handed over: then nothing else reads the socket, and what it has comes next.
 */
import type { RequestDecoder } from 'nbd-protocol';
import { POOLED_SIZE_MIN } from '../base/payload-pool.ts';
import { MIB } from '../base/units.ts';
import type { ByteStream } from '../io/network.ts';

/** Received in one go at most, in bytes: other connections want their turn. */
const SIZE_MAX = 2 * MIB;

export class DirectReceiver {
  readonly #stream: ByteStream;
  readonly #decoder: RequestDecoder;
  #isReceiving = false;
  /** Bytes received in this go. */
  #size = 0;
  /** The last request was a large one: the next is looked for at once. */
  #readsAhead = false;

  constructor(stream: ByteStream, decoder: RequestDecoder) {
    this.#stream = stream;
    this.#decoder = decoder;
  }

  /** Calls `handle` while there may be more. */
  during(handle: () => void): void {
    this.#isReceiving = true;
    this.#size = 0;
    handle();
    this.#isReceiving = false;
  }

  /** A request has been decoded; `size`: of its payload when that was put together, else 0. */
  decoded(size: number): void {
    this.#readsAhead = size >= POOLED_SIZE_MIN;
  }

  /** Gives more to the decoder, which has nothing left. `mayFill`: there is room for the payload under way. */
  receive(mayFill: boolean): boolean {
    if (!this.#isReceiving || this.#size >= SIZE_MAX) return false;
    const rest = this.#decoder.unfilled;
    if (rest !== undefined) {
      if (!mayFill) return false;
      const size = this.#stream.receiveNow(rest);
      this.#decoder.filled(size);
      this.#size += size;
      return size > 0;
    }
    if (!this.#readsAhead || !this.#decoder.isEmpty) return false;
    this.#readsAhead = false;
    const header = Buffer.allocUnsafe(this.#decoder.headerSize);
    const size = this.#stream.receiveNow(header);
    this.#decoder.push(header.subarray(0, size));
    return size > 0;
  }
}
