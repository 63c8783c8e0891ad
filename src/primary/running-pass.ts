/**
 * The pass of a rescan that runs now, as far as operations have to know of it: which of them may be left to the pass
 * instead of being streamed.
 */
import type { Bitmap } from '../base/bitmap.ts';

export class RunningPass {
  /** Regions that the pass compares and that no operation streamed since its start, or still spooled, touches. */
  readonly #leavable: Bitmap;
  readonly #regionSize: number;
  /** Everything below has been, or is being, compared. */
  #cursor = 0;

  /** Owns `leavable`. */
  constructor(leavable: Bitmap, regionSize: number) {
    this.#leavable = leavable;
    this.#regionSize = regionSize;
  }

  /** The pass compares everything below `end` now or has done so. */
  reached(end: number): void {
    this.#cursor = end;
  }

  /** True when the pass will see what an operation on that range has left. */
  willCompare(offset: number, length: number): boolean {
    if (offset < this.#cursor) return false;
    const last = Math.floor((offset + length - 1) / this.#regionSize);
    for (let index = Math.floor(offset / this.#regionSize); index <= last; index += 1) {
      if (!this.#leavable.get(index)) return false;
    }
    return true;
  }

  /** An operation is streamed: from now on everything on its regions is. */
  streamed(offset: number, length: number): void {
    if (offset + length <= this.#cursor) return;
    const last = Math.floor((offset + length - 1) / this.#regionSize);
    for (let index = Math.floor(offset / this.#regionSize); index <= last; index += 1) this.#leavable.clear(index);
  }
}
