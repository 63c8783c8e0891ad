/**
 * One session of a mirror: from the primary's BEGIN to the end of the channel.
 *
 * It feeds the applier, answers digests, acknowledges, and writes the position (of the image, or of what is staged) down
 * at least every RECORD_INTERVAL_MS or quarter of the primary's window while things move. Reading pauses while more than
 * BACKLOG_SIZE_MAX waits to be applied, so a fast primary cannot make the mirror's memory grow.
 */
import { Failure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import type { Timer } from '../io/clock.ts';
import { digestOf } from '../io/digest.ts';
import type { World } from '../io/world.ts';
import type { Channel } from '../link/channel.ts';
import { encodeFrame, FRAME_REPAIR, type Frame, FrameType } from '../link/frame.ts';
import { type BeginKindCode, encodeAck, type Hello, type Positions } from '../link/messages.ts';
import { RescanTarget } from '../rescan/target.ts';
import { Applier, checkOperation } from './applier.ts';
import type { MirrorImage } from './image.ts';
import { asMirrorFailure } from './mirror-failure.ts';

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
  /** How it began. */
  readonly kind: BeginKindCode;
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
  /** When the rescan last got on, and whether it does with what is coming in now. The stream beside it says nothing. */
  #movedMs: number;
  #moved = false;
  #primarySequence = 0;
  #primaryUnsentSize = 0;
  readonly #ended: Promise<Failure | undefined>;
  #end: (reason: Failure | undefined) => void = () => undefined;

  /** `inStep` is called when what the session began with is complete. */
  constructor(
    world: World,
    channel: Channel,
    hello: Hello,
    kind: BeginKindCode,
    image: MirrorImage,
    inStep: () => void,
  ) {
    this.hello = hello;
    this.kind = kind;
    this.channel = channel;
    this.#world = world;
    this.#image = image;
    this.#received = image.target.applied;
    this.#primarySequence = this.#received;
    this.#lastMessageMs = world.clock.nowMs();
    this.#movedMs = this.#lastMessageMs;
    this.#ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#target = new RescanTarget(
      () => image.view,
      world,
      (reply) => {
        this.#movedMs = world.clock.nowMs();
        channel.send([reply]);
      },
      (error) => this.#applier.abort(error),
    );
    this.#applier = new Applier(image, {
      progressed: (durable, size) => this.#progressed(durable, size),
      checkpointDone: (number, sequence, complete) => {
        // Who is told that a run is complete must know its positions already.
        this.#ackNow();
        channel.send([encodeFrame(FrameType.CHECKPOINT_DONE, { sequence, offset: number })]);
        if (complete) inStep();
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

  /** When the rescan last got on, by the world's clock. Copying a staged run into the image counts. */
  get movedMs(): number {
    return this.#image.committing ? this.#world.clock.nowMs() : this.#movedMs;
  }

  get lastMessageAgeMs(): number {
    return this.#world.clock.nowMs() - this.#lastMessageMs;
  }

  /**
   * What the primary had beyond the image when it last said something, less what has come since. What is staged is
   * beyond the image.
   */
  get lag(): { operations: number; bytes: number } {
    const { applied, stagedSize } = this.#image.positions;
    const operations = Math.max(0, Math.max(this.#primarySequence, this.#received) - applied);
    const bytes = operations === 0 ? 0 : this.#primaryUnsentSize + this.#applier.backlogSize + stagedSize;
    return { operations, bytes };
  }

  /** Resolves when everything received so far is applied and written down. Failures: of the disk, or why it ended. */
  async settle(): Promise<void> {
    await this.#applier.caughtUp();
    if (this.#failure !== undefined) throw this.#failure;
    await this.#image.target.record();
    this.#ackNow();
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
    await this.#image.sessionEnded(this.#failure === undefined).catch((error: unknown) => {
      this.#failure ??= asMirrorFailure(error);
    });
    return this.#failure ?? reason;
  }

  #frame(frame: Frame): void {
    switch (frame.type) {
      case FrameType.DIGEST_REQUEST:
        this.#moved = true;
        this.#target.request(frame);
        return;
      case FrameType.PASS:
        this.#moved = true;
        this.#target.passExpected();
        break;
      case FrameType.WRITE:
      case FrameType.ZERO:
      case FrameType.BARRIER:
      case FrameType.CHECKPOINT:
        this.#received = Math.max(this.#received, frame.sequence);
        this.#primaryUnsentSize = Math.max(0, this.#primaryUnsentSize - frame.payload.length);
        if (frame.type === FrameType.CHECKPOINT || (frame.flags & FRAME_REPAIR) !== 0) this.#moved = true;
        break;
      default:
        break;
    }
    checkOperation(frame);
    this.#applier.push(frame);
  }

  #batch(): void {
    this.#lastMessageMs = this.#world.clock.nowMs();
    if (this.#moved) this.#movedMs = this.#lastMessageMs;
    this.#moved = false;
    if (this.#applier.backlogSize > BACKLOG_SIZE_MAX) this.channel.pauseReading();
    this.#ackSoon();
  }

  #progressed(durable: boolean, size: number): void {
    this.#sinceRecordSize += size;
    if (this.#applier.backlogSize < BACKLOG_SIZE_MAX / 2) this.channel.resumeReading();
    // In `async` nobody waits for it.
    if (durable && this.hello.mode !== 'async') this.#ackNow();
    else if (this.hello.mode === 'sync') this.#ackAfterTurn();
    else this.#ackSoon();
    this.#recordInTime();
  }

  /** What the primary keeps until it is recorded must not fill its window while it waits for a timer. */
  #recordInTime(): void {
    if (this.#sinceRecordSize * 4 > this.hello.windowSize) this.#record();
    else this.#recordSoon();
  }

  #recordSoon(): void {
    if (this.#recordTimer !== undefined || !this.#image.target.unrecorded) return;
    this.#recordTimer = this.#world.clock.after(RECORD_INTERVAL_MS, () => {
      this.#recordTimer = undefined;
      this.#record();
    });
  }

  #record(): void {
    if (this.#recording !== undefined || this.channel.ended) return;
    this.#sinceRecordSize = 0;
    this.#recording = this.#image.target
      .record()
      .then(
        () => this.#ackNow(),
        (error: unknown) => this.#applier.abort(error),
      )
      .finally(() => {
        this.#recording = undefined;
        this.#recordInTime();
      });
  }

  #positions(): Positions {
    return { received: Math.max(this.#received, this.#image.target.applied), ...this.#image.positions };
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
    const text = Object.values(positions).join(' ');
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
      frame.offset + frame.length > this.#image.target.size
    ) {
      throw new Failure('frame-invalid', 'malformed CHECK frame');
    }
    const block = Buffer.allocUnsafe(frame.length);
    await this.#image.target.read(block, frame.offset);
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
