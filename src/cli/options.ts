/** Values of options, and the options that several commands share. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { formatSize, parseSize } from '../base/units.ts';
import type { SecretSources } from '../daemon/config.ts';
import { LOG_LEVELS, type LogLevel } from '../observe/log-level.ts';

/** A size in bytes from `min` to `max`. */
export function sizeParser(min: number, max: number): (text: string) => number {
  return (text) => {
    const size = parseSize(text);
    if (size === undefined) throw new InvalidArgumentError('A size is a number with K, M, G or T, such as 64M.');
    return within(size, min, max, 'size', formatSize);
  };
}

/** The same, or 0. */
export function sizeOrNoneParser(min: number, max: number): (text: string) => number {
  const parse = sizeParser(min, max);
  return (text) => (parseSize(text) === 0 ? 0 : parse(text));
}

/** Bytes per second: `50M` or `50M/s`. */
export function parseRate(text: string): number {
  const rate = parseSize(text.replace(/\/s$/, ''));
  if (rate === undefined) throw new InvalidArgumentError('A rate is a size per second, such as 50M.');
  return within(rate, 1024, Number.MAX_SAFE_INTEGER, 'rate', formatSize);
}

const DURATION_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
/** What a timer can hold. */
const DURATION_MAX_MS = 2 ** 31 - 1;

/** Milliseconds: `500ms`, `10s`, `5m`, `1h`, `7d`. */
export function parseDuration(text: string): number {
  return durationParser(0, DURATION_MAX_MS)(text);
}

/** A duration from `minMs` to `maxMs`, which may be more than a timer can hold. */
export function durationParser(minMs: number, maxMs: number): (text: string) => number {
  return (text) => {
    const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text.trim());
    if (match === null) throw new InvalidArgumentError('A duration is a number with ms, s, m, h or d, such as 10s.');
    return within(Number(match[1]) * DURATION_UNITS[match[2]!]!, minMs, maxMs, 'duration');
  };
}

/** A whole number from `min` to `max`. */
export function countParser(min: number, max: number): (text: string) => number {
  return (text) => {
    if (!/^\d+$/.test(text)) throw new InvalidArgumentError('A whole number is needed.');
    return within(Number(text), min, max, 'number');
  };
}

/** For options that may be given several times. */
export function collect<T>(parse: (text: string) => T): (text: string, previous: T[] | undefined) => T[] {
  return (text, previous) => [...(previous ?? []), parse(text)];
}

export interface SecretFlags {
  readonly secretFile?: string;
  readonly secret?: string;
}

export function addSecretOptions(command: Command): Command {
  return command
    .option('--secret-file <file>', 'secret that both sides share: psktool lines, or one bare secret (mode 600)')
    .option('--secret <secret>', 'the same on the command line, where `ps` shows it; $NBDTWIN_SECRET is better');
}

/** Takes the secret out of the environment, so that no child gets it. */
export function secretSources(flags: SecretFlags): SecretSources {
  const environment = process.env['NBDTWIN_SECRET'];
  delete process.env['NBDTWIN_SECRET'];
  return { file: flags.secretFile, flag: flags.secret, environment };
}

/** Of a process that serves. */
export interface ProcessFlags {
  readonly logLevel: LogLevel;
  readonly stopWithStdin?: boolean;
}

export function addProcessOptions(command: Command): Command {
  return command
    .addOption(new Option('--log-level <level>', 'how much is logged, to stderr').choices(LOG_LEVELS).default('info'))
    .option('--stop-with-stdin', 'stop when stdin ends, as it does when the program at its other end dies');
}

function within(
  value: number,
  min: number,
  max: number,
  what: string,
  format: (value: number) => string = String,
): number {
  if (!(value >= min && value <= max)) {
    throw new InvalidArgumentError(`This ${what} must be from ${format(min)} to ${format(max)}.`);
  }
  return value;
}
