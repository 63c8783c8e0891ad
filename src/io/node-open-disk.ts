/**
 * Opening disks: what a path is, whether it may be used, and whether somebody else uses it.
 *
 * Locks are flock on the open file, which ends with the process however that dies. A block device is opened with
 * O_EXCL too, which keeps off mounts, RAID and other programs that claim it; udev takes a shared flock on devices for
 * moments, so a refusal there is tried again for a second before it counts.
 */
import nodeFs from 'node:fs';
import fs from 'node:fs/promises';
import nodePath from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, Failure, type FailureCode } from '../base/failure.ts';
import { systemReason, systemReasonOf } from '../base/system-reason.ts';
import type { OpenOptions } from './disk.ts';
import { blockDeviceIsReadOnly, blockDeviceSectorSize, blockDeviceSize, tryLock } from './libc.ts';
import { type NodeCalls, nodeCalls } from './node-calls.ts';
import { type DiskFacts, NodeDisk } from './node-disk.ts';

const FILE_MODE = 0o600;
const LOCK_ATTEMPTS = 10;
const LOCK_PAUSE_MS = 100;

/** File systems (statfs f_type) known to punch and to zero ranges in place; others show it at the first success. */
const EXT4 = 0xef53;
const XFS = 0x58465342;
const BTRFS = 0x9123683e;
const TMPFS = 0x01021994;
const PUNCHING = new Set([EXT4, XFS, BTRFS, TMPFS]);
const ZEROING = new Set([EXT4, XFS, BTRFS]);

const { O_CREAT, O_EXCL, O_RDONLY, O_RDWR } = nodeFs.constants;

/** See FileSystem.openDisk. `calls` lets a test make system calls fail. */
export async function openNodeDisk(
  path: string,
  options: OpenOptions,
  calls: NodeCalls = nodeCalls,
): Promise<NodeDisk> {
  const readOnly = options.readOnly ?? false;
  if (options.createSize !== undefined) return createDisk(path, options.createSize, options, calls);
  const kind = await diskKind(path);
  const exclusive = kind === 'block-device' && options.lock === 'exclusive' ? O_EXCL : 0;
  const descriptor = await open(path, (readOnly ? O_RDONLY : O_RDWR) | exclusive, 0).catch((error: unknown) =>
    refuseOpen(path, readOnly, error),
  );
  return handOver(descriptor, async () => {
    await lock(descriptor, path, kind, options.lock ?? 'none');
    const facts = diskFacts(path, descriptor, readOnly);
    if (facts.kind !== kind) throw new Failure('disk-not-a-disk', `${path} changed while it was opened`);
    if (kind === 'block-device' && !readOnly && blockDeviceIsReadOnly(descriptor)) {
      throw new Failure('disk-read-only', `${path} is a read-only device`);
    }
    if (facts.size === 0) throw new Failure('disk-empty', `${path} has size 0`);
    return new NodeDisk(facts, calls);
  });
}

/** See FileSystem.openState. */
export async function openNodeState(path: string, calls: NodeCalls = nodeCalls): Promise<NodeDisk> {
  try {
    const descriptor = await open(path, O_RDWR | O_CREAT, FILE_MODE);
    return await handOver(descriptor, () => {
      const facts = diskFacts(path, descriptor, false);
      if (facts.kind !== 'file') throw new Failure('state-unwritable', `${path} is not a regular file`);
      return Promise.resolve(new NodeDisk(facts, calls));
    });
  } catch (error) {
    throw error instanceof Failure ? error : failure('state-unwritable', path, error);
  }
}

async function createDisk(path: string, size: number, options: OpenOptions, calls: NodeCalls): Promise<NodeDisk> {
  if (!Number.isSafeInteger(size) || size <= 0)
    throw new Failure('disk-empty', `${path}: cannot be made with size ${size}`);
  const descriptor = await open(path, O_RDWR | O_CREAT | O_EXCL, FILE_MODE).catch((error: unknown) => {
    const errno = errnoOf(error);
    if (errno === 'EEXIST') throw failure('disk-exists', path, error);
    const refuse = (code: FailureCode, why: string) =>
      new Failure(code, `cannot make ${path}: ${why}`, { cause: error });
    if (errno === 'ENOENT' || errno === 'ENOTDIR') throw refuse('directory-missing', 'its folder does not exist');
    if (errno === 'ENOSPC' || errno === 'EDQUOT') throw failure('no-space', path, error);
    throw refuse('directory-read-only', systemReason(error));
  });
  return handOver(descriptor, async () => {
    try {
      await lock(descriptor, path, 'file', options.lock ?? 'none');
      await calls.truncate(descriptor, size);
      const directory = await fs.open(nodePath.dirname(nodePath.resolve(path)), 'r');
      try {
        await directory.sync();
      } finally {
        await directory.close();
      }
      return new NodeDisk(diskFacts(path, descriptor, false), calls);
    } catch (error) {
      // Nothing was in it: a half-made disk would only be in the way of the next attempt.
      await fs.unlink(path).catch(() => {});
      if (error instanceof Failure) throw error;
      throw failure(errnoOf(error) === 'EFBIG' ? 'disk-too-large' : 'no-space', path, error);
    }
  });
}

