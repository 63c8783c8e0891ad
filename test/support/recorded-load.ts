import { randomBytes } from 'node:crypto';
import { KIB } from '../../src/base/units.ts';
import type { Chance } from './chance.ts';
import { isServerGone, type Recorder } from './recorder.ts';

export interface RecordedLoadOptions {
  /** Requests under way at once. */
  readonly depth: number;
  /** A pause after each batch of `depth` requests. */
  readonly pauseMs: number;
  /** Bytes of the disk, from its start, that are written over and over. Default: all. */
  readonly size?: number;
}

/**
 * Writes of everything from one byte to 64 KiB at any place, zeroes, trims, flushes and writes with FUA, at random,
 * through a recorder, until it is stopped or the server goes away. What is written is never the same twice.
 */
export class RecordedLoad {
  readonly #recorder: Recorder;
  readonly #options: RecordedLoadOptions;
  readonly #chance: Chance;
  readonly #running: Promise<void>;
  #stopped = false;
  #hasEnded = false;

  constructor(recorder: Recorder, chance: Chance, options: RecordedLoadOptions) {
    this.#recorder = recorder;
    this.#chance = chance;
    this.#options = options;
    this.#running = this.#run();
    // Looked at in `stop`; until then a failure must not count as unhandled.
    this.#running.catch(() => undefined);
  }

  /** It was stopped, or its server has gone. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Waits for what is under way; does nothing when the server has gone away. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    try {
      while (!this.#stopped) {
        await Promise.all(Array.from({ length: this.#options.depth }, () => this.#request()));
        await new Promise((resolve) => setTimeout(resolve, this.#options.pauseMs));
      }
    } catch (error) {
      if (!isServerGone(error)) throw error;
    } finally {
      this.#hasEnded = true;
    }
  }

  async #request(): Promise<void> {
    const chance = this.#chance;
    const size = this.#options.size ?? this.#recorder.size;
    const kind = chance.below(64);
    if (kind === 0) return this.#recorder.flush();
    const fua = kind === 1;
    const isAligned = kind === 2 || chance.hits(1, 2);
    const unit = isAligned ? 4 * KIB : 1;
    const length = unit * (1 + chance.below(chance.hits(1, 8) ? (64 * KIB) / unit : (8 * KIB) / unit));
    const offset = unit * chance.below(Math.floor((size - length) / unit) + 1);
    if (kind === 2) await this.#recorder.trim(offset, length);
    else if (kind === 3) await this.#recorder.zero(offset, length, { allocate: chance.hits(1, 2) });
    else await this.#recorder.write(offset, randomBytes(length), { fua });
  }
}
