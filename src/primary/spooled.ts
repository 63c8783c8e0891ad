/**
 * What is known of the operations in the spool without reading it: how many, how many bytes, since when, and which
 * regions of the disk they are about, so that these can be named when order is given up, also when the disk of the spool
 * gives nothing back any more. Regions are coarse: a whole one for each byte in it.
 *
 * An operation counts from before it is in the spool until after it is where it went from there.
 */
import { assert } from '../base/assert.ts';
import { regionSizeFor } from '../store/marks.ts';

export class Spooled {
  readonly #diskSize: number;
  readonly #regionSize: number;
  /** Operations on each region; at most 4 MiB. */
  readonly #regions: Uint32Array;
  #count = 0;
  #size = 0;
  #oldestMs = 0;

  constructor(diskSize: number) {
    this.#diskSize = diskSize;
    this.#regionSize = regionSizeFor(diskSize);
    this.#regions = new Uint32Array(Math.ceil(diskSize / this.#regionSize));
  }

  /** Operations and barriers. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of the disk that the operations are about, each as often as it is written. */
  get size(): number {
    return this.#size;
  }

  /** About when the oldest was appended, in ms of `nowMs`: never later. */
  get oldestMs(): number | undefined {
    return this.#count === 0 ? undefined : this.#oldestMs;
  }

  /** A range of length 0: a barrier. */
  entered(offset: number, length: number, atMs: number): void {
    if (this.#count === 0) this.#oldestMs = atMs;
    this.#count += 1;
    this.#size += length;
    this.#change(offset, length, 1);
  }

  /** The oldest one, appended at `atMs`, is no more in the spool. */
  left(offset: number, length: number, atMs: number): void {
    this.#oldestMs = atMs;
    this.#count -= 1;
    this.#size -= length;
    this.#change(offset, length, -1);
  }

  /** Calls `visit` for each contiguous range of regions, cut at the end of the disk. */
  forEach(visit: (offset: number, length: number) => void): void {
    if (this.#size === 0) return;
    const regions = this.#regions;
    for (let index = 0; index < regions.length; index += 1) {
      if (regions[index] === 0) continue;
      const offset = index * this.#regionSize;
      while (index + 1 < regions.length && regions[index + 1]! > 0) index += 1;
      visit(offset, Math.min((index + 1) * this.#regionSize, this.#diskSize) - offset);
    }
  }

  clear(): void {
    this.#regions.fill(0);
    this.#count = 0;
    this.#size = 0;
  }

  #change(offset: number, length: number, by: 1 | -1): void {
    if (length === 0) return;
    const last = Math.floor((offset + length - 1) / this.#regionSize);
    assert(offset >= 0 && offset + length <= this.#diskSize, 'an operation lies on the disk');
    for (let index = Math.floor(offset / this.#regionSize); index <= last; index += 1) {
      const count = this.#regions[index]! + by;
      assert(count >= 0, 'an operation leaves once');
      this.#regions[index] = count;
    }
  }
}
