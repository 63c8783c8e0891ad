/**
 * One image of the mirror with its state beside it: `DIR/NAME.img` and `DIR/NAME.img.twin/mirror`.
 *
 * Keeps the positions of the image in the run of its primary:
 * - `applied`: every operation up to here is in the image (as read);
 * - `durable`: and would survive a power loss here and now;
 * - `recorded`: and the state file says so: what a restart comes back to.
 *
 * Invariants: recorded <= durable <= applied, in one run. `consistent` is durably false from before the first byte of a
 * rescan until its last byte is durable. The clean flag is durably clear from before the first byte of a session.
 *
 * Survives a crash: what the state file says. An unclean stop may leave operations after `recorded` in the image; the
 * primary sends them again.
 */
import { assert } from '../base/assert.ts';
import { ID_SIZE, NO_ID } from '../base/bytes.ts';
import { errnoOf, Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Disk } from '../io/disk.ts';
import type { World } from '../io/world.ts';
import { type Lineage, relate } from '../link/lineage.ts';
import type { Begin, Hello } from '../link/messages.ts';
import { BeginKind } from '../link/messages.ts';
import { sameIdentity } from '../store/identity.ts';
import { MIRROR_STATE, MIRROR_STATE_NAME, type MirrorState } from '../store/mirror-state.ts';
import { createStateFile, openStateFile, type StateFile } from '../store/state-file.ts';

export function imagePath(directory: string, name: string): string {
  return `${directory}/${name}.img`;
}

export class MirrorImage {
  readonly disk: Disk;
  readonly #world: World;
  readonly #file: StateFile<MirrorState>;
  /** What the state file holds once the writes under way are done. Patches are facts, so merging them is safe. */
  #state: MirrorState;
  #applied: number;
  #durable: number;
  #recorded: number;
  /** A sync failed in this session: what is applied from now on proves nothing. */
  #lost = false;
  /** The cache may hold what the medium lost: a sync failed, or the last stop was not clean. */
  #cacheLies: boolean;
  /** The image equals a position only from here on (operations beyond the recorded one may be in it already). */
  #exactFrom: number;

  private constructor(world: World, disk: Disk, file: StateFile<MirrorState>) {
    this.#world = world;
    this.disk = disk;
    this.#file = file;
    this.#state = file.state;
    this.#applied = file.state.recorded;
    this.#durable = file.state.recorded;
    this.#recorded = file.state.recorded;
    // After an unclean stop operations beyond the recorded one may be in the image: how many only the primary can say.
    this.#cacheLies = !file.state.clean;
    this.#exactFrom = file.state.clean ? file.state.recorded : Number.POSITIVE_INFINITY;
  }

  /**
   * Opens an image that is there; undefined when neither image nor state exist.
   * Failures: `image-foreign` for an image without state, `image-missing` for the reverse, `state-corrupt`, `disk-busy`, and those of the disk.
   */
  static async open(world: World, log: Log, directory: string, name: string): Promise<MirrorImage | undefined> {
    const path = imagePath(directory, name);
    const statePath = `${path}.twin/${MIRROR_STATE_NAME}`;
    const present = await world.files.exists(path);
    const file = await openStateFile(world.files, MIRROR_STATE, statePath);
    if (file === undefined) {
      if (present === undefined) return undefined;
      throw new Failure('image-foreign', `${path} exists but was not made by this mirror (no state beside it)`);
    }
    if (present === undefined) {
      const { seeded } = file.state;
      await file.close();
      // The power went while it was being created: there was never anything in it.
      if (!seeded) return undefined;
      throw new Failure('image-missing', `${path} is gone while its state in ${path}.twin is there`);
    }
    let disk: Disk;
    try {
      disk = await world.files.openDisk(path, { lock: 'exclusive' });
    } catch (error) {
      await file.close();
      if (!isFailure(error, 'disk-empty') || file.state.seeded) throw error;
      // The power went between making the file and giving it its size.
      await world.files.remove(path);
      return undefined;
    }
    const image = new MirrorImage(world, disk, file);
    try {
      await image.#distrustIfChanged(log, path);
    } catch (error) {
      await image.#release();
      throw error;
    }
    return image;
  }

