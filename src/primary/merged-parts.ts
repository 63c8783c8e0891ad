/**
 * The merged parts of a backlog: at most one that is frozen and on its way to the mirror, and one behind it that grows.
 * Their files, and the room that they take until these are gone.
 */
import { assert } from '../base/assert.ts';
import { isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { FileSystem } from '../io/disk.ts';
import { FrameType } from '../link/frame.ts';
import type { SpoolRecord } from '../store/spool.ts';
import { MergedPart } from './merged-part.ts';

export interface MergedPartsSettings {
  readonly directory: string;
  readonly diskSize: number;
  /** Bytes of data that all of it, the spool too, may take. */
  readonly sizeMax: number;
}

export class MergedParts {
  readonly #files: FileSystem;
  readonly #log: Log;
  readonly #settings: MergedPartsSettings;
  #frozen: MergedPart | undefined;
  #growing: MergedPart | undefined;
  #number = 0;
  #removingSize = 0;
  readonly #removals = new Set<Promise<void>>();

  constructor(files: FileSystem, log: Log, settings: MergedPartsSettings) {
    this.#files = files;
    this.#log = log;
    this.#settings = settings;
  }

  get frozen(): MergedPart | undefined {
    return this.#frozen;
  }

  get growing(): MergedPart | undefined {
    return this.#growing;
  }

  /** There is no part, or only one without anything in it. */
  get isEmpty(): boolean {
    return this.#frozen === undefined && this.#growing?.isEmpty !== false;
  }

  /** Bytes of data, those of files that are being removed included. */
  get size(): number {
    return (this.#frozen?.size ?? 0) + (this.#growing?.size ?? 0) + this.#removingSize;
  }

  /** Bytes that the mirror lacks, each once. */
  get coveredSize(): number {
    return (this.#frozen?.coveredSize ?? 0) + (this.#growing?.coveredSize ?? 0);
  }

  /** When the oldest operation in them was appended. */
  get sinceMs(): number | undefined {
    return this.#frozen?.sinceMs ?? this.#growing?.sinceMs;
  }

  /** A part for what follows `base`. Not while one grows. Failures: see MergedPart.begin. */
  async begin(base: number): Promise<MergedPart> {
    const { directory, diskSize, sizeMax } = this.#settings;
    this.#number += 1;
    return await MergedPart.begin(this.#files, `${directory}/merged-${this.#number}`, diskSize, sizeMax, base);
  }

  grow(part: MergedPart): void {
    assert(this.#growing === undefined, 'one part grows at a time');
    this.#growing = part;
  }

  freeze(): MergedPart {
    const part = this.#growing;
    assert(part !== undefined && this.#frozen === undefined, 'one part is frozen at a time');
    part.freeze();
    this.#growing = undefined;
    this.#frozen = part;
    return part;
  }

  dropFrozen(): void {
    const part = this.#frozen;
    this.#frozen = undefined;
    if (part !== undefined) this.remove(part);
  }

  dropGrowing(): void {
    const part = this.#growing;
    this.#growing = undefined;
    if (part !== undefined) this.remove(part);
  }

  /** Calls `visit` for each range that a part holds. */
  forEach(visit: (offset: number, length: number) => void): void {
    for (const part of [this.#frozen, this.#growing]) {
      for (let range = part?.next(0); range !== undefined; range = part?.next(range.offset + range.length)) {
        visit(range.offset, range.length);
      }
    }
  }

  /** Removes a part's file in the background; until it is gone its size counts. */
  remove(part: MergedPart): void {
    const { size } = part;
    this.#removingSize += size;
    const removal = part.remove().then(
      () => {
        this.#removingSize -= size;
      },
      (error: unknown) => {
        if (!isFailure(error)) throw error;
        // It is removed at the next start; until then its room is not given away.
        this.#log.warn({ code: error.code }, `a part of the spool could not be removed: ${error.message}`);
      },
    );
    this.#removals.add(removal);
    void removal.finally(() => this.#removals.delete(removal));
  }

  /** Resolves when no file is being removed any more. */
  async removed(): Promise<void> {
    while (this.#removals.size > 0) await Promise.all(this.#removals);
  }
}

/** Folds one record of the spool into a part; at once where the disk does it at once. Failures: see MergedPart. */
export function fold(part: MergedPart, record: SpoolRecord): void | Promise<void> {
  if (record.type === FrameType.ZERO) return part.zero(record.offset, record.length);
  if (record.data !== undefined) return part.write(record.offset, record.data);
  // A barrier: the end of the part counts as one.
}
