/**
 * Buffers for large payloads, used again. A new one costs more than what is done with it: the kernel has to find its pages,
 * the collector has to find it.
 *
 * Who takes a buffer owns it, and may pass it on; the last owner gives it back, or forgets it, which is never wrong: the
 * collector takes it. Buffers that do not come from here may be given too, and are left alone, so that nobody needs to
 * know where one comes from.
 */
import { KIB, MIB } from './units.ts';

/** Smaller ones are cheap, larger ones rare. */
export const POOLED_SIZE_MIN = 16 * KIB;
const POOLED_SIZE_MAX = 4 * MIB;
/** Sizes are rounded up to a multiple of this. */
const STEP = 16 * KIB;

export class PayloadPool {
  readonly #limit: number;
  #freeSize = 0;
  #free: Buffer[][] = [];
  /** Those that are with an owner. */
  readonly #lent = new WeakSet<ArrayBufferLike>();

  /** For tests: sees each buffer that comes back, and may spoil it. */
  onGive: ((buffer: Buffer) => void) | undefined;

  /** Keeps at most `limit` bytes that nobody uses. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** `size` bytes of any content. */
  take(size: number): Buffer {
    if (size < POOLED_SIZE_MIN || size > POOLED_SIZE_MAX) return Buffer.allocUnsafeSlow(size);
    const steps = Math.ceil(size / STEP);
    const free = this.#free[steps];
    let whole = free?.pop();
    if (whole === undefined) whole = Buffer.allocUnsafeSlow(steps * STEP);
    else this.#freeSize -= whole.length;
    this.#lent.add(whole.buffer);
    return size === whole.length ? whole : whole.subarray(0, size);
  }

  /** Nobody will look at the buffer, or at any view of it, again. */
  give(buffer: Uint8Array): void {
    if (buffer.length < POOLED_SIZE_MIN || !this.#lent.delete(buffer.buffer)) return;
    const whole = Buffer.from(buffer.buffer);
    this.onGive?.(whole);
    // What is idle is not what is in use now.
    if (this.#freeSize + whole.length > this.#limit) this.#dropIdle();
    if (whole.length > this.#limit) return;
    this.#freeSize += whole.length;
    const steps = whole.length / STEP;
    let free = this.#free[steps];
    if (free === undefined) {
      free = [];
      this.#free[steps] = free;
    }
    free.push(whole);
  }

  #dropIdle(): void {
    this.#free = [];
    this.#freeSize = 0;
  }
}

/** That of the process: what it keeps idle is bounded once. */
export const payloadPool = new PayloadPool(32 * MIB);