  /** Creates the image, all holes, and its state: not consistent, at no position. Durable on return. */
  static async create(world: World, directory: string, name: string, hello: Hello): Promise<MirrorImage> {
    const path = imagePath(directory, name);
    await world.files.makeDirectory(`${path}.twin`);
    // The state comes first: an image without state would be taken for somebody else's.
    const file = await createStateFile(world.files, MIRROR_STATE, `${path}.twin/${MIRROR_STATE_NAME}`, {
      replicaId: world.random.bytes(ID_SIZE),
      volumeId: Buffer.from(hello.volumeId),
      generation: Buffer.from(hello.generation),
      run: NO_ID,
      parentRun: NO_ID,
      parentSequence: 0,
      recorded: 0,
      checkpoint: 0,
      consistent: false,
      clean: false,
      seeded: false,
      recordedAtMs: world.clock.wallMs(),
      identity: { inode: '', size: hello.size, modifiedNs: 0n },
      mapVersion: 0,
      copiedId: NO_ID,
    });
    let disk: Disk | undefined;
    try {
      disk = await world.files.openDisk(path, { lock: 'exclusive', createSize: hello.size });
      await disk.sync();
      await world.files.syncDirectory(path.slice(0, path.lastIndexOf('/')));
      return new MirrorImage(world, disk, file);
    } catch (error) {
      // The next attempt opens both again: it must find the image unlocked.
      await disk?.close();
      await file.close();
      throw error;
    }
  }

  get state(): MirrorState {
    return this.#state;
  }

  get applied(): number {
    return this.#applied;
  }

  get durable(): number {
    return this.#durable;
  }

  get recorded(): number {
    return this.#recorded;
  }

  /** True when the image is the primary's content at `applied`. */
  get consistent(): boolean {
    return this.#state.consistent && this.#applied >= this.#exactFrom;
  }

  /**
   * True when that primary may take the image for its own content at `applied`, once it has sent again what may be in it
   * beyond that. Operations of another run that began at the same place it would never send.
   */
  isConsistentFor(hello: Hello): boolean {
    const { consistent, run } = this.#state;
    const exact = this.#applied >= this.#exactFrom;
    return consistent && (exact || run.equals(hello.run) || run.equals(hello.parentRun));
  }

  /** A session begins: the state says durably what is about to become true, before the image is touched. */
  async begin(hello: Hello, begin: Begin): Promise<void> {
    if (hello.size > this.disk.size) {
      assert(begin.kind !== BeginKind.CATCH_UP, 'a grown disk is rescanned');
      await this.disk.resize(hello.size);
    }
    this.#lost = false;
    await this.#sync();
    if (begin.kind === BeginKind.CATCH_UP) {
      assert(begin.sequence === this.#applied, 'catch-up goes on after what was applied');
      if (this.#applied < this.#exactFrom) this.#exactFrom = begin.sentMax;
      // A run that was handed on is adopted here, durably, before its first operation.
      await this.#patch({ clean: false, ...lineageOf(hello), recorded: this.#durable });
      this.#wroteDown(this.#durable);
      return;
    }
    // What a digest reads must be what the medium holds, not what a failed sync has left in the cache.
    if (this.#cacheLies) await this.disk.dropCache();
    this.#cacheLies = false;
    const known = isFollowed(hello, this.#state, this.#applied) && begin.sequence >= this.#applied;
    this.#applied = begin.sequence;
    this.#durable = begin.sequence;
    this.#exactFrom = begin.sequence;
    this.#recorded = begin.sequence;
    await this.#patch({
      clean: false,
      consistent: false,
      generation: Buffer.from(hello.generation),
      ...lineageOf(hello),
      recorded: begin.sequence,
      // Where the run is known the number stays: an older copy of this image still has an older one.
      checkpoint: known ? this.#state.checkpoint : 0,
    });
  }

  /** Throws `io-error` when a sync has failed in this session: the positions have gone back and must stay there. */
  checkSound(): void {
    if (this.#lost) throw new Failure('io-error', `a sync of ${this.disk.path} failed`);
  }

  /** The operation with that sequence is in the image. */
  setApplied(sequence: number): void {
    if (this.#lost) return;
    assert(sequence >= this.#applied, 'operations are applied in order');
    this.#applied = sequence;
  }

  /**
   * Makes everything applied so far durable. On failure lost pages may sit in the cache as if clean: the image goes
   * back to `recorded`, so that the primary sends them again.
   */
  async #sync(): Promise<void> {
    const applied = this.#applied;
    try {
      await this.disk.sync();
      // When another sync failed while this one waited, its success proves nothing about the pages that were lost then.
      this.checkSound();
    } catch (error) {
      this.#lost = true;
      this.#cacheLies = true;
      this.#exactFrom = Math.max(this.#exactFrom, this.#applied);
      this.#applied = this.#recorded;
      this.#durable = this.#recorded;
      throw error;
    }
    this.#durable = Math.max(this.#durable, Math.min(applied, this.#applied));
  }

  /** Ends an epoch: durable on return. */
  barrier(): Promise<void> {
    return this.#sync();
  }

  /** False when the image or its state was deleted, moved or replaced under our hands: what we write goes nowhere. */
  async isInPlace(): Promise<boolean> {
    const { path } = this.disk;
    const [inode, state, identity] = await Promise.all([
      this.#world.files.inodeOf(path),
      this.#world.files.exists(`${path}.twin/${MIRROR_STATE_NAME}`),
      this.disk.identity(),
    ]);
    return inode === identity.inode && state === 'file';
  }

  /** Lets go of an image that is not in place. Whatever stands there later is compared whole. */
  async abandon(): Promise<void> {
    try {
      await this.#distrust();
    } finally {
      await this.#release();
    }
  }

  /** Makes what is applied durable and writes the position down. Failure: `image-missing`, and those of the disk. */
  async record(): Promise<void> {
    if (this.#durable < this.#applied) await this.#sync();
    await this.#checkInPlace();
    const durable = this.#durable;
    await this.#patch({ recorded: durable });
    this.#wroteDown(durable);
  }

  /**
   * A checkpoint: durable and written down on return. The image is at `sequence` then: the last operations before it may
   * be ones that were left to a comparison and never came by themselves. `complete`: it is consistent from now on.
   */
  async checkpoint(number: number, sequence: number, complete: boolean): Promise<void> {
    this.setApplied(sequence);
    await this.#sync();
    await this.#checkInPlace();
    const durable = this.#durable;
    await this.#patch({
      recorded: durable,
      checkpoint: number,
      ...(complete ? { consistent: true, seeded: true } : {}),
    });
    this.#wroteDown(durable);
  }

  /** A call to the disk failed: what it did is not known until the next operation has been applied (again). */
  spoiled(): void {
    this.#exactFrom = Math.max(this.#exactFrom, this.#applied + 1);
  }

  /** Clean stop. No operation may be under way. */
  async close(): Promise<void> {
    try {
      await this.record();
      // The cache outlives this process, and with it what a failed sync has left there. Where the image is exact and
      // consistent the primary has sent that again.
      const sound = this.#applied >= this.#exactFrom && (this.#state.consistent || !this.#cacheLies);
      await this.#patch({ clean: sound, identity: await this.disk.identity() });
    } finally {
      await this.#release();
    }
  }

  async #checkInPlace(): Promise<void> {
    if (await this.isInPlace()) return;
    throw new Failure('image-missing', `${this.disk.path} or its state was deleted, moved or replaced while in use`);
  }

  async #release(): Promise<void> {
    await this.#file.close();
    await this.disk.close();
  }

  /** The state file says so. A sync that failed meanwhile took back what came after this, not this. */
  #wroteDown(durable: number): void {
    this.#recorded = Math.max(this.#recorded, durable);
    this.#durable = Math.max(this.#durable, durable);
    this.#applied = Math.max(this.#applied, durable);
  }

