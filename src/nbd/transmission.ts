/**
 * The transmission phase of one connection: requests in, replies out of order.
 *
 * What is kept: the requests in flight (only their number: each carries itself), what they cost, and one request at
 * most that waits for room (`stalled`); while it waits the socket is not read.
 *
 * | state | new requests | ends when |
 * | --- | --- | --- |
 * | `open` | are carried out | |
 * | `stopping`: the server is | are answered with ESHUTDOWN | nothing is in flight and all replies are sent |
 * | `leaving`: the client said DISC or sent its end | none come | nothing is in flight and all replies are sent |
 * | `gone`: the socket is | are dropped undone | nothing is in flight |
 *
 * Invariants:
 * - A request is handed to the volume in the order of its arrival or not at all. With the first-come order of the range
 *   lock this is what makes reconnecting safe: a request that the client sends again on a new connection takes effect
 *   after the first one, if that had been begun.
 * - `finished` is called once, when nothing is in flight and nothing can be any more.
 * - The cost of a request is given back when its reply has left, or the socket has gone.
 */
import { Command, ErrorCode, ReplyEncoder, type ReplyMode, type Request, RequestDecoder } from 'nbd-protocol';
import { assert } from '../base/assert.ts';
import { isFailure } from '../base/failure.ts';
import type { ByteStream } from '../io/network.ts';
import { Arena } from './arena.ts';
import { Account, type Budget } from './budget.ts';
import { Commands } from './commands.ts';
import { errorOf } from './errors.ts';
import type { Export } from './exports.ts';
import { BLOCK_STATUS_COST, type NbdLimits, PAYLOAD_MAX, REQUEST_COST } from './limits.ts';
import type { SelectedContext } from './meta-contexts.ts';
import { Replies } from './replies.ts';

export interface TransmissionOptions {
  readonly stream: ByteStream;
  readonly export: Export;
  readonly mode: ReplyMode;
  readonly contexts: readonly SelectedContext[];
  readonly budget: Budget;
  readonly limits: NbdLimits;
  /** Everything is answered and sent: the stream can be ended. Not called when the stream went first. */
  readonly done: () => void;
  /** Nothing is in flight any more, and nothing will be. Called once, after `done` or after `closed`. */
  readonly finished: () => void;
}

export class Transmission {
  readonly #stream: ByteStream;
  readonly #decoder: RequestDecoder;
  readonly #commands: Commands;
  readonly #replies: Replies;
  readonly #account: Account;
  readonly #done: () => void;
  readonly #finished: () => void;
  #state: 'open' | 'stopping' | 'leaving' | 'gone' = 'open';
  #inFlightCount = 0;
  #stalled: Request | undefined;
  /** Bytes taken from the account for the payload that is arriving, 0 when none is. */
  #arrivingCost = 0;
  /** Size of that payload, set by the decoder when it allocates because it did not come in one piece. */
  #arrivingSize = 0;
  #isWaiting = false;
  #isDone = false;
  #isFinished = false;

