/** The dirty map as one replica sees it: its plane, and when each region was last written. */
import type { ClearedPosition, DirtyMap } from '../store/dirty-map.ts';
import type { RegionSequences } from './region-sequences.ts';

export class MirrorRegions {
  readonly #map: DirtyMap;
  readonly #plane: number;
  readonly #sequences: RegionSequences;
  #versionTold: number;

  constructor(map: DirtyMap, plane: number, sequences: RegionSequences) {
    this.#map = map;
    this.#plane = plane;
    this.#sequences = sequences;
    this.#versionTold = map.versionTold;
  }

  get size(): number {
    return this.#map.size;
  }

  get regionSize(): number {
    return this.#map.regionSize;
  }

  /** Regions that are set, in step or not. */
  get setCount(): number {
    return this.#map.count(this.#plane);
  }

  /** False: the map could not be written, and tells nothing any more. */
  get valid(): boolean {
    return this.#map.valid;
  }

  get version(): number {
    return this.#map.version;
  }

  /**
   * The highest version that the replica may know of this disk: told before this start, or since. One that has seen a
   * higher one has met a later state of it.
   */
  get versionTold(): number {
    return this.#versionTold;
  }

  /** A session is about to begin: the versions that it tells are durably known to be told. Failure: `io-error`. */
  beginTelling(): Promise<void> {
    return this.#map.beginTelling();
  }

  /** The session is over. */
  endTelling(): void {
    this.#map.endTelling();
  }

  /** The replica is told, in a session. */
  told(version: number): void {
    this.#versionTold = Math.max(this.#versionTold, version);
  }

  /** Of which replica the map tells; zero: of none yet. */
  get replicaId(): Buffer {
    return this.#map.replicaId(this.#plane);
  }

  /** The highest position at which a region was cleared; undefined: none ever was. */
  get cleared(): ClearedPosition | undefined {
    return this.#map.cleared(this.#plane);
  }

  /** Regions that may differ from the replica's image, and more; all of them when the map is not valid. */
  forEachSet(visit: (region: number) => void): void {
    if (!this.#map.valid) {
      for (let region = 0; region < this.#map.regionCount; region += 1) visit(region);
      return;
    }
    for (let region = this.#next(0); region >= 0; region = this.#next(region + 1)) visit(region);
  }

  /** Regions of which an operation after `sequence` has taken effect, and perhaps others that are set. */
  forEachAfter(sequence: number, visit: (region: number) => void): void {
    this.forEachSet((region) => {
      if (this.#sequences.of(region) > sequence) visit(region);
    });
  }

  /**
   * From now on the map is about that replica, of which nothing is known: everything is set, durably on return, in a
   * version above `versionSeen`. Failure: `io-error`.
   */
  async begin(replicaId: Buffer, versionSeen: number): Promise<void> {
    this.#map.raiseVersion(versionSeen);
    if (this.replicaId.equals(replicaId)) await this.#map.setAll(this.#plane);
    else await this.#map.assignReplica(this.#plane, replicaId);
  }

  #next(from: number): number {
    return this.#map.nextSet(this.#plane, from);
  }
}
