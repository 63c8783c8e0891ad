/**
 * Calls of fdatasync (or fsync) on one disk, grouped. Across all disks at most SYNCS_MAX run at a time, since each holds a
 * thread of the pool for as long as the disk needs, and reads must find a thread free.
 */
import { SharedCall } from '../base/shared-call.ts';

/** Such calls in the thread pool at a time, over all disks of the process. */
const SYNCS_MAX = 2;

let running = 0;
const waiting: (() => void)[] = [];

/** Resolves when this caller may run; it must then call `leave` once. */
function enter(): Promise<void> | void {
  if (running < SYNCS_MAX) {
    running += 1;
    return;
  }
  return new Promise((resolve) => waiting.push(resolve));
}

function leave(): void {
  const next = waiting.shift();
  if (next === undefined) running -= 1;
  else next();
}

export function sharedSync(sync: () => Promise<void>): SharedCall {
  const call = async (): Promise<void> => {
    try {
      await sync();
    } finally {
      leave();
    }
  };
  return new SharedCall(call, enter);
}
