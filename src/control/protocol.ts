/**
 * The control protocol: how `nbdtwin status`, `verify`, `rescan-rate` and `recover` talk to a running process.
 *
 * A unix socket `<role>-<pid>.sock` in the runtime directory (src/io/runtime-directory.ts), which its owner alone can
 * enter; there is no further authentication. Lines of JSON in UTF-8, each ended by a newline. The client sends one
 * request per line; the process answers each with any number of `progress` lines and then exactly one `result` or
 * `failure` line, in the order of the requests. Either side may close at any time.
 *
 * | request                             | progress         | result                                      |
 * | ----------------------------------- | ---------------- | ------------------------------------------- |
 * | {"protocol":1,"command":"describe"} | none             | Description: who this is and what it serves |
 * | {"protocol":1,"command":"status"}   | none             | status of the role                          |
 * | {"protocol":1,"command":"verify"}   | RescanProgress   | VerifyReport; primaries only                |
 * | {"protocol":1,"command":"rescan-rate","bytesPerSecond":n} | none | {}; primaries only; null: as fast as clients allow |
 * | {"protocol":1,"command":"recover","image":"/path","dryRun":false} | none | RecoverReport; mirrors only |
 *
 * | answer                                            | meaning                                  |
 * | ------------------------------------------------- | ---------------------------------------- |
 * | {"kind":"progress","progress":{...}}              | how far it is; some may be left out      |
 * | {"kind":"result","result":{...}}                  | done                                     |
 * | {"kind":"failure","code":"...","message":"..."}   | a code of src/base/failure.ts, or `bug`  |
 *
 * Another protocol number is answered with the failure `peer-version`, an unknown command with `usage`.
 */
import { Failure, isFailure, isFailureCode, messageOf } from '../base/failure.ts';

const PROTOCOL = 1;

/** Bytes of one request. */
export const REQUEST_SIZE_MAX = 64 * 1024;
/** Bytes of one answer: a report of 10,000 ranges has room. */
export const ANSWER_SIZE_MAX = 8 * 1024 * 1024;
/** Clients of one process at a time. */
export const CLIENTS_MAX = 32;
/** Requests of one client that wait while one is answered. */
export const REQUESTS_WAITING_MAX = 16;
/** Progress is left out while this many bytes wait for a client that does not read. */
export const ANSWER_BACKLOG_MAX = 64 * 1024;
/** A client that asks nothing for so long is disconnected. */
export const CLIENT_IDLE_MS = 60_000;

export const COMMANDS = ['describe', 'status', 'verify'] as const;
type Command = (typeof COMMANDS)[number];

/** Who a process is, and the names under which `status TARGET` finds it. */
export interface Description {
  readonly role: 'primary' | 'mirror';
  readonly pid: number;
  readonly version: string;
  /** Absolute paths of its disk, directory and images, and names of its exports. */
  readonly targets: readonly string[];
}

export type Answer =
  | { readonly kind: 'progress'; readonly progress: object }
  | { readonly kind: 'result'; readonly result: object }
  | { readonly kind: 'failure'; readonly code: string; readonly message: string };

/** To recover an image that a running mirror keeps. */
interface RecoverRequest {
  readonly command: 'recover';
  /** Absolute path. */
  readonly image: string;
  readonly dryRun: boolean;
}

/** To change how fast a rescan may read. */
interface RescanRateRequest {
  readonly command: 'rescan-rate';
  /** Null: as fast as clients allow. */
  readonly bytesPerSecond: number | null;
}

export type Request = Command | RecoverRequest | RescanRateRequest;

export function encodeRequest(request: Request): Buffer {
  return encodeLine({ protocol: PROTOCOL, ...(typeof request === 'string' ? { command: request } : request) });
}

/** Failures: `usage` for what is not a request, `peer-version` for one of another release's protocol. */
export function decodeRequest(line: string): Request {
  const request = parseObject(line);
  if (request === undefined) throw new Failure('usage', 'a request is one line with a JSON object');
  if (request['protocol'] !== PROTOCOL) {
    throw new Failure('peer-version', `this process speaks control protocol ${PROTOCOL}`);
  }
  const bytesPerSecond = request['bytesPerSecond'];
  if (request['command'] === 'rescan-rate' && (bytesPerSecond === null || isRate(bytesPerSecond))) {
    return { command: 'rescan-rate', bytesPerSecond };
  }
  const image = request['image'];
  const dryRun = request['dryRun'];
  if (request['command'] === 'recover' && typeof image === 'string' && typeof dryRun === 'boolean') {
    return { command: 'recover', image, dryRun };
  }
  const command = COMMANDS.find((name) => name === request['command']);
  if (command === undefined)
    throw new Failure('usage', `the commands are ${COMMANDS.join(', ')}, rescan-rate and recover`);
  return command;
}

function isRate(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0;
}

export function encodeAnswer(answer: Answer): Buffer {
  return encodeLine(answer);
}

/** What a request that failed is answered. Anything but a Failure is a bug of the process, and is told as one. */
export function failureAnswer(error: unknown): Answer {
  return { kind: 'failure', code: isFailure(error) ? error.code : 'bug', message: messageOf(error) };
}

/** Undefined for what is not an answer: the other end is not an nbdtwin. */
export function decodeAnswer(line: string): Answer | undefined {
  const answer = parseObject(line);
  if (answer === undefined) return undefined;
  const { kind, progress, result, code, message } = answer;
  if (kind === 'progress' && isObject(progress)) return { kind, progress };
  if (kind === 'result' && isObject(result)) return { kind, result };
  if (kind === 'failure' && typeof code === 'string' && typeof message === 'string') return { kind, code, message };
  return undefined;
}

/** The Failure that a `failure` answer stands for. */
export function answeredFailure(code: string, message: string): Error {
  return isFailureCode(code) ? new Failure(code, message) : new Error(`the process reports a bug: ${message}`);
}

function encodeLine(value: object): Buffer {
  return Buffer.from(`${JSON.stringify(value)}\n`, 'utf8');
}

function parseObject(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
