/** System calls that a test can make fail, fall short, wait or count. */
import { type NodeCalls, nodeCalls } from '../../../src/io/node-calls.ts';

type CallName = Exclude<keyof NodeCalls, 'nowMs' | 'waits'>;

export interface FaultCalls extends NodeCalls {
  /** How often each call was made. */
  readonly counts: Record<CallName, number>;
}

/** The real calls, counted, with some replaced. Time stands still, so that no call counts as slow by accident. */
export function faultCalls(replaced: Partial<NodeCalls> = {}): FaultCalls {
  const base: NodeCalls = { ...nodeCalls, nowMs: () => 0, waits: () => 0, ...replaced };
  const counts: Record<CallName, number> = {
    read: 0,
    readCachedNow: 0,
    write: 0,
    writeNow: 0,
    fdatasync: 0,
    fsync: 0,
    truncate: 0,
    fallocate: 0,
    fallocateNow: 0,
    seekNow: 0,
    advise: 0,
  };
  const counted = Object.fromEntries(
    (Object.keys(counts) as CallName[]).map((name) => [
      name,
      (...args: unknown[]) => {
        counts[name] += 1;
        return (base[name] as (...args: unknown[]) => unknown)(...args);
      },
    ]),
  ) as unknown as NodeCalls;
  return { ...counted, nowMs: base.nowMs, waits: base.waits, counts };
}

/** What the system throws. */
export function systemError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: made by the test`), { code });
}

/** Replaces the n-th call (from 1) by a failure; the others are passed on. */
export function failNth<Args extends unknown[], Result>(
  call: (...args: Args) => Result,
  nth: number,
  code: string,
): (...args: Args) => Result {
  let calls = 0;
  return (...args) => {
    calls += 1;
    if (calls === nth) throw systemError(code);
    return call(...args);
  };
}

/** A promise and its ends. */
export function deferred(): { promise: Promise<void>; resolve: () => void; reject: (error: Error) => void } {
  let resolve!: () => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<void>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

/** Lets everything that is ready run: microtasks and what they queue. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
