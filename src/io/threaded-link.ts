/**
 * The client of the link, in a thread of its own: what encrypts what a primary sends must not keep its clients waiting.
 *
 * There is one thread for all streams of the process, started with the first. It keeps the process alive only while there are
 * streams. When it dies or hangs, its streams are lost, and the next connection starts another. Rings are used again: the collector
 * does not see how large they are.
 */
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import type { LinkTls } from '../secure/tls.ts';
import { emptyByteRing, newByteRing } from './byte-ring.ts';
import { type FromThread, RING_CAPACITY, type ToldFailure } from './link-thread-messages.ts';
import type { Address, LinkStream } from './network.ts';
import { connectLink } from './node-link.ts';
import { ThreadedStream } from './threaded-stream.ts';
import { workerUrl } from './worker-url.ts';

/** A session, and the one that is to follow it. */
const RINGS_MAX = 2;
/** Beyond the time that a connection may take, how long the thread may take to say what came of it. */
const ANSWER_MS = 2000;
/** Of the stack of a bug, as much as fits into a message. */
const STACK_LINES = 4;

interface Connecting {
  readonly resolve: (stream: LinkStream) => void;
  readonly reject: (failure: Failure) => void;
  readonly timer: NodeJS.Timeout;
}

export class LinkThread {
  readonly #worker: Worker;
  readonly #died: () => void;
  readonly #streams = new Map<number, ThreadedStream>();
  readonly #connecting = new Map<number, Connecting>();
  /** Of streams that have gone. */
  readonly #rings: SharedArrayBuffer[] = [];
  #nextId = 0;
  #isLost = false;

  /** `died` is called once, when it serves no longer; `url` is that of the built link-thread.js. */
  constructor(died: () => void, url: URL = workerUrl('link-thread')) {
    this.#died = died;
    // Flags of this process (test runners, debuggers) are not the thread's.
    this.#worker = new Worker(url, { execArgv: [], name: 'link' });
    this.#worker.on('message', (message: FromThread) => this.#take(message));
    this.#worker.on('error', (error) => this.#lost(whereOf(error)));
    this.#worker.on('exit', (status) => this.#lost(`status ${status}`));
  }

  connect(address: Address, tls: LinkTls, timeoutMs: number): Promise<LinkStream> {
    const [key, another] = tls.keys;
    assert(key !== undefined && another === undefined, 'a primary has chosen one key');
    this.#nextId += 1;
    const id = this.#nextId;
    const ring = this.#rings.pop() ?? newByteRing(RING_CAPACITY);
    const stream = new ThreadedStream(id, ring, (message) => this.#worker.postMessage(message));
    if (this.#streams.size === 0) this.#worker.ref();
    this.#streams.set(id, stream);
    // A key may be a view of memory that holds other things.
    const own = { identity: key.identity, key: new Uint8Array(key.key) };
    this.#worker.postMessage({ type: 'connect', id, address, key: own, timeoutMs, ring });
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#stuck(id), timeoutMs + ANSWER_MS);
      this.#connecting.set(id, { resolve, reject, timer });
    });
  }

  /** The thread keeps its own time. It has hung, unless it was us: then its answer is there, and comes now. */
  #stuck(id: number): void {
    setImmediate(() => {
      if (!this.#connecting.has(id)) return;
      void this.#worker.terminate();
      this.#lost('it hung');
    });
  }

  #take(message: FromThread): void {
    // What it said before it died may come after the news.
    if (this.#isLost) return;
    const { id } = message;
    const stream = this.#streams.get(id);
    assert(stream !== undefined, 'the thread tells of streams that it was given');
    if (message.type === 'connected') {
      stream.connected(message.peerName, message.identity);
      this.#settled(id).resolve(stream);
      return;
    }
    if (message.type === 'failed') this.#settled(id).reject(failureOf(message.failure));
    else stream.take(message);
    if (message.type === 'failed' || message.type === 'closed') this.#forget(id, stream.ring);
  }

  #settled(id: number): Connecting {
    const connecting = this.#connecting.get(id);
    assert(connecting !== undefined, 'a connection is made once');
    this.#connecting.delete(id);
    clearTimeout(connecting.timer);
    return connecting;
  }

  /** Neither end uses the ring any more. */
  #forget(id: number, ring: SharedArrayBuffer): void {
    this.#streams.delete(id);
    if (this.#rings.length < RINGS_MAX) {
      emptyByteRing(ring);
      this.#rings.push(ring);
    }
    if (this.#streams.size === 0) this.#worker.unref();
  }

  #lost(detail: string): void {
    // An error is followed by the exit.
    if (this.#isLost) return;
    this.#isLost = true;
    this.#died();
    const failure: ToldFailure = { code: 'connection-lost', message: `the thread of the link ended: ${detail}` };
    for (const { reject, timer } of this.#connecting.values()) {
      clearTimeout(timer);
      reject(failureOf(failure));
    }
    for (const [id, stream] of this.#streams)
      if (!this.#connecting.has(id)) stream.take({ type: 'closed', id, failure });
    this.#connecting.clear();
    this.#streams.clear();
  }
}

let thread: LinkThread | undefined;

/** See Network.connectLink. */
export function connectLinkInThread(address: Address, tls: LinkTls, timeoutMs: number): Promise<LinkStream> {
  try {
    thread ??= new LinkThread(() => {
      thread = undefined;
    });
  } catch {
    // The system gives us no thread: the event loop can do it.
    return connectLink(address, tls, timeoutMs);
  }
  return thread.connect(address, tls, timeoutMs);
}

/** What went wrong and where: it is a bug, and nobody else will tell. */
function whereOf(error: Error): string {
  const lines = (error.stack ?? String(error)).split('\n', STACK_LINES);
  return lines.map((line) => line.trim()).join(' ');
}

function failureOf({ code, message }: ToldFailure): Failure {
  return new Failure(code, message);
}
