import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Account, Budget } from '../../../src/nbd/budget.ts';

/** An account that keeps count of its grants. */
function open(budget: Budget, limit: number) {
  const client = { grants: 0, account: undefined as unknown as Account };
  client.account = new Account(budget, limit, () => {
    client.grants += 1;
  });
  return client;
}

describe('Budget', () => {
  it('grants at once what fits, and later what does not', () => {
    const budget = new Budget(100);
    const one = open(budget, 1000);
    const other = open(budget, 1000);
    expect(one.account.take(60)).toBe(true);
    expect(other.account.take(60)).toBe(false);
    one.account.release(60);
    expect([other.grants, budget.used, other.account.used]).toEqual([1, 60, 60]);
  });

  it('does not let a small request overtake a large one that waits', () => {
    const budget = new Budget(100);
    const [holder, large, small] = [open(budget, 1000), open(budget, 1000), open(budget, 1000)];
    holder.account.take(50);
    expect(large.account.take(80)).toBe(false);
    expect(small.account.take(10)).toBe(false);
    holder.account.release(50);
    expect([large.grants, small.grants]).toEqual([1, 1]);
    expect(budget.used).toBe(90);
  });

  it('lets an account wait for itself without holding up the others', () => {
    const budget = new Budget(1000);
    const full = open(budget, 100);
    const other = open(budget, 100);
    full.account.take(100);
    expect(full.account.take(50)).toBe(false);
    expect(other.account.take(100)).toBe(true);
    full.account.release(100);
    expect([full.grants, full.account.used]).toEqual([1, 50]);
  });

  it('lets what is larger than everything pass when nothing else is in flight', () => {
    const budget = new Budget(10);
    const client = open(budget, 10);
    expect(client.account.take(1000)).toBe(true);
    expect(client.account.take(1)).toBe(false);
    client.account.release(1000);
    expect(client.grants).toBe(1);
  });

  it('passes on the turn of an account that gives up', () => {
    const budget = new Budget(100);
    const [holder, quitter, next] = [open(budget, 1000), open(budget, 1000), open(budget, 1000)];
    holder.account.take(50);
    quitter.account.take(80);
    next.account.take(40);
    quitter.account.cancel();
    expect([quitter.grants, next.grants]).toEqual([0, 1]);
  });

  it('never exceeds its limits, loses nothing and starves nobody', () => {
    const step = fc.record({ who: fc.nat(3), cost: fc.integer({ min: 1, max: 60 }), release: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const budget = new Budget(100);
        const held: number[][] = [[], [], [], []];
        const waiting: number[] = [0, 0, 0, 0];
        const accounts = held.map((costs, who) => {
          return new Account(budget, 70, () => {
            costs.push(waiting[who]!);
            waiting[who] = 0;
          });
        });
        const check = () => {
          const sums = held.map((costs) => costs.reduce((sum, cost) => sum + cost, 0));
          expect(accounts.map((account) => account.used)).toEqual(sums);
          expect(budget.used).toBe(sums.reduce((sum, used) => sum + used, 0));
          expect(budget.used).toBeLessThanOrEqual(100);
          expect(Math.max(...sums)).toBeLessThanOrEqual(70);
        };
        for (const { who, cost, release } of steps) {
          if (release && held[who]!.length > 0) accounts[who]!.release(held[who]!.shift()!);
          else if (!release && waiting[who] === 0) {
            if (accounts[who]!.take(cost)) held[who]!.push(cost);
            else waiting[who] = cost;
          }
          check();
        }
        for (let rounds = 0; rounds < 500 && held.some((costs) => costs.length > 0); rounds += 1) {
          held.forEach((costs, who) => {
            if (costs.length > 0) accounts[who]!.release(costs.shift()!);
          });
          check();
        }
        expect(waiting).toEqual([0, 0, 0, 0]);
        expect(budget.used).toBe(0);
      }),
    );
  });
});
