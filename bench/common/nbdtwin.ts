/** `nbdtwin serve` and `nbdtwin mirror` as child processes, each with a control socket of its own. */
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { MirrorDaemonStatus, ServeStatus, VerifyReport } from '../../dist/daemon/status.js';
import type { RecoverReport } from '../../dist/mirror/recover.js';
import { type Child, runChild, startChild } from './children.ts';

const PROGRAM = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'bin/nbdtwin.js');

/** What the program's first line gives to Node: it runs as it does when installed. */
const NODE_FLAGS = /^#!.* node (.*)$/m.exec(readFileSync(PROGRAM, 'utf8'))?.[1]?.split(' ') ?? [];

export const EXPORT_NAME = 'bench';

export interface Primary {
  readonly child: Child;
  /** Path of the unix socket for NBD clients. */
  readonly socket: string;
  status(): Promise<ServeStatus>;
  /** Compares both images. */
  verify(): Promise<VerifyReport>;
}

export interface Mirror {
  readonly child: Child;
  /** On 127.0.0.1. */
  readonly port: number;
  /** Of the images. */
  readonly directory: string;
  status(): Promise<MirrorDaemonStatus>;
}

function runNbdtwin(args: readonly string[], folder: string, allowed?: readonly number[]): Promise<string> {
  return runChild(
    process.execPath,
    [...NODE_FLAGS, PROGRAM, ...args],
    { NBDTWIN_RUNTIME_DIR: join(folder, 'run') },
    allowed,
  );
}

/** Exit status of a command that found an image, and found it not usable. */
const EXIT_UNUSABLE = 65;

/** Makes an image ready that no mirror of this host has open; the report says whether it may be used. */
export async function recoverImage(image: string, folder: string): Promise<RecoverReport> {
  return JSON.parse(await runNbdtwin(['recover', image, '--json'], folder, [0, EXIT_UNUSABLE])) as RecoverReport;
}

/** Makes a secret and resolves with the path of its file. */
export async function makeSecret(folder: string): Promise<string> {
  const path = join(folder, 'secret');
  await writeFile(path, await runNbdtwin(['secret', 'new'], folder), { mode: 0o600 });
  return path;
}

/** Serves `disk` on a unix socket in `folder`, where its log goes too; resolves when clients may connect. */
export async function startPrimary(disk: string, folder: string, more: readonly string[] = []): Promise<Primary> {
  const socket = join(folder, 'nbd.sock');
  const runtimeDirectory = join(folder, 'run');
  const args = ['serve', disk, '--socket', socket, '--no-listen', '--export', EXPORT_NAME, ...more];
  const child = await startChild(
    process.execPath,
    [...NODE_FLAGS, PROGRAM, ...args],
    { logPath: join(folder, 'serve.log'), environment: { NBDTWIN_RUNTIME_DIR: runtimeDirectory } },
    (lines) => lines.some((line) => line.startsWith('nbdtwin serve: ready')),
  );
  const control = join(runtimeDirectory, `primary-${child.pid}.sock`);
  return {
    child,
    socket,
    status: async () => (await askControlSocket(control, 'status')) as ServeStatus,
    verify: async () => (await askControlSocket(control, 'verify')) as VerifyReport,
  };
}

/** Keeps images in `directory`; its log and control socket go to `folder`. Resolves when it listens. */
export async function startMirror(
  directory: string,
  folder: string,
  secret: string,
  more: readonly string[] = [],
): Promise<Mirror> {
  const runtimeDirectory = join(folder, 'run-mirror');
  let port: number | undefined;
  const child = await startChild(
    process.execPath,
    [...NODE_FLAGS, PROGRAM, 'mirror', directory, '--listen', '127.0.0.1:0', '--secret-file', secret, ...more],
    { logPath: join(folder, 'mirror.log'), environment: { NBDTWIN_RUNTIME_DIR: runtimeDirectory } },
    (lines) => {
      const found = lines.map((line) => /127\.0\.0\.1:([1-9]\d*)/.exec(line)?.[1]).find((text) => text !== undefined);
      if (found !== undefined) port = Number(found);
      return port !== undefined;
    },
  );
  const control = join(runtimeDirectory, `mirror-${child.pid}.sock`);
  return {
    child,
    port: port!,
    directory,
    status: async () => (await askControlSocket(control, 'status')) as MirrorDaemonStatus,
  };
}

/** One question to a running nbdtwin, whose progress is left out: what `nbdtwin status --json` asks, without the cost of starting a process. */
async function askControlSocket(path: string, command: string): Promise<object> {
  const socket = connect(path);
  try {
    const line = await new Promise<string>((resolve, reject) => {
      socket.once('error', reject).once('close', () => reject(new Error('no answer')));
      createInterface({ input: socket }).on('line', (text) => {
        if (!text.startsWith('{"kind":"progress"')) resolve(text);
      });
      socket.write(`${JSON.stringify({ protocol: 1, command })}\n`);
    });
    const answer = JSON.parse(line) as { kind: string; result?: object };
    if (answer.kind !== 'result' || answer.result === undefined) throw new Error(line);
    return answer.result;
  } catch (error) {
    throw new Error(`${path}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  } finally {
    socket.destroy();
  }
}
