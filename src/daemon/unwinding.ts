/**
 * What a start has opened so far. A start that fails closes it again, the last first, and leaves nothing behind.
 */
export class Unwinding {
  #actions: (() => unknown)[] = [];

  /** Remembers how to undo the step that was just done. */
  add(action: () => unknown): void {
    this.#actions.push(action);
  }

  /** The start succeeded: from now on `stop` is responsible. */
  forget(): void {
    this.#actions = [];
  }

  /** Undoes everything. Never fails: the failure that led here is the one to report. */
  async unwind(): Promise<void> {
    for (const action of this.#actions.reverse()) {
      try {
        await action();
      } catch {
        // The disk may be what failed in the first place.
      }
    }
    this.#actions = [];
  }
}
