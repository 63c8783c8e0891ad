/** The servers that are compared. Each is started on a disk of its own, asked over a unix socket, and stopped. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { adoptDaemon, type Child, runChild, startChild } from './children.ts';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const NBDTWIN = join(ROOT, 'bin/nbdtwin.js');
const EXPORT_NAME = 'bench';
const SETTLE_TIMEOUT_MS = 2 * 60_000;
const POLL_MS = 10;

/** How the mirror came through a workload. */
export interface MirrorReport {
  /** False when the window overflowed, so that a rescan had to follow. */
  readonly keptUp: boolean;
  /** From the end of the load until the mirror had applied everything. */
  readonly settleMs: number;
}

export interface Server {
  readonly uri: string;
  /** Resolves when the mirror, if there is one, has everything. */
  settle(): Promise<MirrorReport | undefined>;
  stop(): Promise<void>;
}

export interface ServerKind {
  readonly name: string;
  /** Starts it on `disk`; everything else that it writes goes to `folder`, which exists. */
  start(disk: string, folder: string): Promise<Server>;
}

export const BASELINE = 'nbdkit';

export const SERVERS: readonly ServerKind[] = [
  { name: 'nbdtwin', start: startNbdtwin },
  { name: 'nbdtwin + mirror', start: startNbdtwinWithMirror },
  { name: BASELINE, start: startNbdkit },
  { name: 'qemu-nbd', start: startQemuNbd },
];

function uriOf(socket: string): string {
  return `nbd+unix:///${EXPORT_NAME}?socket=${socket}`;
}

function plainServer(socket: string, child: Child): Server {
  return { uri: uriOf(socket), settle: async () => undefined, stop: () => child.stop() };
}

function startServe(disk: string, folder: string, extra: readonly string[]): Promise<Child> {
  const args = [NBDTWIN, 'serve', disk, '--socket', join(folder, 'nbd.sock'), '--no-listen', '--export', EXPORT_NAME];
  return startChild(
    process.execPath,
    [...args, ...extra],
    { logPath: join(folder, 'serve.log'), environment: { NBDTWIN_RUNTIME_DIR: join(folder, 'run') } },
    (lines) => lines.some((line) => line.startsWith('nbdtwin serve: ready')),
  );
}

async function startNbdtwin(disk: string, folder: string): Promise<Server> {
  return plainServer(join(folder, 'nbd.sock'), await startServe(disk, folder, []));
}

async function startNbdtwinWithMirror(disk: string, folder: string): Promise<Server> {
  const secret = join(folder, 'secret');
  await writeFile(secret, await runChild(process.execPath, [NBDTWIN, 'secret', 'new']), { mode: 0o600 });
  const mirrorFolder = join(folder, 'mirror');
  await mkdir(mirrorFolder);
  let address: string | undefined;
  const mirror = await startChild(
    process.execPath,
    [NBDTWIN, 'mirror', mirrorFolder, '--listen', '127.0.0.1:0', '--secret-file', secret],
    { logPath: join(folder, 'mirror.log'), environment: { NBDTWIN_RUNTIME_DIR: join(folder, 'run-mirror') } },
    (lines) => {
      address = lines.map((line) => /127\.0\.0\.1:[1-9]\d*/.exec(line)?.[0]).find((found) => found !== undefined);
      return address !== undefined;
    },
  );
  const primary = await startServe(disk, folder, ['--mirror', address!, '--secret-file', secret]);
  const link = new LinkWatch(join(folder, 'run', `primary-${primary.pid}.sock`));
  await link.untilSettled();
  return {
    uri: uriOf(join(folder, 'nbd.sock')),
    settle: () => link.untilSettled(),
    async stop() {
      await primary.stop();
      await mirror.stop();
    },
  };
}

interface LinkStatus {
  readonly state: string;
  readonly lag: { readonly operations: number };
  readonly lastRescan?: { readonly scopeSize: number; readonly elapsedMs: number };
}

/** Asks a primary how its mirror is. */
class LinkWatch {
  readonly #socket: string;
  /** Identifies the last rescan: another one since then means that the stream was given up in between. */
  #rescan: string | undefined;

  /** `socket` is the control socket of the primary. */
  constructor(socket: string) {
    this.#socket = socket;
  }

  async untilSettled(): Promise<MirrorReport> {
    const start = performance.now();
    for (;;) {
      const status = await this.#status();
      const settleMs = performance.now() - start;
      if (status?.state === 'streaming' && status.lag.operations === 0) {
        const rescan = status.lastRescan === undefined ? '' : JSON.stringify(status.lastRescan);
        const keptUp = rescan === this.#rescan;
        this.#rescan = rescan;
        return { keptUp, settleMs };
      }
      if (settleMs > SETTLE_TIMEOUT_MS) throw new Error(`the mirror is not in step: ${JSON.stringify(status)}`);
      await sleep(POLL_MS);
    }
  }

  async #status(): Promise<LinkStatus | undefined> {
    const status = (await askControlSocket(this.#socket, 'status')) as { replication?: { mirrors: LinkStatus[] } };
    return status.replication?.mirrors[0];
  }
}

/** One question to a running nbdtwin, without the cost of starting `nbdtwin status` each time. */
async function askControlSocket(path: string, command: string): Promise<object> {
  const socket = connect(path);
  try {
    socket.write(`${JSON.stringify({ protocol: 1, command })}\n`);
    const lines: AsyncIterable<string> = createInterface({ input: socket });
    for await (const line of lines) {
      const answer = JSON.parse(line) as { kind: string; result?: object };
      if (answer.kind !== 'result' || answer.result === undefined) throw new Error(`${path}: ${line}`);
      return answer.result;
    }
    throw new Error(`${path}: no answer`);
  } finally {
    socket.destroy();
  }
}

async function startNbdkit(disk: string, folder: string): Promise<Server> {
  const socket = join(folder, 'nbd.sock');
  const pidPath = join(folder, 'nbdkit.pid');
  // It goes into the background by itself when it is ready; with -f it would end with the shell that started it.
  await runChild('nbdkit', ['-U', socket, '-P', pidPath, 'file', disk]);
  return plainServer(socket, adoptDaemon(Number(await readFile(pidPath, 'utf8'))));
}

async function startQemuNbd(disk: string, folder: string): Promise<Server> {
  const socket = join(folder, 'nbd.sock');
  const args = ['--socket', socket, '--export-name', EXPORT_NAME, '--format', 'raw', '--persistent', '--shared', '0'];
  const child = await startChild('qemu-nbd', [...args, disk], { logPath: join(folder, 'qemu-nbd.log') }, () =>
    existsSync(socket),
  );
  return plainServer(socket, child);
}
