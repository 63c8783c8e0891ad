/**
 * Scans in worker threads that share the disk's descriptor.
 *
 * A range is cut into pieces of at most SCAN_STEP_SIZE. What waits is divided among the threads, many small pieces as one
 * task, two tasks for each thread so that none waits for the event loop between them. Long holes are found here, by one call each: no thread needs to be asked. Threads start with
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
import { Fifo } from '../base/fifo.ts';
import { alignDown } from '../base/units.ts';
import type { Disk } from './disk.ts';
import { diskFailure } from './disk-failure.ts';
import { NodeDisk } from './node-disk.ts';
import type { ScanPiece, ScanReply, ScanTask } from './scan-piece.ts';
import { DIGEST_SIZE, type ScanPool, type ScanRequest, type ScanResult, SLOW_DIGESTS } from './scan-pool.ts';
import { checkScanRequest, newScanResult, SCAN_STEP_SIZE, unitsOf } from './scan-request.ts';
import { workerUrl } from './worker-url.ts';

/** Threads by default, at most: more would take the processors from the clients. */
const THREADS_MAX = 2;
/** Tasks with one thread: one at work, one waiting. */
const TASKS_PER_THREAD = 2;
/** Pieces of one task, which together have at most SCAN_STEP_SIZE bytes. */
const PIECES_MAX = 256;

export interface ScanPoolOptions {
  /** Default: the number of processors, at most THREADS_MAX. */
  readonly threads?: number;
  /** The built scan-worker.js. Default: beside this file, or in dist when this file runs from source. */
  readonly workerUrl?: URL;
  /** Called once when a thread has to make digests through node:crypto, which costs two to four times the CPU. */
  readonly slowDigests?: () => void;
}

export function nodeScanPool(options: ScanPoolOptions = {}): ScanPool {
  return new NodeScanPool(
    options.threads ?? Math.min(THREADS_MAX, availableParallelism()),
    options.workerUrl ?? workerUrl('scan-worker'),
    options.slowDigests,
  );
}

/** A piece, and who waits for it. */
interface Job {
  readonly piece: ScanPiece;
  readonly path: string;
  /** `result` holds its units from `first` on. */
  readonly resolve: (result: ScanResult, first: number) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly tasks: Map<number, readonly Job[]>;
}

class NodeScanPool implements ScanPool {
  readonly #threadsMax: number;
  readonly #workerUrl: URL;
  readonly #threads: Thread[] = [];
  readonly #queue = new Fifo<Job>();
  /** Bytes of all pieces in the queue. */
  #queuedSize = 0;
  #dispatching = false;
  #nextId = 0;
  #closed: Promise<void> | undefined;
  /** Undefined once it has been called. */
  #slowDigests: (() => void) | undefined;

