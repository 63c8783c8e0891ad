/**
 * The sequence of the last operation on each region of the disk: how long it has not been written. And which regions are
 * *in use*: written in this process, and not let go of since.
 */
import { Bitmap } from '../base/bitmap.ts';

export class RegionSequences {
  readonly #regionSize: number;
  readonly #last: Float64Array;
  readonly #inUse: Bitmap;

  /** `sequence`: every region counts as last written there, by what came before this process; none is in use. */
  constructor(size: number, regionSize: number, sequence: number) {
    this.#regionSize = regionSize;
    this.#last = new Float64Array(Math.ceil(size / regionSize)).fill(sequence);
    this.#inUse = new Bitmap(this.#last.length);
  }

  /** Regions in use. */
  get inUseCount(): number {
    return this.#inUse.count;
  }

  /** An operation took effect on the range. */
  note(offset: number, length: number, sequence: number): void {
    const last = Math.floor((offset + length - 1) / this.#regionSize);
    for (let region = Math.floor(offset / this.#regionSize); region <= last; region += 1) {
      this.#last[region] = sequence;
      this.#inUse.set(region);
    }
  }

  of(region: number): number {
    return this.#last[region]!;
  }

  isInUse(region: number): boolean {
    return this.#inUse.get(region);
  }

  /** The region is not in use until it is written again. Its sequence stays. */
  letGo(region: number): void {
    this.#inUse.clear(region);
  }
}
