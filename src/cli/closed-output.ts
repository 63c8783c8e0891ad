import process from 'node:process';

/** 128 + SIGPIPE, as a shell shows programs that nobody reads any more. */
const EXIT_CLOSED_OUTPUT = 141;

/**
 * Ends a command that prints when nobody reads it any more (`| head`, a terminal that was closed), without a word. Not
 * for what must clean up: `demo` and the processes that serve see to it themselves.
 */
export function endWithOutput(): void {
  process.stdout.on('error', () => process.exit(EXIT_CLOSED_OUTPUT));
}
