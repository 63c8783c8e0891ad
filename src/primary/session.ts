/**
 * One session of a primary with a mirror, from an accepted BEGIN to the end of the channel: wires the sender, the
 * acknowledgements, a rescan where one is due, and a verify on request. What outlives it is in Replica.
 */
import { assert } from '../base/assert.ts';
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { World } from '../io/world.ts';
import type { Channel } from '../link/channel.ts';
import { type Frame, FrameType } from '../link/frame.ts';
import { decodeAck, NO_POSITIONS, type Positions } from '../link/messages.ts';
import { type CheckpointNumbers, Checkpoints } from './checkpoints.ts';
import type { ComparisonMeans } from './comparison.ts';
import type { LocalDisk } from './local-disk.ts';
import { Pacing } from './pacing.ts';
import { Questions } from './questions.ts';
import type { Replica } from './replica.ts';
import { Rescan } from './rescan.ts';
import { Sender } from './sender.ts';
import type { RescanProgress, VerifyReport } from './status.ts';
import type { SessionEvent } from './transitions.ts';
import { Verify } from './verify.ts';

/** Shares of the window between which a mirror counts as streaming: hysteresis, so that the state does not flap. */
const LAGGING_SHARE = 1 / 2;
const CAUGHT_UP_SHARE = 1 / 16;
/** How soon after a change the state may change again. */
const DWELL_MS = 500;

export interface SessionSettings {
  readonly rescanRate: number | undefined;
}

export interface SessionEvents {
  state(event: Extract<SessionEvent, 'caught-up' | 'lagging' | 'rescan-complete'>): void;
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
  readonly #questions: Questions;
  readonly #checkpoints: Checkpoints;
  readonly #means: ComparisonMeans;
  #rescan: Rescan | undefined;
  #verify: Verify | undefined;
  #positions: Positions = NO_POSITIONS;
  #streaming = false;
  #streamingMs: number;
  readonly #ended: Promise<Failure | undefined>;
  #end: (reason: Failure | undefined) => void = () => undefined;

  constructor(
    world: World,
    log: Log,
    channel: Channel,
    replica: Replica,
    local: LocalDisk,
    numbers: CheckpointNumbers,
    activity: () => number,
    settings: SessionSettings,
    events: SessionEvents,
  ) {
    this.channel = channel;
    this.#world = world;
    this.#log = log;
    this.#replica = replica;
    this.#events = events;
    this.#sender = new Sender(channel, replica);
    this.#questions = new Questions(channel, local.disk.size);
    this.#checkpoints = new Checkpoints(replica, numbers);
    this.#streamingMs = world.clock.nowMs();
    this.#means = {
      clock: world.clock,
      scan: world.scan,
      local,
      questions: this.#questions,
      pacing: new Pacing(world.clock, replica.window, settings.rescanRate, activity),
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

  /** A rescan, seeding or verify is under way: not the moment to renew the keys. */
  get comparing(): boolean {
    return this.#rescan !== undefined || this.#verify !== undefined;
  }

  /** The window has something to send. */
  appended(): void {
    this.#sender.schedule();
  }

  /**
   * Runs until the channel ends; resolves with the reason, undefined after a clean end. `scope` undefined: only the
   * stream; otherwise a rescan of what is marked runs beside it first.
   */
  async run(first: Positions, scope: RescanProgress['scope'] | undefined): Promise<Failure | undefined> {
    this.#acknowledged(first);
    this.channel.open({
      frame: (frame) => this.#frame(frame),
      drain: () => this.#sender.drained(),
      closed: (reason) => this.#closed(reason),
      pingValues: () => ({ sequence: this.#replica.sequence, length: this.#replica.window.unsentSize }),
    });
    const rescanned = scope === undefined ? Promise.resolve() : this.#runRescan(scope);
    this.#sender.schedule();
    const reason = await this.#ended;
    await rescanned;
    return reason;
  }

  /** Compares both images. Failures: `not-ready` while rescanning or verifying, `connection-lost`. */
  async verify(onProgress: (progress: RescanProgress) => void): Promise<VerifyReport> {
    if (this.comparing || this.channel.ended) throw new Failure('not-ready', 'the mirror is not in step yet');
    this.#verify = new Verify(this.#means, this.#world.random, this.#replica);
    try {
      return await this.#verify.run(onProgress);
    } finally {
      this.#verify = undefined;
    }
  }

  /** Resolves when the mirror holds durably, and has written down, everything up to now. */
  async settle(): Promise<void> {
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
    const before = this.#positions;
    const ordered =
      positions.recorded <= positions.durable &&
      positions.durable <= positions.applied &&
      positions.applied <= positions.received &&
      positions.received <= this.#replica.window.sentSequence;
    const forward = positions.applied >= before.applied && positions.recorded >= before.recorded;
    if (!ordered || !forward) throw new Failure('frame-invalid', 'an acknowledgement of what was not sent');
    this.#positions = positions;
    this.#events.acknowledged(positions);
    this.#settle();
    this.#judge();
  }

  /** Lets go of what the mirror has dealt with, remarks included. */
  #settle(): void {
    this.#replica.window.applied(this.#positions.applied);
    this.#replica.recorded(this.#positions.recorded);
  }

  /** Streaming or catching up, by how full the window is. */
  #judge(): void {
    if (this.#rescan !== undefined) return;
    const nowMs = this.#world.clock.nowMs();
    const { unappliedSize, limit } = this.#replica.window;
    if (this.#streaming) {
      if (unappliedSize <= limit * LAGGING_SHARE || nowMs - this.#streamingMs < DWELL_MS) return;
      this.#streaming = false;
      this.#streamingMs = nowMs;
      this.#events.state('lagging');
    } else if (unappliedSize <= limit * CAUGHT_UP_SHARE) {
      this.#streaming = true;
      this.#streamingMs = nowMs;
      this.#events.state('caught-up');
    }
  }

  async #runRescan(scope: RescanProgress['scope']): Promise<void> {
    const rescan = new Rescan(this.#means, this.#world.random, this.#log, this.#replica, this.#checkpoints, scope);
    this.#rescan = rescan;
    try {
      await rescan.run();
      const progress = rescan.progress();
      assert(progress !== undefined, 'a rescan that ran has made progress');
      this.#events.rescanned(progress);
      this.#events.state('rescan-complete');
      this.#rescan = undefined;
      this.#streaming = false;
      this.#judge();
    } catch (error) {
      if (!isFailure(error)) throw error;
      this.#rescan = undefined;
      // The session ended under it, or the local disk failed: a later session goes on where it was.
      if (!this.channel.ended) this.channel.refuse(error);
    }
  }

  #closed(reason: Failure | undefined): void {
    this.#questions.end();
    this.#checkpoints.end();
    this.#verify?.end();
    this.#end(reason);
  }
}
