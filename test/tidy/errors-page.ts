import { FAILURES, type FailureCode } from '../../src/base/failure.ts';

/** Names of BSD's sysexits.h, and the statuses beside them. */
const EXIT_NAMES: Readonly<Record<number, string>> = {
  1: 'differences',
  64: 'EX_USAGE',
  65: 'EX_DATAERR',
  66: 'EX_NOINPUT',
  68: 'EX_NOHOST',
  69: 'EX_UNAVAILABLE',
  70: 'EX_SOFTWARE',
  71: 'EX_OSERR',
  72: 'EX_OSFILE',
  73: 'EX_CANTCREAT',
  74: 'EX_IOERR',
  75: 'EX_TEMPFAIL',
  76: 'EX_PROTOCOL',
  77: 'EX_NOPERM',
  78: 'EX_CONFIG',
  130: 'interrupted',
};

const RETRY_TEXT = { never: 'no', slow: 'every minute', backoff: 'soon, by itself' } as const;

/** docs/errors.md, made from the table of failures. */
export function errorsPage(): string {
  const rows = Object.entries(FAILURES).map(
    ([code, { exit, retry, hint }]) =>
      `| \`${code}\` | ${exit} ${exitName(code as FailureCode, exit)} | ${RETRY_TEXT[retry]} | ${hint.replaceAll('|', '\\|')} |`,
  );
  return `# Errors

Every failure has a stable code. It stands in the log line, in \`nbdtwin status\` and in front of the message on the
terminal; scripts match on the code, never on the text. When a failure ends a command, the exit status tells its kind.
"Tried again" says what a running primary does when its mirror, or the way to it, fails so.

A broken invariant inside nbdtwin is not a failure but a defect: the process ends with status 70 (EX_SOFTWARE) before
it can do harm. Please report it with the log.

This page is generated from \`src/base/failure.ts\` by \`npm run docs\`.

| code | exit status | tried again | what to do |
| --- | --- | --- | --- |
${rows.join('\n')}
`;
}

function exitName(code: FailureCode, exit: number): string {
  const name = EXIT_NAMES[exit];
  if (name === undefined) throw new Error(`${code}: exit status ${exit} has no name`);
  return name;
}
