/**
 * Replies on their way out: those of one turn of the event loop go out with one socket write.
 *
 * What is kept: chunks not yet written, the cost of the requests that they answer, and the cost of what the socket has
 * taken but not yet passed on. While the socket is full nothing more is written to it, so what a client does not read
 * is bounded by its account. While they are held nothing is written either.
 */
import { assert } from '../base/assert.ts';
import { POOLED_SIZE_MIN, payloadPool } from '../base/payload-pool.ts';
import type { ByteStream } from '../io/network.ts';

export class Replies {
  readonly #stream: ByteStream;
  readonly #release: (cost: number) => void;
  readonly #full: () => void;
  readonly #scheduledFlush = (): void => {
    this.#isScheduled = false;
    this.flush();
  };
  #chunks: Uint8Array[] = [];
  /** Buffers among the chunks that can be used again once they have left. */
  #reusable: Uint8Array[] = [];
  /** The last chunk, still growing while replies lie side by side: not yet in `chunks`. */
  #tail: Uint8Array | undefined;
  #tailEnd = 0;
  #cost = 0;
  #sendingCost = 0;
  #isFull = false;
  #isHeld = false;
  #isScheduled = false;
  #isAbandoned = false;

  /** `release` is told the cost of requests whose replies have left; `full`, that the client must read on first. */
  constructor(stream: ByteStream, release: (cost: number) => void, full: () => void) {
    this.#stream = stream;
    this.#release = release;
    this.#full = full;
  }

  /** True while the socket takes no more. */
  get isFull(): boolean {
    return this.#isFull;
  }

  /** True when everything has been passed to the kernel. */
  get isEmpty(): boolean {
    return this.#tail === undefined && this.#chunks.length === 0 && !this.#isFull;
  }

  /** Appends bytes of a reply; they must never change from now on. Sends nothing yet. */
  push(bytes: Uint8Array): void {
    if (this.#isAbandoned) return;
    const tail = this.#tail;
    if (tail !== undefined && tail.buffer === bytes.buffer && this.#tailEnd === bytes.byteOffset) {
      this.#tailEnd += bytes.length;
      return;
    }
    this.#closeTail();
    this.#tail = bytes;
    this.#tailEnd = bytes.byteOffset + bytes.length;
  }

  /** Appends data of a reply, whose buffer belongs to the replies from now on. */
  pushOwned(data: Uint8Array): void {
    this.push(data);
    if (data.length >= POOLED_SIZE_MIN && !this.#isAbandoned) this.#reusable.push(data);
  }

  /** The last reply to a request of this cost has been pushed. */
  settle(cost: number): void {
    if (this.#isAbandoned) this.#release(cost);
    else this.#cost += cost;
  }

  /** Sends what was pushed, unless the socket is full: then `drained` will. */
  flush(): void {
    if (this.#isFull || this.#isHeld || this.#isAbandoned) return;
    this.#closeTail();
    const chunks = this.#chunks;
    const cost = this.#cost;
    this.#cost = 0;
    if (chunks.length > 0) {
      this.#chunks = [];
      if (!this.#stream.write(chunks, this.#whenSent())) {
        this.#isFull = true;
        this.#sendingCost = cost;
        this.#full();
        return;
      }
    }
    if (cost > 0) this.#release(cost);
  }

  /** Flushes at the end of this turn of the event loop, together with what else completes in it. */
  schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(this.#scheduledFlush);
  }

  /** Writes nothing until `letGo`. */
  hold(): void {
    this.#isHeld = true;
  }

  letGo(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    this.flush();
  }

  /** The socket takes more. */
  drained(): void {
    if (!this.#isFull) return;
    this.#isFull = false;
    const cost = this.#sendingCost;
    this.#sendingCost = 0;
    this.flush();
    if (cost > 0) this.#release(cost);
  }

  /** The socket is gone: forgets what was to be sent, now and later. */
  abandon(): void {
    assert(!this.#isAbandoned, 'replies are abandoned once');
    this.#isAbandoned = true;
    this.#isFull = false;
    this.#chunks = [];
    this.#reusable = [];
    this.#tail = undefined;
    const cost = this.#cost + this.#sendingCost;
    this.#cost = 0;
    this.#sendingCost = 0;
    if (cost > 0) this.#release(cost);
  }

  #whenSent(): (() => void) | undefined {
    if (this.#reusable.length === 0) return undefined;
    const buffers = this.#reusable;
    this.#reusable = [];
    return () => {
      for (const buffer of buffers) payloadPool.give(buffer);
    };
  }

  #closeTail(): void {
    const tail = this.#tail;
    if (tail === undefined) return;
    this.#tail = undefined;
    const length = this.#tailEnd - tail.byteOffset;
    this.#chunks.push(length === tail.length ? tail : new Uint8Array(tail.buffer, tail.byteOffset, length));
  }
}
