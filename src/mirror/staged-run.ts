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
 * States: open → committed → copied; open → through → complete; open → broken (only to be removed).
 *
 * Readers (digests) may run beside everything else. `hold` keeps the files open for them; the files are let go of only
 * when the image holds the same content, or nobody will read any more.
 */
import { assert } from '../base/assert.ts';
import { NO_ID } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import { InFlight } from '../base/in-flight.ts';
import { formatSize } from '../base/units.ts';
import type { View } from '../rescan/view.ts';
import { Staging } from '../store/staging.ts';
import { copyCommitted } from './commit.ts';
import type { ImageParts } from './image-state.ts';
import { completeThrough, goThrough, type StagedOutcome } from './overflow.ts';
import { fullFailure, isFull, missingIn, stagingDirectory, stagingLimit } from './staging-room.ts';
import type { Target } from './target.ts';

/** What status tells. */
export interface StagedStatus {
  /** Bytes that it takes beside the image. */
  readonly size: number;
  /** Bytes that it may take; undefined: what the file system has. */
  readonly limit: number | undefined;
  readonly ageMs: number;
  /** Complete, and being copied into the image, or waiting for that. */
  readonly committed: boolean;
  /** Without the net: it ran out of room and goes straight to the image. */
  readonly through: boolean;
}

export class StagedRun implements Target {
  readonly inOrder: boolean;
  readonly #parts: ImageParts;
  readonly #staging: Staging;
  readonly #readers = new InFlight();
  readonly #sinceMs: number;
  #outcome: StagedOutcome | undefined;
  #applied: number;
  #checkpoint: number;
  /** Sequence through which the view is durable. */
  #staged: number;
  #unsynced = false;
  /** Steps of the staging come one at a time. Never rejects. */
  #steps: Promise<void> = Promise.resolve();
  #through = false;
  /** A sync beside the stream found no room: the next frame of the stream goes on without. */
  #full: unknown;
  #broken = false;
  /** The files are being let go of: who reads now reads the image. */
  #closing = false;
  /** Bytes that the image would need of the file system, when a commit failed for lack of them. */
  #wanted = 0;

  private constructor(
    parts: ImageParts,
    staging: Staging,
    position: { sequence: number; checkpoint: number },
    inOrder: boolean,
  ) {
    this.#parts = parts;
    this.#staging = staging;
    this.inOrder = inOrder;
    this.#applied = position.sequence;
    this.#checkpoint = position.checkpoint;
    this.#staged = position.sequence;
    this.#sinceMs = parts.world.clock.nowMs();
  }

  /** Begins an empty run over the image as it is recorded. Durable on return. */
  static async create(
    parts: ImageParts,
    id: Buffer,
    size: number,
    sequence: number,
    inOrder: boolean,
  ): Promise<StagedRun> {
    const directory = stagingDirectory(parts.disk.path);
    const base = { run: parts.state.now.run, sequence: parts.state.now.recorded };
    // An id may come twice; the copy of the one before must not be taken for that of this one.
    if (parts.state.now.copiedId.equals(id)) await parts.state.patch({ copiedId: NO_ID });
    let staging: Staging | undefined;
    try {
      staging = await Staging.create(parts.world.files, directory, id, size, stagingLimit(parts, size), base);
      const position = { sequence, checkpoint: 0 };
      await staging.sync(position);
      parts.world.points.reached('mirror-staging-begun');
      return new StagedRun(parts, staging, position, inOrder);
    } catch (error) {
      // What was made may stay: it is empty, over the image as it is, and removed by whoever begins the next.
      await staging?.close();
      throw isFull(error) ? fullFailure(error, 'there is no room for a staged run') : error;
    }
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
    return staging === undefined ? undefined : new StagedRun(parts, staging, staging.position, false);
  }

  get id(): Buffer {
    return this.#staging.id;
  }

  get base(): Staging['base'] {
    return this.#staging.base;
  }

  get size(): number {
    return this.#staging.size;
  }

  get applied(): number {
    return this.#applied;
  }

  /** Sequence through which the view is durable. */
  get staged(): number {
    return this.#staged;
  }

  get stagedCheckpoint(): number {
    return this.#staging.position.checkpoint;
  }

  /** Bytes that it takes beside the image. */
  get stagedSize(): number {
    return this.#through ? 0 : this.#staging.overlay.dataSize;
  }

  /** Bytes of free space that the image needs besides, as far as a commit has found out. */
  get wanted(): number {
    return this.#wanted;
  }

  get unrecorded(): boolean {
    return this.#unsynced || this.#staged < this.#applied;
  }

  get committed(): boolean {
    return this.#staging.committed !== undefined;
  }

  /** It ran out of room and goes straight to the image, which has no consistent position until it is complete. */
  get through(): boolean {
    return this.#through;
  }

  /** A later session can go on with it. */
  get resumable(): boolean {
    return !this.#broken && !this.#through && !this.committed;
  }

  get status(): StagedStatus {
    return {
      size: this.stagedSize,
      limit: this.#parts.rules.limit,
      ageMs: this.#parts.world.clock.nowMs() - this.#sinceMs,
      committed: this.committed,
      through: this.#through,
    };
  }

