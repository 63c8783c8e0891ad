import { setTimeout as sleep } from 'node:timers/promises';

/** Asks again and again, every 20 ms, until the answer is not undefined; fails, with `what`, after `timeoutMs`. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  answer: () => T | undefined | Promise<T | undefined>,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await answer();
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs / 1000} s`);
    await sleep(20);
  }
}
