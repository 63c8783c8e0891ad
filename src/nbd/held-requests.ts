/**
 * Requests of one connection that have arrived and not begun, oldest first.
 *
 * While the client is there this is one request at most: the one that waits for room, while the socket is not read.
 * Behind it come those that are taken in after the client has gone, to learn whether it said goodbye; they count
 * against a budget of the whole server, until none is left.
 */
import type { Request } from 'nbd-protocol';
import type { Budget } from './budget.ts';
import { HELD_REQUEST_SIZE } from './limits.ts';

export class HeldRequests {
  readonly #budget: Budget;
  #requests: Request[] = [];
  #size = 0;

  constructor(budget: Budget) {
    this.#budget = budget;
  }

  get count(): number {
    return this.#requests.length;
  }

  /** Puts the one that must wait before all others. */
  putFirst(request: Request): void {
    this.#requests.unshift(request);
  }

  /** Appends one of a client that has gone; false when the budget has no room for it. */
  append(request: Request): boolean {
    const size = HELD_REQUEST_SIZE + (request.payload?.length ?? 0);
    if (!this.#budget.tryTake(size)) return false;
    this.#size += size;
    this.#requests.push(request);
    return true;
  }

  takeFirst(): Request | undefined {
    const request = this.#requests.shift();
    if (this.#requests.length === 0) this.#release();
    return request;
  }

  /** Forgets all. */
  clear(): void {
    this.#requests = [];
    this.#release();
  }

  #release(): void {
    const size = this.#size;
    this.#size = 0;
    if (size > 0) this.#budget.release(size);
  }
}
