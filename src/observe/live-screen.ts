import { clip } from './paint.ts';

/** The part of a terminal that a live display needs; process.stdout and process.stderr have it. */
export interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
  write(text: string): boolean;
}

const COLUMNS_DEFAULT = 80;
const ROWS_DEFAULT = 24;

/**
 * Lines at the foot of a terminal that are drawn again in place. `print` puts lines above them that stay. Lines are
 * clipped to the terminal, so that a drawing never scrolls and the next one can find its start.
 *
 * Without a terminal nothing is drawn and `print` writes plain lines.
 */
export class LiveScreen {
  readonly #screen: Screen;
  #drawn: string[] = [];

  constructor(screen: Screen) {
    this.#screen = screen;
  }

  get isLive(): boolean {
    return this.#screen.isTTY === true;
  }

  /** Replaces the live lines. */
  draw(lines: readonly string[]): void {
    if (!this.isLive) return;
    const columns = this.#screen.columns ?? COLUMNS_DEFAULT;
    const rows = this.#screen.rows ?? ROWS_DEFAULT;
    const next = lines.slice(0, Math.max(1, rows - 1)).map((line) => clip(line, columns));
    this.#screen.write(this.#erasure() + next.map((line) => `${line}\n`).join(''));
    this.#drawn = next;
  }

  /** Writes lines that stay, above the live ones. */
  print(...lines: string[]): void {
    const text = lines.map((line) => `${line}\n`).join('');
    this.#screen.write(this.#erasure() + text + this.#drawn.map((line) => `${line}\n`).join(''));
  }

  /** Removes the live lines. */
  clear(): void {
    if (this.#drawn.length > 0) this.#screen.write(this.#erasure());
    this.#drawn = [];
  }

  /** Moves to the start of the live lines and clears from there to the end of the screen. */
  #erasure(): string {
    return this.#drawn.length === 0 ? '' : `\u001b[${this.#drawn.length}A\u001b[J`;
  }
}
