import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { isFailure } from '../base/failure.ts';
import { askStatus } from '../daemon/ask.ts';
import type { DaemonStatus } from '../daemon/status.ts';
import { LiveScreen } from '../observe/live-screen.ts';
import { paintFor } from '../observe/paint.ts';
import { statusLine, statusText } from '../observe/status-text.ts';

interface StatusFlags {
  readonly json?: boolean;
  readonly watch?: boolean;
}

const WATCH_INTERVAL_MS = 1000;

const NOTES = `
TARGET is a disk, a mirror's directory or image, or the name of an export. Without it, every process of this user is
shown. --json prints one object per line and process; sizes are bytes, times milliseconds.

Examples:
  nbdtwin status
  nbdtwin status disk.img --watch
  nbdtwin status disk --json | jq '.replication.mirrors[0].lag'`;

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
      else print(await askStatus(target), flags);
    });
}

function print(statuses: readonly DaemonStatus[], flags: StatusFlags): void {
  const paint = paintFor(process.stdout);
  const blocks =
    flags.json === true
      ? statuses.map((status) => JSON.stringify(status))
      : statuses.map((status) => `${statusText(status, paint).join('\n')}\n`);
  process.stdout.write(`${blocks.join('\n').trimEnd()}\n`);
}

/** Never returns. What is not running may be started later. */
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
      const whole = statuses.flatMap((status) => [...statusText(status, paint), '']);
      show(screen, whole, statuses.map(statusLine));
    }
    await sleep(WATCH_INTERVAL_MS);
  }
}

/** All of it in place on a terminal; elsewhere a line each, with the time. */
function show(screen: LiveScreen, whole: readonly string[], brief: readonly string[]): void {
  if (screen.isLive) screen.draw(whole);
  else screen.print(...brief.map((line) => `${new Date().toISOString()} ${line}`));
}
