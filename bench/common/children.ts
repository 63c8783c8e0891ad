/** Child processes of a benchmark: started, waited for, ended by their own pid, none left behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const READY_TIMEOUT_MS = 30_000;
/** From a polite signal to SIGKILL. */
const STOP_TIMEOUT_MS = 60_000;
const POLL_MS = 50;

const running = new Set<ChildProcess>();
/** Daemons that a child of ours left running. */
const daemons = new Set<number>();

/** A server that runs until `stop`. */
export interface Child {
  readonly pid: number;
  /** Ends it with SIGTERM, after a minute with SIGKILL; resolves when it is gone. */
  stop(): Promise<void>;
  /** Ends it with SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
}

export interface StartOptions {
  /** Its output goes here, for the case that something fails. */
  readonly logPath: string;
  readonly environment?: Readonly<Record<string, string>>;
}

/**
 * Starts a program and waits until it is ready: `isReady` is asked again and again, with the lines
 * that it has printed on stdout. Fails, with the place of the log, when it ends before or takes too long.
 */
export async function startChild(
  command: string,
  args: readonly string[],
  options: StartOptions,
  isReady: (lines: readonly string[]) => boolean,
): Promise<Child> {
  const log = createWriteStream(options.logPath, { flags: 'a' });
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.environment },
  });
  running.add(child);
  let spawnError: Error | undefined;
  child.once('error', (error) => {
    spawnError = error;
  });
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => {
      running.delete(child);
      log.end();
      resolve();
    });
  });
  const lines: string[] = [];
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (lines.length < 1000) lines.push(line);
    log.write(`${line}\n`);
  });
  child.stderr.pipe(log, { end: false });

  const name = `${command} ${args.join(' ')}`;
  const deadline = performance.now() + READY_TIMEOUT_MS;
  while (!isReady(lines)) {
    if (spawnError !== undefined) throw new Error(`${name}: ${spawnError.message}`, { cause: spawnError });
    if (hasEnded(child)) throw new Error(`${name}: ended before it was ready; see ${options.logPath}`);
    if (performance.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`${name}: not ready after ${READY_TIMEOUT_MS} ms; see ${options.logPath}`);
    }
    await sleep(POLL_MS);
  }

  return {
    pid: child.pid!,
    async stop() {
      if (!hasEnded(child)) child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
      await ended;
      clearTimeout(timer);
    },
    async kill() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

/**
 * Runs a program to its end and resolves with its stdout; fails with its output when its exit status is none of `allowed`.
 */
export async function runChild(
  command: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
  allowed: readonly number[] = [0],
): Promise<string> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...environment } });
  running.add(child);
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  }).finally(() => running.delete(child));
  if (status === null || !allowed.includes(status))
    throw new Error(`${command} ${args.join(' ')}: failed (${status})\n${stdout}${stderr}`);
  return stdout;
}

/** Takes over a process that went into the background; `stop` and `kill` wait until it is gone. */
export function adoptDaemon(pid: number): Child {
  daemons.add(pid);
  const end = async (signal: 'SIGTERM' | 'SIGKILL'): Promise<void> => {
    if (await isRunning(pid)) process.kill(pid, signal);
    while (await isRunning(pid)) await sleep(POLL_MS);
    daemons.delete(pid);
  };
  return { pid, stop: () => end('SIGTERM'), kill: () => end('SIGKILL') };
}

/** False also for a process that has ended and waits for its parent to notice. */
async function isRunning(pid: number): Promise<boolean> {
  try {
    return !/^State:\s+Z/m.test(await readFile(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

/** Ends at once whatever still runs: for the way out after a failure or an interrupt. */
export function killAll(): void {
  for (const child of running) child.kill('SIGKILL');
  for (const pid of daemons) process.kill(pid, 'SIGKILL');
}
