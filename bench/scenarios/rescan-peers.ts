/** What a rescan is measured by: cmp and rsync on the same files, the disk itself, and the TLS of the link. */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { nodeNetwork } from '../../dist/io/node-network.js';
import { parseSecretFile } from '../../dist/secure/secret-file.js';
import { runChild, startChild } from '../common/children.ts';
import { dropCache } from '../common/disk.ts';
import { freePort } from '../common/free-port.ts';

/** Seconds that `work` takes. */
async function timed(work: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await work();
  return (performance.now() - startMs) / 1000;
}

/** Seconds in which cmp finds two files the same; fails when they differ. */
export function cmpSeconds(first: string, second: string): Promise<number> {
  return timed(() => runChild('cmp', [first, second]));
}

/** Seconds to read both files once at the same time, from the medium. */
export async function readBothSeconds(first: string, second: string): Promise<number> {
  await dropCache(first);
  await dropCache(second);
  const read = (path: string): Promise<string> =>
    runChild('dd', [`if=${path}`, 'of=/dev/null', 'bs=4M', 'status=none']);
  return timed(() => Promise.all([read(first), read(second)]));
}

/** Seconds to copy a file that is in the page cache to a new one, in pieces as large as a seeding’s, synced. */
export async function copySeconds(source: string, target: string): Promise<number> {
  const seconds = await timed(() =>
    runChild('dd', [`if=${source}`, `of=${target}`, 'bs=256K', 'conv=fdatasync', 'status=none']),
  );
  await rm(target);
  return seconds;
}

export interface RsyncRun {
  readonly seconds: number;
  /** Bytes on the wire, both directions. */
  readonly wireSize: number;
}

/** Brings `target` to the content of `source` through a daemon on the loopback, in place, by comparing all of it. */
export async function runRsync(source: string, target: string, folder: string): Promise<RsyncRun> {
  const port = await freePort();
  const config = join(folder, 'rsyncd.conf');
  await writeFile(
    config,
    `use chroot = no\nuid = root\ngid = root\n[target]\n  path = ${dirname(target)}\n  read only = no\n`,
  );
  const daemon = await startChild(
    'rsync',
    ['--daemon', '--no-detach', `--config=${config}`, '--address=127.0.0.1', `--port=${port}`, '-v'],
    { logPath: join(folder, 'rsyncd.log') },
    () => true,
  );
  try {
    await untilAnswers(port);
    const url = `rsync://127.0.0.1:${port}/target/${target.slice(dirname(target).length + 1)}`;
    let printed = '';
    const seconds = await timed(async () => {
      printed = await runChild('rsync', ['--inplace', '--no-whole-file', '--ignore-times', '--stats', source, url]);
    });
    const field = (name: string): number => {
      const found = new RegExp(`^Total bytes ${name}: ([\\d,]+)$`, 'm').exec(printed)?.[1];
      if (found === undefined) throw new Error(`rsync --stats said nothing of bytes ${name}:\n${printed}`);
      return Number(found.replaceAll(',', ''));
    };
    return { seconds, wireSize: field('sent') + field('received') };
  } finally {
    await daemon.stop();
    await rm(config);
  }
}

async function untilAnswers(port: number): Promise<void> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      await runChild('rsync', [`rsync://127.0.0.1:${port}/`]);
      return;
    } catch (error) {
      if (attempt >= 50) throw error;
    }
  }
}

const SINK_PROGRAM = join(dirname(fileURLToPath(import.meta.url)), 'tls-sink-process.js');
const CHUNK_SIZE = 256 * 1024;

/** Bytes per second that TLS of the link carries from this process to another one that drops them. */
export async function tlsRate(secretFile: string, folder: string, size: number): Promise<number> {
  let port: number | undefined;
  const sink = await startChild(
    process.execPath,
    [SINK_PROGRAM, secretFile],
    { logPath: join(folder, 'sink.log') },
    (lines) => {
      const found = /^port (\d+)$/.exec(lines[0] ?? '')?.[1];
      port = found === undefined ? undefined : Number(found);
      return port !== undefined;
    },
  );
  try {
    const keys = await parseSecretFile(await readFile(secretFile, 'utf8'));
    const stream = await nodeNetwork.connectLink({ kind: 'tcp', host: '127.0.0.1', port: port! }, { keys }, 10_000);
    const chunk = Buffer.alloc(CHUNK_SIZE, 0x5a);
    let left = size;
    const seconds = await timed(
      () =>
        new Promise<void>((resolve, reject) => {
          const fill = (): void => {
            while (left > 0) {
              left -= CHUNK_SIZE;
              if (!stream.write([chunk])) return;
            }
            stream.end();
          };
          stream.receive({
            data: () => undefined,
            drain: fill,
            end: () => undefined,
            close: (reason) => (reason === undefined ? resolve() : reject(reason)),
          });
          fill();
        }),
    );
    return size / seconds;
  } finally {
    await sink.stop();
  }
}
