/** The servers that are compared. Each is started on a disk of its own, asked over a unix socket, and stopped. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { adoptDaemon, type Child, runChild, startChild } from '../common/children.ts';
import { freePort } from '../common/free-port.ts';
import { EXPORT_NAME, makeSecret, type Primary, startMirror, startPrimary } from '../common/nbdtwin.ts';
import { until } from '../common/until.ts';

const SETTLE_TIMEOUT_MS = 2 * 60_000;
const POLL_MS = 10;
const READY_TIMEOUT_MS = 10_000;

/** How the mirror came through a workload. */
export interface MirrorReport {
  /** False when the window overflowed, so that a rescan had to follow. */
  readonly keptUp: boolean;
  /** From the end of the load until the mirror had applied everything. */
  readonly settleMs: number;
}

export interface Server {
  readonly uri: string;
  /** Path of its unix socket. */
  readonly socket: string;
  /** Of all processes that belong to it, the one that clients talk to first. */
  readonly pids: readonly number[];
  /** The disk, and what its mirror keeps. */
  readonly files: readonly string[];
  /** Resolves when the mirror, if there is one, has everything. */
  settle(): Promise<MirrorReport | undefined>;
  stop(): Promise<void>;
}

export interface ServerKind {
  readonly name: string;
  /** Connections that it can take at once, where there is a limit. */
  readonly connectionsMax?: number;
  /** Starts it on `disk`; everything else that it writes goes to `folder`, which exists. */
  start(disk: string, folder: string): Promise<Server>;
}

export const NBDKIT: ServerKind = { name: 'nbdkit', start: startNbdkit };

export const SERVERS: readonly ServerKind[] = [
  { name: 'nbdtwin', start: startNbdtwin },
  NBDKIT,
  // It forks for each, and its queue is short.
  { name: 'nbd-server', connectionsMax: 1, start: startNbdServer },
  { name: 'qemu-nbd', start: startQemuNbd },
];

export function uriOf(socket: string): string {
  return `nbd+unix:///${EXPORT_NAME}?socket=${socket}`;
}

function plainServer(disk: string, socket: string, child: Child): Server {
  return {
    uri: uriOf(socket),
    socket,
    pids: [child.pid],
    files: [disk],
    settle: async () => undefined,
    stop: () => child.stop(),
  };
}

export async function startNbdtwin(disk: string, folder: string): Promise<Server> {
  const { socket, child } = await startPrimary(disk, folder);
  return plainServer(disk, socket, child);
}

/** Something between primary and mirror that listens on a port of its own. */
export interface LinkProcess {
  readonly port: number;
  stop(): Promise<void>;
}

/** `flags`: more of the primary. `openLink`: puts something in front of the mirror's port. */
export async function startNbdtwinWithMirror(
  disk: string,
  folder: string,
  flags: readonly string[],
  openLink?: (mirrorPort: number, folder: string) => Promise<LinkProcess>,
): Promise<Server> {
  const secret = await makeSecret(folder);
  const directory = join(folder, 'mirror');
  await mkdir(directory);
  const mirror = await startMirror(directory, folder, secret);
  const between = await openLink?.(mirror.port, folder);
  const primary = await startPrimary(disk, folder, [
    '--mirror',
    `127.0.0.1:${between?.port ?? mirror.port}`,
    '--secret-file',
    secret,
    ...flags,
  ]);
  const link = new LinkWatch(primary);
  await link.untilSettled();
  const stop = async (): Promise<void> => {
    await primary.child.stop();
    await mirror.child.stop();
    await between?.stop();
  };
  return {
    uri: uriOf(primary.socket),
    socket: primary.socket,
    pids: [primary.child.pid, mirror.child.pid],
    files: [disk, join(directory, `${EXPORT_NAME}.img`)],
    settle: () => link.untilSettled(),
    stop,
  };
}

/** Asks a primary how its mirror is. */
export class LinkWatch {
  readonly #primary: Primary;
  /** Identifies the last rescan: another one since then means that the stream was given up in between. */
  #rescan: string | undefined;

  constructor(primary: Primary) {
    this.#primary = primary;
  }

  async untilSettled(): Promise<MirrorReport> {
    const start = performance.now();
    for (;;) {
      const status = (await this.#primary.status()).replication?.mirrors[0];
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
}

async function startNbdkit(disk: string, folder: string): Promise<Server> {
  const socket = join(folder, 'nbd.sock');
  const pidPath = join(folder, 'nbdkit.pid');
  // It goes into the background by itself when it is ready; with -f it would end with the shell that started it.
  await runChild('nbdkit', ['-U', socket, '-P', pidPath, 'file', disk]);
  return plainServer(disk, socket, adoptDaemon(Number(await readFile(pidPath, 'utf8'))));
}

async function startNbdServer(disk: string, folder: string): Promise<Server> {
  const socket = join(folder, 'nbd.sock');
  const pidPath = join(folder, 'nbd-server.pid');
  const config = join(folder, 'nbd-server.conf');
  // It listens on a port besides, and takes none that is chosen for it.
  const generic = ['[generic]', `unixsock = ${socket}`, 'listenaddr = 127.0.0.1', `port = ${await freePort()}`];
  await writeFile(
    config,
    [...generic, `[${EXPORT_NAME}]`, `exportname = ${disk}`, 'flush = true', 'fua = true', ''].join('\n'),
  );
  await runChild('nbd-server', ['-C', config, '-p', pidPath]);
  await until('nbd-server', READY_TIMEOUT_MS, () => (existsSync(socket) && existsSync(pidPath)) || undefined);
  return plainServer(disk, socket, adoptDaemon(Number(await readFile(pidPath, 'utf8'))));
}

async function startQemuNbd(disk: string, folder: string): Promise<Server> {
  const socket = join(folder, 'nbd.sock');
  const args = ['--socket', socket, '--export-name', EXPORT_NAME, '--format', 'raw', '--persistent', '--shared', '0'];
  const child = await startChild('qemu-nbd', [...args, disk], { logPath: join(folder, 'qemu-nbd.log') }, () =>
    existsSync(socket),
  );
  return plainServer(disk, socket, child);
}
