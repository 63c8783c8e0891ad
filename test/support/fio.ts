/**
 * fio as the judge of what a server keeps: it writes blocks that carry a checksum, their place and the seed of the run,
 * and later reads each of them again.
 *
 * A load is stopped with fio's trigger: fio writes down how far it has come, and only then carries the trigger out, which
 * may kill the server under it. What had been answered by then is read and checked by `verify`, in a run of its own.
 * Blocks are written in a random order, each once, so every one of them has a known content.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { until } from './daemon.ts';
import { programPath } from './peers.ts';
import { runProgram } from './run-program.ts';

export interface FioLoadOptions {
  /** For the state of the run; one load at a time. */
  readonly folder: string;
  /** Of the NBD server. */
  readonly uri: string;
  /** Bytes written by each job, one behind the other from the start of the disk on. */
  readonly size: number;
  /** Connections, each with a job of its own. */
  readonly jobs: number;
  /** Bytes per second of each job. */
  readonly rate: number;
  /** What is written depends on it: rounds over the same place need different ones. */
  readonly seed: number;
}

/**
 * Much more than is ever under way at this rate: fio takes a request that was overtaken by so many later ones for
 * answered.
 */
const DEPTH = 64;

/** fio repeats itself endlessly when its server has gone. */
const OUTPUT_LENGTH_MAX = 16 * 1024;

export class FioLoad {
  readonly #options: FioLoadOptions;
  readonly #trigger: string;
  readonly #triggered: string;
  readonly #survives: boolean;
  readonly #child: ChildProcess;
  #output = '';
  #isRunning = true;

  private constructor(options: FioLoadOptions, onTrigger: string | undefined) {
    this.#options = options;
    this.#trigger = join(options.folder, `trigger-${options.seed}`);
    this.#triggered = join(options.folder, `triggered-${options.seed}`);
    this.#survives = onTrigger === undefined;
    this.#child = spawn(
      programPath('fio')!,
      [
        ...jobArguments(options, DEPTH),
        `--rate=${options.rate}`,
        '--fsync=100',
        '--do_verify=0',
        '--verify_state_save=1',
        `--trigger-file=${this.#trigger}`,
        `--trigger=${onTrigger ?? 'true'}; touch ${this.#triggered}`,
      ],
      { cwd: options.folder, stdio: ['ignore', 'pipe', 'pipe'] },
    );
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        if (this.#output.length < OUTPUT_LENGTH_MAX) this.#output += text;
      });
    }
    const exited = new Promise<void>((resolve) => this.#child.once('close', () => resolve()));
    void exited.then(() => {
      this.#isRunning = false;
    });
    onTestFinished(async () => {
      this.#child.kill('SIGKILL');
      await exited;
    });
  }

  /** Writes until `stop`. `onTrigger` is a shell command that takes the server away at that moment. */
  static start(options: FioLoadOptions, onTrigger?: string): FioLoad {
    return new FioLoad(options, onTrigger);
  }

  /**
   * Notes how far it has come, carries the trigger out, and waits for the end. The load must still have been running:
   * otherwise what happened meanwhile did not happen under load.
   */
  async stop(): Promise<void> {
    if (!this.#isRunning) throw new Error(`fio had ended before it was stopped\n${this.#output}`);
    writeFileSync(this.#trigger, '');
    await until(() => existsSync(this.#triggered), `fio stops\n${this.#output}`);
    // Without its server fio may never come to an end; all that is wanted of it has been written by now.
    if (!this.#survives) this.#child.kill('SIGKILL');
    await until(() => !this.#isRunning, `fio ends\n${this.#output}`);
    if (this.#stateFiles().length !== this.#options.jobs) throw new Error(`fio left no state\n${this.#output}`);
  }

  /** Reads every block that had been written. Returns how many those were; rejects when one is not as written. */
  async verify(): Promise<number> {
    const before = this.#stateFiles().map((file) => readFileSync(file));
    const report = join(this.#options.folder, 'fio-verify.json');
    // One at a time: fio counts reads when they are answered, and would go past the last block written.
    await runProgram(
      'fio',
      [
        ...jobArguments(this.#options, 1),
        '--verify_only=1',
        '--verify_state_load=1',
        '--verify_fatal=1',
        '--output-format=json',
        `--output=${report}`,
      ],
      { cwd: this.#options.folder },
    );
    // fio may write its state anew, and there may be another verify.
    for (const [index, file] of this.#stateFiles().entries()) writeFileSync(file, before[index]!);
    const text = readFileSync(report, 'utf8');
    const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: { read: { total_ios: number } }[] };
    return jobs.reduce((sum, job) => sum + job.read.total_ios, 0);
  }

  #stateFiles(): string[] {
    const names = readdirSync(this.#options.folder).filter((name) => name.endsWith('-verify.state'));
    return names.sort().map((name) => join(this.#options.folder, name));
  }
}

function jobArguments(options: FioLoadOptions, depth: number): string[] {
  return [
    '--name=load',
    '--ioengine=nbd',
    `--uri=${options.uri}`,
    '--rw=randwrite',
    '--bsrange=512-16k',
    `--numjobs=${options.jobs}`,
    `--size=${options.size}`,
    `--offset_increment=${options.size}`,
    `--iodepth=${depth}`,
    '--verify=crc32c',
    `--randseed=${options.seed}`,
    `--aux-path=${options.folder}`,
    '--thread',
  ];
}

export interface FioWritersOptions {
  readonly uri: string;
  readonly count: number;
  readonly size: number;
  readonly runtimeMs: number;
}

/** Writers on connections of their own, all to the same bytes, in requests of any length and place. Their bytes written. */
export async function runOverlappingWriters(options: FioWritersOptions): Promise<number> {
  const output = await runProgram(
    'fio',
    [
      '--name=writers',
      '--ioengine=nbd',
      `--uri=${options.uri}`,
      '--rw=randwrite',
      '--bsrange=1-16k',
      '--bs_unaligned',
      '--norandommap',
      `--numjobs=${options.count}`,
      `--size=${options.size}`,
      '--iodepth=16',
      '--time_based',
      `--runtime=${Math.ceil(options.runtimeMs / 1000)}`,
      '--refill_buffers',
      '--fsync=1000',
      '--group_reporting',
      '--output-format=json',
    ],
    { timeoutMs: options.runtimeMs + 60_000 },
  );
  const { jobs } = JSON.parse(output.slice(output.indexOf('{'))) as {
    jobs: { error: number; write: { io_bytes: number } }[];
  };
  if (jobs.some((job) => job.error !== 0)) throw new Error(`fio found errors\n${output}`);
  return jobs.reduce((sum, job) => sum + job.write.io_bytes, 0);
}
