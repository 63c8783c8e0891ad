import { EMPTY } from './bytes.ts';

/** Makes the buffer for a payload that did not arrive in one piece; must return exactly `size` bytes. */
export type Allocate = (size: number) => Uint8Array;

const allocateZeroed: Allocate = (size) => new Uint8Array(size);

/**
 * Bytes received and not yet read, in the chunks in which they came.
 *
 * What lies inside one chunk is read in place. What is cut is put together once: small headers by {@link peek}, into a
 * new small chunk; payloads by {@link take}, into a buffer that is filled as bytes arrive, so that the chunks they came
 * in can go at once and no byte is copied twice.
 *
 * Invariants: `head` has an unread byte at `at` whenever `size` is above what `take` has gathered;
 * chunks behind `head` are unread from their first byte.
 */
export class ByteQueue {
  /** The chunk with the first unread byte. */
  head: Uint8Array = EMPTY;
  /** Index of the first unread byte in `head`. */
  at = 0;
  /** Count of unread bytes, those gathered by an unfinished {@link take} not included. */
  size = 0;
  readonly #allocate: Allocate;
  /** Chunks after `head`, from `#behindFirst` on. */
  #behind: Uint8Array[] = [];
  #behindFirst = 0;
  #gathered: Uint8Array | undefined;
  #gatheredSize = 0;

  constructor(allocate: Allocate = allocateZeroed) {
    this.#allocate = allocate;
  }

  push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    if (this.size === 0) {
      this.head = bytes;
      this.at = 0;
    } else {
      this.#behind.push(bytes);
    }
    this.size += bytes.length;
  }

  /** Whether `count` bytes have arrived; if so they are in `head` from `at` on. For headers: a cut one is copied. */
  peek(count: number): boolean {
    if (this.head.length - this.at >= count) return true;
    if (this.size < count) return false;
    this.#join(count);
    return true;
  }

  /** Reads past `count` bytes, which must have arrived. */
  skip(count: number): void {
    this.size -= count;
    this.at += count;
    if (this.at < this.head.length) return;
    this.#advance();
  }

  /** Reads past as many of `count` bytes as have arrived, and returns how many those were. */
  discard(count: number): number {
    const discarded = Math.min(count, this.size);
    if (discarded > 0) this.skip(discarded);
    return discarded;
  }

  /**
   * Reads `count` bytes: a view of the chunk, or a buffer if they came in several. Undefined until all have arrived;
   * then it must be called again with the same count before anything else is read.
   */
  take(count: number): Uint8Array | undefined {
    if (this.#gathered === undefined) {
      if (count === 0) return EMPTY;
      if (this.head.length - this.at >= count) {
        const view = this.head.subarray(this.at, this.at + count);
        this.skip(count);
        return view;
      }
      this.#gathered = this.#allocate(count);
      if (this.#gathered.length !== count) {
        throw new RangeError(`allocate was asked for ${count} bytes and returned ${this.#gathered.length}`);
      }
      this.#gatheredSize = 0;
    }
    const gathered = this.#gathered;
    this.#gatheredSize = this.#copyInto(gathered, this.#gatheredSize);
    if (this.#gatheredSize < count) return undefined;
    this.#gathered = undefined;
    return gathered;
  }

  /** What an unfinished {@link take} still waits for: to be filled from its beginning, see {@link filled}. */
  get unfilled(): Uint8Array | undefined {
    return this.#gathered?.subarray(this.#gatheredSize);
  }

  /** The next `count` bytes have been received straight into {@link unfilled}. */
  filled(count: number): void {
    this.#gatheredSize += count;
  }

  /** All bytes that no finished read has returned, as one array; the queue keeps them. */
  rest(): Uint8Array {
    const gathered = this.#gathered?.subarray(0, this.#gatheredSize) ?? EMPTY;
    const unread = this.head.subarray(this.at);
    if (gathered.length === 0 && unread.length === this.size) return unread;
    const rest = new Uint8Array(gathered.length + this.size);
    rest.set(gathered);
    rest.set(unread, gathered.length);
    let end = gathered.length + unread.length;
    for (const chunk of this.#behind.slice(this.#behindFirst)) {
      rest.set(chunk, end);
      end += chunk.length;
    }
    return rest;
  }

  /** Forgets everything. */
  clear(): void {
    this.head = EMPTY;
    this.at = 0;
    this.size = 0;
    this.#behind = [];
    this.#behindFirst = 0;
    this.#gathered = undefined;
  }

  #copyInto(target: Uint8Array, start: number): number {
    let end = start;
    while (end < target.length && this.size > 0) {
      const count = Math.min(target.length - end, this.head.length - this.at);
      target.set(this.head.subarray(this.at, this.at + count), end);
      this.skip(count);
      end += count;
    }
    return end;
  }

  #join(count: number): void {
    const joined = new Uint8Array(count);
    this.#copyInto(joined, 0);
    if (this.size > 0) {
      // The chunk that was cut goes back into the slot it came from: something behind `head` was needed to get here.
      this.#behindFirst -= 1;
      this.#behind[this.#behindFirst] = this.head.subarray(this.at);
    }
    this.head = joined;
    this.at = 0;
    this.size += count;
  }

  /** Moves on to the chunk that holds the first unread byte, and lets go of those before it. */
  #advance(): void {
    while (this.at >= this.head.length && this.#behindFirst < this.#behind.length) {
      this.at -= this.head.length;
      this.head = this.#behind[this.#behindFirst]!;
      this.#behind[this.#behindFirst] = EMPTY;
      this.#behindFirst += 1;
    }
    // Drop what was read past, but for one slot: each chunk is moved at most once for each that is dropped.
    if (this.#behindFirst > 1 && this.#behindFirst * 2 > this.#behind.length) {
      this.#behind = this.#behind.slice(this.#behindFirst - 1);
      this.#behindFirst = 1;
    }
    if (this.size === 0) {
      this.head = EMPTY;
      this.at = 0;
    }
  }
}
