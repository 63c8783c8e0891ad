/**
 * bin/nbdtwin.js as child processes: daemons that are awaited, asked and killed, and commands that run to their end.
 * They run from dist: `npm test` builds it first.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { ask } from '../../src/control/client.ts';
import type { DaemonStatus, MirrorDaemonStatus, ServeStatus } from '../../src/daemon/status.ts';
import { systemClock } from '../../src/io/clock.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import type { MirrorLinkStatus } from '../../src/primary/status.ts';

export const PROGRAM = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'bin/nbdtwin.js');
/** What its first line gives to Node. */
const NODE_FLAGS = /^#!.* node (.*)$/m.exec(readFileSync(PROGRAM, 'utf8'))?.[1]?.split(' ') ?? [];

const READY_TIMEOUT_MS = 30_000;
const EXIT_TIMEOUT_MS = 60_000;

export interface Exit {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface CommandResult extends Exit {
  readonly stdout: string;
  readonly stderr: string;
}

export interface ProcessOptions {
  readonly cwd?: string;
  /** Added to the environment of this process; undefined takes a variable out. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Words before `node`, such as setpriv and its arguments. */
  readonly wrapper?: readonly string[];
  /** Of the child: stdin, stdout, stderr and further descriptors. */
  readonly stdio?: SpawnOptions['stdio'];
}

/**
 * Root without its power over permissions: files are then as closed to it as to anybody. Nothing when we are not root.
 */
export const WITHOUT_POWERS: readonly string[] =
  process.getuid?.() === 0 ? ['setpriv', '--inh-caps=-all', '--bounding-set=-all'] : [];

/** Runs `nbdtwin ...args` to its end, whatever its exit status. */
export async function runNbdtwin(args: readonly string[], options: ProcessOptions = {}): Promise<CommandResult> {
  const child = start(args, options);
  const stdout = textOf(child.stdout);
  const stderr = textOf(child.stderr);
  const exit = await within(EXIT_TIMEOUT_MS, exitOf(child), () => {
    child.kill('SIGKILL');
    return `nbdtwin ${args.join(' ')} did not end\n${stdout()}${stderr()}`;
  });
  return { ...exit, stdout: stdout(), stderr: stderr() };
}

/** A running `nbdtwin serve` or `nbdtwin mirror`. Killed at the end of the test that started it, if it still runs. */
export class Daemon {
  /** As printed on stdout. */
  readonly readyLine: string;
  /** The end of the process and of its output; never rejects. */
  readonly exited: Promise<Exit>;
  readonly #child: ChildProcess;
  readonly #runtimeDirectory: string;
  readonly #role: 'primary' | 'mirror';
  readonly #stderr: () => string;

  private constructor(
    child: ChildProcess,
    readyLine: string,
    exited: Promise<Exit>,
    runtimeDirectory: string,
    stderr: () => string,
  ) {
    this.#child = child;
    this.readyLine = readyLine;
    this.exited = exited;
    this.#runtimeDirectory = runtimeDirectory;
    this.#role = readyLine.startsWith('nbdtwin serve') ? 'primary' : 'mirror';
    this.#stderr = stderr;
  }

  /**
   * Starts `nbdtwin ...args` and resolves once its ready line is there. Its control socket is in `folder`/run, for
   * `runNbdtwin(['status'], { env: { NBDTWIN_RUNTIME_DIR } })`. Rejects, with what it said, when it ends before.
   */
  static async start(folder: string, args: readonly string[], options: ProcessOptions = {}): Promise<Daemon> {
    const runtime = runtimeDirectory(folder);
    const child = start(args, { ...options, env: { NBDTWIN_RUNTIME_DIR: runtime, ...options.env } });
    const stdout = textOf(child.stdout);
    const stderr = textOf(child.stderr);
    const exited = exitOf(child);
    onTestFinished(async () => {
      child.kill('SIGKILL');
      await exited;
    });
    const ready = new Promise<string>((resolve, reject) => {
      child.stdout!.on('data', () => {
        if (stdout().includes('\n')) resolve(stdout().split('\n')[0]!);
      });
      void exited.then(({ status, signal }) =>
        reject(new Error(`nbdtwin ${args.join(' ')} ended with ${signal ?? status}\n${stdout()}${stderr()}`)),
      );
    });
    const readyLine = await within(READY_TIMEOUT_MS, ready, () => `nbdtwin ${args[0]} is not ready\n${stderr()}`);
    return new Daemon(child, readyLine, exited, runtime, stderr);
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** NBD URIs of a primary's ready line, in the order of its listeners. */
  get uris(): string[] {
    return this.readyLine.match(/nbds?(?:\+unix)?:[^\s,)]+/g) ?? [];
  }

