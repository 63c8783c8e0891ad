/** Programs of this machine: found, run in the foreground, or run beside us. */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { Failure } from '../base/failure.ts';

/** Where administration programs are when a user's PATH leaves them out. */
const SYSTEM_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** Path of a program, or undefined when it is not installed. */
export function findProgram(name: string): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(path.delimiter), ...SYSTEM_FOLDERS];
  return folders.map((folder) => path.join(folder, name)).find(isExecutable);
}

function isExecutable(candidate: string): boolean {
  try {
    accessSync(candidate, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Runs a program with our stdin, stdout and stderr, to its end. Failures: `program-failed`. */
export function runInForeground(command: readonly string[]): void {
  const [program, ...args] = command as [string, ...string[]];
  const result = spawnSync(program, args, { stdio: 'inherit' });
  if (result.error !== undefined) throw new Failure('program-failed', `${program}: ${result.error.message}`);
  if (result.status !== 0) throw programFailed(program, result.status, result.signal);
}

/** A command as it can be pasted into a shell. */
export function shellText(command: readonly string[]): string {
  return command.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ');
}

interface ChildExit {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A program that runs beside us. */
export interface Child {
  readonly pid: number;
  /** The end of the process; never rejects. */
  readonly exited: Promise<ChildExit>;
  kill(signal: NodeJS.Signals): void;
}

export interface ChildOptions {
  readonly environment: NodeJS.ProcessEnv;
  readonly onStdoutLine: (line: string) => void;
  readonly onStderrLine: (line: string) => void;
  /** Gives it a stdin that ends with this process, however that dies; else it has none. */
  readonly lifeline?: boolean;
}

/**
 * Starts a program in a process group of its own, so that Ctrl-C on the terminal reaches it only through
 * us. Failures: `program-failed`.
 */
export async function startChild(command: readonly string[], options: ChildOptions): Promise<Child> {
  const [program, ...args] = command as [string, ...string[]];
  const child = spawn(program, args, {
    env: options.environment,
    stdio: [options.lifeline === true ? 'pipe' : 'ignore', 'pipe', 'pipe'],
    detached: true,
  });
  // Nothing is ever written to it; that it breaks is told by `exited`.
  child.stdin?.on('error', () => {});
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) => reject(new Failure('program-failed', `${program}: ${error.message}`)));
  });
  splitLines(child.stdout!, options.onStdoutLine);
  splitLines(child.stderr!, options.onStderrLine);
  const exited = new Promise<ChildExit>((resolve) => {
    child.once('close', (status, signal) => resolve({ status, signal }));
  });
  return { pid: child.pid!, exited, kill: (signal) => void child.kill(signal) };
}

/** Runs a program beside us to its end; returns its stdout. Failures: `program-failed`, with its last words. */
export async function runToEnd(command: readonly string[]): Promise<string> {
  const stdout: string[] = [];
  const stderr: string[] = [];
  const child = await startChild(command, {
    environment: process.env,
    onStdoutLine: (line) => stdout.push(line),
    onStderrLine: (line) => stderr.push(line),
  });
  const { status, signal } = await child.exited;
  if (status !== 0) throw programFailed(command[0]!, status, signal, stderr.at(-1));
  return stdout.join('\n');
}

interface BriefLimits {
  readonly timeoutMs: number;
  /** Bytes of stdout. */
  readonly sizeMax: number;
  /** Ends it before its time. */
  readonly signal: AbortSignal;
}

/**
 * Runs a program whose answer is welcome and not worth waiting for: killed when it passes a limit. Returns its stdout,
 * undefined when it failed, however; never rejects.
 */
export function runBriefly(command: readonly string[], limits: BriefLimits): Promise<string | undefined> {
  const [program, ...args] = command as [string, ...string[]];
  const { timeoutMs, sizeMax, signal } = limits;
  const env = { ...process.env, LC_ALL: 'C' };
  return new Promise((resolve) => {
    execFile(
      program,
      args,
      { timeout: timeoutMs, maxBuffer: sizeMax, killSignal: 'SIGKILL', signal, env },
      (error, stdout) => resolve(error === null ? stdout : undefined),
    );
  });
}

function programFailed(program: string, status: number | null, signal: string | null, lastLine?: string): Failure {
  const how = signal === null ? `exit status ${status}` : signal;
  const detail = lastLine === undefined ? '' : `: ${lastLine}`;
  return new Failure('program-failed', `${path.basename(program)} failed with ${how}${detail}`);
}

function splitLines(stream: NodeJS.ReadableStream, onLine: (line: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop()!;
    for (const line of lines) onLine(line);
  });
  stream.on('end', () => {
    if (rest !== '') onLine(rest);
  });
}
