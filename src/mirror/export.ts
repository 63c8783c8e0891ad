/**
 * One export of the mirror: its image, who writes to it now, and how a session is opened.
 *
 * One writer per export: a newer session of the same volume and run preempts the older one (its primary has reconnected
 * and the old connection is dead or being replaced); another run of the same volume is refused while the first still
 * answers a ping (a cloned machine); another volume is refused always.
 *
 * Openings are taken one after the other (`#opening`), so that two of them never see the same half-made state.
 */
import { ID_SIZE, NO_ID } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { World } from '../io/world.ts';
import type { Channel } from '../link/channel.ts';
import { FrameType } from '../link/frame.ts';
import {
  type Begin,
  BeginKind,
  decodeBegin,
  decodeRefused,
  encodeRescanPlace,
  encodeWelcome,
  type Hello,
  VERSION_MAX,
} from '../link/messages.ts';
import type { Admission } from './admission.ts';
import { MirrorImage } from './image.ts';
import type { StagingRules } from './image-state.ts';
import { asMirrorFailure } from './mirror-failure.ts';
import { imagePath } from './open-image.ts';
import { type RecoverReport, reportOf } from './recover.ts';
import { MirrorSession } from './session.ts';
import { NOWHERE, objectionTo, offered } from './session-start.ts';
import type { MirrorExportStatus } from './status.ts';

/** A cloned primary gets this long to lose against the one that is connected. */
const CONFLICT_PING_MS = 5_000;
/** The primary must say what comes next within this time. */
const OPENING_TIMEOUT_MS = 10_000;
/** While a primary waits for its place in the queue of rescans only pings pass; the longest wait a timer can hold. */
const QUEUE_TIMEOUT_MS = 2 ** 31 - 1;

/** Who holds the export: from a successful claim until its session has ended and everything received is applied. */
interface Owner {
  readonly hello: Hello;
  readonly channel: Channel;
  session: MirrorSession | undefined;
  /** In the queue of rescans, from 1; 0 when admitted; undefined without a rescan. */
  queuePlace: number | undefined;
  /** Resolves when the owner is gone and the image is free. */
  readonly gone: Promise<void>;
}

export class MirrorExport {
  readonly name: string;
  readonly #world: World;
  readonly #log: Log;
  readonly #directory: string;
  readonly #admission: Admission;
  readonly #rules: StagingRules;
  #image: MirrorImage | undefined;
  #owner: Owner | undefined;
  #opening: Promise<unknown> = Promise.resolve();
  #problem: Failure | undefined;
  /** The last session that was opened, the present one or one that has ended: what the primary said there stays true. */
  #lastSession: MirrorSession | undefined;
  #closed = false;
  /** The id that the image will get, while there is none: its primary must know it from the first session on. */
  #replicaId: Buffer | undefined;

  constructor(world: World, log: Log, directory: string, name: string, admission: Admission, rules: StagingRules) {
    this.#world = world;
    this.#log = log.child({ export: name });
    this.#directory = directory;
    this.name = name;
    this.#admission = admission;
    this.#rules = rules;
  }

  /**
   * Opens the image that a former process left, so that `status` shows it, and finishes what was committed there.
   * Failures are kept as the problem.
   */
  async load(): Promise<void> {
    try {
      await this.#open();
    } catch (error) {
      this.#problem = asMirrorFailure(error);
      this.#log.error({ code: this.#problem.code }, this.#problem.message);
    }
  }

