import { type Allocate, ByteQueue } from './byte-queue.ts';

/**
 * What all decoders have in common: bytes go in at any cut, messages come out.
 *
 * Pushed chunks are kept, and payloads are views of them where they lie inside one: the caller must not write to a
 * chunk after pushing it. Bytes are decoded in `next`, never in `push`, so that a message which ends a phase of the
 * connection can be acted upon before the bytes behind it are looked at.
 */
export abstract class Decoder<Message> {
  protected readonly input: ByteQueue;
  #failure: unknown;

  protected constructor(allocate: Allocate | undefined) {
    this.input = new ByteQueue(allocate);
  }

  /** Takes received bytes. An empty chunk, and anything after a violation, is ignored. */
  push(bytes: Uint8Array): void {
    if (this.#failure === undefined) this.input.push(bytes);
  }

  /**
   * The next whole message; undefined until more bytes are pushed.
   *
   * @throws ProtocolError on a violation, and again on each later call
   */
  next(): Message | undefined {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      return this.decode();
    } catch (error) {
      this.#failure = error;
      this.input.clear();
      throw error;
    }
  }

  /**
   * While a payload is under way whose beginning came in chunks: the rest of its buffer. Who can receive into it directly
   * spares a copy, and says so by `filled`.
   */
  get unfilled(): Uint8Array | undefined {
    return this.#failure === undefined ? this.input.unfilled : undefined;
  }

  /** The next `count` bytes have been received into `unfilled`, from its beginning. */
  filled(count: number): void {
    this.input.filled(count);
  }

  /** Nothing that was pushed is left to decode. */
  get isEmpty(): boolean {
    return this.input.size === 0 && this.input.unfilled === undefined;
  }

  /** The bytes behind the last message returned by `next`, for whatever decodes the connection's next phase. */
  rest(): Uint8Array {
    return this.input.rest();
  }

  protected abstract decode(): Message | undefined;
}
