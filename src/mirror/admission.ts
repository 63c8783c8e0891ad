/**
 * How many rescans a mirror host takes at a time. The others wait in order and are told their place, so that a hundred
 * primaries do not trample a mirror that has just rebooted.
 */
import { assert } from '../base/assert.ts';

interface Waiter {
  /** Place in the queue, 0 when admitted. */
  told(place: number): void;
}

export class Admission {
  readonly #limit: number;
  readonly #running = new Set<Waiter>();
  readonly #waiting: Waiter[] = [];

  constructor(limit: number) {
    assert(limit >= 1, 'at least one rescan at a time');
    this.#limit = limit;
  }

  /** Queues; `told` is called at once and whenever the place changes, with 0 in the end. Returns how to leave. */
  request(told: (place: number) => void): () => void {
    const waiter: Waiter = { told };
    this.#waiting.push(waiter);
    this.#admit();
    if (!this.#running.has(waiter)) told(this.#waiting.indexOf(waiter) + 1);
    return () => this.#leave(waiter);
  }

  #leave(waiter: Waiter): void {
    this.#running.delete(waiter);
    const index = this.#waiting.indexOf(waiter);
    if (index >= 0) this.#waiting.splice(index, 1);
    this.#admit();
    this.#waiting.forEach((other, place) => {
      other.told(place + 1);
    });
  }

  #admit(): void {
    while (this.#running.size < this.#limit) {
      const waiter = this.#waiting.shift();
      if (waiter === undefined) return;
      this.#running.add(waiter);
      waiter.told(0);
    }
  }
}
