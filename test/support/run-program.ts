import { spawn } from 'node:child_process';
import { programPath } from './peers.ts';

export interface ProgramResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  /** Milliseconds after which the program is killed, and the run fails. */
  readonly timeoutMs?: number;
  readonly input?: string;
  /** Added to the environment of this process. */
  readonly env?: Readonly<Record<string, string>>;
}

const TIMEOUT_MS = 100_000;

/**
 * Runs a peer program to its end, without blocking the event loop: a server in this process can answer it. Resolves
 * whatever its exit status.
 */
export function tryProgram(program: string, args: readonly string[], options: RunOptions = {}): Promise<ProgramResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(programPath(program) ?? program, args, {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: 'pipe',
    });
    const output = { stdout: '', stderr: '' };
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
    }, options.timeoutMs ?? TIMEOUT_MS);
    for (const stream of ['stdout', 'stderr'] as const) {
      child[stream].setEncoding('utf8').on('data', (text: string) => {
        output[stream] += text;
      });
    }
    child.stdin.on('error', () => {});
    child.stdin.end(options.input ?? '');
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.on('close', (status) => {
      clearTimeout(timer);
      if (timedOut)
        reject(new Error(`${describe(program, args)} did not end in time\n${output.stdout}${output.stderr}`));
      else resolve({ status, ...output });
    });
  });
}

/** Runs a peer program that must succeed; its standard output. */
export async function runProgram(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await tryProgram(program, args, options);
  if (result.status !== 0) {
    throw new Error(`${describe(program, args)} ended with ${result.status}\n${result.stdout}${result.stderr}`);
  }
  return result.stdout;
}

function describe(program: string, args: readonly string[]): string {
  return [program, ...args].join(' ');
}
