/** One end of a connection between two hosts: see network.ts. */
import { assert } from '../../src/base/assert.ts';
import { Failure } from '../../src/base/failure.ts';
import type { ByteStream, StreamEvents } from '../../src/io/network.ts';
import type { Incarnation } from './host.ts';
import type { SimulatedNetwork } from './network.ts';

/** Bytes in one piece on the wire, at most. */
const PIECE_SIZE_MAX = 64 * 1024;
/** How long a kernel goes on sending to a host that does not answer until it tells the process. */
const GIVE_UP_MS = 60_000;

export class SimulatedStream implements ByteStream {
  readonly peerName: string;
  readonly identity = 'nbdtwin';
  readonly encrypted = true;
  readonly host: string;
  readonly incarnation: Incarnation;
  bytesWritten = 0;
  bytesRead = 0;
  readonly #network: SimulatedNetwork;
  #other: SimulatedStream | undefined;
  #events: StreamEvents | undefined;

  // What we send.
  /** Written, not on the wire yet. The buffers are read when they leave: until then they must not change. */
  #queue: { chunk: Uint8Array; taken: (() => void) | undefined }[] = [];
  #queuedSize = 0;
  /** Bytes on the wire or waiting for the peer's reader. */
  #underWay = 0;
  #sending = false;
  #drainOwed = false;
  #ending = false;
  #endSent = false;
  #lastArrivalUs = 0;

  // What we receive.
  #arrived: Buffer[] = [];
  /** How many bytes of each piece count as under way with the peer. */
  readonly #accounted: number[] = [];
  #paused = false;
  #delivering = false;
  #endArrived = false;
  #endDelivered = false;

  /** Nothing goes in or out any more and nobody was told. */
  #vanished = false;
  /** The process was told, or has said so itself. */
  #gone = false;
  #reason: Error | undefined;

  private constructor(network: SimulatedNetwork, incarnation: Incarnation, peer: Incarnation) {
    this.#network = network;
    this.incarnation = incarnation;
    this.host = incarnation.host.name;
    this.peerName = `${peer.host.name}:${peer.number}`;
  }

  static pair(network: SimulatedNetwork, near: Incarnation, far: Incarnation): [SimulatedStream, SimulatedStream] {
    const a = new SimulatedStream(network, near, far);
    const b = new SimulatedStream(network, far, near);
    a.#other = b;
    b.#other = a;
    network.streams.add(a);
    network.streams.add(b);
    return [a, b];
  }

  get queuedSize(): number {
    return this.#queuedSize;
  }

  undeliveredSize(): number {
    return this.#queuedSize + this.#underWay;
  }

  peerGone(): boolean {
    return this.#gone || this.#endArrived;
  }

