/**
 * A ring of bytes in memory that two threads share: one writes, one reads, neither waits for the other.
 *
 * Layout: CONTROL_SIZE bytes of control words, then a power of two of data. The words: how much has been written, and how much
 * has been freed, both modulo 2^32; whether the reader sleeps; whether the writer waits for room. Waking up the other side
 * is its users' affair: each side is told when it has to.
 *
 * Invariant: freed <= taken <= written <= freed + capacity. Bytes between freed and written belong to the reader.
 */
import { assert } from '../base/assert.ts';
import { copyBytes } from './libc.ts';

const CONTROL_SIZE = 64;
const WRITTEN = 0;
const FREED = 1;
const READER_SLEEPS = 2;
const WRITER_WAITS = 3;

/** `capacity` in bytes, a power of two up to 2^30. */
export function newByteRing(capacity: number): SharedArrayBuffer {
  assert(Number.isInteger(Math.log2(capacity)) && capacity <= 2 ** 30, 'the capacity of a ring is a power of two');
  return new SharedArrayBuffer(CONTROL_SIZE + capacity);
}

/** Makes a ring empty again for two new ends; the old ones must not be used any more. */
export function emptyByteRing(ring: SharedArrayBuffer): void {
  new Int32Array(ring, 0, CONTROL_SIZE / 4).fill(0);
}

abstract class RingEnd {
  protected readonly words: Int32Array;
  protected readonly data: Buffer;
  protected readonly capacity: number;

  constructor(ring: SharedArrayBuffer) {
    this.words = new Int32Array(ring, 0, CONTROL_SIZE / 4);
    this.data = Buffer.from(ring, CONTROL_SIZE);
    this.capacity = this.data.length;
  }

  /** Bytes that have been written and not been freed. */
  get usedSize(): number {
    return (Atomics.load(this.words, WRITTEN) - Atomics.load(this.words, FREED)) >>> 0;
  }
}

export class RingWriter extends RingEnd {
  #written = 0;

  /** Copies as much of the bytes as there is room for; the reader sees it after `publish`. Returns how much. */
  push(bytes: Uint8Array): number {
    const room = this.capacity - ((this.#written - Atomics.load(this.words, FREED)) >>> 0);
    const size = Math.min(bytes.length, room);
    const at = this.#written & (this.capacity - 1);
    const firstSize = Math.min(size, this.capacity - at);
    copyBytes(this.data, at, bytes, 0, firstSize);
    if (firstSize < size) copyBytes(this.data, 0, bytes, firstSize, size - firstSize);
    this.#written = (this.#written + size) | 0;
    return size;
  }

  /** Hands over what was pushed. True when the reader sleeps: whoever is told so wakes it. */
  publish(): boolean {
    Atomics.store(this.words, WRITTEN, this.#written);
    return Atomics.exchange(this.words, READER_SLEEPS, 0) === 1;
  }

  /** Asks to be told when at most `lowSize` bytes are used. False when that is so already. */
  waitForRoom(lowSize: number): boolean {
    Atomics.store(this.words, WRITER_WAITS, 1);
    return this.usedSize > lowSize || Atomics.exchange(this.words, WRITER_WAITS, 0) === 0;
  }
}

export class RingReader extends RingEnd {
  #taken = 0;

  /** What has been written since the last call, in up to two views. They do not change before they are freed. */
  take(): Uint8Array[] {
    const size = (Atomics.load(this.words, WRITTEN) - this.#taken) >>> 0;
    if (size === 0) return [];
    const at = this.#taken & (this.capacity - 1);
    this.#taken = (this.#taken + size) | 0;
    if (at + size <= this.capacity) return [this.data.subarray(at, at + size)];
    return [this.data.subarray(at), this.data.subarray(0, at + size - this.capacity)];
  }

  /** Gives back the oldest bytes taken. True when the writer waits and has its room: whoever is told so tells it. */
  free(size: number, lowSize: number): boolean {
    Atomics.store(this.words, FREED, (Atomics.load(this.words, FREED) + size) | 0);
    return this.usedSize <= lowSize && Atomics.exchange(this.words, WRITER_WAITS, 0) === 1;
  }

  /** Nothing is left to take: the writer must wake us. False when there is something after all. */
  sleep(): boolean {
    Atomics.store(this.words, READER_SLEEPS, 1);
    if (Atomics.load(this.words, WRITTEN) === this.#taken) return true;
    // Whoever gets the word wakes; if that was the writer, its message is on the way and finds nothing.
    Atomics.store(this.words, READER_SLEEPS, 0);
    return false;
  }
}
