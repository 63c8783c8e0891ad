/**
 * Bytes in flight, bounded per connection and for the server.
 *
 * A connection has one Account. It takes before it works on a request, and gives back when the reply has gone out. When
 * there is not enough, the connection stops reading its socket until the account grants what was asked for; it asks for
 * one thing at a time and whole, so waiting never holds a part of what others wait for, and nothing can deadlock. The
 * server's budget is granted in the order of asking: small requests do not keep a large one waiting for ever.
 */
import { assert } from '../base/assert.ts';

/** What all connections of a server share. */
export class Budget {
  readonly limit: number;
  #used = 0;
  readonly #waiting = new Set<Account>();

  constructor(limit: number) {
    this.limit = limit;
  }

  get used(): number {
    return this.#used;
  }

  /** Takes without waiting. False when there is not enough, or others were first. */
  tryTake(cost: number): boolean {
    if (this.#waiting.size > 0 || !this.#fits(cost)) return false;
    this.#used += cost;
    return true;
  }

  /** Internal to Account. */
  wait(account: Account): void {
    this.#waiting.add(account);
  }

  /** Internal to Account. */
  forget(account: Account): void {
    if (this.#waiting.delete(account)) this.#grantNext();
  }

  /** Gives back what `tryTake`, or an account, took. */
  release(cost: number): void {
    this.#used -= cost;
    assert(this.#used >= 0, 'more given back than was taken');
    this.#grantNext();
  }

  #grantNext(): void {
    for (;;) {
      const account = this.#waiting.values().next().value;
      if (account === undefined || !this.#fits(account.waitingCost)) return;
      this.#used += account.waitingCost;
      this.#waiting.delete(account);
      account.grant();
    }
  }

  /** What is larger than the whole budget passes when nothing else is in flight. */
  #fits(cost: number): boolean {
    return this.#used === 0 || this.#used + cost <= this.limit;
  }
}

/** What one connection has in flight. */
export class Account {
  readonly #budget: Budget;
  readonly #limit: number;
  readonly #granted: (cost: number) => void;
  #used = 0;
  /** 0 while nothing is asked for. */
  #waitingCost = 0;
  #waitsForServer = false;

  /** `granted` is called, later and once, with the cost of each `take` that returned false. */
  constructor(budget: Budget, limit: number, granted: (cost: number) => void) {
    this.#budget = budget;
    this.#limit = limit;
    this.#granted = granted;
  }

  get used(): number {
    return this.#used;
  }

  get waitingCost(): number {
    return this.#waitingCost;
  }

  /** Takes `cost` bytes, at least 1. True: taken. False: not yet, `granted` will say when. */
  take(cost: number): boolean {
    assert(cost > 0 && this.#waitingCost === 0, 'an account asks for one thing at a time');
    if (this.#fits(cost) && this.#budget.tryTake(cost)) {
      this.#used += cost;
      return true;
    }
    this.#waitingCost = cost;
    this.#queueIfFits();
    return false;
  }

  release(cost: number): void {
    this.#used -= cost;
    assert(this.#used >= 0, 'more given back than was taken');
    this.#budget.release(cost);
    if (this.#waitingCost === 0 || this.#waitsForServer || !this.#fits(this.#waitingCost)) return;
    if (this.#budget.tryTake(this.#waitingCost)) this.grant();
    else this.#queueIfFits();
  }

  /** The connection is gone and waits for nothing any more. What it has taken it still gives back. */
  cancel(): void {
    this.#waitingCost = 0;
    this.#waitsForServer = false;
    this.#budget.forget(this);
  }

  /** Internal to Budget, which has taken the cost already. */
  grant(): void {
    const cost = this.#waitingCost;
    this.#used += cost;
    this.#waitingCost = 0;
    this.#waitsForServer = false;
    this.#granted(cost);
  }

  #fits(cost: number): boolean {
    return this.#used === 0 || this.#used + cost <= this.#limit;
  }

  /** Queues up for the server's budget only when it is not the connection's own requests that stand in the way. */
  #queueIfFits(): void {
    if (!this.#fits(this.#waitingCost)) return;
    this.#waitsForServer = true;
    this.#budget.wait(this);
  }
}
