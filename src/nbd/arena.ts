/**
 * Places for replies. Pieces taken one after the other lie side by side in a slab, so that a header and its data, and
 * whole replies made in one turn, go out as one chunk without being copied. A slab is never used twice: what was handed
 * out may still be on its way to the kernel.
 */
const SLAB_SIZE = 128 * 1024;

export class Arena {
  #slab: Buffer = Buffer.alloc(0);
  #at = 0;

  /** Makes the next takes contiguous, as long as they come to no more than `size` bytes together. */
  reserve(size: number): void {
    if (this.#at + size <= this.#slab.length) return;
    this.#slab = Buffer.allocUnsafeSlow(Math.max(size, SLAB_SIZE));
    this.#at = 0;
  }

  /** `size` bytes of any content, which belong to the caller. */
  take(size: number): Buffer {
    this.reserve(size);
    const start = this.#at;
    this.#at += size;
    return this.#slab.subarray(start, this.#at);
  }
}