  /** The first TCP address of the ready line: of NBD for a primary, of the link for a mirror. */
  get address(): { readonly host: string; readonly port: number } {
    const match = /(?:ready |:\/\/)([^\s/:,]+):(\d+)/.exec(this.readyLine);
    if (match === null) throw new Error(`no TCP address: ${this.readyLine}`);
    return { host: match[1]!, port: Number(match[2]) };
  }

  /** All that it wrote to stderr so far. */
  get stderr(): string {
    return this.#stderr();
  }

  /** The lines of its log so far. */
  get logLines(): Record<string, unknown>[] {
    const lines = this.stderr.split('\n').filter((line) => line.startsWith('{'));
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** For one that was started with a pipe for stdin. */
  endStdin(): void {
    this.#child.stdin!.end();
  }

  /** SIGTERM, then waits for the end. */
  async stop(): Promise<Exit> {
    this.kill('SIGTERM');
    return this.ended();
  }

  /** As a power failure would, as far as the process is concerned; waits for the end. */
  async crash(): Promise<Exit> {
    this.kill('SIGKILL');
    return this.ended();
  }

  ended(): Promise<Exit> {
    return within(EXIT_TIMEOUT_MS, this.exited, () => `process ${this.pid} does not end\n${this.stderr}`);
  }

  /** What `nbdtwin status` would show. */
  async status(): Promise<DaemonStatus> {
    const path = join(this.#runtimeDirectory, `${this.#role}-${this.pid}.sock`);
    return (await ask(nodeNetwork, systemClock, path, 'status')) as DaemonStatus;
  }

  async serveStatus(): Promise<ServeStatus> {
    const status = await this.status();
    if (status.role !== 'primary') throw new Error('this is a mirror');
    return status;
  }

  async mirrorStatus(): Promise<MirrorDaemonStatus> {
    const status = await this.status();
    if (status.role !== 'mirror') throw new Error('this is a primary');
    return status;
  }

  /** State of the replication to the only mirror. */
  async link(): Promise<MirrorLinkStatus> {
    const link = (await this.serveStatus()).replication?.mirrors[0];
    if (link === undefined) throw new Error('this primary has no mirror');
    return link;
  }

  /** Waits until the mirror has applied everything that was written, and streams. */
  async untilInStep(timeoutMs?: number): Promise<void> {
    await until(
      async () => {
        const { replication } = await this.serveStatus();
        const link = replication!.mirrors[0]!;
        return link.state === 'streaming' && link.applied === replication!.sequence;
      },
      'the mirror is in step',
      timeoutMs,
    );
  }
}

/** Where the daemons of a test leave their control sockets. */
export function runtimeDirectory(folder: string): string {
  const path = join(folder, 'run');
  mkdirSync(path, { recursive: true, mode: 0o700 });
  return path;
}

const UNTIL_TIMEOUT_MS = 60_000;
const UNTIL_INTERVAL_MS = 50;

/** Waits until `condition` holds, asking again and again. Rejects, naming `what`, when that takes too long. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  timeoutMs: number = UNTIL_TIMEOUT_MS,
): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error(`in ${timeoutMs} ms it did not come true that ${what}`);
    await systemClock.sleep(UNTIL_INTERVAL_MS);
  }
}

function start(args: readonly string[], options: ProcessOptions): ChildProcess {
  const command = [...(options.wrapper ?? []), process.execPath, ...NODE_FLAGS, PROGRAM, ...args] as [
    string,
    ...string[],
  ];
  return spawn(command[0], command.slice(1), {
    cwd: options.cwd,
    env: { ...process.env, NBDTWIN_SECRET: undefined, NO_COLOR: '1', ...options.env },
    stdio: options.stdio ?? ['ignore', 'pipe', 'pipe'],
  });
}

function textOf(stream: NodeJS.ReadableStream | null): () => string {
  let text = '';
  stream?.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  return () => text;
}

function exitOf(child: ChildProcess): Promise<Exit> {
  return new Promise((resolve) => {
    child.once('close', (status, signal) => resolve({ status, signal }));
    child.once('error', () => resolve({ status: null, signal: null }));
  });
}

async function within<T>(timeoutMs: number, promise: Promise<T>, onTimeout: () => string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(onTimeout())), timeoutMs);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