  async #patch(patch: Partial<MirrorState>): Promise<void> {
    this.#state = { ...this.#state, ...patch, recordedAtMs: this.#world.clock.wallMs() };
    await this.#file.write(this.#state);
  }

  /** After a clean stop the image must be as it was left; otherwise its position means nothing. */
  async #distrustIfChanged(log: Log, path: string): Promise<void> {
    if (!this.#state.clean) return;
    if (sameIdentity(this.#state.identity, await this.disk.identity())) return;
    log.warn({ image: path }, 'the image was changed while no mirror was running: everything will be compared');
    await this.#distrust();
  }

  async #distrust(): Promise<void> {
    this.#applied = 0;
    this.#durable = 0;
    this.#recorded = 0;
    await this.#patch({
      run: NO_ID,
      parentRun: NO_ID,
      parentSequence: 0,
      recorded: 0,
      checkpoint: 0,
      consistent: false,
      clean: false,
    });
  }
}

/** True when a position of this image means something to that primary: its own run, or the one it was handed. */
export function isFollowed(hello: Hello, state: MirrorState, applied: number): boolean {
  const relation = relate(hello, state, applied);
  return relation === 'same-run' || relation === 'handed-on';
}

/** The lineage of a HELLO, in buffers of its own. */
function lineageOf(hello: Hello): Lineage {
  return {
    run: Buffer.from(hello.run),
    parentRun: Buffer.from(hello.parentRun),
    parentSequence: hello.parentSequence,
  };
}

/** A failure of our own disk, as the primary should read it. */
export function asMirrorFailure(error: unknown): Failure {
  if (error instanceof Failure) {
    if (error.code === 'no-space')
      return new Failure('mirror-no-space', `the mirror’s disk is full: ${error.message}`, { cause: error });
    if (error.code === 'io-error' || error.code === 'not-permitted') {
      return new Failure('mirror-io-error', `the mirror’s disk failed: ${error.message}`, { cause: error });
    }
    return error;
  }
  if (errnoOf(error) !== undefined) return new Failure('mirror-io-error', String(error), { cause: error });
  throw error;
}
