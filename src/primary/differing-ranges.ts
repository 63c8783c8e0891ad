import type { Range } from '../rescan/source.ts';

/** Ranges that differ, as they are found: neighbours joined, no more than so many; their size counts all of them. */
export class DifferingRanges {
  readonly #countMax: number;
  readonly #ranges: { offset: number; length: number }[] = [];
  #size = 0;
  #truncated = false;

  constructor(countMax: number) {
    this.#countMax = countMax;
  }

  get ranges(): readonly Range[] {
    return this.#ranges;
  }

  /** Bytes, also of those that are not kept. */
  get size(): number {
    return this.#size;
  }

  /** There are more than are kept. */
  get truncated(): boolean {
    return this.#truncated;
  }

  add(offset: number, length: number): void {
    this.#size += length;
    const last = this.#ranges.at(-1);
    if (last !== undefined && last.offset + last.length === offset) last.length += length;
    else if (this.#ranges.length < this.#countMax) this.#ranges.push({ offset, length });
    else this.#truncated = true;
  }
}
