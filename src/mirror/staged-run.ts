/**
 * A staged run: the stream into an overlay beside the image, until the checkpoint that completes it.
 *
 * What is staged is durable in steps: `record` syncs it with its position, from which the same primary can go on later,
 * also after a crash. The image is not touched before the whole run is durable and committed.
 *
 * When there is no room for what is new, one of two things happens:
 * - `keep`: the run is given up, the image stays as it is;
 * - `continue`: the image is marked, durably, as having no consistent position; what is staged is copied into it, and
 *   the rest of the run goes *through* to the image. Until it is complete a crash leaves an image to be compared whole.
 *
 * States: open → committed → copied; open → through → complete; open or through → broken (only to be removed). A run
 * begins through where there is not even room to begin it, or where the one before it has found none.
 *
 * Readers (digests) may run beside everything else. `hold` keeps the files open for them; the files are let go of only
 * when the image holds the same content, or nobody will read any more.
 */
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import { InFlight } from '../base/in-flight.ts';
import { formatSize } from '../base/units.ts';
import type { View } from '../rescan/view.ts';
import { Staging } from '../store/staging.ts';
import type { StagingBase } from '../store/staging-log.ts';
import { copyCommitted, forgetCopied, yielding } from './commit.ts';
import type { ImageParts } from './image-state.ts';
import { completeThrough, copyStaged, leaveNet, type StagedOutcome } from './overflow.ts';
import { fullFailure, isFull, makeStaging, missingIn, stagingDirectory, stagingLimit } from './staging-room.ts';
import type { StagedStatus } from './status.ts';
import type { Target } from './target.ts';

export class StagedRun implements Target {
  readonly inOrder: boolean;
  readonly id: Buffer;
  /** Where the image stood when it began. */
  readonly base: StagingBase;
  readonly size: number;
  readonly #parts: ImageParts;
  /** Undefined: it goes through. */
  #staging: Staging | undefined;
  readonly #readers = new InFlight();
  readonly #sinceMs: number;
  #outcome: StagedOutcome | undefined;
  #applied: number;
  #checkpoint: number;
  /** Sequence through which the view is durable. */
  #staged: number;
  #unsynced = false;
  #outOfRoom: boolean;
  /** Steps of the staging come one at a time. Never rejects. */
  #steps: Promise<void> = Promise.resolve();
  /** A sync beside the stream found no room: the next frame of the stream goes on without. */
  #full: unknown;
  #broken = false;
  /** The files are being let go of: who reads now reads the image. */
  #closing = false;
  /** Bytes that the image would need of the file system, when a commit failed for lack of them. */
  #wanted = 0;

  private constructor(
    parts: ImageParts,
    { id, base, size }: Pick<Staging, 'id' | 'base' | 'size'>,
    staging: Staging | undefined,
    position: { sequence: number; checkpoint: number },
    inOrder: boolean,
  ) {
    this.id = id;
    this.base = base;
    this.size = size;
    this.#parts = parts;
    this.#staging = staging;
    this.#outOfRoom = staging === undefined;
    this.inOrder = inOrder;
    this.#applied = position.sequence;
    this.#checkpoint = position.checkpoint;
    this.#staged = position.sequence;
    this.#sinceMs = parts.world.clock.nowMs();
  }

  /** Begins an empty run over the image as it is recorded; `through`: without the net. Durable on return. */
  static async create(
    parts: ImageParts,
    id: Buffer,
    size: number,
    sequence: number,
    inOrder: boolean,
    through: boolean,
  ): Promise<StagedRun> {
    const { run, recorded } = parts.state.now;
    const facts = { id, size, base: { run, sequence: recorded } };
    const position = { sequence, checkpoint: 0 };
    let reason: unknown;
    if (!through) {
      try {
        const staging = await makeStaging(parts, facts, position);
        return new StagedRun(parts, staging, staging, position, inOrder);
      } catch (error) {
        if (!isFull(error)) throw error;
        if (parts.rules.overflow !== 'continue') throw fullFailure(error, 'there is no room for a staged run');
        reason = error;
      }
    }
    // What was made of it, or was left, must not be found over an image that goes on.
    await Staging.discard(parts.world.files, stagingDirectory(parts.disk.path));
    await leaveNet(parts, size, reason);
    return new StagedRun(parts, facts, undefined, position, inOrder);
  }

  /** Opens the run that a former process left; undefined when there is none. Failures: `state-corrupt`, those of the disk. */
  static async open(parts: ImageParts): Promise<StagedRun | undefined> {
    const { disk, world } = parts;
    const staging = await Staging.open(
      world.files,
      stagingDirectory(disk.path),
      disk.size,
      stagingLimit(parts, Number.MAX_SAFE_INTEGER),
    );
    return staging === undefined ? undefined : new StagedRun(parts, staging, staging, staging.position, false);
  }

  get applied(): number {
    return this.#applied;
  }

