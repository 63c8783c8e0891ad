/**
 * The log of a process, on stderr: JSON lines for machines, readable lines on a terminal. stdout is left to the ready
 * line and to what commands print. Nothing on a hot path logs.
 *
 * Lines are written behind the caller's back: a reader of stderr that is stuck must not stop the daemon. What it does
 * not take is kept up to LOG_BACKLOG_MAX and dropped beyond.
 */
import { destination, type Logger as PinoLogger, pino, stdSerializers, stdTimeFunctions } from 'pino';
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { LogLevel } from './log-level.ts';

/** Characters of log lines that wait for a slow reader of stderr. */
export const LOG_BACKLOG_MAX = 1024 * 1024;

const STDERR = 2;

export interface LoggerOptions {
  readonly level: LogLevel;
  /** Readable lines with colours instead of JSON. */
  readonly pretty: boolean;
  /** File descriptor to write to; stderr unless given. */
  readonly descriptor?: number;
}

export interface Logger {
  readonly log: Log;
  /** Writes what waits, waiting for the reader: call before the process ends. */
  flush(): void;
}

export async function openLogger(options: LoggerOptions): Promise<Logger> {
  const descriptor = options.descriptor ?? STDERR;
  const settings = {
    level: options.level,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: describeError },
  };
  if (options.pretty) {
    // Loaded only here: it is needed on terminals alone. A terminal is written synchronously, there is no backlog.
    const { default: pretty } = await import('pino-pretty');
    const stream = pretty({
      colorize: process.env['NO_COLOR'] === undefined,
      destination: descriptor,
      sync: true,
      translateTime: 'SYS:HH:MM:ss.l',
      singleLine: true,
      errorLikeObjectKeys: [],
    });
    return { log: new PinoLog(pino(settings, stream)), flush() {} };
  }
  const stream = destination({ fd: descriptor, sync: false, maxLength: LOG_BACKLOG_MAX });
  stream.on('error', () => {}); // stderr was closed: there is nobody left to tell
  return {
    log: new PinoLog(pino(settings, stream)),
    flush() {
      try {
        stream.flushSync();
      } catch {
        // As above.
      }
    },
  };
}

/** What the field `err` of a line becomes: a Failure is known by its code, of a bug the stack is wanted. */
function describeError(error: unknown): unknown {
  if (error instanceof Failure) {
    const cause = error.cause === undefined ? {} : { cause: describeError(error.cause) };
    return { code: error.code, message: error.message, hint: error.hint, ...cause };
  }
  return error instanceof Error ? stdSerializers.err(error) : error;
}

class PinoLog implements Log {
  readonly #pino: PinoLogger;

  constructor(logger: PinoLogger) {
    this.#pino = logger;
  }

  debug(fields: object, message: string): void {
    this.#pino.debug(fields, message);
  }

  info(fields: object, message: string): void {
    this.#pino.info(fields, message);
  }

  warn(fields: object, message: string): void {
    this.#pino.warn(fields, message);
  }

  error(fields: object, message: string): void {
    this.#pino.error(fields, message);
  }

  child(fields: object): Log {
    return new PinoLog(this.#pino.child(fields));
  }
}
