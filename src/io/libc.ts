/**
 * The few libc calls that Node lacks, through koffi: holes, locks, device sizes, reads that refuse to wait, and what the
 * kernel knows of a socket's other end.
 *
 * Every function throws what Node's own fs functions would throw: an Error with `code` (`ENOSPC`, ...), `errno`
 * (negative) and `syscall`. Interrupted calls are repeated. Nothing here knows of disks or policies.
 */
import { getSystemErrorName } from 'node:util';
import koffi from 'koffi';

const libc = koffi.load('libc.so.6');
const fallocateCall = libc.func('int fallocate(int descriptor, int mode, int64_t offset, int64_t length)');
const lseekCall = libc.func('int64_t lseek64(int descriptor, int64_t offset, int whence)');
const flockCall = libc.func('int flock(int descriptor, int operation)');
const ioctlCall = libc.func('int ioctl(int descriptor, unsigned long request, ...)');
const fadviseCall = libc.func('int posix_fadvise64(int descriptor, int64_t offset, int64_t length, int advice)');
const preadv2Call = libc.func('int64_t preadv64v2(int descriptor, void *vector, int count, int64_t offset, int flags)');

const recvCall = libc.func('int64_t recv(int descriptor, void *target, size_t size, int flags)');

const getrusageCall = libc.func('int getrusage(int who, void *usage)');

const malloptCall = libc.func('int mallopt(int parameter, int value)');

const pollCall = libc.func('int poll(void *descriptors, unsigned long count, int timeoutMs)');

const EINTR = koffi.os.errno['EINTR'];
const EAGAIN = koffi.os.errno['EAGAIN'];
const ENXIO = koffi.os.errno['ENXIO'];

/** Modes of `fallocate`, see fallocate(2). */
export const FALLOC_KEEP_SIZE = 0x01;
export const FALLOC_PUNCH_HOLE = 0x02;
export const FALLOC_ZERO_RANGE = 0x10;

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;
const BLKGETSIZE64 = 0x80081272;
const BLKROGET = 0x125e;
const BLKSSZGET = 0x1268;
const POSIX_FADV_WILLNEED = 3;
const POSIX_FADV_DONTNEED = 4;
const RWF_NOWAIT = 0x08;
const RWF_DONTCACHE = 0x80;
const SIOCOUTQ = 0x5411;
const POLLRDHUP = 0x2000;
const MSG_DONTWAIT = 0x40;
const RUSAGE_THREAD = 1;
const M_TRIM_THRESHOLD = -1;
const M_TOP_PAD = -2;
const M_MMAP_THRESHOLD = -3;

function systemError(syscall: string, errno: number): NodeJS.ErrnoException {
  const code = getSystemErrorName(-errno);
  return Object.assign(new Error(`${code}: ${syscall}`), { code, errno: -errno, syscall });
}

/** fallocate(2) on the event loop. */
export function fallocateNow(descriptor: number, mode: number, offset: number, length: number): void {
  while (fallocateCall(descriptor, mode, offset, length) !== 0) {
    const errno = koffi.errno();
    if (errno !== EINTR) throw systemError('fallocate', errno);
  }
}

/** fallocate(2) in the thread pool, for ranges that may take long. */
export async function fallocate(descriptor: number, mode: number, offset: number, length: number): Promise<void> {
  for (;;) {
    const errno = await new Promise<number>((resolve, reject) => {
      fallocateCall.async(descriptor, mode, offset, length, (error: Error | null, result: number) => {
        if (error) reject(error);
        else resolve(result === 0 ? 0 : koffi.errno());
      });
    });
    if (errno === 0) return;
    if (errno !== EINTR) throw systemError('fallocate', errno);
  }
}

/** Start of the next data or hole at or after `offset`; undefined when there is none (ENXIO). */
export function seekNow(descriptor: number, offset: number, target: 'data' | 'hole'): number | undefined {
  const found = Number(lseekCall(descriptor, offset, target === 'data' ? SEEK_DATA : SEEK_HOLE));
  if (found >= 0) return found;
  const errno = koffi.errno();
  if (errno === ENXIO) return undefined;
  throw systemError('lseek', errno);
}

/** Takes an advisory lock without waiting; false when another open file holds it. Ends with the descriptor. */
export function tryLock(descriptor: number, kind: 'exclusive' | 'shared'): boolean {
  for (;;) {
    if (flockCall(descriptor, (kind === 'exclusive' ? LOCK_EX : LOCK_SH) | LOCK_NB) === 0) return true;
    const errno = koffi.errno();
    if (errno === EAGAIN) return false;
    if (errno !== EINTR) throw systemError('flock', errno);
  }
}

/** Bytes of a block device. */
export function blockDeviceSize(descriptor: number): number {
  const size = new BigUint64Array(1);
  if (ioctlCall(descriptor, BLKGETSIZE64, 'uint64_t *', size) !== 0) throw systemError('ioctl', koffi.errno());
  return Number(size[0]);
}

/** Bytes of a logical sector of a block device: what fallocate on it must be aligned to. */
export function blockDeviceSectorSize(descriptor: number): number {
  const size = new Int32Array(1);
  if (ioctlCall(descriptor, BLKSSZGET, 'int *', size) !== 0) throw systemError('ioctl', koffi.errno());
  return size[0]!;
}

