/** The command line's half of the control protocol: finds running processes and asks them. */
import { errnoOf, Failure, isFailure } from '../base/failure.ts';
import type { Clock, Timer } from '../io/clock.ts';
import type { Network } from '../io/network.ts';
import { realPath } from '../io/real-path.ts';
import { listSockets, removeSocket } from '../io/runtime-directory.ts';
import { LineSplitter } from './lines.ts';
import {
  ANSWER_SIZE_MAX,
  answeredFailure,
  type Description,
  decodeAnswer,
  encodeRequest,
  type Request,
} from './protocol.ts';

const CONNECT_TIMEOUT_MS = 5_000;
const ANSWER_TIMEOUT_MS = 10_000;
/** Somebody waits for the answer to a question which needs no work: who takes longer is stuck. */
export const PROMPT_ANSWER_MS = 2_000;

/** A running process that answered. */
export interface FoundProcess {
  readonly path: string;
  readonly description: Description;
}

/** A process that holds its socket and does not answer: stopped, stuck, or of another release. */
export interface SilentProcess {
  readonly role: 'primary' | 'mirror';
  readonly pid: number;
  readonly problem: Failure;
}

export interface Processes {
  readonly answering: readonly FoundProcess[];
  readonly silent: readonly SilentProcess[];
}

/**
 * Every running process of this user, in the order of its sockets; sockets that nobody listens on are removed. All are
 * asked at once. Failures: `runtime-directory`.
 */
export async function findProcesses(network: Network, clock: Clock, directory: string): Promise<Processes> {
  const paths = await listSockets(directory);
  const found = await Promise.all(paths.map((path) => describe(network, clock, path)));
  return {
    answering: found.filter((process) => process !== undefined && 'path' in process),
    silent: found.filter((process) => process !== undefined && 'problem' in process),
  };
}

/** What the name of a socket says about its process; undefined for a socket of something else. */
export function silentProcess(path: string, error: Failure): SilentProcess | undefined {
  const match = SOCKET_NAME.exec(path);
  if (match === null) return undefined;
  const [role, pid] = [match[1] as SilentProcess['role'], Number(match[2])];
  const problem =
    error.code === 'peer-timeout'
      ? new Failure('not-answering', `${role}, pid ${pid}, does not answer`, { cause: error })
      : error;
  return { role, pid, problem };
}

const SOCKET_NAME = /\/(primary|mirror)-(\d+)(?:-\d+)?\.sock$/;

/** Those that serve `target`: a disk, a mirror directory, an image, or the name of an export. */
export async function findTarget(processes: readonly FoundProcess[], target: string): Promise<FoundProcess[]> {
  const resolved = (await realPath(target)) ?? target;
  return processes.filter(({ description }) =>
    description.targets.some((name) => name === target || name === resolved),
  );
}

/** `dead`: nobody listens there, or there is nothing. */
export async function probe(network: Network, path: string): Promise<'alive' | 'dead'> {
  try {
    const stream = await network.connect({ kind: 'unix', path }, CONNECT_TIMEOUT_MS);
    stream.receive({ data() {}, drain() {}, end() {}, close() {} });
    stream.destroy();
    return 'alive';
  } catch (error) {
    if (isDead(error)) return 'dead';
    throw error;
  }
}

/**
 * Sends one request and resolves with its result. `timeoutMs` limits the silence between answers; undefined: for as
 * long as it takes. Failures: those of the request, `peer-unreachable`, `peer-timeout`, `connection-lost`,
 * `peer-foreign`.
 */
export async function ask(
  network: Network,
  clock: Clock,
  path: string,
  request: Request,
  onProgress: (progress: object) => void = () => {},
  timeoutMs: number | undefined = ANSWER_TIMEOUT_MS,
): Promise<object> {
  const stream = await network.connect({ kind: 'unix', path }, CONNECT_TIMEOUT_MS);
  let timer: Timer | undefined;
  const answered = new Promise<object>((resolve, reject) => {
    const expectAnswer = (): void => {
      timer?.cancel();
      if (timeoutMs === undefined) return;
      timer = clock.after(timeoutMs, () => reject(new Failure('peer-timeout', `no answer from ${path}`)));
    };
    expectAnswer();
    const lines = new LineSplitter(ANSWER_SIZE_MAX, (line) => {
      const answer = decodeAnswer(line);
      if (answer === undefined) reject(new Failure('peer-foreign', `${path} does not speak the control protocol`));
      else if (answer.kind === 'progress') onProgress(answer.progress);
      else if (answer.kind === 'result') resolve(answer.result);
      else reject(answeredFailure(answer.code, answer.message));
      expectAnswer();
    });
    stream.receive({
      data(chunk) {
        if (!lines.push(chunk)) reject(new Failure('overflow', `the answer of ${path} is too long`));
      },
      drain() {},
      // A process that stops ends its side first; we have nothing more to say either.
      end() {
        stream.end();
      },
      close(reason) {
        reject(new Failure('connection-lost', `${path} closed the connection`, { cause: reason }));
      },
    });
  });
  stream.write([encodeRequest(request)]);
  try {
    return await answered;
  } finally {
    timer?.cancel();
    stream.destroy();
  }
}

async function describe(
  network: Network,
  clock: Clock,
  path: string,
): Promise<FoundProcess | SilentProcess | undefined> {
  try {
    return {
      path,
      description: (await ask(network, clock, path, 'describe', undefined, PROMPT_ANSWER_MS)) as Description,
    };
  } catch (error) {
    if (isDead(error)) await removeSocket(path);
    else if (!isFailure(error)) throw error;
    // One that stops at this moment is left out.
    else if (error.code !== 'connection-lost') return silentProcess(path, error);
    return undefined;
  }
}

/** Nobody listens: not to be confused with a listener that is busy or not ours to talk to. */
function isDead(error: unknown): boolean {
  const errno = isFailure(error) ? errnoOf(error.cause) : undefined;
  return errno === 'ECONNREFUSED' || errno === 'ENOENT';
}
