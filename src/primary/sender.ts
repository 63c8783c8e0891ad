/**
 * Sends the window's entries as frames, as fast as the stream takes them: everything that was appended in one turn goes
 * out as one socket write. Remarks give their data back once handed over.
 */
import type { Channel } from '../link/channel.ts';
import { FrameType, HEADER_SIZE, putHeader } from '../link/frame.ts';
import type { Replica } from './replica.ts';

/** One socket write carries at most about this many bytes, and this many frames. */
const BATCH_SIZE = 256 * 1024;
const BATCH_FRAMES = 256;

export class Sender {
  readonly #channel: Channel;
  readonly #replica: Replica;
  #writable = true;
  #scheduled = false;

  constructor(channel: Channel, replica: Replica) {
    this.#channel = channel;
    this.#replica = replica;
  }

  /** Something was appended: sends at the end of this turn, together with what else is appended until then. */
  schedule(): void {
    if (this.#scheduled || !this.#writable) return;
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
    while (this.#writable && !this.#channel.ended && this.#replica.window.hasUnsent) {
      this.#writable = this.#channel.send(this.#gather());
    }
  }

  #gather(): Uint8Array[] {
    const { backlog, window } = this.#replica;
    const headers = Buffer.allocUnsafe(HEADER_SIZE * BATCH_FRAMES);
    const chunks: Uint8Array[] = [];
    let size = 0;
    // Headers of frames without payload lie side by side in `headers` and go out as one chunk.
    let headersFrom = 0;
    let headersTo = 0;
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
      if (entry.remark) backlog.releaseRemark(entry);
    }
    if (headersTo > headersFrom) chunks.push(headers.subarray(headersFrom, headersTo));
    return chunks;
  }
}
