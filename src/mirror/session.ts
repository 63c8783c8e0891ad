/**
 * One session of a mirror: from the primary's BEGIN to the end of the channel.
 *
 * It feeds the applier, answers digests, acknowledges, and writes the position down at least every RECORD_INTERVAL_MS
 * or quarter of the primary's window while things move. Reading pauses while more than BACKLOG_SIZE_MAX waits to be
 * applied, so a fast primary cannot make the mirror's memory grow.
 */
import { Failure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import type { Timer } from '../io/clock.ts';
import { digestOf } from '../io/digest.ts';
import type { World } from '../io/world.ts';
import type { Channel } from '../link/channel.ts';
import { encodeFrame, type Frame, FrameType } from '../link/frame.ts';
import { encodeAck, type Hello, type Positions } from '../link/messages.ts';
import { RescanTarget } from '../rescan/target.ts';
import { Applier, checkOperation } from './applier.ts';
import { asMirrorFailure, type MirrorImage } from './image.ts';

const BACKLOG_SIZE_MAX = 32 * MIB;
const RECORD_INTERVAL_MS = 200;
/**
 * Acknowledgements that only report progress are sent at most this often; durable ones at once, and in mode `sync`, whose
 * clients wait for them, those of what was applied too.
 */
const ACK_INTERVAL_MS = 5;

export class MirrorSession {
  readonly hello: Hello;
  readonly channel: Channel;
  readonly #world: World;
  readonly #image: MirrorImage;
  readonly #applier: Applier;
  readonly #target: RescanTarget;
  #received: number;
  #recordTimer: Timer | undefined;
  #recording: Promise<void> | undefined;
  #sinceRecordSize = 0;
  #ackTimer: Timer | undefined;
  /** An acknowledgement of everything that this turn applies is about to be sent. */
  #ackQueued = false;
  #acked = '';
  /** What ended the applier; perhaps only after the channel had ended. */
  #failure: Failure | undefined;
  #lastMessageMs: number;
  #primarySequence = 0;
  #primaryUnsentSize = 0;
  readonly #ended: Promise<Failure | undefined>;
  #end: (reason: Failure | undefined) => void = () => undefined;

  /** `inStep` is called when a rescan is complete. */
  constructor(world: World, channel: Channel, hello: Hello, image: MirrorImage, inStep: () => void) {
    this.hello = hello;
    this.channel = channel;
    this.#world = world;
    this.#image = image;
    this.#received = image.applied;
    this.#primarySequence = image.applied;
    this.#lastMessageMs = world.clock.nowMs();
    this.#ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#target = new RescanTarget(
      image.disk,
      world.scan,
      (reply) => channel.send([reply]),
      (error) => this.#applier.abort(error),
    );
    this.#applier = new Applier(image, {
      progressed: (durable) => this.#progressed(durable),
      checkpointDone: (number, sequence) => {
        channel.send([encodeFrame(FrameType.CHECKPOINT_DONE, { sequence, offset: number })]);
        this.#ackNow();
        if (image.state.consistent) inStep();
      },
      passBegan: (key) => this.#target.passBegan(key),
      check: (frame) => this.#check(frame),
      failed: (reason) => {
        this.#failure = reason;
        channel.refuse(reason);
      },
    });
  }

  get received(): number {
    return this.#received;
  }

  get lastMessageAgeMs(): number {
    return this.#world.clock.nowMs() - this.#lastMessageMs;
  }

  /** What the primary had beyond us when it last said something, less what has come since. */
  get lag(): { operations: number; bytes: number } {
    const operations = Math.max(0, Math.max(this.#primarySequence, this.#received) - this.#image.applied);
    const bytes = operations === 0 ? 0 : this.#primaryUnsentSize + this.#applier.backlogSize;
    return { operations, bytes };
  }

  /**
   * Runs until the channel ends, then applies what was received. Resolves with the reason; the image is then at
   * `applied` and free for the next session.
   */
  async run(): Promise<Failure | undefined> {
    this.channel.send([encodeAck(this.#positions())]);
    this.channel.open({
      frame: (frame) => this.#frame(frame),
      batch: () => this.#batch(),
      drain: () => undefined,
      closed: (reason) => this.#end(reason),
      pinged: (sequence, unsentSize) => {
        this.#lastMessageMs = this.#world.clock.nowMs();
        this.#primarySequence = Math.max(this.#primarySequence, sequence);
        this.#primaryUnsentSize = unsentSize;
      },
    });
    const reason = await this.#ended;
    this.#target.end();
    this.#recordTimer?.cancel();
    this.#ackTimer?.cancel();
    await this.#applier.finish();
    await this.#recording;
    // The primary may be gone for good: what was applied should not depend on our own luck as well.
    if (this.#failure === undefined) {
      await this.#image.record().catch((error: unknown) => {
        this.#failure = asMirrorFailure(error);
      });
    }
    return this.#failure ?? reason;
  }

  #frame(frame: Frame): void {
    switch (frame.type) {
      case FrameType.DIGEST_REQUEST:
        this.#target.request(frame);
        return;
      case FrameType.PASS:
        this.#target.passExpected();
        break;
      case FrameType.WRITE:
      case FrameType.ZERO:
      case FrameType.BARRIER:
      case FrameType.CHECKPOINT:
        this.#received = Math.max(this.#received, frame.sequence);
        this.#sinceRecordSize += frame.payload.length;
        this.#primaryUnsentSize = Math.max(0, this.#primaryUnsentSize - frame.payload.length);
        break;
      default:
        break;
    }
    checkOperation(frame);
    this.#applier.push(frame);
  }

  #batch(): void {
    this.#lastMessageMs = this.#world.clock.nowMs();
    if (this.#applier.backlogSize > BACKLOG_SIZE_MAX) this.channel.pauseReading();
    this.#ackSoon();
    if (this.#sinceRecordSize * 4 > this.hello.windowSize) this.#record();
    else this.#recordSoon();
  }

  #progressed(durable: boolean): void {
    if (this.#applier.backlogSize < BACKLOG_SIZE_MAX / 2) this.channel.resumeReading();
    if (durable) this.#ackNow();
    else if (this.hello.mode === 'sync') this.#ackAfterTurn();
    else this.#ackSoon();
    this.#recordSoon();
  }

  #recordSoon(): void {
    if (this.#recordTimer !== undefined || this.#image.recorded >= this.#image.applied) return;
    this.#recordTimer = this.#world.clock.after(RECORD_INTERVAL_MS, () => {
      this.#recordTimer = undefined;
      this.#record();
    });
  }

  #record(): void {
    if (this.#recording !== undefined || this.channel.ended) return;
    this.#sinceRecordSize = 0;
    this.#recording = this.#image
      .record()
      .then(
        () => this.#ackNow(),
        (error: unknown) => this.#applier.abort(error),
      )
      .finally(() => {
        this.#recording = undefined;
        this.#recordSoon();
      });
  }

  #positions(): Positions {
    const image = this.#image;
    return {
      received: Math.max(this.#received, image.applied),
      applied: image.applied,
      durable: image.durable,
      recorded: image.recorded,
      staged: 0,
      stagedSize: 0,
    };
  }

  #ackSoon(): void {
    if (this.#ackTimer !== undefined) return;
    this.#ackTimer = this.#world.clock.after(ACK_INTERVAL_MS, () => this.#ackNow());
  }

  /** One for all frames that arrived together. */
  #ackAfterTurn(): void {
    if (this.#ackQueued) return;
    this.#ackQueued = true;
    queueMicrotask(() => {
      this.#ackQueued = false;
      this.#ackNow();
    });
  }

  #ackNow(): void {
    this.#ackTimer?.cancel();
    this.#ackTimer = undefined;
    const positions = this.#positions();
    const text = `${positions.received} ${positions.applied} ${positions.durable} ${positions.recorded}`;
    if (text === this.#acked) return;
    this.#acked = text;
    this.channel.send([encodeAck(positions)]);
  }

  /** CHECK: payload is the digest of the range on the primary at this position of the stream. */
  async #check(frame: Frame): Promise<void> {
    const key = this.#target.key;
    if (
      key === undefined ||
      frame.length === 0 ||
      frame.length > MIB ||
      frame.offset + frame.length > this.#image.disk.size
    ) {
      throw new Failure('frame-invalid', 'malformed CHECK frame');
    }
    const block = Buffer.allocUnsafe(frame.length);
    await this.#image.disk.read(block, frame.offset);
    const same = digestOf(block, key, frame.offset).equals(frame.payload) ? 1 : 0;
    this.channel.send([
      encodeFrame(FrameType.CHECK_RESULT, {
        flags: same,
        sequence: frame.sequence,
        offset: frame.offset,
        length: frame.length,
      }),
    ]);
  }
}