/** What stands at the path, before it is opened: opening a pipe or a terminal has effects. */
async function diskKind(path: string): Promise<'file' | 'block-device'> {
  let stat: nodeFs.Stats;
  try {
    stat = await fs.stat(path);
  } catch (error) {
    const errno = errnoOf(error);
    throw failure(errno === 'EACCES' || errno === 'EPERM' ? 'disk-unreadable' : 'disk-missing', path, error);
  }
  if (stat.isFile()) return 'file';
  if (stat.isBlockDevice()) return 'block-device';
  throw new Failure(
    'disk-not-a-disk',
    `${path} is ${stat.isDirectory() ? 'a directory' : 'no file and no block device'}`,
  );
}

async function refuseOpen(path: string, readOnly: boolean, error: unknown): Promise<never> {
  const errno = errnoOf(error);
  if (errno === 'EBUSY' || errno === 'ETXTBSY') throw failure('disk-busy', path, error);
  if (errno === 'ENOENT' || errno === 'ENXIO' || errno === 'ENODEV') throw failure('disk-missing', path, error);
  const readable = await fs.access(path, nodeFs.constants.R_OK).then(
    () => true,
    () => false,
  );
  const denied = errno === 'EROFS' || errno === 'EACCES' || errno === 'EPERM';
  throw failure(!readOnly && denied && readable ? 'disk-read-only' : 'disk-unreadable', path, error);
}

async function lock(
  descriptor: number,
  path: string,
  kind: 'file' | 'block-device',
  wanted: 'exclusive' | 'shared' | 'none',
): Promise<void> {
  if (wanted === 'none') return;
  const attempts = kind === 'block-device' ? LOCK_ATTEMPTS : 1;
  for (let attempt = 1; attempt <= attempts; attempt += 1) {
    if (tryLock(descriptor, wanted)) return;
    if (attempt < attempts) await sleep(LOCK_PAUSE_MS);
  }
  throw new Failure('disk-busy', `${path} is locked by another process`);
}

function diskFacts(path: string, descriptor: number, readOnly: boolean): DiskFacts {
  const stat = nodeFs.fstatSync(descriptor, { bigint: true });
  if (stat.isBlockDevice()) {
    const known = deviceZeroesNatively(stat.rdev);
    return {
      path,
      kind: 'block-device',
      descriptor,
      size: checkedSize(path, blockDeviceSize(descriptor)),
      readOnly,
      zeroAlignment: blockDeviceSectorSize(descriptor),
      punchKnown: known,
      zeroRangeKnown: known,
    };
  }
  if (!stat.isFile()) throw new Failure('disk-not-a-disk', `${path} is no file and no block device`);
  const fileSystem = fileSystemType(path);
  return {
    path,
    kind: 'file',
    descriptor,
    size: checkedSize(path, Number(stat.size)),
    readOnly,
    zeroAlignment: 1,
    punchKnown: fileSystem !== undefined && PUNCHING.has(fileSystem),
    zeroRangeKnown: fileSystem !== undefined && ZEROING.has(fileSystem),
  };
}

function checkedSize(path: string, size: number): number {
  if (!Number.isSafeInteger(size)) throw new Failure('disk-not-a-disk', `${path} is larger than 2^53 bytes`);
  return size;
}

function fileSystemType(path: string): number | undefined {
  try {
    return nodeFs.statfsSync(path).type;
  } catch {
    return undefined;
  }
}

/** True when the kernel says that the device makes zeroes by a command of its own. */
function deviceZeroesNatively(device: bigint): boolean {
  // The numbers of a device in Linux's 64-bit dev_t, see gnu_dev_major(3).
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n);
  // A partition has no queue of its own; its device's stands one level up.
  for (const queue of ['queue', '../queue']) {
    try {
      const limit = nodeFs.readFileSync(`/sys/dev/block/${major}:${minor}/${queue}/write_zeroes_max_bytes`, 'utf8');
      return Number(limit) > 0;
    } catch {
      // No such file: look further, then assume nothing.
    }
  }
  return false;
}

/** Runs `make`, which takes over the descriptor; closes it when that fails. */
async function handOver(descriptor: number, make: () => Promise<NodeDisk>): Promise<NodeDisk> {
  try {
    return await make();
  } catch (error) {
    nodeFs.closeSync(descriptor);
    throw error;
  }
}

function open(path: string, flags: number, mode: number): Promise<number> {
  return new Promise((resolve, reject) => {
    nodeFs.open(path, flags, mode, (error, descriptor) => (error ? reject(error) : resolve(descriptor)));
  });
}

function failure(code: FailureCode, path: string, error: unknown): Failure {
  return new Failure(code, systemReasonOf(path, error), { cause: error });
}
