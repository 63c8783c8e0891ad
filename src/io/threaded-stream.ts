/**
 * A byte stream whose socket and TLS live in the thread of the link (link-thread.ts).
 *
 * What is written is copied into a ring that the thread reads; what finds no room there waits here, in the caller's buffers.
 * What the thread tells is held back until `receive`, and while the stream is paused; when that is too much, the thread
 * reads no more. A loss, and our own `destroy`, end every holding back. `close` is the last event, once.
 */
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import { Fifo } from '../base/fifo.ts';
import { MIB } from '../base/units.ts';
import { RingWriter } from './byte-ring.ts';
import {
  type FromThread,
  MESSAGE_COST_SIZE,
  RING_LOW_SIZE,
  TAKEN_SIZE,
  type ToThread,
} from './link-thread-messages.ts';
import type { LinkStream, StreamEvents } from './network.ts';

/** Bytes queued from which `write` asks to wait. */
const QUEUE_HIGH_SIZE = MIB;

/** What waits for room in the ring. */
interface Pending {
  readonly chunk: Uint8Array;
  /** Called when the ring holds it. */
  readonly sent: (() => void) | undefined;
}

const NOTHING = new Uint8Array(0);

export class ThreadedStream implements LinkStream {
  readonly encrypted = true;
  readonly id: number;
  readonly ring: SharedArrayBuffer;
  readonly #writer: RingWriter;
  readonly #say: (message: ToThread) => void;
  #peerName = '';
  #identity: string | undefined;
  #events: StreamEvents | undefined;
  /** What the thread has told and nobody knows yet. */
  readonly #held = new Fifo<FromThread>();
  /** What did not fit into the ring. */
  readonly #pending = new Fifo<Pending>();
  #pendingSize = 0;
  #bytesWritten = 0;
  #bytesRead = 0;
  /** Bytes passed on, with their messages, that the thread has not been told of. */
  #takenSize = 0;
  #drainOwed = false;
  #paused = false;
  #ended = false;
  /** `end` was called; the thread is told once nothing is pending. */
  #endOwed = false;
  #destroyed = false;
  /** The thread has told that the stream is closed: it knows nothing of it any more, and the ring is not ours. */
  #gone = false;
  /** It was lost, or destroyed: a pause holds nothing back any more. */
  #over = false;
  #reason: Error | undefined;

  /** `ring` is empty; whoever gave it may use it again once the thread has told that the stream is closed. */
  constructor(id: number, ring: SharedArrayBuffer, say: (message: ToThread) => void) {
    this.id = id;
    this.ring = ring;
    this.#writer = new RingWriter(ring);
    this.#say = say;
  }

  get peerName(): string {
    return this.#peerName;
  }

  get identity(): string | undefined {
    return this.#identity;
  }

  get queuedSize(): number {
    return this.#gone ? 0 : this.#writer.usedSize + this.#pendingSize;
  }

  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  get bytesRead(): number {
    return this.#bytesRead;
  }

  connected(peerName: string, identity: string | undefined): void {
    this.#peerName = peerName;
    this.#identity = identity;
  }

  receive(events: StreamEvents): void {
    assert(this.#events === undefined, 'a stream is received once');
    this.#events = events;
    this.#releaseLater();
  }

  write(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    if (this.#ended || this.#destroyed || this.#gone) return false;
    for (const chunk of chunks) {
      this.#bytesWritten += chunk.length;
      const size = this.#pendingSize > 0 ? 0 : this.#writer.push(chunk);
      if (size === chunk.length) continue;
      this.#pending.push({ chunk: size === 0 ? chunk : chunk.subarray(size), sent: undefined });
      this.#pendingSize += chunk.length - size;
    }
    // The ring holds a copy of what it has taken.
    if (sent !== undefined) {
      if (this.#pendingSize === 0) sent();
      else this.#pending.push({ chunk: NOTHING, sent });
    }
    this.#publish();
    if (this.queuedSize < QUEUE_HIGH_SIZE) return true;
    this.#drainOwed = true;
    this.#awaitRoom();
    return false;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#releaseLater();
  }

  end(): void {
    if (this.#ended || this.#destroyed || this.#gone) return;
    this.#ended = true;
    this.#endOwed = true;
    if (this.#pendingSize === 0) this.#sayEnd();
  }

  destroy(reason?: Error): void {
    this.#reason ??= reason;
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#over = true;
    this.#drop();
    if (this.#gone) this.#releaseLater();
    else this.#say({ type: 'destroy', id: this.id });
  }

  /** From the thread. */
  take(message: FromThread): void {
    if (message.type === 'room') {
      this.#room();
      return;
    }
    if (message.type === 'closed') {
      this.#gone = true;
      this.#drop();
      if (message.failure !== undefined) this.#over = true;
      // A loss overtakes what a pause holds back, as that of a socket does.
      if (this.#over && this.#paused && this.#events !== undefined) this.#held.clear();
    }
    this.#held.push(message);
    this.#release();
  }

  #release(): void {
    while (this.#held.length > 0 && this.#events !== undefined && (!this.#paused || this.#over)) {
      this.#tell(this.#held.shift()!, this.#events);
    }
  }

  /** Events do not come within a call of the one whom they are for. */
  #releaseLater(): void {
    if (this.#held.length > 0) queueMicrotask(() => this.#release());
  }

  #tell(message: FromThread, events: StreamEvents): void {
    if (message.type === 'closed') {
      this.#destroyed = true;
      const { failure } = message;
      this.#reason ??= failure === undefined ? undefined : new Failure(failure.code, failure.message);
      events.close(this.#reason);
    } else if (this.#destroyed) {
      // Nobody wants it any more.
    } else if (message.type === 'data') {
      const { bytes } = message;
      this.#bytesRead += bytes.length;
      this.#taken(bytes.length + MESSAGE_COST_SIZE);
      events.data(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
    } else if (message.type === 'end') {
      events.end();
    }
  }

  #taken(size: number): void {
    this.#takenSize += size;
    if (this.#takenSize < TAKEN_SIZE || this.#gone) return;
    this.#say({ type: 'taken', id: this.id, size: this.#takenSize });
    this.#takenSize = 0;
  }

  #publish(): void {
    if (this.#writer.publish()) this.#say({ type: 'wake', id: this.id });
  }

  #awaitRoom(): void {
    if (!this.#writer.waitForRoom(RING_LOW_SIZE)) queueMicrotask(() => this.#room());
  }

  /** The ring has room: for what is pending first. */
  #room(): void {
    if (this.#destroyed || this.#gone) return;
    for (let next = this.#pending.first; next !== undefined; next = this.#pending.first) {
      const { chunk, sent } = next;
      const size = this.#writer.push(chunk);
      this.#pendingSize -= size;
      if (size < chunk.length) {
        this.#pending.replaceFirst({ chunk: chunk.subarray(size), sent });
        break;
      }
      this.#pending.shift();
      sent?.();
    }
    this.#publish();
    if (this.#pendingSize > 0 || this.#writer.usedSize > RING_LOW_SIZE) {
      this.#awaitRoom();
      return;
    }
    this.#sayEnd();
    if (!this.#drainOwed) return;
    this.#drainOwed = false;
    this.#events?.drain();
  }

  #sayEnd(): void {
    if (!this.#endOwed) return;
    this.#endOwed = false;
    this.#say({ type: 'end', id: this.id });
  }

  #drop(): void {
    this.#pending.clear();
    this.#pendingSize = 0;
  }
}
