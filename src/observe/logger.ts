/**
 * The log of a process: JSON lines for machines, readable lines on a terminal. It goes to stderr; stdout is left to the
 * ready line and to what commands print. Nothing on a hot path logs.
 */
import { type Logger as PinoLogger, pino, stdSerializers, stdTimeFunctions } from 'pino';
import { errnoOf, Failure, messageOf } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { LogLevel } from './log-level.ts';
import { wholeMs } from './whole-ms.ts';

export interface LoggerOptions {
  readonly level: LogLevel;
  /** Readable lines with colours instead of JSON. */
  readonly pretty: boolean;
  /** Takes each line with its line end, and must not wait for whoever reads it. */
  readonly write: (line: string) => void;
}

export async function openLog(options: LoggerOptions): Promise<Log> {
  const settings = {
    level: options.level,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }), log: withWholeMs },
    serializers: { err: describeError },
  };
  if (!options.pretty) return new PinoLog(pino(settings, { write: options.write }));
  // Loaded only here: it is needed on terminals alone.
  const { default: pretty } = await import('pino-pretty');
  const format = pretty.prettyFactory({
    colorize: (process.env['NO_COLOR'] ?? '') === '',
    translateTime: 'SYS:HH:MM:ss.l',
    singleLine: true,
  });
  return new PinoLog(pino(settings, { write: (line) => options.write(format(line)) }));
}

function withWholeMs(fields: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).map(([key, value]) => [key, wholeMs(key, value)]));
}

/** What the field `err` of a line becomes: a Failure is known by its code, of a bug the stack is wanted. */
function describeError(error: unknown): unknown {
  if (error instanceof Failure) {
    const cause = error.cause === undefined ? {} : { cause: describeCause(error.cause) };
    return { code: error.code, message: error.message, hint: error.hint, ...cause };
  }
  return error instanceof Error ? stdSerializers.err(error) : error;
}

/** What the system says needs no stack. */
function describeCause(cause: unknown): unknown {
  const code = errnoOf(cause);
  return code === undefined ? describeError(cause) : { code, message: messageOf(cause) };
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