  constructor(threadsMax: number, workerUrl: URL, slowDigests: (() => void) | undefined) {
    assert(threadsMax >= 1, 'a scan pool has a thread');
    this.#threadsMax = threadsMax;
    this.#workerUrl = workerUrl;
    this.#slowDigests = slowDigests;
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
    const jobs = threads.flatMap((thread) => [...thread.tasks.values()].flat());
    for (let job = this.#queue.shift(); job !== undefined; job = this.#queue.shift()) jobs.push(job);
    this.#queuedSize = 0;
    for (const thread of threads) thread.tasks.clear();
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
      pieces.push(this.#submit(disk.path, piece, whole, first));
    }
  }

  /** Resolves when the units of the piece stand in `whole`, from `first` on. */
  #submit(path: string, piece: ScanPiece, whole: ScanResult, first: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const filled = (result: ScanResult, from: number): void => {
        const units = unitsOf(piece);
        whole.zero.set(result.zero.subarray(from, from + units), first);
        whole.digests.set(
          result.digests.subarray(from * DIGEST_SIZE, (from + units) * DIGEST_SIZE),
          first * DIGEST_SIZE,
        );
        resolve();
      };
      this.#queue.push({ piece, path, resolve: filled, reject });
      this.#queuedSize += piece.length;
      if (this.#dispatching) return;
      // What else is asked for in this turn goes along.
      this.#dispatching = true;
      queueMicrotask(() => {
        this.#dispatching = false;
        this.#dispatch();
      });
    });
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      const thread = this.#freeThread();
      if (thread === undefined) return;
      const jobs = this.#nextJobs();
      this.#nextId += 1;
      if (thread.tasks.size === 0) thread.worker.ref();
      thread.tasks.set(this.#nextId, jobs);
      thread.worker.postMessage({ id: this.#nextId, pieces: jobs.map(({ piece }) => piece) } satisfies ScanTask);
    }
  }

  /** At least one; the others only so far that all threads get their share of what waits. */
  #nextJobs(): Job[] {
    const sizeMax = Math.min(SCAN_STEP_SIZE, this.#queuedSize / this.#threadsMax);
    const jobs: Job[] = [];
    let size = 0;
    for (let job = this.#queue.first; job !== undefined && jobs.length < PIECES_MAX; job = this.#queue.first) {
      if (jobs.length > 0 && size + job.piece.length > sizeMax) break;
      this.#queue.shift();
      size += job.piece.length;
      jobs.push(job);
    }
    this.#queuedSize -= size;
    return jobs;
  }

  /** The thread with the least work; a new one when all are busy and there may be more. */
  #freeThread(): Thread | undefined {
    let best: Thread | undefined;
    for (const thread of this.#threads) {
      if (best === undefined || thread.tasks.size < best.tasks.size) best = thread;
    }
    if (best !== undefined && best.tasks.size === 0) return best;
    if (this.#threads.length < this.#threadsMax) return this.#startThread();
    return best !== undefined && best.tasks.size < TASKS_PER_THREAD ? best : undefined;
  }

  #startThread(): Thread {
    // Flags of this process (test runners, debuggers) are not the thread's.
    const thread: Thread = { worker: new Worker(this.#workerUrl, { execArgv: [], name: 'scan' }), tasks: new Map() };
    this.#threads.push(thread);
    thread.worker.on('message', (message: ScanReply | typeof SLOW_DIGESTS) => {
      if (message === SLOW_DIGESTS) this.#toldSlow();
      else this.#answered(thread, message);
    });
    thread.worker.on('error', (error) => this.#died(thread, error));
    thread.worker.on('exit', (status) =>
      this.#died(thread, new Failure('scan-failed', `a scan thread ended (${status})`)),
    );
    return thread;
  }

  #toldSlow(): void {
    this.#slowDigests?.();
    this.#slowDigests = undefined;
  }

  #answered(thread: Thread, reply: ScanReply): void {
    const jobs = thread.tasks.get(reply.id);
    if (jobs === undefined) return;
    thread.tasks.delete(reply.id);
    if (thread.tasks.size === 0) thread.worker.unref();
    let first = 0;
    for (const [index, { piece, path, resolve, reject }] of jobs.entries()) {
      const error = reply.errors.get(index);
      if (error === undefined) resolve(reply.result, first);
      else {
        const cause = Object.assign(new Error(error.message), { code: error.code });
        reject(diskFailure(cause, `${path}: scan of ${piece.length} bytes at ${piece.offset}`));
      }
      first += unitsOf(piece);
    }
    this.#dispatch();
  }

  #died(thread: Thread, error: Error): void {
    const index = this.#threads.indexOf(thread);
    if (index < 0) return;
    this.#threads.splice(index, 1);
    for (const { path, reject } of [...thread.tasks.values()].flat()) {
      // The cause may be a bug in there; it fails the scan, which is tried again, and is told.
      reject(new Failure('scan-failed', `${path}: scan thread died: ${messageOf(error)}`, { cause: error }));
    }
    thread.tasks.clear();
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
