/**
 * The life of `nbdtwin serve` and `nbdtwin mirror` as a process.
 *
 * | event                      | effect                                                                          |
 * | -------------------------- | ------------------------------------------------------------------------------- |
 * | SIGTERM, SIGINT            | clean stop: drains clients and mirror; exit 0                                   |
 * | stdin ends                 | the same, when started with --stop-with-stdin                                   |
 * | a signal within 0.5 s      | ignored: `timeout` and others signal the process and then its group             |
 * | a signal after that        | exits at once, 128 + signal; the next start finds an unclean stop and compares  |
 * | SIGHUP                     | ignored: the disk stays served when the terminal goes away                      |
 * | SIGUSR1                    | ignored: Node would open its debugger to every user of this host                |
 * | broken invariant, any bug  | logged, exits at once with 70: going on could destroy data                      |
 * | stdout or stderr closed    | ignored                                                                         |
 */
import { constants } from 'node:os';
import process from 'node:process';
import type { Log } from '../base/log.ts';
import { MIB } from '../base/units.ts';
import type { ControlServer } from '../control/server.ts';
import { systemClock } from '../io/clock.ts';
import { keepFreedMemory } from '../io/libc.ts';
import { LineSink } from '../io/line-sink.ts';
import { type NodeWorld, nodeWorld } from '../io/node-world.ts';
import type { LogLevel } from '../observe/log-level.ts';
import { openLog } from '../observe/logger.ts';
import { openControl } from './control.ts';
import type { Running } from './running.ts';

/** BSD sysexits: an internal error. */
const EXIT_BUG = 70;

const STOP_SIGNALS = ['SIGTERM', 'SIGINT'] as const;
const IGNORED_SIGNALS = ['SIGHUP', 'SIGUSR1'] as const;

/** Starts a primary or a mirror. */
export type StartDaemon = (world: NodeWorld, log: Log) => Promise<Running>;

/** A signal this soon after the first one is the same request, sent twice. */
export const REPEATED_SIGNAL_MS = 500;

interface ProcessOptions {
  readonly level: LogLevel;
  readonly pretty: boolean;
  /** Stop when stdin ends, as it does when the process at its other end dies. */
  readonly stopWithStdin: boolean;
}

const STDERR = 2;

/** Freed memory that stays with the process, and what is asked for at a time, in bytes. */
const KEPT_MEMORY_SIZE = 64 * MIB;
const MEMORY_STEP_SIZE = 8 * MIB;

/**
 * Starts, writes the ready line to stdout, serves until a signal asks to stop. Resolves after a clean stop. Failures:
 * those of `start` and of the stop.
 */
export async function runProcess(options: ProcessOptions, start: StartDaemon): Promise<void> {
  keepFreedMemory(KEPT_MEMORY_SIZE, MEMORY_STEP_SIZE);
  const sink = new LineSink(STDERR);
  const log = await openLog({ ...options, write: (line) => sink.write(line) });
  exitOnBugs(log, sink);
  ignoreClosedOutput();
  for (const signal of IGNORED_SIGNALS) process.on(signal, () => log.info({}, `${signal} ignored`));
  const stopAsked = stopRequest(log, sink, options.stopWithStdin);
  try {
    await serveUntil(stopAsked, log, start);
  } finally {
    await sink.flush();
  }
}

async function serveUntil(stopAsked: Promise<StopReason>, log: Log, start: StartDaemon): Promise<void> {
  const slowDigests = (): void =>
    log.warn({}, 'this Node does not lend its OpenSSL: a rescan takes two to four times the CPU for its digests');
  const world = nodeWorld({ scan: { slowDigests } });
  const running = await start(world, log);
  let control: ControlServer | undefined;
  try {
    control = await openControl(world, log, running);
    process.stdout.write(`${running.readyLine}\n`);
    // On a terminal both would stand one below the other.
    if (process.stdout.isTTY !== true) log.info({}, running.readyLine);
    log.info(await stopAsked, 'stopping: finishing what clients have asked for');
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

/** For the log. */
type StopReason = { readonly signal: NodeJS.Signals } | { readonly stdin: 'ended' };

/** Resolves with what first asks to stop, also when it comes during the start. A later signal exits. */
function stopRequest(log: Log, sink: LineSink, stopWithStdin: boolean): Promise<StopReason> {
  return new Promise((resolve) => {
    let askedMs: number | undefined;
    const ask = (reason: StopReason): void => {
      askedMs ??= systemClock.nowMs();
      resolve(reason);
    };
    for (const signal of STOP_SIGNALS) {
      process.on(signal, () => {
        if (askedMs !== undefined && systemClock.nowMs() - askedMs >= REPEATED_SIGNAL_MS) {
          log.warn({ signal }, 'stopping at once');
          sink.flushNow();
          process.exit(128 + constants.signals[signal]);
        }
        ask({ signal });
      });
    }
    if (!stopWithStdin) return;
    for (const event of ['end', 'error', 'close']) process.stdin.on(event, () => ask({ stdin: 'ended' }));
    process.stdin.resume();
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