/** True for a device that takes no writes: opening one for writing succeeds all the same. */
export function blockDeviceIsReadOnly(descriptor: number): boolean {
  const flag = new Int32Array(1);
  if (ioctlCall(descriptor, BLKROGET, 'int *', flag) !== 0) throw systemError('ioctl', koffi.errno());
  return flag[0] !== 0;
}

/** Tells the kernel, in the thread pool, what will be wanted or not; resolves in any case: it is advice. */
export function advise(descriptor: number, offset: number, length: number, advice: 'will-need' | 'no-need') {
  return new Promise<void>((resolve) => {
    const code = advice === 'will-need' ? POSIX_FADV_WILLNEED : POSIX_FADV_DONTNEED;
    fadviseCall.async(descriptor, offset, length, code, () => resolve());
  });
}

/** One iovec for all calls: they are synchronous, so nobody else uses it meanwhile. */
const vector = new BigUint64Array(2);
const vectorAddress = koffi.address(vector);

/**
 * Reads only what is in the page cache, on the event loop, without waiting for any disk. Returns the bytes read: fewer
 * than asked when the rest would have to wait or lies past the end, 0 likewise.
 */
export function readCachedNow(descriptor: number, target: Uint8Array, offset: number): number {
  return target.length === 0 ? 0 : preadv2Now(descriptor, target, offset, RWF_NOWAIT);
}

/**
 * Reads without leaving in the page cache what was not there before (from Linux 6.14 on). Waits for the medium: not on the
 * event loop. Returns the bytes read, 0 at the end. Throws `EOPNOTSUPP` or `EINVAL` where kernel or file system cannot do it.
 */
export function readUncachedNow(descriptor: number, target: Uint8Array, offset: number): number {
  return preadv2Now(descriptor, target, offset, RWF_DONTCACHE);
}

/** 0 also for what would have to wait, where `flags` forbid it. */
function preadv2Now(descriptor: number, target: Uint8Array, offset: number, flags: number): number {
  vector[0] = koffi.address(target);
  vector[1] = BigInt(target.length);
  for (;;) {
    const size = Number(preadv2Call(descriptor, vectorAddress, 1, offset, flags));
    if (size >= 0) return size;
    const errno = koffi.errno();
    if (errno === EAGAIN && flags === RWF_NOWAIT) return 0;
    if (errno !== EINTR) throw systemError('preadv2', errno);
  }
}

/** One pollfd: descriptor, then the events asked for and those found, 16 bits each. */
const polled = new Int32Array(2);
const polledEvents = new Uint16Array(polled.buffer, 4);
const polledAddress = koffi.address(polled);

/**
 * Whether the other end of a connected socket has closed, ended its direction or is lost, as far as the kernel knows;
 * what it sent before may still be unread. For TCP and unix sockets; 0.5 us.
 */
export function socketPeerGone(descriptor: number): boolean {
  polled[0] = descriptor;
  polledEvents[0] = POLLRDHUP;
  for (;;) {
    // POLLERR, POLLHUP and POLLNVAL are found without being asked for.
    const count = pollCall(polledAddress, 1, 0);
    if (count >= 0) return count > 0;
    const errno = koffi.errno();
    if (errno !== EINTR) throw systemError('poll', errno);
  }
}

/**
 * Takes what the kernel has received for a socket, without waiting; 0 when that is nothing, or the other end has ended its
 * direction, which the next look at the socket will tell too. An error is told only once: here.
 */
export function receiveNow(descriptor: number, target: Uint8Array): number {
  if (target.length === 0) return 0;
  for (;;) {
    const size = Number(recvCall(descriptor, koffi.address(target), target.length, MSG_DONTWAIT));
    if (size >= 0) return size;
    const errno = koffi.errno();
    if (errno === EAGAIN) return 0;
    if (errno !== EINTR) throw systemError('recv', errno);
  }
}

/**
 * Has malloc keep up to `keptSize` bytes that were freed, and ask the kernel for `stepSize` at a time, instead of giving
 * pages back only to get them again, zeroed and counted, with the next chunk that Node reads.
 */
export function keepFreedMemory(keptSize: number, stepSize: number): void {
  malloptCall(M_TRIM_THRESHOLD, keptSize);
  malloptCall(M_TOP_PAD, stepSize);
  // With either of these malloc no longer finds out by itself which sizes come again.
  malloptCall(M_MMAP_THRESHOLD, stepSize);
}

/** A struct rusage: two times of two words each, then 14 counts of one; `ru_nvcsw` is the 13th. */
const usage = new BigInt64Array(18);
const usageWords = new Int32Array(usage.buffer);
const usageAddress = koffi.address(usage);
const VOLUNTARY_SWITCHES = 2 * (4 + 12);

/** How often this thread has given up its CPU to wait for something (not: because it was taken away), modulo 2^31; 0.3 us. */
export function threadWaits(): number {
  getrusageCall(RUSAGE_THREAD, usageAddress);
  return usageWords[VOLUNTARY_SWITCHES]!;
}

/** Bytes that the kernel has taken for a socket and that the other end's kernel (TCP) or program (unix) has not. */
export function socketSendQueueSize(descriptor: number): number {
  const size = new Int32Array(1);
  if (ioctlCall(descriptor, SIOCOUTQ, 'int *', size) !== 0) throw systemError('ioctl', koffi.errno());
  return size[0]!;
}
