/**
 * Scans in worker threads that share the disk's descriptor.
 *
 * A range is cut into pieces of at most SCAN_STEP_SIZE; threads take pieces from one queue, two each so that none waits for
 * the event loop between them. Long holes are found here, by one call each: no thread needs to be asked. Threads start with
 * the first scan, keep the process alive only while they have work, and one that dies fails the pieces it held and is
 * replaced by the next that is needed.
 *
 * Invariant: while a piece is with a thread, the disk is held open: a descriptor that is closed and given to another
 * file would be digested in its place.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { Failure, messageOf } from '../base/failure.ts';
import { alignDown } from '../base/units.ts';
import type { Disk } from './disk.ts';
import { diskFailure } from './disk-failure.ts';
import { NodeDisk } from './node-disk.ts';
import type { ScanPiece, ScanReply } from './scan-piece.ts';
import { DIGEST_SIZE, type ScanPool, type ScanRequest, type ScanResult } from './scan-pool.ts';
import { checkScanRequest, newScanResult, SCAN_STEP_SIZE } from './scan-request.ts';
import { workerUrl } from './worker-url.ts';

/** Threads by default, at most: more would take the processors from the clients. */
const THREADS_MAX = 2;
/** Pieces with one thread: one at work, one waiting. */
const PIECES_PER_THREAD = 2;

export interface ScanPoolOptions {
  /** Default: the number of processors, at most THREADS_MAX. */
  readonly threads?: number;
  /** The built scan-worker.js. Default: beside this file, or in dist when this file runs from source. */
  readonly workerUrl?: URL;
}

export function nodeScanPool(options: ScanPoolOptions = {}): ScanPool {
  return new NodeScanPool(
    options.threads ?? Math.min(THREADS_MAX, availableParallelism()),
    options.workerUrl ?? workerUrl('scan-worker'),
  );
}

interface Job {
  readonly piece: ScanPiece;
  readonly path: string;
  readonly resolve: (result: ScanResult) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly jobs: Map<number, Job>;
}

class NodeScanPool implements ScanPool {
  readonly #threadsMax: number;
  readonly #workerUrl: URL;
  readonly #threads: Thread[] = [];
  readonly #queue: Job[] = [];
  #nextId = 0;
  #closed: Promise<void> | undefined;

  constructor(threadsMax: number, workerUrl: URL) {
    assert(threadsMax >= 1, 'a scan pool has a thread');
    this.#threadsMax = threadsMax;
    this.#workerUrl = workerUrl;
  }

