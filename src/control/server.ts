/**
 * The process's half of the control protocol.
 *
 * Per client: at most one request is being answered, REQUESTS_WAITING_MAX wait; one more, a line too long, or silence
 * for CLIENT_IDLE_MS ends the connection. A client that goes away does not stop what it asked for: a verification
 * runs to its end and its report goes nowhere.
 */
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Clock, Timer } from '../io/clock.ts';
import type { ByteStream, Listener, Network } from '../io/network.ts';
import { makeRuntimeDirectory, removeSocket } from '../io/runtime-directory.ts';
import { probe } from './client.ts';
import { LineSplitter } from './lines.ts';
import {
  ANSWER_BACKLOG_MAX,
  type Answer,
  CLIENT_IDLE_MS,
  CLIENTS_MAX,
  type Description,
  decodeRequest,
  encodeAnswer,
  failureAnswer,
  REQUEST_SIZE_MAX,
  REQUESTS_WAITING_MAX,
  type Request,
} from './protocol.ts';

/** What a process can be asked. All results are plain data, ready for JSON. */
export interface ControlHandler {
  describe(): Description;
  status(): object;
  verify(onProgress: (progress: object) => void): Promise<object>;
  /** Bytes per second; undefined: as fast as clients allow. */
  setRescanRate(bytesPerSecond: number | undefined): object;
  /** `image`: absolute path of an image that the process keeps. */
  recover(image: string, dryRun: boolean): Promise<object>;
}

export interface ControlServer {
  /** Path of the socket. */
  readonly path: string;
  /** Stops listening, disconnects every client, removes the socket. */
  close(): Promise<void>;
}

/** Listens in the runtime directory, which is made when missing. Failures: `runtime-directory`, those of `listen`. */
export async function startControlServer(
  network: Network,
  clock: Clock,
  log: Log,
  directory: string,
  handler: ControlHandler,
): Promise<ControlServer> {
  await makeRuntimeDirectory(directory);
  const { role, pid } = handler.describe();
  const path = await freePath(network, `${directory}/${role}-${pid}`);
  const clients = new Set<Client>();
  const listener: Listener = await network.listen({ kind: 'unix', path }, (stream) => {
    if (clients.size >= CLIENTS_MAX) {
      stream.receive({ data() {}, drain() {}, end() {}, close() {} });
      stream.destroy();
      return;
    }
    const client = new Client(stream, clock, log, handler, () => clients.delete(client));
    clients.add(client);
  });
  return {
    path,
    async close() {
      await listener.close();
      for (const client of clients) client.close();
      await removeSocket(path);
    },
  };
}

/** Process ids repeat, after a crash and across containers that share the folder: dead sockets go, live ones stay. */
async function freePath(network: Network, stem: string): Promise<string> {
  for (let attempt = 1; attempt <= PATH_ATTEMPTS_MAX; attempt += 1) {
    const path = attempt === 1 ? `${stem}.sock` : `${stem}-${attempt}.sock`;
    if ((await probe(network, path)) === 'dead') {
      await removeSocket(path);
      return path;
    }
  }
  throw new Failure('address-in-use', `${stem}.sock and its alternatives are in use`);
}

const PATH_ATTEMPTS_MAX = 16;

class Client {
  readonly #stream: ByteStream;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #handler: ControlHandler;
  readonly #waiting: string[] = [];
  #answering = false;
  #open = true;
  /** The client will ask nothing more; it may still read. */
  #ended = false;
  #idle: Timer | undefined;

  constructor(stream: ByteStream, clock: Clock, log: Log, handler: ControlHandler, onClose: () => void) {
    this.#stream = stream;
    this.#clock = clock;
    this.#log = log;
    this.#handler = handler;
    const lines = new LineSplitter(REQUEST_SIZE_MAX, (line) => this.#enqueue(line));
    stream.receive({
      data: (chunk) => {
        if (this.#open && !lines.push(chunk)) this.close();
      },
      drain() {},
      end: () => {
        this.#ended = true;
        if (!this.#answering) this.#stream.end();
      },
      close: () => {
        this.#open = false;
        this.#idle?.cancel();
        onClose();
      },
    });
    this.#expectRequest();
  }

  close(): void {
    this.#open = false;
    this.#stream.destroy();
  }

  #expectRequest(): void {
    this.#idle = this.#clock.after(CLIENT_IDLE_MS, () => this.close());
  }

  #enqueue(line: string): void {
    if (!this.#open) return;
    if (this.#waiting.length >= REQUESTS_WAITING_MAX) {
      this.close();
      return;
    }
    this.#waiting.push(line);
    if (!this.#answering) void this.#answerAll();
  }

  async #answerAll(): Promise<void> {
    this.#answering = true;
    this.#idle?.cancel();
    for (let line = this.#waiting.shift(); line !== undefined && this.#open; line = this.#waiting.shift()) {
      const answer = await this.#answer(line);
      if (this.#open) this.#stream.write([encodeAnswer(answer)]);
    }
    this.#answering = false;
    if (!this.#open) return;
    if (this.#ended) this.#stream.end();
    else this.#expectRequest();
  }

  async #answer(line: string): Promise<Answer> {
    try {
      return { kind: 'result', result: await this.#perform(decodeRequest(line)) };
    } catch (error) {
      // A broken invariant behind `status` must not be swallowed: it ends the process like any other.
      if (!isFailure(error)) queueMicrotask(() => rethrow(error));
      else this.#log.debug({ err: error }, 'control request failed');
      return failureAnswer(error);
    }
  }

  #perform(request: Request): object | Promise<object> {
    if (typeof request !== 'string') {
      if (request.command === 'recover') return this.#handler.recover(request.image, request.dryRun);
      return this.#handler.setRescanRate(request.bytesPerSecond ?? undefined);
    }
    switch (request) {
      case 'describe':
        return this.#handler.describe();
      case 'status':
        return this.#handler.status();
      case 'verify':
        return this.#handler.verify((progress) => {
          if (!this.#open || this.#stream.queuedSize > ANSWER_BACKLOG_MAX) return;
          this.#stream.write([encodeAnswer({ kind: 'progress', progress })]);
        });
    }
  }
}

function rethrow(error: unknown): never {
  throw error;
}
