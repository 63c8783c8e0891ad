/**
 * The life of `nbdtwin serve` and `nbdtwin mirror` as a process.
 *
 * | event                      | effect                                                                          |
 * | -------------------------- | ------------------------------------------------------------------------------- |
 * | SIGTERM, SIGINT            | clean stop: drains clients and mirror; exit 0                                   |
 * | the same once more         | exits at once, 128 + signal; the next start finds an unclean stop and compares  |
 * | SIGHUP                     | ignored: the disk stays served when the terminal goes away                      |
 * | broken invariant, any bug  | logged, exits at once with 70: going on could destroy data                      |
 * | stdout or stderr closed    | ignored                                                                         |
 */
import { constants } from 'node:os';
import process from 'node:process';
import type { Log } from '../base/log.ts';
import type { ControlServer } from '../control/server.ts';
import { LineSink } from '../io/line-sink.ts';
import { type NodeWorld, nodeWorld } from '../io/node-world.ts';
import type { LogLevel } from '../observe/log-level.ts';
import { openLog } from '../observe/logger.ts';
import { openControl } from './control.ts';
import type { Running } from './running.ts';

/** BSD sysexits: an internal error. */
const EXIT_BUG = 70;

const STOP_SIGNALS = ['SIGTERM', 'SIGINT'] as const;

/** Starts a primary or a mirror. */
export type StartDaemon = (world: NodeWorld, log: Log) => Promise<Running>;

interface LogOptions {
  readonly level: LogLevel;
  readonly pretty: boolean;
}

const STDERR = 2;

/**
 * Starts, writes the ready line to stdout, serves until a signal asks to stop. Resolves after a clean stop. Failures:
 * those of `start` and of the stop.
 */
export async function runProcess(options: LogOptions, start: StartDaemon): Promise<void> {
  const sink = new LineSink(STDERR);
  const log = await openLog({ ...options, write: (line) => sink.write(line) });
  exitOnBugs(log, sink);
  ignoreClosedOutput();
  process.on('SIGHUP', () => log.info({}, 'SIGHUP ignored'));
  const stopAsked = stopRequest(log, sink);
  try {
    await serveUntil(stopAsked, log, start);
  } finally {
    await sink.flush();
  }
}

async function serveUntil(stopAsked: Promise<NodeJS.Signals>, log: Log, start: StartDaemon): Promise<void> {
  const world = nodeWorld();
  const running = await start(world, log);
  let control: ControlServer | undefined;
  try {
    control = await openControl(world, log, running);
    process.stdout.write(`${running.readyLine}\n`);
    // On a terminal both would stand one below the other.
    if (process.stdout.isTTY !== true) log.info({}, running.readyLine);
    const signal = await stopAsked;
    log.info({ signal }, 'stopping: finishing what clients have asked for');
  } finally {
    try {
      await running.stop();
    } finally {
      await control?.close();
      await world.scan.close();
    }
  }
  log.info({}, 'stopped');
}

/** Resolves with the first signal that asks to stop, also when it comes during the start. The second one exits. */
function stopRequest(log: Log, sink: LineSink): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let asked = false;
    for (const signal of STOP_SIGNALS) {
      process.on(signal, () => {
        if (asked) {
          log.warn({ signal }, 'stopping at once');
          sink.flushNow();
          process.exit(128 + constants.signals[signal]);
        }
        asked = true;
        resolve(signal);
      });
    }
  });
}

function exitOnBugs(log: Log, sink: LineSink): void {
  process.on('uncaughtException', (error) => {
    log.error({ err: error }, 'internal error: please report this');
    sink.flushNow();
    process.exit(EXIT_BUG);
  });
}

function ignoreClosedOutput(): void {
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
}
