/**
 * A comparison with the mirror: the pass that runs, and what was left out of the stream.
 *
 * It is open until the turn in which its completion is placed, and then *completing* until the mirror has said that it is
 * done: that takes as long as the mirror copies, and nothing is recorded meanwhile. When the backlog is full then, what follows
 * is left out, all of it: the stream stands still at a place that the mirror can reach, and is given up when it has.
 */
import { assert } from '../base/assert.ts';
import type { RunningPass } from './running-pass.ts';

export class Comparing {
  #isOpen = false;
  #pass: RunningPass | undefined;
  #overruns = 0;
  #leftOutThrough = 0;
  #isCompleting = false;
  #isCutShort = false;

  /** The mirror's view takes everything until it is complete. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Operations that found no room in the backlog since the present pass began: another one must follow. */
  get overruns(): number {
    return this.#overruns;
  }

  /**
   * The last change that is in no stream, only in marks. A repair of it must not stand in front of an older operation on
   * the same place, which the spool may still hold: no pass begins before the stream has got past it.
   */
  get leftOutThrough(): number {
    return this.#leftOutThrough;
  }

  /** What completes it is placed, and not known to be done. */
  get isCompleting(): boolean {
    return this.#isCompleting;
  }

  /** While completing: nothing more is streamed. */
  get isCutShort(): boolean {
    return this.#isCutShort;
  }

  cutShort(): void {
    assert(this.#isCompleting, 'only what completes is cut short');
    this.#isCutShort = true;
  }

  begin(): void {
    this.#isOpen = true;
  }

  beginPass(pass: RunningPass): void {
    assert(this.#isOpen, 'a pass belongs to a comparison');
    this.#pass = pass;
    this.#overruns = 0;
  }

  /** The pass compares everything below `end` now or has done so: operations there are streamed from now on. */
  passReached(end: number): void {
    this.#pass?.reached(end);
  }

  /** From now on every operation is streamed, or left to the next pass. Marks set since the pass began are remembered. */
  endPass(): void {
    this.#pass = undefined;
  }

  /** What completes it is placed in this turn: what follows reaches the image operation by operation. */
  complete(): void {
    assert(this.#overruns === 0, 'everything since the last pass is in the stream');
    this.end();
    this.#isCompleting = true;
  }

  /** The session is over, complete or not; or the completion is done. */
  end(): void {
    this.#pass = undefined;
    this.#isOpen = false;
    this.#isCompleting = false;
    this.#isCutShort = false;
  }

  /** True when the pass will see what an operation on that range has left. */
  willCompare(offset: number, length: number): boolean {
    return this.#pass?.willCompare(offset, length) === true;
  }

  /** An operation is streamed. */
  streamed(offset: number, length: number): void {
    this.#pass?.streamed(offset, length);
  }

  /** A change at `sequence` was not streamed: it is for another pass. */
  leftOut(sequence: number): void {
    this.#overruns += 1;
    this.#leftOutThrough = sequence;
  }
}
