/** Cuts a stream of bytes into lines, whatever the chunks. A line longer than `sizeMax` bytes is not kept. */
export class LineSplitter {
  readonly #sizeMax: number;
  readonly #onLine: (line: string) => void;
  #parts: Buffer[] = [];
  #size = 0;

  constructor(sizeMax: number, onLine: (line: string) => void) {
    this.#sizeMax = sizeMax;
    this.#onLine = onLine;
  }

  /** Takes the next bytes; calls `onLine` for each line that they complete. False when a line is too long: give up. */
  push(chunk: Buffer): boolean {
    let rest = chunk;
    for (;;) {
      const end = rest.indexOf(NEWLINE);
      const part = end === -1 ? rest : rest.subarray(0, end);
      this.#size += part.length;
      if (this.#size > this.#sizeMax) return false;
      if (part.length > 0) this.#parts.push(part);
      if (end === -1) return true;
      const line = Buffer.concat(this.#parts).toString('utf8');
      this.#parts = [];
      this.#size = 0;
      rest = rest.subarray(end + 1);
      this.#onLine(line);
    }
  }
}

const NEWLINE = 0x0a;
