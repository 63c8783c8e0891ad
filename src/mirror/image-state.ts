/** The state file of an image, and what every part of an image works with. */
import type { InFlight } from '../base/in-flight.ts';
import type { Log } from '../base/log.ts';
import type { Disk } from '../io/disk.ts';
import type { World } from '../io/world.ts';
import type { Lineage } from '../link/lineage.ts';
import type { MirrorState } from '../store/mirror-state.ts';
import type { StateFile } from '../store/state-file.ts';
import type { ImagePositions } from './image-positions.ts';

/** What an operator may say about staged runs. */
export interface StagingRules {
  /** Bytes of staging per export; undefined: the size of the image and the free space alone limit it. */
  readonly limit: number | undefined;
  /** When it runs out: `keep` the image as it is, or `continue` without the net. */
  readonly overflow: 'keep' | 'continue';
}

export const DEFAULT_STAGING: StagingRules = { limit: undefined, overflow: 'keep' };

/** Staged runs that were copied into an image since it was opened. */
export interface Commits {
  count: number;
  /** When the last was, by the world's clock; undefined without one. */
  lastMs: number | undefined;
}

/** One image, for the parts that it is made of. */
export interface ImageParts {
  readonly world: World;
  readonly log: Log;
  readonly disk: Disk;
  readonly state: ImageState;
  readonly positions: ImagePositions;
  readonly rules: StagingRules;
  readonly commits: Commits;
  /** Staged runs that have been copied, and whose space is being given back. */
  readonly clearing: InFlight;
  /** Throws `image-missing` when the image or its state was deleted, moved or replaced under our hands. */
  checkInPlace(): Promise<void>;
}

/** Everything of a position in the state but its time. */
export type RecordedPosition = Partial<Lineage> & { readonly recorded: number; readonly checkpoint?: number };

export class ImageState {
  readonly #world: World;
  readonly #file: StateFile<MirrorState>;
  /** Patches are facts, so they are merged in turn. Never rejects. */
  #writing: Promise<void> = Promise.resolve();
  /** The last write failed: the medium may hold it all the same. */
  #doubtful = false;

  constructor(world: World, file: StateFile<MirrorState>) {
    this.#world = world;
    this.#file = file;
  }

  /** What was written last, durably. What could not be written is nowhere, so that nobody takes it for done. */
  get now(): MirrorState {
    return this.#file.state;
  }

  /** Durable on return. After a failure the state is what it was, and the medium may hold either. */
  patch(patch: Partial<MirrorState>): Promise<void> {
    const written = this.#writing.then(async () => {
      this.#doubtful = true;
      await this.#file.write({ ...this.now, ...patch });
      this.#doubtful = false;
    });
    this.#writing = written.catch(() => undefined);
    return written;
  }

  /** Durable on return: the image is there now. */
  patchPosition(position: RecordedPosition, more: Partial<MirrorState> = {}): Promise<void> {
    return this.patch({ ...position, ...more, recordedAtMs: this.#world.clock.wallMs() });
  }

  /** On return the medium holds what `now` says, and nothing of a write that failed. */
  async ensure(): Promise<void> {
    await this.#writing;
    if (this.#doubtful) await this.patch({});
  }

  async close(): Promise<void> {
    await this.#writing;
    await this.#file.close();
  }
}
