import { Command, type Request } from 'nbd-protocol';
import { describe, expect, it } from 'vitest';
import { Budget } from '../../../src/nbd/budget.ts';
import { HeldRequests } from '../../../src/nbd/held-requests.ts';
import { HELD_REQUEST_SIZE } from '../../../src/nbd/limits.ts';

function write(cookieLow: number, size: number): Request {
  const payload = Buffer.alloc(size);
  return { command: Command.WRITE, flags: 0, cookieHigh: 0, cookieLow, offset: 0, length: size, payload };
}

describe('held requests', () => {
  it('come out in the order of their arrival, the one that waits first', () => {
    const held = new HeldRequests(new Budget(10_000));
    held.append(write(2, 10));
    held.append(write(3, 10));
    held.putFirst(write(1, 10));
    expect(held.count).toBe(3);
    expect([held.takeFirst(), held.takeFirst(), held.takeFirst()].map((request) => request?.cookieLow)).toEqual([
      1, 2, 3,
    ]);
    expect(held.takeFirst()).toBeUndefined();
  });

  it('share a budget, but for the one that waits, and give it back when the last has come out', () => {
    const budget = new Budget(2 * (HELD_REQUEST_SIZE + 100));
    const held = new HeldRequests(budget);
    held.putFirst(write(1, 5000));
    expect(budget.used).toBe(0);
    expect([held.append(write(2, 100)), held.append(write(3, 100)), held.append(write(4, 100))]).toEqual([
      true,
      true,
      false,
    ]);
    expect(new HeldRequests(budget).append(write(1, 1))).toBe(false);
    held.takeFirst();
    held.takeFirst();
    expect(budget.used).toBe(budget.limit);
    held.takeFirst();
    expect(budget.used).toBe(0);
  });

  it('give everything back when they are forgotten', () => {
    const budget = new Budget(10_000);
    const held = new HeldRequests(budget);
    held.append(write(1, 100));
    held.clear();
    expect([held.count, budget.used]).toEqual([0, 0]);
  });
});