  constructor(options: TransmissionOptions) {
    this.#stream = options.stream;
    this.#done = options.done;
    this.#finished = options.finished;
    this.#account = new Account(options.budget, options.limits.connectionInFlight, () => this.#granted());
    this.#replies = new Replies(options.stream, (cost) => this.#account.release(cost));
    const arena = new Arena();
    this.#commands = new Commands({
      volume: options.export.volume,
      encoder: new ReplyEncoder({ mode: options.mode, allocate: (size) => arena.take(size) }),
      contexts: options.contexts,
      arena,
      replies: this.#replies,
    });
    this.#decoder = new RequestDecoder({
      extended: options.mode === 'extended',
      payloadMax: PAYLOAD_MAX,
      allocate: (size) => {
        this.#arrivingSize = size;
        return Buffer.allocUnsafeSlow(size);
      },
    });
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  /** Bytes taken from the account. */
  get inFlightSize(): number {
    return this.#account.used;
  }

  /** True in the middle of a payload: others may be waiting for the room that it takes. */
  get isPayloadArriving(): boolean {
    return this.#arrivingCost > 0;
  }

  /**
   * Takes bytes from the client.
   *
   * @throws ProtocolError when the client breaks the protocol: destroy the stream
   */
  receive(chunk: Uint8Array): void {
    if (this.#state === 'leaving' || this.#state === 'gone') return;
    this.#decoder.push(chunk);
    this.#pump();
    this.#replies.flush();
    this.#checkDone();
  }

  /** The socket takes more. */
  drained(): void {
    this.#replies.drained();
    this.#checkDone();
  }

  /** The client sent its end without DISC: what is in flight is finished and answered, if it still listens. */
  ended(): void {
    if (this.#state === 'open' || this.#state === 'stopping') this.#leave();
  }

  /** The server is stopping. */
  stop(): void {
    if (this.#state !== 'open') return;
    this.#state = 'stopping';
    this.#checkDone();
  }

  /** The socket is gone. */
  closed(): void {
    this.#state = 'gone';
    this.#stalled = undefined;
    this.#account.cancel();
    this.#releaseArriving();
    this.#replies.abandon();
    this.#checkDone();
  }

  /** Carries out what has arrived, until a request must wait for room. */
  #pump(): void {
    while (!this.#isWaiting && (this.#state === 'open' || this.#state === 'stopping')) {
      const request = this.#decoder.next();
      if (request === undefined) {
        if (this.#arrivingSize > 0 && this.#arrivingCost === 0) this.#takeForArriving();
        return;
      }
      this.#arrivingSize = 0;
      if (request.command === Command.DISC) this.#leave();
      else if (this.#arrivingCost > 0) this.#startArrived(request);
      else if (this.#account.take(costOf(request))) this.#start(request);
      else this.#wait(request);
    }
  }

  #takeForArriving(): void {
    const cost = arrivingCostOf(this.#arrivingSize);
    if (this.#account.take(cost)) this.#arrivingCost = cost;
    else this.#wait(undefined);
  }

  /** What the payload took becomes the cost of its request; the rest goes back. */
  #startArrived(request: Request): void {
    const excess = this.#arrivingCost - costOf(request);
    assert(excess >= 0, 'a payload took room for its whole request');
    this.#arrivingCost = 0;
    this.#start(request);
    if (excess > 0) this.#account.release(excess);
  }

  /** The payload under way will never arrive. */
  #releaseArriving(): void {
    const cost = this.#arrivingCost;
    this.#arrivingCost = 0;
    if (cost > 0) this.#account.release(cost);
  }

  #wait(request: Request | undefined): void {
    this.#stalled = request;
    this.#isWaiting = true;
    this.#stream.pause();
  }

  #granted(): void {
    const request = this.#stalled;
    this.#stalled = undefined;
    this.#isWaiting = false;
    if (request === undefined) this.#arrivingCost = arrivingCostOf(this.#arrivingSize);
    else this.#start(request);
    this.#pump();
    this.#replies.schedule();
    if (!this.#isWaiting) this.#stream.resume();
    this.#checkDone();
  }

  #start(request: Request): void {
    this.#inFlightCount += 1;
    const pending = this.#state === 'stopping' ? this.#refuse(request) : this.#run(request);
    if (pending === undefined) this.#finish(request);
    else
      void pending.then(
        () => this.#finishLater(request),
        (error: unknown) => this.#failLater(request, error),
      );
  }

  #run(request: Request): void | Promise<void> {
    try {
      return this.#commands.run(request);
    } catch (error) {
      this.#fail(request, error);
    }
  }

  #refuse(request: Request): void {
    this.#commands.fail(request, ErrorCode.ESHUTDOWN, 'the server is stopping');
  }

  /** Anything but a Failure is a bug and ends the process. */
  #fail(request: Request, error: unknown): void {
    if (!isFailure(error)) throw error;
    this.#commands.fail(request, errorOf(error, request), error.message);
  }

  #failLater(request: Request, error: unknown): void {
    this.#fail(request, error);
    this.#finishLater(request);
  }

  #finishLater(request: Request): void {
    this.#finish(request);
    this.#replies.schedule();
    this.#checkDone();
  }

  #finish(request: Request): void {
    this.#inFlightCount -= 1;
    this.#replies.settle(costOf(request));
  }

  #leave(): void {
    this.#state = 'leaving';
    this.#stalled = undefined;
    this.#account.cancel();
    this.#releaseArriving();
    this.#checkDone();
  }

  #checkDone(): void {
    if (this.#state === 'open' || this.#inFlightCount > 0) return;
    if (this.#state === 'gone') this.#checkFinished();
    else this.#checkSent();
  }

  #checkSent(): void {
    if (this.#isDone || this.#isWaiting) return;
    this.#replies.flush();
    if (!this.#replies.isEmpty) return;
    this.#isDone = true;
    this.#state = 'leaving';
    this.#done();
  }

  #checkFinished(): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    this.#finished();
  }
}

/** Bytes that a request occupies from its arrival until its reply has left. */
function costOf(request: Request): number {
  if (request.fault !== undefined) return REQUEST_COST;
  switch (request.command) {
    case Command.READ:
      return REQUEST_COST + Math.min(request.length, PAYLOAD_MAX);
    case Command.WRITE:
      return REQUEST_COST + request.length;
    case Command.BLOCK_STATUS:
      return BLOCK_STATUS_COST;
    default:
      return REQUEST_COST;
  }
}

/** For a payload of which only the size is known yet: enough for any request that can have it. */
function arrivingCostOf(size: number): number {
  return Math.max(REQUEST_COST + size, BLOCK_STATUS_COST);
}
