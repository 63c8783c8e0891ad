/**
 * One session of a primary with a mirror, from an accepted BEGIN to the end of the channel: wires the sender, the
 * acknowledgements, a rescan where one is due, merged parts of the backlog, and a verify on request. What outlives it is
 * in Replica.
 *
 * While a staged run is open (a rescan, what follows an unclean stop of the mirror, a merged part) the mirror's image
 * stays where it is. Its positions say nothing then, and it counts for no mode.
 */
import { assert } from '../base/assert.ts';
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Mode } from '../base/mode.ts';
import type { World } from '../io/world.ts';
import type { Channel } from '../link/channel.ts';
import { encodeFrame, type Frame, FrameType } from '../link/frame.ts';
import { decodeAck, NO_POSITIONS, type Positions } from '../link/messages.ts';
import { type CheckpointNumbers, Checkpoints } from './checkpoints.ts';
import type { ClientLoad } from './client-load.ts';
import type { ComparisonMeans } from './comparison.ts';
import type { LocalDisk } from './local-disk.ts';
import { mergedMeans } from './merged-means.ts';
import { sendMerged } from './merged-run.ts';
import type { Begun } from './opening.ts';
import { Pacing, type RateLimit } from './pacing.ts';
import { Questions } from './questions.ts';
import type { Replica } from './replica.ts';
import { Rescan } from './rescan.ts';
import { Sender } from './sender.ts';
import { Standing } from './standing.ts';
import type { RescanProgress } from './status.ts';
import type { SessionEvent } from './transitions.ts';
import { Verify } from './verify.ts';

export interface SessionSettings {
  readonly mode: Mode;
  readonly rescanLimit: RateLimit;
}

/** How a verify differs from one that somebody waits for. */
interface VerifyMeans {
  /** Its own pace. */
  readonly pacing?: Pacing;
  /** It ends before the session does. */
  readonly isOver?: () => boolean;
}

export interface SessionEvents {
  state(event: Extract<SessionEvent, 'caught-up' | 'lagging' | 'rescan-complete'>): void;
  /** A staged run began or ended: while one is open the mirror counts for nothing. */
  staged(open: boolean): void;
  rescanned(progress: RescanProgress): void;
  acknowledged(positions: Positions): void;
}

export class PrimarySession {
  readonly channel: Channel;
  readonly #world: World;
  readonly #log: Log;
  readonly #replica: Replica;
  readonly #events: SessionEvents;
  readonly #sender: Sender;
  readonly #mode: Mode;
  readonly #questions: Questions;
  readonly #checkpoints: Checkpoints;
  readonly #means: ComparisonMeans;
  #rescan: Rescan | undefined;
  #verify: Verify | undefined;
  #hurried = false;
  /** What the mirror's image holds, in this run; frozen while a staged run is open. */
  #positions: Positions = NO_POSITIONS;
  /** A staged run is open. */
  #staged = false;
  #merging: Promise<void> | undefined;
  /** Was asked for while it ran. */
  #mergeAgain = false;
  /** A staged catch-up is open, and what completes it has not been placed. */
  #catchingUp = false;
  /** Came while a staged run was open, but tells of its image after the commit. */
  #early: Positions | undefined;
  readonly #standing: Standing;
  readonly #ended: Promise<Failure | undefined>;
  #end: (reason: Failure | undefined) => void = () => undefined;

