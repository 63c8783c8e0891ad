/**
 * Assertions on invariants. They stay on in production: a broken invariant means that the next write could destroy
 * data, so the process ends (exit 70) rather than go on. Never catch an AssertionFailed.
 */
export class AssertionFailed extends Error {
  override name = 'AssertionFailed';
}

/** Ends the process by way of an uncaught AssertionFailed when `condition` is false: a bug, never the world's fault. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionFailed(message);
}

/** For the `default` of a switch that the compiler has proved complete. */
export function unreachable(value: never): never {
  throw new AssertionFailed(`unreachable: ${String(value)}`);
}
