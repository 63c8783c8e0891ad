/** The sequence of the last operation on each region of the disk: how long it has not been written. */

export class RegionSequences {
  readonly #regionSize: number;
  readonly #last: Float64Array;

  /** `sequence`: every region counts as last written there, by what came before this process. */
  constructor(size: number, regionSize: number, sequence: number) {
    this.#regionSize = regionSize;
    this.#last = new Float64Array(Math.ceil(size / regionSize)).fill(sequence);
  }

  /** An operation took effect on the range. */
  note(offset: number, length: number, sequence: number): void {
    const last = Math.floor((offset + length - 1) / this.#regionSize);
    for (let region = Math.floor(offset / this.#regionSize); region <= last; region += 1) this.#last[region] = sequence;
  }

  of(region: number): number {
    return this.#last[region]!;
  }
}
