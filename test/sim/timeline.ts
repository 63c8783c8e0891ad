/**
 * Virtual time: a queue of what is going to happen, and the clock that jumps from one event to the next.
 *
 * Events at the same instant happen in an order that the seed decides. An event belongs to an *owner*, which may die: what
 * was to happen to a dead owner does not. Time is kept in whole microseconds, so that no rounding makes a difference.
 */
import type { Clock, Timer } from '../../src/io/clock.ts';
import type { SeededRandom } from './random.ts';

/** Whose event it is: dead ones have no more events. */
export interface Owner {
  readonly alive: boolean;
}

export interface Scheduled {
  readonly atUs: number;
  readonly tie: number;
  readonly owner: Owner | undefined;
  /** Undefined once it has happened, or was cancelled. */
  action: (() => void) | undefined;
}

/** 2020-01-01, for those who ask what time it is. */
const EPOCH_MS = 1_577_836_800_000;

export class Timeline {
  readonly #random: SeededRandom;
  readonly #heap: Scheduled[] = [];
  #nowUs = 0;

  constructor(random: SeededRandom) {
    this.#random = random;
  }

  get nowUs(): number {
    return this.#nowUs;
  }

  get nowMs(): number {
    return this.#nowUs / 1000;
  }

  get wallMs(): number {
    return EPOCH_MS + Math.floor(this.#nowUs / 1000);
  }

  /** Nanoseconds since 1970, as file systems write them down. */
  get wallNs(): bigint {
    return BigInt(EPOCH_MS) * 1_000_000n + BigInt(this.#nowUs) * 1000n;
  }

  get pendingCount(): number {
    return this.#heap.length;
  }

  /** Calls `action` in `delayMs`, unless it is cancelled or its owner dies before. */
  after(delayMs: number, action: () => void, owner?: Owner): Scheduled {
    // Never early: whoever is called looks at the clock again, and would wait for the rest of a rounded microsecond.
    const atUs = this.#nowUs + Math.max(0, Math.ceil(delayMs * 1000));
    const event: Scheduled = { atUs, tie: this.#random.next(), owner, action };
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = event;
    return event;
  }

  /** Lets the next event happen. False when there is none. What it throws comes out here. */
  step(): boolean {
    for (let event = this.#take(); event !== undefined; event = this.#take()) {
      const action = event.action;
      if (action === undefined || event.owner?.alive === false) continue;
      this.#nowUs = event.atUs;
      event.action = undefined;
      action();
      return true;
    }
    return false;
  }

  #take(): Scheduled | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child += 1;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function before(a: Scheduled, b: Scheduled): boolean {
  return a.atUs < b.atUs || (a.atUs === b.atUs && a.tie < b.tie);
}

/** The clock that an owner sees. Its timers die with it. */
export function clockOf(timeline: Timeline, owner: Owner): Clock {
  return {
    wallMs: () => timeline.wallMs,
    nowMs: () => timeline.nowMs,
    after(delayMs, action): Timer {
      if (!owner.alive) return { cancel: () => undefined };
      const event = timeline.after(delayMs, action, owner);
      return {
        cancel() {
          event.action = undefined;
        },
      };
    },
    sleep: (delayMs) =>
      new Promise((resolve) => {
        if (owner.alive) timeline.after(delayMs, resolve, owner);
      }),
  };
}
