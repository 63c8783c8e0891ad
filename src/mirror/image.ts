/**
 * One image of the mirror with its state beside it: `DIR/NAME.img` and `DIR/NAME.img.twin/`.
 *
 * The stream goes either straight into the image (direct-target.ts) or into a staged run over it (staged-run.ts), which
 * is committed as one step. `target` is where it goes now.
 *
 * Invariants:
 * - `consistent` is durably false from before the first byte of a seeding until its last byte is durable;
 * - the clean flag is durably clear from before the first byte that reaches the image in a session;
 * - not a byte reaches the image while the log of a staged run is there, but those of its own commit;
 * - an image that is not exact (an unclean stop, a failed call) is changed by staged runs and seedings alone.
 *
 * Survives a crash: what the state file says, and the staged run as of its last sync. An unclean stop may leave
 * operations after `recorded` in the image; the primary sends them again.
 */
import { assert } from '../base/assert.ts';
import { ID_SIZE, NO_ID } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import { InFlight } from '../base/in-flight.ts';
import type { Log } from '../base/log.ts';
import type { Disk } from '../io/disk.ts';
import type { World } from '../io/world.ts';
import { relate } from '../link/lineage.ts';
import { type Begin, BeginKind, type Hello, isStaged, type Positions } from '../link/messages.ts';
import type { View } from '../rescan/view.ts';
import type { MirrorState } from '../store/mirror-state.ts';
import { Staging } from '../store/staging.ts';
import { DirectTarget } from './direct-target.ts';
import { distrust, type Findings, findOut } from './image-findings.ts';
import { ImagePositions } from './image-positions.ts';
import { type Commits, DEFAULT_STAGING, type ImageParts, ImageState, type StagingRules } from './image-state.ts';
import {
  createImageFiles,
  type ImageFile,
  type ImageFiles,
  imagePath,
  inconsistencyOf,
  isInPlace,
  openImageFiles,
} from './open-image.ts';
import { completed, factsOf, type SessionFacts } from './session-facts.ts';
import { goesOnWith, type ImagePosition, isFollowed, isNamed, positionSeenBy } from './session-start.ts';
import { StagedRun } from './staged-run.ts';
import { stagingDirectory, stagingRoom } from './staging-room.ts';
import type { Target } from './target.ts';

export class MirrorImage {
  readonly #parts: ImageParts;
  readonly #direct: DirectTarget;
  #run: StagedRun | undefined;
  /** The last run found no room, was to go on without, and was not completed: the next one begins without the net. */
  #outOfRoom = false;
  /** The log of a staged run may be there, though none is held. */
  #leftovers = false;
  /** At the opening. */
  #found: Pick<Findings, 'strangeness' | 'file'> = { strangeness: undefined, file: 'same' };
  /** The session that writes to the image. */
  #session: SessionFacts | undefined;

  private constructor(world: World, log: Log, files: ImageFiles, rules: StagingRules) {
    const state = new ImageState(world, files.file);
    const positions = new ImagePositions(files.file.state.recorded, files.file.state.clean);
    const checkInPlace = () => this.#checkInPlace();
    const commits = { count: 0, lastMs: undefined };
    const clearing = new InFlight();
    this.#parts = { world, log, disk: files.disk, state, positions, rules, commits, clearing, checkInPlace };
    this.#direct = new DirectTarget(this.#parts);
  }