  /**
   * Serves a primary that has said HELLO until its channel ends. Failures that concern it were sent to it and logged.
   */
  async serve(channel: Channel, hello: Hello): Promise<void> {
    let leave = (): void => undefined;
    const gone = new Promise<void>((resolve) => {
      leave = resolve;
    });
    const owner: Owner = { hello, channel, session: undefined, queuePlace: undefined, gone };
    try {
      const claimed = this.#opening.then(() => this.#claim(owner));
      this.#opening = claimed.catch(() => undefined);
      await claimed;
    } catch (error) {
      leave();
      this.#refuse(channel, error);
      return;
    }
    let leaveQueue: (() => void) | undefined;
    try {
      const begin = await this.#negotiate(owner, (release) => {
        leaveQueue = release;
      });
      // Who needs no rescan after all, whatever it has asked for, holds no place.
      if (!isRescan(begin)) leaveQueue?.();
      const image = await this.#prepare(hello, begin);
      const session = new MirrorSession(this.#world, channel, hello, begin.kind, image, () => {
        // The next one may rescan; this session goes on streaming, for days perhaps.
        leaveQueue?.();
        leaveQueue = undefined;
      });
      owner.session = session;
      this.#lastSession = session;
      this.#problem = undefined;
      this.#log.info(
        { primary: channel.peerName, kind: KIND_NAMES[begin.kind], after: begin.sequence },
        BEGINNINGS[begin.kind],
      );
      const reason = await session.run();
      const fields = { primary: channel.peerName, applied: image.applied, code: reason?.code, reason: reason?.message };
      if (reason === undefined || reason.code === 'connection-lost' || reason.code === 'mirror-shutting-down') {
        this.#log.info(fields, 'the session ended');
      } else {
        this.#problem = reason;
        this.#log.warn(fields, 'the session ended');
      }
    } catch (error) {
      this.#refuse(channel, error);
    } finally {
      leaveQueue?.();
      if (this.#owner === owner) this.#owner = undefined;
      leave();
    }
  }

  status(): MirrorExportStatus | undefined {
    const image = this.#image;
    const path = imagePath(this.#directory, this.name);
    const owner = this.#owner;
    const session = owner?.session;
    const problem = this.#problem?.problem;
    const queued = session === undefined && owner?.queuePlace !== undefined && owner.queuePlace > 0;
    if (image === undefined && problem === undefined && !queued) return undefined;
    const state = image?.state;
    const positions = {
      received: session?.received ?? image?.applied ?? 0,
      applied: image?.applied ?? 0,
      durable: image?.durable ?? 0,
      recorded: image?.recorded ?? 0,
    };
    return {
      name: this.name,
      image: path,
      size: image?.disk.size ?? 0,
      replicaId: state?.replicaId.toString('hex') ?? '',
      volumeId: state?.volumeId.toString('hex') ?? '',
      generation: state?.generation.toString('hex') ?? '',
      run: state?.run.toString('hex') ?? '',
      state: queued ? 'queued' : this.#stateName(image, session),
      queuePlace: queued ? owner.queuePlace : undefined,
      consistent: image?.consistent ?? false,
      exact: image?.consistent === true && image.exact,
      committing: image?.committing ?? false,
      ...positions,
      recordedAgeMs: state === undefined ? undefined : Math.max(0, this.#world.clock.wallMs() - state.recordedAtMs),
      staging: image?.run?.status,
      commits: image?.commits.count ?? 0,
      lastCommitAgeMs: ageOf(this.#world, image?.commits.lastMs),
      lastMessageAgeMs: this.#lastSession?.lastMessageAgeMs,
      lag: this.#lastSession?.lag,
      primary: owner?.channel.peerName,
      problem,
    };
  }

  /**
   * Applies what was received, finishes what is committed, and tells the position. A staged run that is not complete is
   * kept for the primary. With `dryRun` nothing is done. Failures: `image-missing`, of the disk, why the session ended.
   */
  async recover(dryRun: boolean): Promise<RecoverReport> {
    const recovered = this.#opening.then(() => this.#recover(dryRun));
    this.#opening = recovered.catch(() => undefined);
    return recovered;
  }

  async #recover(dryRun: boolean): Promise<RecoverReport> {
    if (this.#closed) throw new Failure('mirror-shutting-down', 'the mirror is stopping');
    const owner = this.#owner;
    const committing = this.#image?.committing === true;
    if (!dryRun) {
      // Whoever owns it, or is about to, has had it opened already.
      if (owner === undefined) await this.#open();
      else await owner.session?.settle();
    }
    const image = this.#image;
    if (image === undefined) throw this.#problem ?? new Failure('image-missing', `there is no image of ${this.name}`);
    const kept = image.run !== undefined && !image.committing;
    const lastMessageAgeMs = this.#lastSession?.lastMessageAgeMs;
    const mirror = { primary: owner?.channel.peerName, lastMessageAgeMs, lag: this.#lastSession?.lag };
    return reportOf(this.#world, image, kept ? 'kept' : committing ? 'finished' : 'none', { mirror, dryRun });
  }

  /** Clean stop: ends the session, applies what was received, records it. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#opening;
    const owner = this.#owner;
    if (owner !== undefined) {
      owner.channel.refuse(new Failure('mirror-shutting-down', 'the mirror is stopping'));
      await owner.gone;
    }
    try {
      await this.#image?.close();
    } catch (error) {
      // The other exports are closed all the same; the next start takes this for an unclean stop.
      const reason = asMirrorFailure(error);
      this.#log.error({ code: reason.code }, `the image could not be closed cleanly: ${reason.message}`);
    }
    this.#image = undefined;
  }

  /** Becomes the owner, or throws why not. */
  async #claim(owner: Owner): Promise<void> {
    if (this.#closed) throw new Failure('mirror-shutting-down', 'the mirror is stopping');
    for (let previous = this.#owner; previous !== undefined; previous = this.#owner) {
      if (!previous.hello.volumeId.equals(owner.hello.volumeId)) {
        throw new Failure('name-taken', `another volume is writing to the export ${this.name}`);
      }
      if (!previous.hello.run.equals(owner.hello.run) && (await previous.channel.answersPing(CONFLICT_PING_MS))) {
        throw new Failure(
          'image-busy',
          `another primary of the same volume writes to ${this.name} from ${previous.channel.peerName}`,
        );
      }
      previous.channel.destroy(new Failure('connection-lost', 'a newer session of the same primary took over'));
      await previous.gone;
    }
    if (this.#image !== undefined && !(await this.#image.isInPlace())) {
      const gone = this.#image;
      this.#image = undefined;
      await gone.abandon();
    }
    const image = await this.#open();
    if (image !== undefined) {
      if (!image.state.volumeId.equals(owner.hello.volumeId)) {
        throw new Failure('image-foreign', `${imagePath(this.#directory, this.name)} is the image of another volume`);
      }
      if (!image.state.generation.equals(owner.hello.generation)) {
        throw new Failure('generation-newer', `the image of ${this.name} belongs to another generation of the volume`);
      }
      if (image.disk.size > owner.hello.size) {
        throw new Failure(
          'image-larger',
          `the image of ${this.name} has ${image.disk.size} bytes, the primary’s disk only ${owner.hello.size}`,
        );
      }
    }
    if (owner.channel.ended) throw new Failure('connection-lost', 'the primary went away');
    this.#owner = owner;
  }

  /** The image, with nothing left to be done from before; undefined when there is none. */
  async #open(): Promise<MirrorImage | undefined> {
    this.#image ??= await MirrorImage.open(this.#world, this.#log, this.#directory, this.name, this.#rules);
    await this.#image?.finishCommit();
    return this.#image;
  }

  /** WELCOME, the queue of rescans, BEGIN. */
  async #negotiate(owner: Owner, queued: (leave: () => void) => void): Promise<Begin> {
    const { channel, hello } = owner;
    const image = this.#image;
    const position = image?.positionFor(hello) ?? NOWHERE;
    const run = offered(image?.run, hello.size);
    channel.send([
      encodeWelcome({
        version: Math.min(VERSION_MAX, hello.versionMax),
        ...position,
        fresh: image === undefined,
        seeded: image?.state.seeded ?? false,
        replicaId: image?.state.replicaId ?? this.#futureReplicaId(),
        generation: image?.state.generation ?? NO_ID,
        checkpoint: image?.state.checkpoint ?? 0,
        size: image?.disk.size ?? 0,
        mapVersion: image?.state.mapVersion ?? 0,
        stagingId: run?.id ?? NO_ID,
        stagedSequence: run?.staged ?? 0,
        stagedCheckpoint: run?.stagedCheckpoint ?? 0,
        stagingRoom: await this.#stagingRoom(image),
      }),
    ]);
    let frame = await channel.take(OPENING_TIMEOUT_MS);
    if (frame.type === FrameType.RESCAN_REQUEST) {
      // What was wrong before is over: it waits for others now.
      this.#problem = undefined;
      queued(
        this.#admission.request({
          told: (place) => {
            owner.queuePlace = place;
            channel.send([encodeRescanPlace(place)]);
          },
          movedMs: () => owner.session?.movedMs,
        }),
      );
      frame = await channel.take(QUEUE_TIMEOUT_MS);
    }
    // The primary has looked at what we hold and does not want to go on.
    if (frame.type === FrameType.REFUSED) throw decodeRefused(frame);
    const begin = decodeBegin(frame);
    if (isRescan(begin) && owner.queuePlace !== 0) throw new Failure('frame-invalid', 'a rescan that was not admitted');
    const objection = objectionTo(begin, hello, image, position);
    if (objection !== undefined) throw new Failure('frame-invalid', objection);
    return begin;
  }

  /** The id that the image will get, while there is none. */
  #futureReplicaId(): Buffer {
    this.#replicaId ??= this.#world.random.bytes(ID_SIZE);
    return this.#replicaId;
  }

  async #stagingRoom(image: MirrorImage | undefined): Promise<number> {
    if (image !== undefined) return image.stagingRoom();
    if (this.#rules.overflow === 'continue') return Number.MAX_SAFE_INTEGER;
    const free = await this.#world.files.freeSize(this.#directory);
    return Math.min(free, this.#rules.limit ?? free);
  }

  async #prepare(hello: Hello, begin: Begin): Promise<MirrorImage> {
    if (this.#image === undefined) {
      const replicaId = this.#replicaId;
      this.#replicaId = undefined;
      this.#image = await MirrorImage.create(
        this.#world,
        this.#log,
        this.#directory,
        this.name,
        hello,
        this.#rules,
        replicaId,
      );
    }
    await this.#image.begin(hello, begin);
    return this.#image;
  }

  #refuse(channel: Channel, error: unknown): void {
    const reason = asMirrorFailure(error);
    if (reason.code !== 'connection-lost') this.#problem = reason;
    this.#log.warn({ primary: channel.peerName, code: reason.code }, `session refused: ${reason.message}`);
    if (!channel.ended) channel.refuse(reason);
  }

  #stateName(image: MirrorImage | undefined, session: MirrorSession | undefined): MirrorExportStatus['state'] {
    if (image === undefined || session === undefined) return this.#problem === undefined ? 'waiting' : 'failed';
    if (image.run !== undefined) return session.kind === BeginKind.RESCAN ? 'rescan' : 'catch-up';
    if (!image.state.consistent) return 'seeding';
    return session.lag.operations < CATCH_UP_OPERATIONS ? 'streaming' : 'catch-up';
  }
}

function isRescan({ kind }: Begin): boolean {
  return kind === BeginKind.RESCAN || kind === BeginKind.SEEDING;
}

function ageOf(world: World, atMs: number | undefined): number | undefined {
  return atMs === undefined ? undefined : world.clock.nowMs() - atMs;
}

/** A mirror that is further behind than this calls itself in catch-up. */
const CATCH_UP_OPERATIONS = 10_000;

const KIND_NAMES = ['catch-up', 'rescan', 'seeding', 'staged catch-up'] as const;
const BEGINNINGS = ['the stream goes on', 'a rescan begins', 'a seeding begins', 'the stream goes on, staged'] as const;
