import { execFileSync } from 'node:child_process';
import { chmodSync, closeSync, mkdirSync, openSync, readSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { Daemon } from './daemon.ts';
import { programPath } from './peers.ts';
import { runProgram } from './run-program.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { Twin } from './twin.ts';

/** How peers reach a server. `tls` is a unix socket with TLS and pre-shared keys. */
export type Transport = 'tcp' | 'unix' | 'tls';

export const TRANSPORTS: readonly Transport[] = ['tcp', 'unix', 'tls'];

const IDENTITY = 'alice';

interface ServingOptions {
  readonly size?: number;
  readonly transport?: Transport;
  /** More arguments for `nbdtwin serve`. */
  readonly args?: readonly string[];
}

/** A running `nbdtwin serve` as peer programs see it. Its one export is named `disk` and is the default. */
export interface Serving {
  readonly folder: string;
  /** Path of the disk that is served. */
  readonly disk: string;
  /** The disk and, of a pair, the mirror's image: all must hold the same in the end. */
  readonly images: readonly string[];
  /** For libnbd's programs. */
  readonly uri: string;
  /** For qemu's programs: `--object` where TLS needs it, and the image with `--image-opts`. */
  readonly qemu: { readonly objects: readonly string[]; readonly image: string };
  readonly daemon: Daemon;
  /** To be called when everything has been written and flushed: a pair must be in step, its images identical. */
  expectSettled(): Promise<void>;
}

export type StartServing = (options?: ServingOptions) => Promise<Serving>;

/** A server without replication. */
export const startPlain: StartServing = async (options = {}) => {
  const folder = temporaryFolder();
  const disk = makeDisk(folder, options.size);
  const reached = reach(folder, options.transport ?? 'unix');
  const args = ['serve', disk, ...reached.args, ...(options.args ?? [])];
  const daemon = await Daemon.start(folder, args);
  return { folder, disk, images: [disk], daemon, ...reached.by(daemon), expectSettled: () => Promise.resolve() };
};

/** A primary whose mirror is in step. */
export const startPair: StartServing = async (options = {}) => {
  const twin = new Twin({ size: options.size ?? 64 * MIB });
  const reached = reach(twin.folder, options.transport ?? 'unix');
  await twin.startMirror();
  const mirror = ['--mirror', `127.0.0.1:${twin.mirror.address.port}`, '--secret-file', twin.secret];
  const args = ['serve', twin.disk, ...mirror, ...reached.args, ...(options.args ?? [])];
  const daemon = await Daemon.start(twin.folder, args);
  await daemon.untilInStep();
  return {
    folder: twin.folder,
    disk: twin.disk,
    images: [twin.disk, twin.image],
    daemon,
    ...reached.by(daemon),
    expectSettled: async () => {
      await daemon.untilInStep();
      expect(await runProgram('cmp', [twin.disk, twin.image])).toBe('');
    },
  };
};

/** A file of holes, 64 MiB unless told otherwise. */
export function makeDisk(folder: string, size = 64 * MIB): string {
  const disk = join(folder, 'disk.img');
  writeFileSync(disk, '');
  truncateSync(disk, size);
  return disk;
}

/** A psktool file with one key, readable by its owner only, in a folder of its own as qemu wants it. */
export function makeKeys(folder: string, name = 'keys'): string {
  const keys = join(folder, name);
  mkdirSync(keys);
  const file = join(keys, 'keys.psk');
  execFileSync(programPath('psktool')!, ['--username', IDENTITY, '--pskfile', file], { stdio: 'ignore' });
  chmodSync(file, 0o600);
  return file;
}

function reach(folder: string, transport: Transport) {
  const socket = join(folder, 'nbd.sock');
  const unix = ['--no-listen', '--socket', socket];
  const server = `driver=nbd,server.type=unix,server.path=${socket},export=disk`;
  if (transport === 'unix') {
    const by = () => ({ uri: `nbd+unix:///disk?socket=${socket}`, qemu: { objects: [], image: server } });
    return { args: unix, by };
  }
  if (transport === 'tcp') {
    const by = (daemon: Daemon) => {
      const { host, port } = daemon.address;
      const image = `driver=nbd,server.type=inet,server.host=${host},server.port=${port},export=disk`;
      return { uri: `nbd://${host}:${port}/disk`, qemu: { objects: [], image } };
    };
    return { args: ['--listen', '127.0.0.1:0'], by };
  }
  const keys = makeKeys(folder);
  const credentials = `tls-creds-psk,id=tls,dir=${join(keys, '..')},username=${IDENTITY},endpoint=client`;
  const by = () => ({
    uri: `nbds+unix://${IDENTITY}@/disk?socket=${socket}&tls-psk-file=${keys}`,
    qemu: { objects: ['--object', credentials], image: `${server},tls-creds=tls` },
  });
  return { args: [...unix, '--tls-psk-file', keys], by };
}

/**
 * Fills a file with reproducible data, from one byte to some 100 kB at odd and at even places, and holes between.
 * About a third of it is data.
 */
export function writeSparsely(path: string, size: number, seed: number): void {
  writeFileSync(path, '');
  truncateSync(path, size);
  const descriptor = openSync(path, 'r+');
  let state = seed;
  const random = (limit: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
  for (let offset = random(8192); offset < size; offset += 1 + random(400_000)) {
    const length = Math.min(size - offset, 1 + random(200_000));
    const data = Buffer.alloc(length);
    for (let index = 0; index < length; index += 1) data[index] = random(256);
    writeSync(descriptor, data, 0, length, offset);
    offset += length;
  }
  closeSync(descriptor);
}

/** `length` bytes of a file. */
export function readBytes(path: string, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const descriptor = openSync(path, 'r');
  readSync(descriptor, bytes, 0, length, offset);
  closeSync(descriptor);
  return bytes;
}
