/** Time as a parameter: the simulator has its own. */
export interface Clock {
  /** Milliseconds since 1970, for people and records; may jump. */
  wallMs(): number;
  /** Milliseconds from an arbitrary origin; never goes back. */
  nowMs(): number;
  /** Calls `action` once after `delayMs`, unless cancelled. Does not keep the process alive. */
  after(delayMs: number, action: () => void): Timer;
  /** Resolves after `delayMs`. */
  sleep(delayMs: number): Promise<void>;
}

export interface Timer {
  cancel(): void;
}

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  nowMs: () => performance.now(),
  after(delayMs, action) {
    const timer = setTimeout(action, delayMs);
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
  sleep: (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs)),
};

/** Waits for `work`, but no longer than `limitMs`. Rejects when `work` does so in time. */
export async function within(clock: Clock, limitMs: number, work: Promise<unknown>): Promise<void> {
  let late: () => void = () => undefined;
  const end = new Promise<void>((resolve) => {
    late = resolve;
  });
  const timer = clock.after(limitMs, late);
  try {
    await Promise.race([work, end]);
  } finally {
    timer.cancel();
  }
}
