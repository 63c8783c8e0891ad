/**
 * Ends of the link that a test plays by hand: real sockets, real TLS, real frames, and whatever content the test likes.
 * What arrives is decoded and kept; pings are answered.
 */
import { randomBytes } from 'node:crypto';
import { onTestFinished } from 'vitest';
import { ID_SIZE, NO_ID } from '../../src/base/bytes.ts';
import type { Failure } from '../../src/base/failure.ts';
import type { LinkStream, Listener } from '../../src/io/network.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { DIGEST_SIZE } from '../../src/io/scan-pool.ts';
import { digestUnitOf, encodeDigestReply } from '../../src/link/digests.ts';
import {
  encodeFrame,
  FRAME_COMPLETE,
  type Frame,
  FrameDecoder,
  FrameType,
  type FrameTypeCode,
} from '../../src/link/frame.ts';
import {
  BeginKind,
  type BeginKindCode,
  decodeBegin,
  decodeHello,
  decodeRefused,
  decodeWelcome,
  encodeAck,
  encodeBegin,
  encodeHello,
  encodeRescanPlace,
  encodeWelcome,
  type Hello,
  isStaged,
  VERSION_MAX,
  VERSION_MIN,
  type Welcome,
} from '../../src/link/messages.ts';
import type { PresharedKey } from '../../src/secure/tls.ts';

const WAIT_MS = 20_000;

export class RawPeer {
  readonly #stream: LinkStream;
  readonly #decoder = new FrameDecoder();
  /** Arrived and not yet taken by `next`. */
  #frames: Frame[] = [];
  #ended = false;
  #wake: (() => void)[] = [];
  /** False: pings stay without answer, as from a dead peer. */
  answersPings = true;
  /** Called for each frame, when set; then nothing is kept for `next`. */
  onFrame: ((frame: Frame) => void) | undefined;

  constructor(stream: LinkStream) {
    this.#stream = stream;
    this.#decoder.admitData();
    stream.receive({
      data: (chunk) => this.#received(chunk),
      drain: () => undefined,
      end: () => this.#end(),
      close: () => this.#end(),
    });
  }

  /** Connects as a primary does. */
  static async connect(port: number, key: PresharedKey): Promise<RawPeer> {
    const stream = await nodeNetwork.connectLink({ kind: 'tcp', host: '127.0.0.1', port }, { keys: [key] }, 10_000);
    const peer = new RawPeer(stream);
    onTestFinished(() => peer.destroy());
    return peer;
  }

  /** The other end has closed. */
  get ended(): boolean {
    return this.#ended;
  }

  send(...chunks: Uint8Array[]): void {
    this.#stream.write(chunks);
  }

  /** Sends what is queued, then ends this direction. */
  end(): void {
    this.#stream.end();
  }

  destroy(): void {
    this.#stream.destroy();
  }

  /** Stops reading: what the other end sends piles up there. */
  pause(): void {
    this.#stream.pause();
  }

  /** The next frame of this type; others before it are dropped. Throws when the other end closes without it. */
  async next(type: FrameTypeCode): Promise<Frame> {
    const deadline = Date.now() + WAIT_MS;
    for (;;) {
      for (let frame = this.#frames.shift(); frame !== undefined; frame = this.#frames.shift()) {
        if (frame.type === type) return frame;
        if (frame.type === FrameType.REFUSED) throw decodeRefused(frame);
      }
      if (this.#ended) throw new Error(`the other end closed before a frame of type ${type}`);
      if (Date.now() > deadline) throw new Error(`no frame of type ${type} in time`);
      await this.#change(deadline);
    }
  }

  /** Waits for the other end to refuse and close; returns why. */
  async refusal(): Promise<Failure> {
    const failure = decodeRefused(await this.next(FrameType.REFUSED));
    await this.closed();
    return failure;
  }

  /** Waits for the other end to close. */
  async closed(): Promise<void> {
    const deadline = Date.now() + WAIT_MS;
    while (!this.#ended) {
      if (Date.now() > deadline) throw new Error('the other end does not close');
      await this.#change(deadline);
    }
  }

  #change(deadline: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, Math.max(1, deadline - Date.now()));
      this.#wake.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #received(chunk: Buffer): void {
    this.#decoder.push(chunk);
    for (let frame = this.#decoder.next(); frame !== undefined; frame = this.#decoder.next()) {
      if (frame.type === FrameType.PING) {
        if (this.answersPings) this.send(encodeFrame(FrameType.PONG));
      } else if (this.onFrame !== undefined) {
        this.onFrame(frame);
      } else {
        this.#frames.push(frame);
      }
    }
    this.#wakeAll();
  }

  #end(): void {
    this.#ended = true;
    this.#stream.end();
    this.#wakeAll();
  }

  #wakeAll(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}

/** A HELLO with new ids, of an export `disk`. */
export function someHello(size: number, more: Partial<Hello> = {}): Hello {
  return {
    versionMin: VERSION_MIN,
    versionMax: VERSION_MAX,
    mode: 'async',
    volumeId: randomBytes(16),
    generation: randomBytes(16),
    run: randomBytes(16),
    parentRun: NO_ID,
    parentSequence: 0,
    size,
    windowSize: 1024 * 1024,
    mapVersion: 0,
    exportName: 'disk',
    ...more,
  };
}

/**
 * A raw primary whose session has begun: the mirror waits for frames of the stream. A staged one begins with an empty
 * run. Returns what the mirror said.
 */