  /**
   * Opens an image that is there; undefined when neither image nor state exist. A committed staged run is not copied
   * yet: `finishCommit` does, and comes before anything else. `mayBeCopy`: see findOut.
   * Failures: see openImageFiles.
   */
  static async open(
    world: World,
    log: Log,
    directory: string,
    name: string,
    rules: StagingRules = DEFAULT_STAGING,
    mayBeCopy = false,
  ): Promise<MirrorImage | undefined> {
    const files = await openImageFiles(world, imagePath(directory, name));
    if (files === undefined) return undefined;
    const image = new MirrorImage(world, log, files, rules);
    try {
      const found = await findOut(image.#parts, mayBeCopy);
      image.#run = found.run;
      image.#found = { strangeness: found.strangeness, file: found.file };
    } catch (error) {
      await image.#release();
      throw error;
    }
    return image;
  }

  /** Creates the image, all holes, and its state: not consistent, at no position. Durable on return. */
  static async create(
    world: World,
    log: Log,
    directory: string,
    name: string,
    hello: Hello,
    rules: StagingRules = DEFAULT_STAGING,
    replicaId: Buffer = world.random.bytes(ID_SIZE),
  ): Promise<MirrorImage> {
    const files = await createImageFiles(world, imagePath(directory, name), hello, replicaId);
    return new MirrorImage(world, log, files, rules);
  }

  get disk(): Disk {
    return this.#parts.disk;
  }

  get state(): MirrorState {
    return this.#parts.state.now;
  }

  /** What it was found to be at the opening. */
  get file(): ImageFile {
    return this.#found.file;
  }

  get commits(): Readonly<Commits> {
    return this.#parts.commits;
  }

  get applied(): number {
    return this.#parts.positions.applied;
  }

  get durable(): number {
    return this.#parts.positions.durable;
  }

  get recorded(): number {
    return this.#parts.positions.recorded;
  }

  /** True when the content is that of some position, or a legal crash state of it. */
  get consistent(): boolean {
    return this.state.consistent && !this.committing;
  }

  /** True when nothing beyond `applied` can be in the image. */
  get exact(): boolean {
    return this.#parts.positions.exact;
  }

  /** A committed staged run waits to be copied: the image may be half new until `finishCommit`. */
  get committing(): boolean {
    return this.#run?.committed === true;
  }

  /** Why the content is not consistent; undefined when it is. */
  get reason(): string | undefined {
    if (this.committing) return 'a staged run is complete and has yet to be copied into it';
    return this.consistent ? undefined : (this.#found.strangeness ?? inconsistencyOf(this.state));
  }

  /** The staged run that is open, or kept for a session that goes on with it. */
  get run(): StagedRun | undefined {
    return this.#run;
  }

  /** Where the stream goes now. */
  get target(): Target {
    return this.#run ?? this.#direct;
  }

  /** What digests are made of. */
  get view(): View {
    return this.#run?.view ?? { disk: this.disk, size: this.disk.size };
  }

  /** The positions as the session's primary counts. */
  get positions(): Omit<Positions, 'received'> {
    const run = this.#run;
    const { applied, durable, recorded } = this;
    const staged = run?.staged ?? 0;
    const stagedSize = run?.stagedSize ?? 0;
    if (run !== undefined && this.#session?.foreign === true)
      return { applied: 0, durable: 0, recorded: 0, staged, stagedSize };
    return { applied, durable, recorded, staged, stagedSize };
  }

  /** What that primary may assume. */
  positionFor(hello: Hello): ImagePosition {
    const { run, parentRun, parentSequence } = this.state;
    const { consistent, exact, recorded, applied: resumeAfter } = this;
    return positionSeenBy(hello, { consistent, exact, resumeAfter, recorded, run, parentRun, parentSequence });
  }

  /** Bytes that a staged run may take now. */
  stagingRoom(): Promise<number> {
    return stagingRoom(this.#parts, this.#run);
  }

  /** Copies a committed staged run that waits for it. Failures: of the disk; then it waits on. */
  async finishCommit(): Promise<void> {
    if (this.#run?.committed !== true) return;
    await this.#run.finish();
    this.#run = undefined;
    this.#leftovers = false;
  }

  /**
   * A session begins: the state says durably what is about to become true, before the image is touched. The begin was
   * checked: its position is one that the image has.
   */
  async begin(hello: Hello, begin: Begin): Promise<void> {
    assert(this.#run?.committed !== true, 'a committed run is copied before a session begins');
    const session = factsOf(hello, begin, this.positionFor(hello));
    this.#parts.positions.sessionBegan();
    await this.#recordMapVersion(session.mapVersion);
    if (isStaged(begin.kind)) await this.#beginStaged(hello, begin, session);
    else if (begin.kind === BeginKind.CATCH_UP) await this.#beginCatchUp(begin, session);
    else await this.#beginSeeding(hello, begin, session);
    this.#session = session;
    this.#parts.world.points.reached('mirror-session-recorded');
  }

  /** STAGE in the stream: a staged run begins here, behind the operation with that sequence, the last one applied. */
  async stage(id: Buffer, sequence: number): Promise<void> {
    const session = this.#session;
    if (session === undefined || this.#run !== undefined || !this.state.consistent) {
      throw new Failure('frame-invalid', 'a staged run inside another, or over an image that is not consistent');
    }
    // What the commit relies on must not be lost when the power goes in its middle.
    await this.#direct.record();
    await this.#createRun(session, id, this.disk.size, sequence, false);
  }

  /** The checkpoint that completes what was begun. Everything is at `sequence` afterwards, durably. */
  async complete(number: number, sequence: number): Promise<void> {
    const [run, session] = [this.#run, this.#session];
    assert(session !== undefined, 'a session completes what it has begun');
    if (sequence < session.sentMax) {
      throw new Failure('frame-invalid', `a staged run ends at ${sequence}: later operations may be in the image`);
    }
    if (run === undefined) {
      await this.#direct.complete(number, sequence, session.comparing ? session.mapVersion : undefined);
    } else {
      await run.complete(number, sequence);
      this.#run = undefined;
      this.#leftovers = false;
    }
    this.#outOfRoom = false;
    completed(session);
  }

  /** The primary's map has that version: durable on return, never lower than before. */
  async sawMapVersion(version: number): Promise<void> {
    if (this.#session !== undefined) this.#session.mapVersion = Math.max(this.#session.mapVersion, version);
    await this.#recordMapVersion(version);
  }

  /** False when the image or its state was deleted, moved or replaced under our hands: what we write goes nowhere. */
  isInPlace(): Promise<boolean> {
    return isInPlace(this.#parts.world, this.disk);
  }

  /** Lets go of an image that is not in place. Whatever stands there later is compared whole. */
  async abandon(): Promise<void> {
    const run = this.#run;
    this.#run = undefined;
    try {
      await distrust(this.#parts, run);
    } finally {
      await this.#release();
    }
  }

  /**
   * A session has ended; nothing is under way. What was applied is recorded, what was staged is kept where a later
   * session can go on with it. `sound`: nothing failed here. Failures: of the disk.
   */
  async sessionEnded(sound: boolean): Promise<void> {
    const run = this.#run;
    const began = this.#session !== undefined;
    this.#session = undefined;
    if (run === undefined) {
      // A position that nothing was added to, or that a failure took back, is as old as it was.
      if (this.#direct.unrecorded || (sound && began)) await this.#direct.record();
      return;
    }
    this.#outOfRoom ||= run.outOfRoom;
    if (run.committed || !began) return;
    if (run.resumable) {
      try {
        await run.record();
        if (run.resumable) return;
      } catch (error) {
        await this.dropRun();
        throw error;
      }
    }
    // It went through and was not completed: nothing is known of the image but by comparing everything.
    if (this.state.run.equals(NO_ID)) this.#parts.positions.forget();
    await this.dropRun();
  }

  /** Gives up the uncommitted staged run, durably. The image stays as it is. */
  async dropRun(): Promise<void> {
    const run = this.#run;
    assert(run?.committed !== true, 'a committed run is not given up');
    this.#run = undefined;
    if (run !== undefined) {
      this.#leftovers = true;
      await run.remove();
    } else if (this.#leftovers) {
      await Staging.discard(this.#parts.world.files, stagingDirectory(this.disk.path));
    }
    this.#leftovers = false;
  }

  /** Clean stop. No operation may be under way. */
  async close(): Promise<void> {
    const { state, positions, world } = this.#parts;
    try {
      await this.sessionEnded(true);
      if (this.committing) return;
      // The cache outlives this process, and with it what a failed sync has left there. Where the image is exact and
      // consistent the primary has sent that again.
      const clean = positions.exactAsRecorded && (this.state.consistent || !positions.cacheLies);
      await state.patch({ clean, identity: await this.disk.durableIdentity() });
      world.points.reached('mirror-clean-recorded');
    } finally {
      await this.#release();
    }
  }

  async #beginCatchUp(begin: Begin, { descent }: SessionFacts): Promise<void> {
    const { positions } = this.#parts;
    await this.dropRun();
    assert(begin.sequence === positions.applied, 'catch-up goes on after what was applied');
    const whole = positions.exact || begin.sentMax <= begin.sequence;
    assert(whole, 'an image that is not exact is caught up by a staged run');
    await this.#direct.catchUp(descent);
  }

  async #beginSeeding(hello: Hello, begin: Begin, { descent }: SessionFacts): Promise<void> {
    await this.dropRun();
    if (hello.size > this.disk.size) await this.disk.resize(hello.size);
    await this.#direct.sync();
    await this.#direct.dropLies();
    const known = isFollowed(relate(hello, this.state, this.applied)) && begin.sequence >= this.applied;
    // Where the run is known the number stays: an older copy of this image still has an older one.
    await this.#direct.seed(descent, begin.sequence, known ? this.state.checkpoint : 0);
  }

  async #beginStaged(hello: Hello, begin: Begin, session: SessionFacts): Promise<void> {
    const { positions } = this.#parts;
    if (positions.recorded < positions.applied) await this.#direct.record();
    else await this.#direct.sync();
    // What a digest reads must be what the medium holds, not what a failed sync has left in the cache.
    if (begin.kind === BeginKind.RESCAN) await this.#direct.dropLies();
    const run = this.#run;
    if (isNamed(run, begin)) {
      assert(goesOnWith(run, begin, hello.size), 'who names a staged run may go on with it');
      run.setApplied(begin.sequence);
      this.#join(run, session);
      return;
    }
    await this.dropRun();
    const inOrder = begin.kind === BeginKind.CATCH_UP_STAGED;
    await this.#createRun(session, begin.stagingId, hello.size, begin.sequence, inOrder);
  }

  async #createRun(session: SessionFacts, id: Buffer, size: number, sequence: number, inOrder: boolean): Promise<void> {
    this.#leftovers = true;
    this.#run = await StagedRun.create(this.#parts, Buffer.from(id), size, sequence, inOrder, this.#outOfRoom);
    this.#join(this.#run, session);
  }

  #join(run: StagedRun, session: SessionFacts): void {
    const mapVersion = () => (session.comparing ? session.mapVersion : this.state.mapVersion);
    run.join({ ...session.descent, mapVersion });
  }

  async #recordMapVersion(mapVersion: number): Promise<void> {
    if (mapVersion <= this.state.mapVersion) return;
    await this.#parts.state.patch({ mapVersion });
    this.#parts.world.points.reached('mirror-map-version-recorded');
  }

  async #checkInPlace(): Promise<void> {
    if (await this.isInPlace()) return;
    throw new Failure('image-missing', `${this.disk.path} or its state was deleted, moved or replaced while in use`);
  }

  async #release(): Promise<void> {
    await this.#run?.close();
    await this.#parts.clearing.idle();
    await this.#parts.state.close();
    await this.disk.close();
  }
}
