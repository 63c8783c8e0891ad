/**
 * What the mirror's view has beyond its image, as far as the primary must remember it: the staged run that the mirror
 * holds or is about to, and the regions that were mended in it. It outlives sessions: the next one may go on with it.
 */
import { Bitmap } from '../base/bitmap.ts';
import { NO_ID } from '../base/bytes.ts';

export type StagedKind = 'rescan' | 'catch-up' | 'merged';

export class StagedRun {
  /** Regions that were found to differ from the image and are mended in the view only. */
  readonly #uncommitted: Bitmap;
  #id: Buffer | undefined;
  #kind: StagedKind | undefined;
  /** The last checkpoint that the mirror has durably staged. */
  #checkpoint = 0;

  constructor(regionCount: number) {
    this.#uncommitted = new Bitmap(regionCount);
  }

  /** NO_ID when there is none. */
  get id(): Buffer {
    return this.#id ?? NO_ID;
  }

  get kind(): StagedKind | undefined {
    return this.#kind;
  }

  /** Regions whose differences are mended in the view only. */
  get uncommittedCount(): number {
    return this.#uncommitted.count;
  }

  holds(region: number): boolean {
    return this.#uncommitted.get(region);
  }

  /** A new one, or none, takes the place of the one before: `lost` sees the regions that are not mended after all. */
  begin(id: Buffer | undefined, kind: StagedKind, lost: (region: number) => void): void {
    this.#uncommitted.forEach(lost);
    this.#uncommitted.clearAll();
    this.#id = id;
    this.#kind = id && kind;
    this.#checkpoint = 0;
  }

  /** True when the mirror has durably staged, of this very run, all that it ever said it had. */
  isHeld(id: Buffer, checkpoint: number): boolean {
    return this.#id?.equals(id) === true && checkpoint >= this.#checkpoint;
  }

  /** The mirror's view holds the mended region durably at `checkpoint`. */
  mended(region: number, checkpoint: number): void {
    this.#uncommitted.set(region);
    this.#checkpoint = Math.max(this.#checkpoint, checkpoint);
  }

  /** The view has become the image. */
  committed(): void {
    this.#uncommitted.clearAll();
    this.#id = undefined;
    this.#kind = undefined;
  }
}
