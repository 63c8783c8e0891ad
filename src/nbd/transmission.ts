/**
 * The transmission phase of one connection: requests in, replies out of order.
 *
 * What is kept: the requests in flight (only their number: each carries itself), what they cost, and those held back:
 * one that waits for room, while the socket is not read, and those of a client that has gone.
 *
 * | state | new requests | ends when |
 * | --- | --- | --- |
 * | `open` | are carried out | |
 * | `parting`: the client went behind a pause | are held back, replies too | its goodbye or its end has been read |
 * | `stopping`: the server is | are answered with ESHUTDOWN | nothing is in flight and all replies are sent |
 * | `leaving`: the client said DISC or sent its end | none come | nothing is held or in flight and all replies are sent |
 * | `gone`: the socket is | none come | nothing is held or in flight |
 *
 * A paused socket tells nothing of its other end, and what waited behind a pause may be old: the client may have given
 * up on it, connected anew, sent it again, and written newer data since. So once there was a pause, the kernel is asked
 * before anything begins whether the client is still there. If it is not, what had not begun is dropped, unless DISC is
 * found behind it: then the client wanted it done.
 *
 * Invariants:
 * - A request is handed to the volume in the order of its arrival or not at all. With the first-come order of the range
 *   lock this is what makes reconnecting safe: a request that the client sends again on a new connection takes effect
 *   after the first one, if that had been begun.
 * - Nothing of a client that has gone without DISC begins.
 * - `finished` is called once, when nothing is in flight and nothing can be any more.
 * - The cost of a request is given back when its reply has left, or the socket has gone.
 *
 * @see docs/decisions/0008-requests-of-clients-that-left.md
 */
import {
  Command,
  ErrorCode,
  ProtocolError,
  ReplyEncoder,
  type ReplyMode,
  type Request,
  RequestDecoder,
} from 'nbd-protocol';
import { assert } from '../base/assert.ts';
import { isFailure } from '../base/failure.ts';
import { payloadPool } from '../base/payload-pool.ts';
import type { ByteStream } from '../io/network.ts';
import { Arena } from './arena.ts';
import { Account, type Budget } from './budget.ts';
import { Commands } from './commands.ts';
import { DirectReceiver } from './direct-receiver.ts';
import { errorOf } from './errors.ts';
import type { Export } from './exports.ts';
import { HeldRequests } from './held-requests.ts';
import { type NbdLimits, PAYLOAD_MAX } from './limits.ts';
import type { SelectedContext } from './meta-contexts.ts';
import { Replies } from './replies.ts';
import { arrivingCostOf, costOf } from './request-cost.ts';

export interface TransmissionOptions {
  readonly stream: ByteStream;
  readonly export: Export;
  readonly mode: ReplyMode;
  readonly contexts: readonly SelectedContext[];
  readonly budget: Budget;
  /** For the requests of clients that have gone. */
  readonly partingBudget: Budget;
  readonly limits: NbdLimits;
  /** The client broke the protocol: cut it off. */
  readonly violated: (error: ProtocolError) => void;
  /** `isPayloadArriving` has become true. */
  readonly payloadArriving: () => void;
  /** `areRepliesWaiting` has become true. */
  readonly repliesWaiting: () => void;
  /** `isParting` has become true: what the client left will be read to its end, if that comes. */
  readonly parting: () => void;
  /** Everything is answered and sent: the stream can be ended. Not called when the stream went first. */
  readonly done: () => void;
  /** Nothing is in flight any more, and nothing will be. Called once, after `done` or after `closed`. */
  readonly finished: () => void;
}

export class Transmission {
  readonly #options: TransmissionOptions;
  readonly #stream: ByteStream;
  readonly #decoder: RequestDecoder;
  readonly #commands: Commands;
  readonly #replies: Replies;
  readonly #account: Account;
  readonly #held: HeldRequests;
  readonly #direct: DirectReceiver;
  #state: 'open' | 'parting' | 'stopping' | 'leaving' | 'gone' = 'open';
  #inFlightCount = 0;
  #droppedCount = 0;
  /** Bytes taken from the account for the request that comes next: it had to wait, or its payload is arriving. Or 0. */
  #reservedCost = 0;
  /** Size of the payload under way, set by the decoder when it allocates because it did not come in one piece. */
  #arrivingSize = 0;
  #isWaiting = false;
  #hasPaused = false;
  #isDone = false;
  #isFinished = false;

