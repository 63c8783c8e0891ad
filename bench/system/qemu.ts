/**
 * What people replicate with today: qemu-storage-daemon in front of nbdkit, over TLS with a pre-shared key.
 *
 * - *write-blocking*: blockdev-mirror; a write is answered when the target has it too. The client's flush does not get to
 *   the target.
 * - *background*: blockdev-mirror; writes are answered at once and copied later, by a bitmap. Its grain is 4 KiB here:
 *   the default of 64 KiB makes it look three times worse.
 * - *quorum*: every write and every flush goes to both children.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { adoptDaemon, type Child, runChild, startChild } from '../common/children.ts';
import { freePort } from '../common/free-port.ts';
import { EXPORT_NAME } from '../common/nbdtwin.ts';
import { until } from '../common/until.ts';
import { type MirrorReport, type Server, type ServerKind, uriOf } from './servers.ts';

const START_TIMEOUT_MS = 10_000;
const SETTLE_TIMEOUT_MS = 2 * 60_000;
const KEY_SIZE = 32;
const USER = 'bench';
const NODE = 'local';
const TARGET = 'target';
const JOB = 'mirror';

type Variant = 'write-blocking' | 'background' | 'quorum';

export const QEMU_QUORUM = 'QEMU quorum';

export const QEMU_VARIANTS: readonly ServerKind[] = (['write-blocking', 'background', 'quorum'] as const).map(
  (variant) => ({ name: `QEMU ${variant}`, start: (disk, folder) => startQemu(variant, disk, folder) }),
);

async function startQemu(variant: Variant, disk: string, folder: string): Promise<Server> {
  const secrets = join(folder, 'tls');
  await mkdir(secrets);
  await writeFile(join(secrets, 'keys.psk'), `${USER}:${randomBytes(KEY_SIZE).toString('hex')}\n`, { mode: 0o600 });
  const copy = join(folder, 'target.img');
  await copyFile(disk, copy);
  const { target, port } = await startTarget(copy, folder, join(secrets, 'keys.psk'));
  const socket = join(folder, 'nbd.sock');
  const monitor = join(folder, 'qmp.sock');
  const remote = ['driver=nbd', `node-name=${TARGET}`, 'server.type=inet', 'server.host=127.0.0.1'];
  const quorum = ['driver=quorum', 'node-name=both', `children.0=${NODE}`, `children.1=${TARGET}`];
  // Reads from the first child, as replication does. All children must take a write.
  quorum.push('vote-threshold=2', 'read-pattern=fifo');
  const served = variant === 'quorum' ? 'both' : NODE;
  const child = await startChild(
    'qemu-storage-daemon',
    [
      ...['--object', `tls-creds-psk,id=tls,dir=${secrets},username=${USER},endpoint=client`],
      ...['--blockdev', `driver=file,node-name=${NODE},filename=${disk}`],
      ...['--blockdev', [...remote, `server.port=${port}`, 'tls-creds=tls'].join(',')],
      ...(variant === 'quorum' ? ['--blockdev', quorum.join(',')] : []),
      ...['--nbd-server', `addr.type=unix,addr.path=${socket}`],
      ...['--export', `type=nbd,id=export,node-name=${served},name=${EXPORT_NAME},writable=on`],
      ...['--chardev', `socket,id=qmp,path=${monitor},server=on,wait=off`, '--monitor', 'chardev=qmp'],
    ],
    { logPath: join(folder, 'qemu.log') },
    () => existsSync(socket) && existsSync(monitor),
  );
  const qmp = await Qmp.connect(monitor);
  if (variant !== 'quorum') await startMirroring(qmp, variant);
  return {
    uri: uriOf(socket),
    socket,
    pids: [child.pid, target.pid],
    files: [disk, copy],
    settle: () => (variant === 'quorum' ? Promise.resolve(undefined) : settled(qmp)),
    async stop() {
      qmp.close();
      await child.stop();
      await target.stop();
    },
  };
}

/** The other side: nbdkit on a copy of the disk. */
async function startTarget(copy: string, folder: string, keys: string): Promise<{ target: Child; port: number }> {
  const port = await freePort();
  const pidPath = join(folder, 'nbdkit.pid');
  const tls = ['--tls=require', `--tls-psk=${keys}`];
  await runChild('nbdkit', ['-i', '127.0.0.1', '-p', String(port), '-P', pidPath, ...tls, 'file', copy]);
  // It writes that file behind the fork that lets it go.
  const pid = await until('the target of QEMU', START_TIMEOUT_MS, async () => {
    const text = existsSync(pidPath) ? await readFile(pidPath, 'utf8') : '';
    return text.endsWith('\n') ? Number(text) : undefined;
  });
  return { target: adoptDaemon(pid), port };
}

async function startMirroring(qmp: Qmp, variant: 'write-blocking' | 'background'): Promise<void> {
  const tuned = variant === 'background' ? { granularity: 4096 } : {};
  // Both sides are equal already: only what is written from now on is copied.
  const job = { 'job-id': JOB, device: NODE, target: TARGET, sync: 'none', 'copy-mode': variant, ...tuned };
  await qmp.run('blockdev-mirror', job);
  await settled(qmp);
}

/** Resolves when the target has what was written. */
async function settled(qmp: Qmp): Promise<MirrorReport> {
  const start = performance.now();
  return await until('the target of QEMU in step', SETTLE_TIMEOUT_MS, async () => {
    const jobs = (await qmp.run('query-block-jobs')) as { ready: boolean; len: number; offset: number }[];
    const job = jobs[0];
    if (job === undefined) throw new Error('QEMU has given up mirroring');
    return job.ready && job.offset === job.len ? { keptUp: true, settleMs: performance.now() - start } : undefined;
  });
}

/** A monitor of QEMU: one command after the other. */
class Qmp {
  readonly #socket: Socket;
  readonly #waiting: { resolve(value: unknown): void; reject(error: Error): void }[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (line) => this.#answered(line));
  }

  static async connect(path: string): Promise<Qmp> {
    const socket = connect(path);
    await once(socket, 'connect');
    const qmp = new Qmp(socket);
    await qmp.run('qmp_capabilities');
    return qmp;
  }

  run(execute: string, args: object = {}): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #answered(line: string): void {
    const answer = JSON.parse(line) as { return?: unknown; error?: { desc: string } };
    if (answer.error !== undefined) this.#waiting.shift()?.reject(new Error(`QEMU: ${answer.error.desc}`));
    else if ('return' in answer) this.#waiting.shift()?.resolve(answer.return);
  }
}
