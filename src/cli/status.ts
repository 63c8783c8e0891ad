import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { isFailure } from '../base/failure.ts';
import { askStatus, type Statuses } from '../daemon/ask.ts';
import { LiveScreen } from '../observe/live-screen.ts';
import { type Paint, paintFor } from '../observe/paint.ts';
import { silentLine, statusLine, statusText } from '../observe/status-text.ts';
import { wholeMs } from '../observe/whole-ms.ts';

interface StatusFlags {
  readonly json?: boolean;
  readonly watch?: boolean;
}

const WATCH_INTERVAL_MS = 1000;

const NOTES = `
TARGET is a disk, a mirror's directory or image, or the name of an export. Without it, every process of this user is
shown; --json prints one object per line and process, sizes in bytes, times in milliseconds. A process that does not
answer within 2 s is shown with its \`problem\`, and the exit status is 69.

Examples:
  nbdtwin status
  nbdtwin status disk.img --watch
  nbdtwin status disk --json | jq 'select(.role == "primary").replication.mirrors[0].lag'`;

export function addStatus(program: Command): void {
  program
    .command('status')
    .summary('show what runs on this host, how far mirrors are behind, and what to do')
    .argument('[target]', 'disk, directory, image or export')
    .option('--json', 'for programs')
    .option('--watch', 'again every second, until interrupted')
    .addHelpText('after', NOTES)
    .action(async (target: string | undefined, flags: StatusFlags) => {
      if (flags.watch === true) await watch(target, flags);
      const statuses = await askStatus(target);
      print(statuses, flags);
      const [stuck] = statuses.silent;
      if (stuck !== undefined) throw stuck.problem;
    });
}

function print(statuses: Statuses, flags: StatusFlags): void {
  const paint = paintFor(process.stdout);
  const text = flags.json === true ? jsonLines(statuses).join('\n') : wholeText(statuses, paint).join('\n').trimEnd();
  process.stdout.write(`${text}\n`);
}

/** One object for each process: its status, or who it is and its `problem`. */
function jsonLines({ answered, silent }: Statuses): string[] {
  return [
    ...answered.map((status) => JSON.stringify(status, wholeMs)),
    ...silent.map(({ role, pid, problem: { code, message, hint } }) =>
      JSON.stringify({ role, pid, problem: { code, message, hint } }),
    ),
  ];
}

function wholeText({ answered, silent }: Statuses, paint: Paint): string[] {
  return [
    ...answered.flatMap((status) => [...statusText(status, paint), '']),
    ...silent.map((one) => silentLine(one, paint)),
  ];
}

/** Never returns. What is not running may be started later, what does not answer may be continued. */
async function watch(target: string | undefined, flags: StatusFlags): Promise<never> {
  const screen = new LiveScreen(process.stdout);
  const paint = paintFor(process.stdout);
  for (;;) {
    const statuses = await askStatus(target).catch((error: unknown) => {
      if (isFailure(error, 'not-running')) return error.message;
      throw error;
    });
    if (typeof statuses === 'string') {
      if (flags.json !== true) show(screen, [statuses], [statuses]);
    } else if (flags.json === true) print(statuses, flags);
    else {
      const brief = [...statuses.answered.map(statusLine), ...statuses.silent.map((one) => silentLine(one))];
      show(screen, wholeText(statuses, paint), brief);
    }
    await sleep(WATCH_INTERVAL_MS);
  }
}

/** All of it in place on a terminal; elsewhere a line each, with the time. */
function show(screen: LiveScreen, whole: readonly string[], brief: readonly string[]): void {
  if (screen.isLive) screen.draw(whole);
  else screen.print(...brief.map((line) => `${new Date().toISOString()} ${line}`));
}
