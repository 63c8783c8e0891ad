/**
 * A client that writes at a steady rate, whatever the server does: stamped blocks, in writes of 4 KiB to 64 KiB at random
 * places of a hot set, with a flush every second as a file system has it.
 *
 * Each write is due at a moment that only the rate decides. A server that is slow for a while finds them waiting; how late
 * a write was answered is counted from when it was due, so that a stall shows in full.
 */
import type { NbdClient } from '../../dist/nbd/client.js';
import { Chance } from './chance.ts';
import { BLOCK_SIZE, stampBlocks } from './stamped-blocks.ts';
import type { WriteHistory } from './write-history.ts';

const BLOCKS_PER_WRITE_MAX = 16;
const IN_FLIGHT_MAX = 64;
const TICK_MS = 2;
const FLUSH_INTERVAL_MS = 1000;

export interface PacedLoad {
  /** Bytes per second. */
  readonly rate: number;
  /** The hot set: the first blocks of the disk. */
  readonly blockCount: number;
  readonly seed: number;
}

/** Milliseconds from when a write was due until it was answered. */
export interface Lateness {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

export class PacedWriter {
  readonly history: WriteHistory;
  readonly #client: NbdClient;
  readonly #load: PacedLoad;
  readonly #chance: Chance;
  /** 1 for each block that a write under way touches. */
  readonly #busy: Uint8Array;
  readonly #lateness: number[] = [];
  #inFlight = 0;
  #startMs = 0;
  #stopMs = 0;
  #dueMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #flushTimer: NodeJS.Timeout | undefined;
  #flushing = false;
  #failure: unknown;
  #idle: (() => void) | undefined;

  constructor(client: NbdClient, load: PacedLoad, history: WriteHistory) {
    this.#client = client;
    this.#load = load;
    this.history = history;
    this.#chance = new Chance(load.seed);
    this.#busy = new Uint8Array(load.blockCount);
  }

  start(): void {
    this.#startMs = performance.now();
    this.#dueMs = this.#startMs;
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#flushTimer = setInterval(() => this.#flush(), FLUSH_INTERVAL_MS);
  }

  /** Throws what a write or flush failed with, if one did. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Sends nothing more; resolves when all is answered. Rejects when a request has failed. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    clearInterval(this.#flushTimer);
    this.#stopMs = performance.now();
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    }
    this.check();
  }

  /** Of a load that has stopped: bytes answered over bytes asked for. */
  get achieved(): number {
    return this.history.answeredSize / ((this.#load.rate * (this.#stopMs - this.#startMs)) / 1000);
  }

  get lateness(): Lateness {
    const sorted = this.#lateness.toSorted((a, b) => a - b);
    const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
    return { p50: at(0.5), p99: at(0.99), max: at(1) };
  }

  #tick(): void {
    const nowMs = performance.now();
    while (this.#dueMs <= nowMs && this.#inFlight < IN_FLIGHT_MAX && this.#failure === undefined) {
      const count = 1 + this.#chance.below(BLOCKS_PER_WRITE_MAX);
      const first = this.#freePlace(count);
      if (first === undefined) return;
      this.#write(first, count, this.#dueMs);
      this.#dueMs += ((count * BLOCK_SIZE) / this.#load.rate) * 1000;
    }
  }

  /** Undefined when the hot set is so small that writes under way take it up. */
  #freePlace(count: number): number | undefined {
    for (let attempt = 0; attempt < 100; attempt += 1) {
      const first = this.#chance.below(this.#load.blockCount - count + 1);
      if (!this.#busy.subarray(first, first + count).includes(1)) return first;
    }
    return undefined;
  }

  #write(first: number, count: number, dueMs: number): void {
    const data = Buffer.allocUnsafe(count * BLOCK_SIZE);
    const number = this.history.send(first, count);
    stampBlocks(data, first, number);
    this.#busy.fill(1, first, first + count);
    this.#inFlight += 1;
    this.#client
      .write(first * BLOCK_SIZE, data)
      .then(
        () => {
          const nowMs = performance.now();
          this.history.answer(number, nowMs);
          this.#lateness.push(nowMs - dueMs);
          this.#busy.fill(0, first, first + count);
        },
        (error: unknown) => this.#failed(error),
      )
      .finally(() => this.#left());
  }

  #flush(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    this.#inFlight += 1;
    this.#client
      .flush()
      .catch((error: unknown) => this.#failed(error))
      .finally(() => {
        this.#flushing = false;
        this.#left();
      });
  }

  #failed(error: unknown): void {
    this.#failure ??= error;
  }

  #left(): void {
    this.#inFlight -= 1;
    if (this.#inFlight === 0) this.#idle?.();
  }
}
