/**
 * What the demonstration shows: steps that are done, each with one line that stays, and on a terminal below them the
 * step under way and the state of the replication, drawn in place.
 */

import { LiveScreen, type Screen } from '../../observe/live-screen.ts';
import { type Paint, paintFor } from '../../observe/paint.ts';
import { progressBar } from '../../observe/progress-text.ts';
import { statusLine } from '../../observe/status-text.ts';
import type { ServeStatus } from '../status.ts';

export class Display {
  readonly #screen: LiveScreen;
  readonly #paint: Paint;
  #step = '';
  #progress: string | undefined;
  #status: ServeStatus | undefined;
  #isFrozen = false;

  constructor(screen: Screen) {
    this.#screen = new LiveScreen(screen);
    this.#paint = paintFor(screen);
  }

  get isLive(): boolean {
    return this.#screen.isLive;
  }

  /** What is being done now. */
  begin(step: string): void {
    if (this.#isFrozen) return;
    this.#step = step;
    this.#progress = undefined;
    if (this.isLive) this.#draw();
    else this.#screen.print(`  ${step} ...`);
  }

  progress(done: number, whole: number): void {
    this.#progress = progressBar(done, whole);
    this.#draw();
  }

  status(status: ServeStatus): void {
    this.#status = status;
    this.#draw();
  }

  /** The step is over, with this result. */
  done(result: string): void {
    this.#end(`${this.#paint.good('✓')} ${result}`);
  }

  /** The step is over and was not what it should have been. */
  failed(result: string): void {
    this.#end(`${this.#paint.bad('✗')} ${result}`);
  }

  print(...lines: string[]): void {
    if (!this.#isFrozen) this.#screen.print(...lines);
  }

  strong(text: string): string {
    return this.#paint.strong(text);
  }

  /** Nothing more is shown: what still goes on is on its way out. */
  freeze(): void {
    this.#isFrozen = true;
  }

  /** Removes what is drawn in place. */
  clear(): void {
    this.#step = '';
    this.#status = undefined;
    this.#screen.clear();
  }

  #end(line: string): void {
    if (this.#isFrozen) return;
    this.#step = '';
    this.#progress = undefined;
    this.#screen.print(line);
  }

  #draw(): void {
    if (this.#isFrozen) return;
    const lines: string[] = [];
    if (this.#step !== '') lines.push([this.#paint.busy('▸'), this.#step, this.#progress ?? ''].join(' ').trimEnd());
    if (this.#status !== undefined) lines.push(this.#paint.faint(`  ${statusLine(this.#status)}`));
    this.#screen.draw(lines);
  }
}
