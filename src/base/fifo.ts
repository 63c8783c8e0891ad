/** First in, first out. Both ends cost the same however long it is: an array alone moves all that is left with each `shift`. */

/** Values that have left are dropped from the front in lots of at least this many. */
const COMPACT_COUNT = 1024;

export class Fifo<Value> {
  readonly #values: Value[] = [];
  #first = 0;

  get length(): number {
    return this.#values.length - this.#first;
  }

  /** The one that leaves next. */
  get first(): Value | undefined {
    return this.#values[this.#first];
  }

  push(value: Value): void {
    this.#values.push(value);
  }

  /** Puts another in the place of the first, of which there must be one. */
  replaceFirst(value: Value): void {
    this.#values[this.#first] = value;
  }

  shift(): Value | undefined {
    const value = this.#values[this.#first];
    if (this.#first === this.#values.length) return undefined;
    this.#first += 1;
    if (this.#first === this.#values.length) this.clear();
    else if (this.#first >= COMPACT_COUNT && this.#first * 2 >= this.#values.length) {
      this.#values.splice(0, this.#first);
      this.#first = 0;
    }
    return value;
  }

  clear(): void {
    this.#values.length = 0;
    this.#first = 0;
  }
}