  /** What digests and checks read while the run is open. */
  get view(): View {
    const { disk } = this.#parts;
    if (this.#through || this.#closing) return { disk, size: this.size };
    const over = {
      overlay: this.#staging.overlay,
      data: this.#staging.data,
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
    if (this.#through) return this.#parts.disk.write(data, offset);
    const again = () => this.#parts.disk.write(data, offset);
    if (this.#full !== undefined) return this.#refused(this.#full, again);
    try {
      return this.#staging.overlay.write(offset, data)?.catch((error: unknown) => this.#refused(error, again));
    } catch (error) {
      return this.#refused(error, again);
    }
  }

  zero(offset: number, length: number): void | Promise<void> {
    this.#unsynced = true;
    if (this.#through) return this.#parts.disk.zero(offset, length, false);
    const again = () => this.#parts.disk.zero(offset, length, false);
    if (this.#full !== undefined) return this.#refused(this.#full, again);
    try {
      return this.#staging.overlay.zero(offset, length)?.catch((error: unknown) => this.#refused(error, again));
    } catch (error) {
      return this.#refused(error, again);
    }
  }

  read(into: Buffer, offset: number): void | Promise<void> {
    const { disk } = this.#parts;
    if (this.#through || this.#closing) return disk.read(into, offset);
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
   * Commits: afterwards the image is at `sequence`, durably, and the files of the run are gone. A failure before the
   * commit record leaves the image as it was, one after it leaves the run committed: call `finish` again.
   */
  async complete(number: number, sequence: number): Promise<void> {
    await this.checkpoint(number, sequence);
    await this.#inTurn(async () => {
      if (!this.#through) await this.#reserve();
      assert(this.#outcome !== undefined, 'a run is completed for somebody');
      if (this.#through) await completeThrough(this.#parts, this.#outcome, number, sequence);
      else await this.#commit(number, sequence);
    });
    if (this.committed) await this.finish();
  }

  /** Copies the committed run into the image and removes it. Again after a failure. */
  async finish(): Promise<void> {
    await copyCommitted(this.#parts, this.#staging);
    await this.remove();
    this.#parts.world.points.reached('mirror-staging-removed');
  }

  /** Removes the files, durably, once nobody reads them. Failure: `state-unwritable`: call again. */
  async remove(): Promise<void> {
    await this.#letGo();
    await this.#staging.remove();
  }

  /** Lets go of the files and leaves what is there. */
  async close(): Promise<void> {
    await this.#letGo();
    await this.#staging.close();
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
    if (!this.#through) {
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
    if (this.#through) await this.#parts.disk.sync();
    this.#staged = Math.max(this.#staged, sequence);
    this.#parts.world.points.reached('mirror-staging-synced');
  }

  async #commit(checkpoint: number, sequence: number): Promise<void> {
    assert(this.#outcome !== undefined, 'a run is committed for somebody');
    const { generation, run, parentRun, parentSequence, mapVersion } = this.#outcome;
    const lineage = { generation, run, parentRun, parentSequence };
    try {
      await this.#staging.commit({
        ...lineage,
        sequence,
        checkpoint,
        mapVersion: mapVersion(),
        committedAtMs: this.#parts.world.clock.wallMs(),
      });
    } catch (error) {
      // Whether the record is on the medium nobody knows: the run is removed before anything else happens.
      this.#broken = true;
      throw isFull(error) ? fullFailure(error, 'there is no room to complete a staged run') : error;
    }
    this.#parts.world.points.reached('mirror-commit-recorded');
  }

  /** So that the copy cannot fail for lack of space. What the image has yet to grow cannot be reserved. */
  async #reserve(): Promise<void> {
    const { disk, state, world } = this.#parts;
    const { overlay } = this.#staging;
    // The image's time changes with this: after a crash a state that says `clean` would blame somebody else for it.
    if (state.now.clean) await state.patch({ clean: false });
    try {
      if (disk.size === this.size) await overlay.reserveIn(disk);
    } catch (error) {
      this.#wanted = missingIn(disk, overlay);
      if (isFull(error) && this.#goesOn) return this.#goThrough(error);
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
      if (!this.#through) await this.#giveWay(error);
    });
    await again();
  }

  /** Goes on without staging where that is wanted; otherwise the run is over. No operation may be under way. */
  async #giveWay(error: unknown): Promise<void> {
    // A sync that failed for lack of space has lost data, and what is lost must not be copied into the image.
    if (isFull(error) && this.#goesOn && !this.#staging.dataLost) return this.#goThrough(error);
    this.#broken = true;
    if (!isFull(error)) throw error;
    const size = this.#staging.overlay.dataSize;
    throw fullFailure(error, `a staged run needs more than the ${size} bytes (${formatSize(size)}) that it has taken`);
  }

  async #goThrough(reason: unknown): Promise<void> {
    try {
      await goThrough(this.#parts, this.#staging, reason);
      this.#through = true;
      await this.#readers.idle();
      await this.#staging.remove();
    } catch (error) {
      this.#broken = true;
      throw error;
    }
  }
}
