/**
 * A TCP proxy that is a long link: what goes in comes out `delayMs` later, in each direction, in order, as fast as it went
 * in. What is on its way is bounded as on a wire: a sender that has `inFlightMax` bytes there, or whose receiver does
 * not read, is not read from any more.
 *
 * An end of a direction is passed on, behind the bytes before it and as late; an error of either side ends both at once.
 * Nothing comes out early. Timers of Node are up to a millisecond late, twice for a round trip; so the last stretch of
 * the delay is slept through in naps, which hold up the event loop for a tenth of a millisecond each.
 */
import type net from 'node:net';
import { Fifo } from '../../dist/base/fifo.js';
import { TcpProxy } from './tcp-proxy.ts';

/** 64 MiB at a round trip of 20 ms are 6.7 GB/s: more than one machine sends itself. */
const IN_FLIGHT_MAX = 64 * 2 ** 20;

/** What timers may be late by. */
const TIMER_SLACK_MS = 1.5;
const NAP_MS = 0.1;
const bell = new Int32Array(new SharedArrayBuffer(4));

export interface DelayingLinkOptions {
  /** One way; without one everything is passed on at once. */
  readonly delayMs: number;
  /** Bytes of each direction of a connection. */
  readonly inFlightMax?: number;
}

/** Listens on a free port of 127.0.0.1. */
export function openDelayingLink(targetPort: number, options: DelayingLinkOptions): Promise<TcpProxy> {
  const whole = { inFlightMax: IN_FLIGHT_MAX, ...options };
  return TcpProxy.open(targetPort, (client, target) => {
    new Direction(client, target, whole);
    new Direction(target, client, whole);
  });
}

interface Parcel {
  readonly dueMs: number;
  /** Undefined is the end. */
  readonly chunk: Buffer | undefined;
}

/** Carries what `from` sends to `to`, until `from` ends or either is destroyed. */
class Direction {
  readonly #from: net.Socket;
  readonly #to: net.Socket;
  readonly #delayMs: number;
  readonly #inFlightMax: number;
  /** On their way. */
  readonly #parcels = new Fifo<Parcel>();
  #inFlight = 0;
  /** A timer or the other socket will call. */
  #waiting = false;

  constructor(from: net.Socket, to: net.Socket, { delayMs, inFlightMax }: Required<DelayingLinkOptions>) {
    this.#from = from;
    this.#to = to;
    this.#delayMs = delayMs;
    this.#inFlightMax = inFlightMax;
    from.on('data', (chunk: Buffer) => this.#take(chunk)).once('end', () => this.#take(undefined));
    from.resume(); // the server hands it over paused
  }

  #take(chunk: Buffer | undefined): void {
    this.#parcels.push({ dueMs: performance.now() + this.#delayMs, chunk });
    this.#inFlight += chunk?.length ?? 0;
    if (this.#inFlight >= this.#inFlightMax) this.#from.pause();
    if (!this.#waiting) this.#deliver();
  }

  /** Hands over what is due, and sees to it that it is called again for what is not. */
  #deliver(): void {
    this.#waiting = false;
    while (this.#parcels.first !== undefined && !this.#to.destroyed) {
      const { dueMs, chunk } = this.#parcels.first;
      const earlyMs = dueMs - performance.now();
      if (earlyMs > 0) {
        this.#wait((resume) => {
          if (earlyMs > TIMER_SLACK_MS) setTimeout(resume, earlyMs - TIMER_SLACK_MS);
          else {
            Atomics.wait(bell, 0, 0, Math.min(earlyMs, NAP_MS));
            setImmediate(resume);
          }
        });
        break;
      }
      this.#parcels.shift();
      if (chunk === undefined) {
        this.#to.end();
        break;
      }
      this.#inFlight -= chunk.length;
      if (!this.#to.write(chunk)) {
        this.#wait((resume) => this.#to.once('drain', resume));
        break;
      }
    }
    if (this.#inFlight < this.#inFlightMax && this.#from.isPaused()) this.#from.resume();
  }

  #wait(begin: (resume: () => void) => void): void {
    this.#waiting = true;
    begin(() => this.#deliver());
  }
}