export async function beginSession(
  peer: RawPeer,
  hello: Hello,
  kind: BeginKindCode = BeginKind.SEEDING,
): Promise<Welcome> {
  peer.send(encodeHello(hello));
  const welcome = decodeWelcome(await peer.next(FrameType.WELCOME));
  if (kind === BeginKind.SEEDING || kind === BeginKind.RESCAN) {
    peer.send(encodeFrame(FrameType.RESCAN_REQUEST));
    while ((await peer.next(FrameType.RESCAN_PLACE)).length !== 0);
  }
  const stagingId = isStaged(kind) ? randomBytes(ID_SIZE) : NO_ID;
  peer.send(encodeBegin({ kind, sequence: welcome.resumeAfter, sentMax: welcome.resumeAfter, stagingId }));
  await peer.next(FrameType.ACK);
  return welcome;
}

/**
 * A mirror that pretends: to it every disk is all zeroes, everything is applied and durable at once (or staged, while a
 * staged run is open), and nothing is kept. What a test wants otherwise it does itself, in `on`.
 */
export class FakeMirror {
  readonly #listener: Listener;
  /** Where the image stays while a staged run is open, by session; absent while none is. */
  readonly #stagedOn = new Map<RawPeer, number>();
  /** The last sequence acknowledged as applied. */
  #applied = 0;
  /** Sessions so far, newest last. */
  readonly peers: RawPeer[] = [];
  readonly hellos: Hello[] = [];
  /** Frames of all sessions, pings left out. */
  readonly seen: Frame[] = [];

  private constructor(listener: Listener) {
    this.#listener = listener;
  }

  /** `on` sees each frame first; true: it has dealt with it. */
  static async listen(
    key: PresharedKey,
    on: (frame: Frame, peer: RawPeer, fake: FakeMirror) => boolean = () => false,
  ): Promise<FakeMirror> {
    const listener = await nodeNetwork.listenLink(
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
      { keys: [key] },
      (stream) => {
        const peer = new RawPeer(stream);
        fake.peers.push(peer);
        peer.onFrame = (frame) => {
          fake.seen.push(frame);
          if (!on(frame, peer, fake)) fake.#answer(frame, peer);
        };
      },
      () => undefined,
    );
    const fake = new FakeMirror(listener);
    onTestFinished(async () => {
      for (const peer of fake.peers) peer.destroy();
      await listener.close();
    });
    return fake;
  }

  get address(): Listener['address'] {
    return this.#listener.address;
  }

  #answer(frame: Frame, peer: RawPeer): void {
    switch (frame.type) {
      case FrameType.HELLO: {
        const hello = decodeHello(frame);
        this.hellos.push(hello);
        peer.send(encodeWelcome({ ...NOTHING_YET }));
        return;
      }
      case FrameType.RESCAN_REQUEST:
        peer.send(encodeRescanPlace(0));
        return;
      case FrameType.BEGIN: {
        const begin = decodeBegin(frame);
        if (isStaged(begin.kind)) this.#stagedOn.set(peer, this.#applied);
        peer.send(this.#ackOf(begin.sequence, peer));
        return;
      }
      case FrameType.STAGE:
        this.#stagedOn.set(peer, frame.sequence);
        return;
      case FrameType.DIGEST_REQUEST: {
        const count = Math.ceil(frame.length / digestUnitOf(frame, this.hellos.at(-1)!.size));
        peer.send(
          encodeDigestReply(frame, { zero: Buffer.alloc(count, 1), digests: Buffer.alloc(count * DIGEST_SIZE) }),
        );
        return;
      }
      case FrameType.WRITE:
      case FrameType.ZERO:
      case FrameType.BARRIER:
        peer.send(this.#ackOf(frame.sequence, peer));
        return;
      case FrameType.CHECKPOINT:
        if ((frame.flags & FRAME_COMPLETE) !== 0) this.#stagedOn.delete(peer);
        peer.send(
          encodeFrame(FrameType.CHECKPOINT_DONE, { sequence: frame.sequence, offset: frame.offset }),
          this.#ackOf(frame.sequence, peer),
        );
        return;
      default:
    }
  }

  #ackOf(sequence: number, peer: RawPeer): Buffer {
    const image = this.#stagedOn.get(peer);
    if (image !== undefined) {
      const positions = { received: sequence, applied: image, durable: image, recorded: image };
      return encodeAck({ ...positions, staged: sequence, stagedSize: 0 });
    }
    this.#applied = sequence;
    return ackOf(sequence);
  }
}

/** What a mirror says that has never met this primary. */
export const NOTHING_YET: Welcome = {
  version: VERSION_MAX,
  consistent: false,
  fresh: true,
  seeded: false,
  replicaId: Buffer.alloc(ID_SIZE, 0x77),
  generation: NO_ID,
  run: NO_ID,
  parentRun: NO_ID,
  parentSequence: 0,
  resumeAfter: 0,
  recorded: 0,
  checkpoint: 0,
  size: 0,
  exact: false,
  mapVersion: 0,
  stagingId: NO_ID,
  stagedSequence: 0,
  stagedCheckpoint: 0,
  stagingRoom: Number.MAX_SAFE_INTEGER,
};

/** Everything up to `sequence` is received, applied, durable and recorded; no staged run is open. */
export function ackOf(sequence: number): Buffer {
  const positions = { received: sequence, applied: sequence, durable: sequence, recorded: sequence };
  return encodeAck({ ...positions, staged: 0, stagedSize: 0 });
}
