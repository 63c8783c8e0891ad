/** Who waits for the dirty map: many share one write, whatever they wait for. */
import type { Failure } from '../base/failure.ts';

/** Several wait for one outcome; made only when somebody does. */
class Outcome {
  #promise: Promise<void> | undefined;
  #resolve: () => void = () => undefined;
  #reject: (reason: Failure) => void = () => undefined;

  get isAwaited(): boolean {
    return this.#promise !== undefined;
  }

  wait(): Promise<void> {
    this.#promise ??= new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    return this.#promise;
  }

  done(): void {
    this.#resolve();
  }

  failed(reason: Failure): void {
    this.#reject(reason);
  }
}

/** Who waits for one write of the file: for marks to be set, or to be cleared. */
export class DirtyGroup {
  readonly set = new Outcome();
  readonly clear = new Outcome();
}
