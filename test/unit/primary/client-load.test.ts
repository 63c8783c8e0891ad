import { describe, expect, it } from 'vitest';
import { ClientLoad } from '../../../src/primary/client-load.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { turns } from '../../support/memory-world.ts';

describe('the load of clients', () => {
  it('hands every answer on, and counts nothing while nobody measures', async () => {
    const load = new ClientLoad(new ManualClock());
    expect(load.request(undefined)).toBeUndefined();
    await expect(load.request(Promise.resolve(7))).resolves.toBe(7);
    await expect(load.request(Promise.reject(new Error('no')))).rejects.toThrow('no');
  });

  it('counts requests, and how long those wait that are not answered at once, where they were taken', async () => {
    const clock = new ManualClock();
    const load = new ClientLoad(clock);
    const [first, second] = [0, 0].map(() => ({ requests: 0, waits: 0, waitedMs: 0 }));
    const pass = async (ms: number): Promise<void> => {
      for (let step = 0; step < ms; step += 1) {
        clock.advance(1);
        await turns(1);
      }
    };
    load.measure(first);
    load.request(undefined);
    void load.request(clock.sleep(5));
    load.request(clock.sleep(10).then(() => Promise.reject(new Error('no')))).catch(() => undefined);
    await pass(4);
    expect(first).toEqual({ requests: 3, waits: 0, waitedMs: 0 });
    load.measure(second);
    void load.request(clock.sleep(2));
    await pass(6);
    expect(first).toEqual({ requests: 3, waits: 2, waitedMs: 15 });
    expect(second).toEqual({ requests: 1, waits: 1, waitedMs: 2 });
    load.measure(undefined);
    void load.request(clock.sleep(1));
    await pass(1);
    expect([first?.requests, second?.requests]).toEqual([3, 1]);
  });
});
