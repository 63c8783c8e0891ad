import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { threadWaits } from '../../../src/io/libc.ts';

const ROUNDS = 20;

describe('the count of waits of a thread', () => {
  it('rises whenever it waits', async () => {
    const before = threadWaits();
    for (let round = 0; round < ROUNDS; round += 1) await sleep(3);
    expect(threadWaits() - before).toBeGreaterThan(ROUNDS / 2);
  });

  it('does not when others take its CPU while it computes', () => {
    const before = threadWaits();
    for (const endMs = performance.now() + ROUNDS; performance.now() < endMs; );
    // The collector may make it wait.
    expect(threadWaits() - before).toBeLessThan(ROUNDS);
  });
});
