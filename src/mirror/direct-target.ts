/**
 * The stream straight into the image: streaming, catching up, seeding.
 *
 * An epoch is durable before the first operation of the next touches the image: the applier waits for `barrier`.
 */
import type { ImageParts } from './image-state.ts';
import type { Descent } from './session-facts.ts';
import type { Target } from './target.ts';

export class DirectTarget implements Target {
  readonly #parts: ImageParts;

  constructor(parts: ImageParts) {
    this.#parts = parts;
  }

  /** The stream goes on in order: a run that was handed on is adopted, durably, before its first operation. */
  async catchUp({ run, parentRun, parentSequence }: Descent): Promise<void> {
    const { state, positions } = this.#parts;
    await this.sync();
    const recorded = positions.durable;
    await state.patchPosition({ run, parentRun, parentSequence, recorded }, { clean: false });
    positions.moveTo(recorded);
  }

  /** From now on the image is neither the old content nor the new: durable before the first byte. */
  async seed({ generation, ...lineage }: Descent, sequence: number, checkpoint: number): Promise<void> {
    const { state, positions } = this.#parts;
    const position = { ...lineage, recorded: sequence, checkpoint };
    await state.patchPosition(position, { clean: false, consistent: false, generation });
    positions.moveTo(sequence);
  }

  get size(): number {
    return this.#parts.disk.size;
  }

  get applied(): number {
    return this.#parts.positions.applied;
  }

  /** A seeding leaves out operations that its pass will compare anyway. */
  get inOrder(): boolean {
    return this.#parts.state.now.consistent;
  }

  get unrecorded(): boolean {
    return this.#parts.positions.recorded < this.#parts.positions.applied;
  }

  checkSound(): void {
    this.#parts.positions.checkSound();
  }

  write(data: Buffer, offset: number): void | Promise<void> {
    try {
      return this.#watched(this.#parts.disk.write(data, offset));
    } catch (error) {
      this.#parts.positions.spoiled();
      throw error;
    }
  }

  zero(offset: number, length: number): void | Promise<void> {
    try {
      return this.#watched(this.#parts.disk.zero(offset, length, false));
    } catch (error) {
      this.#parts.positions.spoiled();
      throw error;
    }
  }

  read(into: Buffer, offset: number): void | Promise<void> {
    return this.#parts.disk.read(into, offset);
  }

  setApplied(sequence: number): void {
    this.#parts.positions.setApplied(sequence);
  }

  async barrier(): Promise<void> {
    await this.sync();
    this.#parts.world.points.reached('mirror-epoch-synced');
  }

  /** Makes everything applied so far durable. On failure the image goes back to `recorded`. */
  async sync(): Promise<void> {
    const { positions } = this.#parts;
    const { applied } = positions;
    try {
      await this.#parts.disk.sync();
      // When another sync failed while this one waited, its success proves nothing about the pages that were lost then.
      positions.checkSound();
    } catch (error) {
      positions.syncFailed();
      throw error;
    }
    positions.synced(applied);
  }

  /** After a sync: what is read from now on is what the medium holds, not what a failed sync has left in the cache. */
  async dropLies(): Promise<void> {
    const { positions, disk } = this.#parts;
    if (!positions.cacheLies) return;
    await disk.dropCache();
    positions.cacheDropped();
  }

  /** Failure: `image-missing`, and those of the disk. */
  async record(): Promise<void> {
    const { positions, state, world } = this.#parts;
    if (positions.durable < positions.applied) await this.sync();
    await this.#parts.checkInPlace();
    const { durable } = positions;
    await state.patchPosition({ recorded: durable });
    positions.wroteDown(durable);
    world.points.reached('mirror-position-recorded');
  }

  /** The last operations before a checkpoint may be ones that were left to a comparison and never came by themselves. */
  async checkpoint(number: number, sequence: number): Promise<void> {
    await this.#reach(number, sequence, {});
  }

  async complete(number: number, sequence: number, mapVersion?: number): Promise<void> {
    const seen = mapVersion === undefined ? {} : { mapVersion };
    await this.#reach(number, sequence, { consistent: true, seeded: true, ...seen });
  }

  async #reach(checkpoint: number, sequence: number, more: object): Promise<void> {
    const { positions, state, world } = this.#parts;
    positions.setApplied(sequence);
    await this.sync();
    await this.#parts.checkInPlace();
    const { durable } = positions;
    await state.patchPosition({ recorded: durable, checkpoint }, more);
    positions.wroteDown(durable);
    world.points.reached('mirror-position-recorded');
  }

  /** What a call that failed has done to the image is not known. */
  #watched(pending: void | Promise<void>): void | Promise<void> {
    return pending?.catch((error: unknown) => {
      this.#parts.positions.spoiled();
      throw error;
    });
  }
}