  receive(events: StreamEvents): void {
    assert(this.#events === undefined, 'a stream is received once');
    this.#events = events;
    if (this.#gone) this.#after(0, () => events.close(this.#reason));
    else this.#deliverSoon();
  }

  write(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    if (this.#ending || this.#gone || !this.incarnation.alive) return false;
    for (const chunk of chunks) {
      this.bytesWritten += chunk.length;
      this.#queuedSize += chunk.length;
      if (chunk.length > 0) this.#queue.push({ chunk, taken: undefined });
    }
    const last = this.#queue.at(-1);
    if (last === undefined) sent?.();
    else last.taken = sent;
    this.flow();
    if (this.#queuedSize < this.#network.pace.queueSize) return true;
    this.#drainOwed = true;
    return false;
  }

  receiveNow(): number {
    return 0;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#deliverSoon();
  }

  takeUnread(): Buffer | undefined {
    return this.#arrived.length === 0 ? undefined : Buffer.concat(this.#arrived.splice(0));
  }

  end(): void {
    if (this.#ending || this.#gone || !this.incarnation.alive) return;
    this.#ending = true;
    this.flow();
  }

  destroy(reason?: Error): void {
    if (this.#gone || !this.incarnation.alive) return;
    if (!this.#vanished) this.#tellPeerReset();
    this.#close(reason);
  }

  startTls(): Promise<ByteStream> {
    throw new Error('a link is encrypted already');
  }

  /** The connection is reset by something in between: both ends find out. */
  reset(): void {
    if (this.#gone || this.#vanished) return;
    this.#after(this.#network.latencyMs(), () => this.#close(new Failure('connection-lost', 'connection reset')));
  }

  /** From now on nothing goes in or out here. The process, if it lives, learns of it when the kernel gives up. */
  vanish(): void {
    if (this.#vanished || this.#gone) return;
    this.#vanished = true;
    this.#queue = [];
    this.#after(GIVE_UP_MS, () => this.#close(new Failure('connection-lost', 'connection timed out')));
    if (!this.incarnation.alive) this.#network.streams.delete(this);
  }

  /** The process was killed: the kernel sends what it has, or not, and closes. */
  closedByKernel(): void {
    if (this.#gone || this.#vanished) return;
    const { random } = this.#network;
    this.#gone = true;
    this.#network.streams.delete(this);
    // What the process had handed over in vain is cut anywhere: also in the middle of a frame.
    const other = this.#other!;
    const left = random.chance(0.5) ? Buffer.concat(this.#queue.map(({ chunk }) => chunk)) : Buffer.alloc(0);
    const sent = left.subarray(0, random.below(Math.min(left.length, 64 * 1024) + 1));
    const resets = random.chance(0.5);
    this.#travel(this.#network.latencyMs(), () => {
      if (sent.length > 0 && !resets) other.#arrive(Buffer.from(sent), 0);
      if (resets) other.#lost('connection reset by peer');
      else other.#arriveEnd();
    });
  }

  /** Puts on the wire what it takes. */
  flow(): void {
    const network = this.#network;
    if (this.#sending || this.#gone || this.#vanished || network.cutOff.has(this.host)) return;
    const other = this.#other!;
    const { pace, random } = network;
    const room = Math.min(pace.bufferSize - this.#underWay, PIECE_SIZE_MAX);
    if (this.#queuedSize > 0 && room > 0) {
      // Mostly all there is; now and then a small piece, so that frames are cut anywhere.
      const size = random.chance(0.2) ? 1 + random.below(Math.min(room, this.#queuedSize)) : room;
      const piece = this.#takeFromQueue(Math.min(size, room, this.#queuedSize));
      this.#underWay += piece.length;
      this.#sending = true;
      const busyMs = piece.length / pace.rate;
      const latencyMs = network.latencyMs();
      network.timeline.after(busyMs, () => this.#sent());
      this.#travel(busyMs + latencyMs, () => other.#arrive(piece, piece.length));
    } else if (this.#queuedSize === 0 && this.#ending && !this.#endSent) {
      this.#endSent = true;
      this.#travel(network.latencyMs(), () => other.#arriveEnd());
      this.#closeIfEnded();
    }
  }

  #sent(): void {
    this.#sending = false;
    if (this.#drainOwed && this.#queuedSize === 0) {
      this.#drainOwed = false;
      this.#after(0, () => {
        if (!this.#gone) this.#events?.drain();
      });
    }
    this.flow();
  }

  /** In the order in which they were sent, however long each takes. */
  #travel(delayMs: number, arrive: () => void): void {
    const { timeline } = this.#network;
    const wantedMs = Math.max(delayMs, (this.#lastArrivalUs - timeline.nowUs + 1) / 1000);
    const event = timeline.after(wantedMs, arrive);
    this.#lastArrivalUs = event.atUs;
  }

  #takeFromQueue(size: number): Buffer {
    const piece = Buffer.allocUnsafe(size);
    let done = 0;
    while (done < size) {
      const first = this.#queue[0]!;
      const { chunk } = first;
      const length = Math.min(chunk.length, size - done);
      piece.set(chunk.subarray(0, length), done);
      done += length;
      if (length < chunk.length) first.chunk = chunk.subarray(length);
      else {
        this.#queue.shift();
        first.taken?.();
      }
    }
    this.#queuedSize -= size;
    return piece;
  }

  #arrive(piece: Buffer, accounted: number): void {
    if (this.#vanished || this.#gone || !this.incarnation.alive) {
      this.#refuse();
      return;
    }
    this.#arrived.push(piece);
    this.#accounted.push(accounted);
    this.#deliverSoon();
  }

  #arriveEnd(): void {
    if (this.#vanished || this.#gone) return;
    this.#endArrived = true;
    this.#deliverSoon();
  }

  /** Something arrives for a connection that is not there: a reset, if there is somebody to send it. */
  #refuse(): void {
    if (this.#vanished && this.incarnation.alive) return;
    if (this.incarnation.host.network.up) this.#tellPeerReset();
  }

  #tellPeerReset(): void {
    if (this.#network.cutOff.has(this.host)) return;
    const other = this.#other!;
    this.#network.timeline.after(this.#network.latencyMs(), () => other.#lost('connection reset by peer'));
  }

  #lost(why: string): void {
    if (this.#gone || this.#vanished) return;
    this.#close(new Failure('connection-lost', why));
  }

  #deliverSoon(): void {
    if (this.#delivering || this.#events === undefined || this.#paused || this.#gone) return;
    if (this.#arrived.length === 0 && !(this.#endArrived && !this.#endDelivered)) return;
    this.#delivering = true;
    this.#after(0, () => {
      this.#delivering = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    if (this.#gone || this.#paused) return;
    const piece = this.#arrived.shift();
    if (piece !== undefined) {
      const other = this.#other!;
      other.#underWay -= this.#accounted.shift()!;
      this.bytesRead += piece.length;
      other.flow();
      this.#events!.data(piece);
      this.#deliverSoon();
    } else if (this.#endArrived && !this.#endDelivered) {
      this.#endDelivered = true;
      this.#events!.end();
      this.#closeIfEnded();
    }
  }

  #closeIfEnded(): void {
    if (this.#endSent && this.#endDelivered) this.#close(undefined);
  }

  #close(reason: Error | undefined): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#reason = reason;
    this.#queue = [];
    this.#queuedSize = 0;
    this.#network.streams.delete(this);
    const events = this.#events;
    if (events !== undefined) this.#after(0, () => events.close(reason));
  }

  #after(delayMs: number, action: () => void): void {
    if (this.incarnation.alive) this.#network.timeline.after(delayMs, action, this.incarnation);
  }
}
