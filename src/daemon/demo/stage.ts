/**
 * What the demonstration plays on: a temporary folder, a mirror and a primary as processes of their own, and the relay
 * between them. Closing it leaves no process and no folder.
 */
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { Failure } from '../../base/failure.ts';
import { ask } from '../../control/client.ts';
import { systemClock } from '../../io/clock.ts';
import { formatAddress } from '../../io/network.ts';
import { nodeNetwork } from '../../io/node-network.ts';
import { type Child, startChild } from '../../io/programs.ts';
import { TemporaryFolder } from '../../io/temporary-folder.ts';
import type { RescanProgress, VerifyReport } from '../../primary/status.ts';
import { parseTcpAddress, type TcpAddress } from '../address.ts';
import { newSecret } from '../new-secret.ts';
import type { ServeStatus } from '../status.ts';
import { Unwinding } from '../unwinding.ts';
import { Relay } from './relay.ts';

/** The very program that runs here. */
export const PROGRAM = fileURLToPath(new URL('../../../bin/nbdtwin.js', import.meta.url));

/** What a child may still do when it is asked to stop. */
const STOP_TIMEOUT_MS = 15_000;
const LAST_LINES_MAX = 20;

export interface StageOptions {
  readonly diskSize: number;
  readonly windowSize: number;
  readonly spoolSize: number;
  /** Bytes that occur in all that is written. */
  readonly marker: Buffer;
}

interface StageParts {
  readonly folder: TemporaryFolder;
  readonly relay: Relay;
  readonly primary: DemoProcess;
  readonly mirror: DemoProcess;
  /** Where the primary serves NBD. */
  readonly nbdAddress: TcpAddress;
}

export class Stage implements StageParts {
  readonly folder: TemporaryFolder;
  readonly relay: Relay;
  readonly primary: DemoProcess;
  readonly mirror: DemoProcess;
  readonly nbdAddress: TcpAddress;
  readonly #opened: Unwinding;

  constructor(parts: StageParts, opened: Unwinding) {
    this.folder = parts.folder;
    this.relay = parts.relay;
    this.primary = parts.primary;
    this.mirror = parts.mirror;
    this.nbdAddress = parts.nbdAddress;
    this.#opened = opened;
  }

  get diskPath(): string {
    return this.folder.join(DISK);
  }

  get imagePath(): string {
    return this.folder.join(IMAGE);
  }

  get runtimeDirectory(): string {
    return this.folder.join(RUNTIME);
  }

  /** Rejects when one of the processes ends before it was asked to. */
  get failed(): Promise<never> {
    return Promise.race([this.primary.ended, this.mirror.ended]);
  }

  async status(): Promise<ServeStatus> {
    return (await ask(nodeNetwork, systemClock, this.#controlPath(), 'status')) as ServeStatus;
  }

  async verify(onProgress: (progress: RescanProgress) => void): Promise<VerifyReport> {
    const report = await ask(
      nodeNetwork,
      systemClock,
      this.#controlPath(),
      'verify',
      (progress) => onProgress(progress as RescanProgress),
      undefined,
    );
    return report as VerifyReport;
  }

  /** Stops the processes, waits until `playing` has noticed and uses the folder no more, removes the folder. */
  async close(playing: Promise<unknown>): Promise<void> {
    await this.#opened.unwind();
    await playing.catch(() => {});
    await this.folder.remove();
  }

  #controlPath(): string {
    return `${this.runtimeDirectory}/primary-${this.primary.pid}.sock`;
  }
}

const DISK = 'disk.img';
const IMAGE = 'mirror/disk.img';
const RUNTIME = 'run';
const EXPORT = 'disk';

/** Sets the stage. Failures: those of the processes, as `program-failed`; nothing is left behind then. */
export async function openStage(options: StageOptions): Promise<Stage> {
  const opened = new Unwinding();
  let removeFolder = async (): Promise<void> => {};
  try {
    const folder = await TemporaryFolder.make('nbdtwin-demo-');
    removeFolder = () => folder.remove();
    const secret = await folder.writeFile('twin.key', `${newSecret()}\n`);
    const images = await folder.makeFolder('mirror');
    const environment = { ...process.env, NBDTWIN_RUNTIME_DIR: await folder.makeFolder(RUNTIME) };

    const common = ['--secret-file', secret, '--log-level', 'warn', '--stop-with-stdin'];
    const mirror = await DemoProcess.start(['mirror', images, '--listen', '127.0.0.1:0', ...common], environment);
    opened.add(() => mirror.stop());
    const relay = new Relay(nodeNetwork, parseTcpAddress(addressIn(mirror.readyLine, /ready (\S+),/)), options.marker);
    opened.add(() => relay.close());

    const primary = await DemoProcess.start(
      [
        ...['serve', folder.join(DISK), '--create', '--size', String(options.diskSize), '--export', EXPORT],
        ...['--listen', '127.0.0.1:0', '--mirror', formatAddress(await relay.listen())],
        ...['--window', String(options.windowSize), '--spool-size', String(options.spoolSize), ...common],
      ],
      environment,
    );
    opened.add(() => primary.stop());
    const nbdAddress = parseTcpAddress(addressIn(primary.readyLine, /ready nbd:\/\/([^/]+)\//));
    return new Stage({ folder, relay, primary, mirror, nbdAddress }, opened);
  } catch (error) {
    await opened.unwind();
    await removeFolder();
    throw error;
  }
}

function addressIn(readyLine: string, pattern: RegExp): string {
  const match = pattern.exec(readyLine);
  if (match === null) throw new Failure('program-failed', `the ready line is not as expected: ${readyLine}`);
  return match[1]!;
}

/** `nbdtwin serve` or `nbdtwin mirror`, running. */
export class DemoProcess {
  readonly readyLine: string;
  /** Rejects with `program-failed` when the process ends unasked; never resolves. */
  readonly ended: Promise<never>;
  readonly #child: Child;
  #stopping = false;

  private constructor(child: Child, readyLine: string, role: string, lastLines: readonly string[]) {
    this.#child = child;
    this.readyLine = readyLine;
    this.ended = new Promise((_, reject) => {
      void child.exited.then(() => {
        if (!this.#stopping) reject(new Failure('program-failed', [`the ${role} ended`, ...lastLines].join('\n')));
      });
    });
    // Whoever waits for it hears of it; nobody may be waiting yet.
    this.ended.catch(() => {});
  }

  /** Resolves with the process once it is ready. */
  static async start(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<DemoProcess> {
    const lastLines: string[] = [];
    let onReady: (line: string) => void = () => {};
    const ready = new Promise<string>((resolve) => {
      onReady = resolve;
    });
    const child = await startChild([process.execPath, PROGRAM, ...args], {
      environment,
      lifeline: true,
      onStdoutLine: (line) => onReady(line),
      onStderrLine: (line) => {
        lastLines.push(line);
        if (lastLines.length > LAST_LINES_MAX) lastLines.shift();
      },
    });
    const readyLine = await Promise.race([ready, child.exited.then(() => undefined)]);
    if (readyLine === undefined) {
      throw new Failure('program-failed', [`nbdtwin ${args[0]} did not start`, ...lastLines].join('\n'));
    }
    return new DemoProcess(child, readyLine, args[0]!, lastLines);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Stops cleanly, or, when that takes too long, at once. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#child.kill('SIGTERM');
    const timer = systemClock.after(STOP_TIMEOUT_MS, () => this.#child.kill('SIGKILL'));
    await this.#child.exited;
    timer.cancel();
  }
}