  constructor(options: TransmissionOptions) {
    this.#options = options;
    this.#stream = options.stream;
    const { budget, limits } = options;
    this.#account = new Account(budget, limits.connectionInFlight, (cost) => this.#granted(cost));
    this.#held = new HeldRequests(options.partingBudget);
    this.#replies = new Replies(options.stream, (cost) => this.#account.release(cost), options.repliesWaiting);
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
        return payloadPool.take(size);
      },
    });
    this.#direct = new DirectReceiver(this.#stream, this.#decoder);
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  /** Bytes taken from the account. */
  get inFlightSize(): number {
    return this.#account.used;
  }

  /** Requests that had arrived and were dropped undone, because the client went without a goodbye or was cut off. */
  get droppedCount(): number {
    return this.#droppedCount;
  }

  /** True in the middle of a payload: others may be waiting for the room that it takes. */
  get isPayloadArriving(): boolean {
    return this.#reservedCost > 0 && this.#arrivingSize > 0;
  }

  /** True while the client must read replies before more can be sent: others may be waiting for the room they take. */
  get areRepliesWaiting(): boolean {
    return this.#replies.isFull;
  }

  /** True while it is being found out how a client went. */
  get isParting(): boolean {
    return this.#state === 'parting';
  }

  /** Takes bytes from the client. */
  receive(chunk: Uint8Array): void {
    if (this.#state === 'leaving' || this.#state === 'gone') return;
    this.#decoder.push(chunk);
    if (this.#hasPaused) this.#checkPeer();
    if (this.#state === 'parting') this.#collect();
    else this.#direct.during(this.#pump);
    this.#replies.flush();
    this.#checkDone();
  }

  /** The socket takes more. */
  drained(): void {
    if (this.#isWaiting) this.#checkPeer();
    this.#replies.drained();
    this.#checkDone();
  }

  /** The client sent its end: what is in flight is finished and answered, if it still listens. */
  ended(): void {
    if (this.#state === 'open' && this.#isWaiting) this.#part();
    if (this.#state === 'parting') this.#collect();
    if (this.#state !== 'leaving' && this.#state !== 'gone') this.#leaveUndone();
  }

  /** The server is stopping. */
  stop(): void {
    if (this.#state === 'parting') this.#leaveUndone();
    if (this.#state !== 'open') return;
    this.#state = 'stopping';
    this.#checkDone();
  }

  /** The client is being cut off: nothing of it begins any more. */
  cut(): void {
    this.#drop();
    if (this.#state !== 'gone') this.#state = 'leaving';
    this.#checkDone();
  }

  /** The socket is gone, and with it all but these bytes that it held back because it was paused. */
  closed(unread?: Uint8Array): void {
    if (this.#state === 'open' && this.#isWaiting) this.#part();
    if (this.#state === 'parting') {
      if (unread !== undefined) this.#decoder.push(unread);
      this.#collect();
    }
    if (this.#state !== 'leaving') this.#drop();
    this.#state = 'gone';
    this.#replies.abandon();
    this.#checkDone();
  }

  /** Carries out what has arrived, until a request must wait for room. */
  readonly #pump = (): void => {
    while (!this.#isWaiting) {
      const request = this.#held.count > 0 ? this.#held.takeFirst() : this.#decode();
      if (request === undefined) {
        if (this.#arrivingSize > 0 && this.#reservedCost === 0) this.#takeForArriving();
        if (this.#isWaiting || !this.#direct.receive(this.#reservedCost > 0)) return;
        continue;
      }
      this.#direct.decoded(this.#arrivingSize);
      this.#arrivingSize = 0;
      if (request.command === Command.DISC) this.#leave();
      else if (this.#reservedCost > 0) this.#startReserved(request);
      else if (this.#account.take(costOf(request))) this.#start(request);
      else this.#wait(request);
    }
  };

  /** The next request that has arrived whole. */
  #decode(): Request | undefined {
    if (this.#state === 'leaving' || this.#state === 'gone') return undefined;
    try {
      return this.#decoder.next();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#options.violated(error);
      return undefined;
    }
  }

  #takeForArriving(): void {
    const cost = arrivingCostOf(this.#arrivingSize);
    if (!this.#account.take(cost)) {
      this.#wait(undefined);
      return;
    }
    this.#reservedCost = cost;
    this.#options.payloadArriving();
  }

  /** What was taken becomes the cost of the request; the rest goes back. */
  #startReserved(request: Request): void {
    const excess = this.#reservedCost - costOf(request);
    assert(excess >= 0, 'a payload took room for its whole request');
    this.#reservedCost = 0;
    this.#start(request);
    if (excess > 0) this.#account.release(excess);
  }

  #wait(request: Request | undefined): void {
    if (request !== undefined) this.#held.putFirst(request);
    this.#isWaiting = true;
    if (this.#state === 'leaving' || this.#state === 'gone') return;
    this.#hasPaused = true;
    this.#stream.pause();
  }

  #granted(cost: number): void {
    this.#isWaiting = false;
    this.#reservedCost = cost;
    this.#checkPeer();
    if (this.isPayloadArriving) this.#options.payloadArriving();
    if (this.#state !== 'parting') this.#pump();
    this.#replies.schedule();
    if (!this.#isWaiting) this.#stream.resume();
    this.#checkDone();
  }

  /** After a pause: has the client gone? Asked before anything begins, and before a reply makes the kernel drop what is unread. */
  #checkPeer(): void {
    if (this.#state !== 'open' || !this.#stream.peerGone()) return;
    this.#part();
    this.#collect();
    this.#stream.resume();
    if (this.isParting) this.#options.parting();
  }

  #part(): void {
    this.#state = 'parting';
    this.#isWaiting = false;
    this.#account.cancel();
    this.#replies.hold();
  }

  /** Holds back what the client has left, looking for its goodbye. */
  #collect(): void {
    while (this.#state === 'parting') {
      const request = this.#decode();
      if (request === undefined) return;
      this.#arrivingSize = 0;
      if (request.command === Command.DISC) this.#leave();
      else if (!this.#held.append(request)) {
        this.#droppedCount += 1;
        this.#leaveUndone();
      }
    }
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
    if (this.#isWaiting) this.#checkPeer();
    this.#replies.schedule();
    this.#checkDone();
  }

  #finish(request: Request): void {
    this.#inFlightCount -= 1;
    this.#replies.settle(costOf(request));
  }

  /** The client said goodbye: what it asked for before is carried out. */
  #leave(): void {
    this.#state = 'leaving';
    this.#replies.letGo();
    this.#pump();
    this.#checkDone();
  }

  /** The client went without a goodbye, or the server does not wait for one: what has not begun never will. */
  #leaveUndone(): void {
    this.#state = 'leaving';
    this.#drop();
    this.#replies.letGo();
    this.#checkDone();
  }

  #drop(): void {
    this.#droppedCount += this.#held.count;
    this.#held.clear();
    this.#arrivingSize = 0;
    this.#isWaiting = false;
    this.#account.cancel();
    const cost = this.#reservedCost;
    this.#reservedCost = 0;
    if (cost > 0) this.#account.release(cost);
  }

  #checkDone(): void {
    if (this.#state === 'open' || this.#state === 'parting') return;
    if (this.#inFlightCount > 0 || this.#held.count > 0 || this.#isWaiting) return;
    if (this.#state === 'gone') this.#checkFinished();
    else this.#checkSent();
  }

  #checkSent(): void {
    if (this.#isDone) return;
    this.#replies.flush();
    if (!this.#replies.isEmpty) return;
    this.#isDone = true;
    this.#state = 'leaving';
    this.#options.done();
  }

  #checkFinished(): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    this.#options.finished();
  }
}
