/**
 * A channel: frames over an authenticated byte stream, with liveness. Both ends of a session use it.
 *
 * While a session opens, frames are taken one at a time (`take`); after `open` they go to the handlers as they arrive.
 *
 * Liveness: both ends send PING every `pingIntervalMs`; whatever arrives counts as life. Nothing for `timeoutMs` ends
 * the channel with `peer-timeout`. Time in which we ourselves did not read (back-pressure) or did not run (a stalled
 * process) does not count against the peer.
 *
 * The channel ends exactly once; `closed` is the last call. A Failure thrown by a handler ends it with that failure.
 */
import { assert } from '../base/assert.ts';
import { Failure, isFailure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import type { Clock, Timer } from '../io/clock.ts';
import type { LinkStream } from '../io/network.ts';
import { encodeFrame, type Frame, FrameDecoder, FrameType } from './frame.ts';
import { decodeRefused, encodeRefused } from './messages.ts';

export interface ChannelTiming {
  readonly pingIntervalMs: number;
  /** Not under 10 s outside of tests: a busy host must not look dead. */
  readonly timeoutMs: number;
}

export const DEFAULT_TIMING: ChannelTiming = { pingIntervalMs: 3_000, timeoutMs: 12_000 };

export interface ChannelHandlers {
  /** A frame; PING and PONG never come here. */
  frame(frame: Frame): void;
  /** All frames of one chunk were handled: the moment to answer them together. */
  batch?(): void;
  /** The stream takes more. */
  drain(): void;
  /** The end; undefined after the peer's GOODBYE or our own `close`. */
  closed(reason: Failure | undefined): void;
  /** What a PING tells: last sequence given out and bytes that wait to be sent. */
  pingValues?(): { sequence: number; length: number };
  /** The peer's PING. */
  pinged?(sequence: number, length: number): void;
}

export class Channel {
  readonly #stream: LinkStream;
  readonly #clock: Clock;
  readonly #timing: ChannelTiming;
  readonly #decoder = new FrameDecoder();
  #handlers: ChannelHandlers | undefined;
  /** Frames that arrived before `open`: at most what one peer sends unasked, so bounded by HANDSHAKE_FRAMES_MAX. */
  readonly #early: Frame[] = [];
  #taker: { resolve(frame: Frame): void; reject(reason: Failure): void } | undefined;
  #ended = false;
  #reason: Failure | undefined;
  #goodbye = false;
  #paused = false;
  #recordsSent = 0;
  #lastReceivedMs: number;
  #lastTickMs: number;
  #timer: Timer | undefined;
  #pongWaiters: (() => void)[] = [];

  constructor(stream: LinkStream, clock: Clock, timing: ChannelTiming = DEFAULT_TIMING) {
    this.#stream = stream;
    this.#clock = clock;
    this.#timing = timing;
    this.#lastReceivedMs = clock.nowMs();
    this.#lastTickMs = this.#lastReceivedMs;
    stream.receive({
      data: (chunk) => this.#received(chunk),
      drain: () => this.#handlers?.drain(),
      end: () => this.#finish(this.#endOfStream()),
      close: (reason) => {
        this.#finish(reason === undefined ? this.#endOfStream() : lost(reason));
        this.#timer?.cancel();
      },
    });
    this.#tickLater();
  }

  get peerName(): string {
    return this.#stream.peerName;
  }

  get identity(): string | undefined {
    return this.#stream.identity;
  }

  get bytesSent(): number {
    return this.#stream.bytesWritten;
  }

  /** TLS records sent with the present keys: at least one for each call of `send`. */
  get recordsSent(): number {
    return this.#recordsSent;
  }

  get bytesReceived(): number {
    return this.#stream.bytesRead;
  }

  /** Bytes accepted for sending that the kernel has not taken yet. */
  get queuedSize(): number {
    return this.#stream.queuedSize;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** The next frame of the opening. Failures: the channel's end, or `peer-timeout` after `timeoutMs`. */
  async take(timeoutMs: number): Promise<Frame> {
    assert(this.#handlers === undefined && this.#taker === undefined, 'frames are taken one at a time before open');
    const early = this.#early.shift();
    if (early !== undefined) return early;
    if (this.#ended) throw this.#reason ?? new Failure('connection-lost', 'the peer closed the connection');
    const timer = this.#clock.after(timeoutMs, () =>
      this.destroy(new Failure('peer-timeout', 'the peer does not answer')),
    );
    try {
      return await new Promise<Frame>((resolve, reject) => {
        this.#taker = { resolve, reject };
      });
    } finally {
      this.#taker = undefined;
      timer.cancel();
    }
  }

  /** From now on frames go to the handlers; frames with blocks are accepted. */
  open(handlers: ChannelHandlers): void {
    assert(this.#handlers === undefined, 'a channel is opened once');
    this.#handlers = handlers;
    this.#decoder.admitData();
    if (this.#ended) {
      handlers.closed(this.#reason);
      return;
    }
    this.#guard(() => {
      for (const frame of this.#early.splice(0)) {
        this.#dispatch(frame);
        if (this.#ended) return;
      }
      handlers.batch?.();
    });
  }

  /** Sends frames as one socket write; false when the caller should wait for `drain`. Ignored after the end. */
  send(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    if (this.#ended) return false;
    const before = this.#stream.bytesWritten;
    const takesMore = this.#stream.write(chunks, sent);
    this.#recordsSent += Math.ceil((this.#stream.bytesWritten - before) / RECORD_SIZE_MAX);
    return takesMore;
  }

  /** Stops reading until `resumeReading`: back-pressure on the peer. */
  pauseReading(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#stream.pause();
  }

  resumeReading(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#lastReceivedMs = this.#clock.nowMs();
    this.#stream.resume();
  }

  /** True when the peer shows life within `withinMs`. */
  async answersPing(withinMs: number): Promise<boolean> {
    if (this.#ended) return false;
    // We do not read at present: that the peer is silent proves nothing.
    if (this.#paused) return true;
    return new Promise((resolve) => {
      const timer = this.#clock.after(withinMs, () => resolve(false));
      this.#pongWaiters.push(() => {
        timer.cancel();
        resolve(!this.#ended);
      });
      this.send([encodeFrame(FrameType.PING)]);
    });
  }

  /** Tells the peer why, then ends. */
  refuse(failure: Failure): void {
    this.send([encodeRefused(failure.code, failure.message)]);
    this.#stream.end();
    this.#finish(failure);
  }

  /** Ends cleanly after what was sent has gone out. */
  close(): void {
    this.send([encodeFrame(FrameType.GOODBYE)]);
    this.#stream.end();
    this.#finish(undefined);
  }

  /** Ends at once. */
  destroy(reason: Failure): void {
    this.#stream.destroy();
    this.#finish(reason);
  }

  #received(chunk: Buffer): void {
    if (this.#ended) return;
    this.#lastReceivedMs = this.#clock.nowMs();
    this.#wakePongWaiters();
    this.#decoder.push(chunk);
    this.#guard(() => {
      for (let frame = this.#decoder.next(); frame !== undefined; frame = this.#decoder.next()) {
        this.#dispatch(frame);
        if (this.#ended) return;
      }
      this.#handlers?.batch?.();
    });
    if (this.#stream.queuedSize > UNREAD_SIZE_MAX) {
      this.destroy(new Failure('frame-invalid', `${this.peerName} asks and does not read the answers`));
    }
  }

  #dispatch(frame: Frame): void {
    if (frame.type === FrameType.PING) {
      this.send([encodeFrame(FrameType.PONG)]);
      this.#handlers?.pinged?.(frame.sequence, frame.length);
    } else if (frame.type === FrameType.PONG) {
      // Any bytes are life; nothing more to do.
    } else if (frame.type === FrameType.GOODBYE) {
      this.#goodbye = true;
    } else if (frame.type === FrameType.REFUSED && this.#handlers !== undefined) {
      this.destroy(decodeRefused(frame));
    } else if (this.#handlers !== undefined) {
      this.#handlers.frame(frame);
    } else if (this.#taker !== undefined) {
      const taker = this.#taker;
      this.#taker = undefined;
      taker.resolve(frame);
    } else {
      if (this.#early.length >= HANDSHAKE_FRAMES_MAX)
        throw new Failure('frame-invalid', 'too many frames before the session is open');
      this.#early.push(frame);
    }
  }

  /** Runs a handler; a Failure ends the channel, a bug ends the process. */
  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      if (!isFailure(error)) throw error;
      this.refuse(error);
    }
  }

  #endOfStream(): Failure | undefined {
    // It may have said why, and ended, before anybody took the frame.
    const refused = this.#early.find((frame) => frame.type === FrameType.REFUSED);
    if (refused !== undefined) return decodeRefused(refused);
    if (this.#goodbye && this.#decoder.atBoundary) return undefined;
    if (!this.#decoder.atBoundary)
      return new Failure('connection-lost', 'the connection ended in the middle of a frame');
    return new Failure('connection-lost', 'the peer closed the connection');
  }

  #finish(reason: Failure | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#reason = reason;
    this.#timer?.cancel();
    this.#wakePongWaiters();
    // Nothing more is read; what was sent may go out. A peer that never ends its direction does not keep the socket.
    if (reason === undefined) this.#stream.end();
    const lingerMs = reason === undefined ? this.#timing.timeoutMs : LINGER_MS;
    this.#timer = this.#clock.after(lingerMs, () => this.#stream.destroy());
    this.#taker?.reject(reason ?? new Failure('connection-lost', 'the peer closed the connection'));
    this.#handlers?.closed(reason);
  }

  #wakePongWaiters(): void {
    if (this.#pongWaiters.length === 0) return;
    for (const wake of this.#pongWaiters.splice(0)) wake();
  }

  #tickLater(): void {
    this.#timer = this.#clock.after(this.#timing.pingIntervalMs, () => this.#tick());
  }

  #tick(): void {
    const nowMs = this.#clock.nowMs();
    const stalled = nowMs - this.#lastTickMs > 2 * this.#timing.pingIntervalMs;
    this.#lastTickMs = nowMs;
    if (stalled || this.#paused) this.#lastReceivedMs = nowMs;
    if (nowMs - this.#lastReceivedMs > this.#timing.timeoutMs) {
      this.destroy(
        new Failure(
          'peer-timeout',
          `nothing heard from ${this.peerName} for ${Math.round((nowMs - this.#lastReceivedMs) / 1000)} s`,
        ),
      );
      return;
    }
    const values = this.#handlers?.pingValues?.();
    this.send([encodePing(values?.sequence ?? 0, values?.length ?? 0)]);
    this.#tickLater();
  }
}

/** Frames that a peer may send before we take them. Data comes only after the mirror's first ACK. */
const HANDSHAKE_FRAMES_MAX = 16;

/** Bytes that may wait for a peer that goes on asking. Beyond the largest write and what is asked for at a time. */
const UNREAD_SIZE_MAX = 64 * MIB;

/** Bytes of the largest TLS record. */
const RECORD_SIZE_MAX = 16 * 1024;

/** How long a refusal may take to reach the peer before the connection is cut. */
const LINGER_MS = 1_000;

/** PING: sequence is the last one given out, length the bytes of operations that the sender has not sent yet. */
function encodePing(sequence: number, length: number): Buffer {
  return encodeFrame(FrameType.PING, { sequence, length });
}

function lost(reason: Error): Failure {
  return isFailure(reason)
    ? reason
    : new Failure('connection-lost', `the connection was lost: ${reason.message}`, { cause: reason });
}