  async scan(disk: Disk, request: ScanRequest): Promise<ScanResult> {
    checkScanRequest(disk, request);
    assert(disk.descriptor !== undefined, 'a disk without descriptor needs the inline scan pool');
    if (this.#closed !== undefined) throw closedFailure();
    const run = () => this.#scan(disk, disk.descriptor!, request);
    return disk instanceof NodeDisk ? await disk.whileOpen(run) : await run();
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const threads = this.#threads.splice(0);
    const jobs = [...this.#queue.splice(0), ...threads.flatMap((thread) => [...thread.jobs.values()])];
    for (const thread of threads) thread.jobs.clear();
    // Rejecting releases the disks, so the threads must have stopped reading before.
    await Promise.all(threads.map((thread) => thread.worker.terminate()));
    for (const job of jobs) job.reject(closedFailure());
  }

  async #scan(disk: Disk, descriptor: number, request: ScanRequest): Promise<ScanResult> {
    const whole = newScanResult(request.length, request.unitSize);
    const pieces: Promise<void>[] = [];
    let failure: unknown;
    try {
      this.#divide(disk, descriptor, request, whole, pieces);
    } catch (error) {
      failure = error;
    }
    // All must have settled before the disk may be closed, also when one has failed.
    const settled = await Promise.allSettled(pieces);
    if (failure !== undefined) throw failure;
    for (const outcome of settled) if (outcome.status === 'rejected') throw outcome.reason;
    return whole;
  }

  /** Marks the holes in `whole`, and has the threads fill in the rest of it, piece by piece. */
  #divide(disk: Disk, descriptor: number, request: ScanRequest, whole: ScanResult, pieces: Promise<void>[]): void {
    const { offset, length, unitSize, key } = request;
    const stepSize = alignDown(SCAN_STEP_SIZE, unitSize);
    for (let done = 0; done < length; ) {
      const first = done / unitSize;
      const holeLength = holeAt(disk, offset + done, length - done, unitSize);
      if (holeLength > 0) {
        whole.zero.fill(1, first, first + Math.ceil(holeLength / unitSize));
        done += holeLength;
        continue;
      }
      const piece = { descriptor, offset: offset + done, length: Math.min(stepSize, length - done), unitSize, key };
      done += piece.length;
      pieces.push(
        this.#submit(disk.path, piece).then((part) => {
          whole.zero.set(part.zero, first);
          whole.digests.set(part.digests, first * DIGEST_SIZE);
        }),
      );
    }
  }

  #submit(path: string, piece: Omit<ScanPiece, 'id'>): Promise<ScanResult> {
    return new Promise((resolve, reject) => {
      this.#nextId += 1;
      this.#queue.push({ piece: { ...piece, id: this.#nextId }, path, resolve, reject });
      this.#dispatch();
    });
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      const thread = this.#freeThread();
      if (thread === undefined) return;
      const job = this.#queue.shift()!;
      if (thread.jobs.size === 0) thread.worker.ref();
      thread.jobs.set(job.piece.id, job);
      thread.worker.postMessage(job.piece);
    }
  }

  /** The thread with the least work; a new one when all are busy and there may be more. */
  #freeThread(): Thread | undefined {
    let best: Thread | undefined;
    for (const thread of this.#threads) {
      if (best === undefined || thread.jobs.size < best.jobs.size) best = thread;
    }
    if (best !== undefined && best.jobs.size === 0) return best;
    if (this.#threads.length < this.#threadsMax) return this.#startThread();
    return best !== undefined && best.jobs.size < PIECES_PER_THREAD ? best : undefined;
  }

  #startThread(): Thread {
    // Flags of this process (test runners, debuggers) are not the thread's.
    const thread: Thread = { worker: new Worker(this.#workerUrl, { execArgv: [], name: 'scan' }), jobs: new Map() };
    this.#threads.push(thread);
    thread.worker.on('message', (reply: ScanReply) => this.#answered(thread, reply));
    thread.worker.on('error', (error) => this.#died(thread, error));
    thread.worker.on('exit', (status) =>
      this.#died(thread, new Failure('scan-failed', `a scan thread ended (${status})`)),
    );
    return thread;
  }

  #answered(thread: Thread, reply: ScanReply): void {
    const job = thread.jobs.get(reply.id);
    if (job === undefined) return;
    thread.jobs.delete(reply.id);
    if (thread.jobs.size === 0) thread.worker.unref();
    if ('result' in reply) {
      job.resolve(reply.result);
    } else {
      const { offset, length } = job.piece;
      const error = Object.assign(new Error(reply.error.message), { code: reply.error.code });
      job.reject(diskFailure(error, `${job.path}: scan of ${length} bytes at ${offset}`));
    }
    this.#dispatch();
  }

  #died(thread: Thread, error: Error): void {
    const index = this.#threads.indexOf(thread);
    if (index < 0) return;
    this.#threads.splice(index, 1);
    for (const job of thread.jobs.values()) {
      // The cause may be a bug in there; it fails the scan, which is tried again, and is told.
      job.reject(new Failure('scan-failed', `${job.path}: scan thread died: ${messageOf(error)}`, { cause: error }));
    }
    thread.jobs.clear();
    this.#dispatch();
  }
}

/** Bytes from `offset` on, at most `lengthMax`, that are a hole: whole units, or all that is left. */
function holeAt(disk: Disk, offset: number, lengthMax: number, unitSize: number): number {
  const hole = disk.seekData(offset) - offset;
  return hole >= lengthMax ? lengthMax : alignDown(hole, unitSize);
}

function closedFailure(): Failure {
  return new Failure('shutting-down', 'the scan pool is closed');
}