  constructor(
    world: World,
    log: Log,
    channel: Channel,
    replica: Replica,
    local: LocalDisk,
    numbers: CheckpointNumbers,
    load: ClientLoad,
    settings: SessionSettings,
    events: SessionEvents,
  ) {
    this.channel = channel;
    this.#world = world;
    this.#log = log;
    this.#replica = replica;
    this.#events = events;
    this.#sender = new Sender(channel, replica, world.clock);
    this.#mode = settings.mode;
    this.#questions = new Questions(channel, local.disk.size);
    this.#checkpoints = new Checkpoints(replica, numbers);
    this.#standing = new Standing(
      world.clock,
      replica,
      (event) => events.state(event),
      () => this.#judge(),
    );
    this.#means = {
      clock: world.clock,
      scan: world.scan,
      local,
      questions: this.#questions,
      pacing: new Pacing(world.clock, replica.window, settings.rescanLimit, load),
      ended: () => channel.ended,
    };
    this.#ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  get positions(): Positions {
    return this.#positions;
  }

  get rescan(): RescanProgress | undefined {
    return this.#rescan?.progress();
  }

  /** A rescan, seeding, verify or other staged run is under way: not the moment to renew the keys. */
  get comparing(): boolean {
    return this.#rescan !== undefined || this.#verify !== undefined || this.#staged;
  }

  /** The window has something to send. */
  appended(ended: boolean): void {
    // A comparison is hurried too: its repairs and questions wait for each other. A slow one that nobody waits for is not.
    const hurried = this.#rescan !== undefined || this.#staged || (this.#verify !== undefined && this.#hurried);
    this.#sender.schedule(this.#mode === 'sync' || (this.#mode === 'flush' && ended) || hurried);
    // A mirror that hangs acknowledges nothing: what it lacks shows here.
    this.#judge();
  }

  /** A merged part of the backlog is next, or may be. */
  mergedReady(): void {
    // Asked for a moment too early, it has found nothing to do and is about to end: it must look once more.
    this.#mergeAgain = this.#merging !== undefined;
    this.#merging ??= this.#guarded(() => this.#sendMerged()).finally(() => {
      this.#merging = undefined;
      if (this.#mergeAgain) this.mergedReady();
    });
  }

  /**
   * Runs until the channel ends; resolves with the reason, undefined after a clean end. `begun`: what runs beside the
   * stream first.
   */
  async run(first: Positions, begun: Begun): Promise<Failure | undefined> {
    this.#setStaged(begun.staged);
    this.#acknowledged(first);
    this.channel.open({
      frame: (frame) => this.#frame(frame),
      drain: () => this.#sender.drained(),
      closed: (reason) => this.#closed(reason),
      pingValues: () => ({ sequence: this.#replica.sequence, length: this.#replica.window.unsentSize }),
    });
    // In front of everything that waits: it may rely on that version.
    const { version } = this.#replica.regions;
    this.channel.send([encodeFrame(FrameType.MAP_VERSION, { offset: version })]);
    const beside = this.#guarded(() => this.#beside(begun));
    this.#sender.schedule(true);
    const reason = await this.#ended;
    await beside;
    await this.#merging;
    return reason;
  }

  /** Compares images by `run`. Failures: `not-ready` while rescanning or verifying, those of `run`. */
  async verify<T>(means: VerifyMeans, run: (verify: Verify) => Promise<T>): Promise<T> {
    if (this.comparing || this.channel.ended) throw new Failure('not-ready', 'the mirror is not in step yet');
    const ended = (): boolean => this.channel.ended || means.isOver?.() === true;
    const pacing = means.pacing ?? this.#means.pacing;
    this.#verify = new Verify({ ...this.#means, pacing, ended }, this.#world.random, this.#replica);
    this.#hurried = means.pacing === undefined;
    try {
      return await run(this.#verify);
    } finally {
      this.#verify = undefined;
      // Everything has been answered: what was asked need not stay in the window until there is something to acknowledge.
      if (!this.channel.ended) this.#settle();
    }
  }

  /** Resolves when the mirror holds durably, and has written down, everything up to now. */
  async settle(): Promise<void> {
    await this.#means.pacing.until(
      () => this.#replica.backlog.isInWindow && !this.#staged,
      () => this.channel.ended,
    );
    await this.#checkpoints.place(false);
  }

  #frame(frame: Frame): void {
    switch (frame.type) {
      case FrameType.ACK:
        this.#acknowledged(decodeAck(frame));
        return;
      case FrameType.DIGEST_REPLY:
        this.#questions.answered(frame);
        return;
      case FrameType.CHECKPOINT_DONE:
        this.#checkpoints.done(frame);
        this.#settle();
        return;
      case FrameType.CHECK_RESULT:
        if (this.#verify === undefined) throw new Failure('frame-invalid', 'the result of a check without a verify');
        this.#verify.result(frame);
        this.#settle();
        return;
      default:
        throw new Failure('frame-invalid', `a mirror does not send frames of type ${frame.type} here`);
    }
  }

  #acknowledged(positions: Positions): void {
    if (this.#staged) {
      this.#viewed(positions);
      return;
    }
    const before = this.#positions;
    const ordered =
      positions.recorded <= positions.durable &&
      positions.durable <= positions.applied &&
      positions.applied <= positions.received &&
      positions.received <= this.#replica.window.sentSequence;
    const forward =
      positions.applied >= before.applied &&
      positions.durable >= before.durable &&
      positions.recorded >= before.recorded;
    if (!ordered || !forward) throw new Failure('frame-invalid', 'an acknowledgement of what was not sent');
    this.#positions = positions;
    this.#settle();
    this.#judge();
  }

  /** An acknowledgement while a staged run is open: the view has moved, the image has not. */
  #viewed(positions: Positions): void {
    const { staged, stagedSize, received } = positions;
    if (staged === 0) {
      // Committed already: CHECKPOINT_DONE is on its way, or about to take effect.
      this.#early = positions;
      return;
    }
    const ordered = staged <= received && received <= this.#replica.window.sentSequence;
    if (!ordered || staged < this.#positions.staged) {
      throw new Failure('frame-invalid', 'an acknowledgement of what was not sent');
    }
    this.#positions = { ...this.#positions, received, staged, stagedSize };
    this.#settle();
  }

  /** Lets go of what the mirror has dealt with, remarks included. */
  #settle(): void {
    const { applied, recorded, staged } = this.#positions;
    this.#replica.window.applied(Math.max(applied, staged));
    this.#replica.acknowledged(this.#staged ? 0 : recorded, staged);
    if (!this.#staged) this.#events.acknowledged(this.#positions);
  }

  #setStaged(staged: boolean): void {
    if (staged === this.#staged) return;
    this.#staged = staged;
    this.#events.staged(staged);
  }

  /** The staged run that was open is in the image now. */
  #committed(sequence: number): void {
    const { received } = this.#positions;
    this.#positions = {
      received: Math.max(received, sequence),
      applied: sequence,
      durable: sequence,
      recorded: sequence,
      staged: 0,
      stagedSize: 0,
    };
    this.#setStaged(false);
    this.#settle();
    this.#judge();
    const early = this.#early;
    this.#early = undefined;
    if (early !== undefined && early.applied >= sequence) this.#acknowledged(early);
    this.mergedReady();
  }

  #judge(): void {
    if (this.#rescan === undefined && !this.#staged) this.#standing.judge();
  }

  /** Runs beside the stream. The session ends when it fails: a later one goes on where it was. */
  async #guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isFailure(error)) throw error;
      if (!this.channel.ended) this.channel.refuse(error);
    }
  }

  async #beside(begun: Begun): Promise<void> {
    if (begun.kind === 'compare') {
      await this.#runRescan(begun.scope);
    } else if (begun.mergedCheckpoint !== undefined) {
      // What was told of this session comes first.
      await this.#means.pacing.until(
        () => !this.#replica.window.hasUnsent,
        () => this.channel.ended,
      );
      await this.#sendMerged(begun.mergedCheckpoint);
      // The mirror had all of it, but not that it is complete.
      if (this.#staged) await this.#completeCatchUp();
    } else if (begun.staged) {
      await this.#completeCatchUp();
    }
  }

  /** What the mirror stages becomes its image, as soon as everything that may be in the image already is staged too. */
  async #completeCatchUp(): Promise<void> {
    const { sentMax } = this.#replica;
    this.#catchingUp = true;
    this.mergedReady();
    await this.#means.pacing.until(
      () => this.#replica.isPast(sentMax),
      () => this.channel.ended,
    );
    this.#catchingUp = false;
    const { sequence, number } = await this.#checkpoints.place(true);
    this.#replica.committed(sequence, number);
    this.#committed(sequence);
  }

  /** Sends the parts that are next. `resumed`: the mirror holds that checkpoint of the first one's staged run. */
  async #sendMerged(resumed?: number): Promise<void> {
    const replica = this.#replica;
    for (let resumedCheckpoint = resumed; !this.channel.ended; resumedCheckpoint = undefined) {
      const inside = replica.comparing.isOpen || this.#catchingUp;
      // Where a staged run is being completed this is asked again when it is.
      if (!inside && resumedCheckpoint === undefined && (this.#staged || this.#rescan !== undefined)) return;
      const part = replica.backlog.nextMerged();
      if (part === undefined) return;
      const place = inside ? 'inside' : resumedCheckpoint === undefined ? 'alone' : { resumedCheckpoint };
      let last = 0;
      const means = mergedMeans(this.#means, this.#world.random, replica, this.#checkpoints, (number) => {
        last = number;
      });
      const sending = sendMerged(part, means, place);
      replica.beginMerged(place === 'alone' ? part.transfer?.stagingId : undefined, part);
      if (!inside) this.#setStaged(true);
      try {
        await sending;
      } catch (error) {
        // What is in the part is lost, and with it order.
        if (isFailure(error, 'io-error')) replica.loseOrder();
        throw error;
      }
      replica.endMerged(part);
      if (inside) continue;
      replica.committed(part.end, last);
      this.#committed(part.end);
    }
  }

  async #runRescan(scope: RescanProgress['scope']): Promise<void> {
    const rescan = new Rescan(this.#means, this.#world.random, this.#log, this.#replica, this.#checkpoints, scope);
    this.#rescan = rescan;
    try {
      const sequence = await rescan.run();
      const progress = rescan.progress();
      assert(progress !== undefined, 'a rescan that ran has made progress');
      this.#events.rescanned(progress);
      this.#events.state('rescan-complete');
      this.#rescan = undefined;
      this.#standing.begin();
      this.#committed(sequence);
    } finally {
      this.#rescan = undefined;
    }
  }

  #closed(reason: Failure | undefined): void {
    this.#questions.end();
    this.#checkpoints.end();
    this.#verify?.end();
    this.#standing.end();
    this.#end(reason);
  }
}
