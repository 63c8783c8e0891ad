/**
 * Sends the window's entries as frames, as fast as the stream takes them: everything that was appended in one turn goes
 * out as one socket write. Remarks give their data back once handed over.
 *
 * What nobody waits for goes out at once after a pause, and otherwise with what follows within PACE_MS: a socket write with
 * its TLS record costs more than the operations in it.
 */

import { payloadPool } from '../base/payload-pool.ts';
import type { Clock, Timer } from '../io/clock.ts';
import type { Channel } from '../link/channel.ts';
import { FrameType, HEADER_SIZE, putHeader } from '../link/frame.ts';
import type { Replica } from './replica.ts';

/** One socket write carries at most about this many bytes, and this many frames. */
const BATCH_SIZE = 256 * 1024;
const BATCH_FRAMES = 256;
/** Between two socket writes that nobody waits for, in ms, unless PACED_SIZE bytes wait. */
const PACE_MS = 1;
const PACED_SIZE = 128 * 1024;
/** Headers are cut from pieces of this many bytes: they live no longer than a socket write, and there are many. */
const SLAB_SIZE = 64 * 1024;

export class Sender {
  readonly #channel: Channel;
  readonly #replica: Replica;
  readonly #clock: Clock;
  #writable = true;
  #scheduled = false;
  #timer: Timer | undefined;
  #sentMs = Number.NEGATIVE_INFINITY;
  /** Payloads gathered whose buffers can be used again once they have been sent. */
  #spent: Uint8Array[] = [];
  #slab = Buffer.alloc(0);
  #slabAt = 0;

  constructor(channel: Channel, replica: Replica, clock: Clock) {
    this.#channel = channel;
    this.#replica = replica;
    this.#clock = clock;
  }

  /**
   * Something was appended: sends at the end of this turn, together with what else is appended until then. `waited`:
   * somebody waits for the answer; else it may take PACE_MS.
   */
  schedule(waited: boolean): void {
    if (this.#scheduled || !this.#writable) return;
    if (!waited && this.#replica.window.unsentSize < PACED_SIZE) {
      if (this.#timer !== undefined) return;
      const delayMs = this.#sentMs + PACE_MS - this.#clock.nowMs();
      if (delayMs > 0) {
        this.#timer = this.#clock.after(delayMs, () => this.pump());
        return;
      }
    }
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.pump();
    });
  }

  /** The stream takes more. */
  drained(): void {
    this.#writable = true;
    this.pump();
  }

  pump(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    if (!this.#replica.window.hasUnsent) return;
    this.#sentMs = this.#clock.nowMs();
    while (this.#writable && !this.#channel.ended && this.#replica.window.hasUnsent) {
      this.#writable = this.#channel.send(this.#gather(), this.#afterwards());
    }
  }

  /** What is to be done when what was gathered has been sent: nothing, mostly. */
  #afterwards(): (() => void) | undefined {
    const spent = this.#spent;
    if (spent.length === 0) return undefined;
    this.#spent = [];
    return () => {
      for (const data of spent) payloadPool.give(data);
    };
  }

  #gather(): Uint8Array[] {
    const { backlog, window } = this.#replica;
    if (this.#slab.length - this.#slabAt < HEADER_SIZE * BATCH_FRAMES) {
      this.#slab = Buffer.allocUnsafeSlow(SLAB_SIZE);
      this.#slabAt = 0;
    }
    const headers = this.#slab;
    const chunks: Uint8Array[] = [];
    let size = 0;
    // Headers of frames without payload lie side by side in `headers` and go out as one chunk.
    let headersFrom = this.#slabAt;
    let headersTo = headersFrom;
    for (let count = 0; count < BATCH_FRAMES && size < BATCH_SIZE; count += 1) {
      const entry = window.takeUnsent();
      if (entry === undefined) break;
      const data = entry.data;
      putHeader(
        headers,
        headersTo,
        entry.type,
        entry.flags,
        data?.length ?? 0,
        entry.sequence,
        entry.offset,
        entry.length,
      );
      headersTo += HEADER_SIZE;
      size += HEADER_SIZE;
      if (!entry.remark && entry.type !== FrameType.BARRIER) this.#replica.sent(entry.sequence);
      if (data === undefined) continue;
      chunks.push(headers.subarray(headersFrom, headersTo), data);
      headersFrom = headersTo;
      size += data.length;
      if (entry.remark && backlog.releaseRemark(entry)) this.#spent.push(data);
    }
    if (headersTo > headersFrom) chunks.push(headers.subarray(headersFrom, headersTo));
    this.#slabAt = headersTo;
    return chunks;
  }
}