  /** Sequence through which the view is durable. */
  get staged(): number {
    return this.#staged;
  }

  get stagedCheckpoint(): number {
    return this.#staging?.position.checkpoint ?? 0;
  }

  /** Bytes that it takes beside the image. */
  get stagedSize(): number {
    return this.#staging?.overlay.dataSize ?? 0;
  }

  /** Bytes of free space that the image needs besides, as far as a commit has found out. */
  get wanted(): number {
    return this.#wanted;
  }

  get unrecorded(): boolean {
    return this.#unsynced || this.#staged < this.#applied;
  }

  get committed(): boolean {
    return this.#staging?.committed !== undefined;
  }

  /** It found no room and went on without the net, or failed in that: where it ends incomplete, the next begins so. */
  get outOfRoom(): boolean {
    return this.#outOfRoom;
  }

  /** A later session can go on with it, once it is recorded. */
  get resumable(): boolean {
    return !this.#broken && this.#staging !== undefined && this.#full === undefined && !this.committed;
  }

  get status(): StagedStatus {
    return {
      size: this.stagedSize,
      limit: this.#parts.rules.limit,
      ageMs: this.#parts.world.clock.nowMs() - this.#sinceMs,
      committed: this.committed,
      through: this.#staging === undefined,
    };
  }

  /** What digests and checks read while the run is open. */
  get view(): View {
    const { disk } = this.#parts;
    const staging = this.#staging;
    if (staging === undefined || this.#closing) return { disk, size: this.size };
    const over = {
      overlay: staging.overlay,
      data: staging.data,
      hold: () => {
        this.#readers.enter();
        return () => this.#readers.leave();
      },
    };
    return { disk, size: this.size, over };
  }

  /** A session goes on with the run, or has begun it. */
  join(outcome: StagedOutcome): void {
    this.#outcome = outcome;
  }

  checkSound(): void {
    if (this.#broken) throw new Failure('io-error', 'the staged run was given up');
  }

  write(data: Buffer, offset: number): void | Promise<void> {
    this.#unsynced = true;
    const staging = this.#staging;
    if (staging === undefined) return this.#parts.disk.write(data, offset);
    const again = () => this.#parts.disk.write(data, offset);
    if (this.#full !== undefined) return this.#refused(this.#full, again);
    try {
      return staging.overlay.write(offset, data)?.catch((error: unknown) => this.#refused(error, again));
    } catch (error) {
      return this.#refused(error, again);
    }
  }

  zero(offset: number, length: number): void | Promise<void> {
    this.#unsynced = true;
    const staging = this.#staging;
    if (staging === undefined) return this.#parts.disk.zero(offset, length, false);
    const again = () => this.#parts.disk.zero(offset, length, false);
    if (this.#full !== undefined) return this.#refused(this.#full, again);
    try {
      return staging.overlay.zero(offset, length)?.catch((error: unknown) => this.#refused(error, again));
    } catch (error) {
      return this.#refused(error, again);
    }
  }

  read(into: Buffer, offset: number): void | Promise<void> {
    const { disk } = this.#parts;
    if (this.#staging === undefined || this.#closing) return disk.read(into, offset);
    const reading = this.#staging.overlay.read(into, offset, disk);
    return reading === undefined ? undefined : this.#readers.during(reading);
  }

  setApplied(sequence: number): void {
    assert(sequence >= this.#applied, 'operations are staged in order');
    this.#applied = sequence;
  }

  /** The image is not touched, so epochs mean nothing here. */
  barrier(): undefined {
    return undefined;
  }

  /** Beside the stream: while operations are applied. */
  record(): Promise<void> {
    return this.#inTurn(() => this.#sync(this.#checkpoint, false));
  }

  /** In its place of the stream: no operation is under way. */
  async checkpoint(number: number, sequence: number): Promise<void> {
    this.setApplied(sequence);
    await this.#inTurn(() => this.#sync(number, true));
  }

  /**
   * Commits: afterwards the image is at `sequence`, durably, and the run is gone. A failure before the
   * commit record leaves the image as it was, one after it leaves the run committed: call `finish` again.
   */
  async complete(number: number, sequence: number): Promise<void> {
    await this.checkpoint(number, sequence);
    await this.#inTurn(async () => {
      assert(this.#outcome !== undefined, 'a run is completed for somebody');
      if (this.#staging !== undefined) await this.#reserve(this.#staging);
      if (this.#staging !== undefined) await this.#commit(this.#staging, this.#outcome, number, sequence);
      if (this.#staging === undefined) await completeThrough(this.#parts, this.#outcome, number, sequence);
    });
    if (this.committed) await this.finish();
  }

  /** Copies the committed run into the image and removes it. Again after a failure. */
  async finish(): Promise<void> {
    assert(this.#staging !== undefined, 'a committed run has its files');
    await copyCommitted(this.#parts, this.#staging);
    await this.#letGo();
    await forgetCopied(this.#parts, this.#staging);
  }

  /** Removes the files, durably, once nobody reads them. Failure: `state-unwritable`: call again. */
  async remove(): Promise<void> {
    await this.#letGo();
    if (this.#staging !== undefined) await this.#staging.remove();
    else await Staging.discard(this.#parts.world.files, stagingDirectory(this.#parts.disk.path));
  }

  /** Lets go of the files and leaves what is there. */
  async close(): Promise<void> {
    await this.#letGo();
    await this.#staging?.close();
  }

  async #letGo(): Promise<void> {
    this.#closing = true;
    await this.#steps;
    await this.#readers.idle();
  }

  #inTurn(step: () => Promise<void>): Promise<void> {
    const done = this.#steps.then(step);
    this.#steps = done.catch(() => undefined);
    return done;
  }

  async #sync(checkpoint: number, inStream: boolean): Promise<void> {
    if (this.committed) return;
    this.checkSound();
    this.#checkpoint = Math.max(this.#checkpoint, checkpoint);
    const sequence = this.#applied;
    this.#unsynced = false;
    if (this.#staging !== undefined) {
      try {
        if (this.#full !== undefined) throw this.#full;
        await this.#staging.sync({ sequence, checkpoint: this.#checkpoint });
      } catch (error) {
        if (isFull(error) && this.#goesOn && !inStream) {
          // The overlay must not be copied while it is written to.
          this.#full = error;
          return;
        }
        await this.#giveWay(error);
      }
    }
    if (this.#staging === undefined) await this.#parts.disk.sync();
    this.#staged = Math.max(this.#staged, sequence);
    this.#parts.world.points.reached('mirror-staging-synced');
  }

  async #commit(staging: Staging, outcome: StagedOutcome, checkpoint: number, sequence: number): Promise<void> {
    const { generation, run, parentRun, parentSequence, mapVersion } = outcome;
    const lineage = { generation, run, parentRun, parentSequence };
    try {
      await staging.commit({
        ...lineage,
        sequence,
        checkpoint,
        mapVersion: mapVersion(),
        committedAtMs: this.#parts.world.clock.wallMs(),
      });
    } catch (error) {
      // Whether the record is on the medium nobody knows. Without the net it would be found over an image at no
      // position; otherwise the run is removed before anything else happens.
      await this.#giveWay(error, 'there is no room to complete a staged run');
      return;
    }
    this.#parts.world.points.reached('mirror-commit-recorded');
  }

  /** So that the copy cannot fail for lack of space. What the image has yet to grow cannot be reserved. */
  async #reserve({ overlay }: Staging): Promise<void> {
    const { disk, state, world } = this.#parts;
    // The image's time changes with this: after a crash a state that says `clean` would blame somebody else for it.
    if (state.now.clean) await state.patch({ clean: false });
    try {
      if (disk.size === this.size) await overlay.reserveIn(disk, yielding(world.clock));
    } catch (error) {
      this.#wanted = missingIn(disk, overlay);
      if (isFull(error) && this.#goesOn) return this.#giveWay(error);
      // Nothing is lost: the next session commits when there is room.
      const what = `the image needs ${this.#wanted} bytes (${formatSize(this.#wanted)}) more to take a staged run of ${overlay.dataSize} bytes`;
      throw isFull(error) ? fullFailure(error, what) : error;
    }
    world.points.reached('mirror-space-reserved');
  }

  get #goesOn(): boolean {
    return this.#parts.rules.overflow === 'continue';
  }

  /** Staging did not take an operation. `again`: do it to the image. Rejects with what the primary is told. */
  async #refused(error: unknown, again: () => void | Promise<void>): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#staging !== undefined) await this.#giveWay(error);
    });
    await again();
  }

  /** Goes on without staging where that is wanted; otherwise the run is over. No operation may be under way. */
  async #giveWay(error: unknown, what?: string): Promise<void> {
    const staging = this.#staging;
    assert(staging !== undefined, 'what gives way is staged');
    this.#outOfRoom = isFull(error) && this.#goesOn;
    // A sync that failed for lack of space has lost data, and what is lost must not be copied into the image.
    if (this.#outOfRoom && !staging.dataLost) return this.#goThrough(staging, error);
    this.#broken = true;
    // The next one goes on without room: that is not what the primary should wait for.
    if (!isFull(error) || this.#outOfRoom) throw error;
    const size = staging.overlay.dataSize;
    const text = `a staged run needs more than the ${size} bytes (${formatSize(size)}) that it has taken`;
    throw fullFailure(error, what ?? text);
  }

  async #goThrough(staging: Staging, reason: unknown): Promise<void> {
    try {
      await leaveNet(this.#parts, this.size, reason);
      await copyStaged(this.#parts, staging);
      this.#staging = undefined;
      await this.#readers.idle();
      await staging.remove();
    } catch (error) {
      this.#broken = true;
      throw error;
    }
  }
}
