/** What happened, in lines, of which the last are kept; and a number that stands for all of it. */

const LINES_KEPT = 400;

export class Trace {
  readonly #lines: string[] = [];
  readonly #print: ((line: string) => void) | undefined;
  #next = 0;
  #hash = 0x811c9dc5;

  constructor(print?: (line: string) => void) {
    this.#print = print;
  }

  /** The same for two runs in which the same happened at the same time. */
  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0');
  }

  mix(value: number): void {
    this.#hash = Math.imul(this.#hash ^ (value & 0xffff), 0x01000193);
    this.#hash = Math.imul(this.#hash ^ (value >>> 16), 0x01000193);
  }

  line(nowMs: number, text: string): void {
    for (let at = 0; at < text.length; at += 1) this.mix(text.charCodeAt(at));
    const line = `${nowMs.toFixed(3).padStart(11)} ${text}`;
    this.#lines[this.#next % LINES_KEPT] = line;
    this.#next += 1;
    this.#print?.(line);
  }

  /** The last lines, oldest first. */
  last(count: number): string[] {
    const kept = Math.min(count, this.#next, LINES_KEPT);
    return Array.from({ length: kept }, (_, index) => this.#lines[(this.#next - kept + index) % LINES_KEPT]!);
  }
}
