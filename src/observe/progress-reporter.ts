import { LiveScreen, type Screen } from './live-screen.ts';

/**
 * Progress of one thing after another: a line drawn in place on a terminal, elsewhere a plain line at every tenth of
 * the way, so that a log stays short.
 */
export class ProgressReporter {
  readonly #screen: LiveScreen;
  #tenths = -1;

  constructor(screen: Screen) {
    this.#screen = new LiveScreen(screen);
  }

  /** `done` of `whole`, in any unit, described by `line`. */
  update(done: number, whole: number, line: string): void {
    if (this.#screen.isLive) {
      this.#screen.draw([line]);
      return;
    }
    const tenths = whole === 0 ? 10 : Math.floor((done / whole) * 10);
    if (tenths <= this.#tenths) return;
    this.#tenths = tenths;
    this.#screen.print(line);
  }

  /** Removes the drawn line; the next `update` starts anew. */
  finish(): void {
    this.#screen.clear();
    this.#tenths = -1;
  }
}
