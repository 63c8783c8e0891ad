/**
 * The positions of an image in the run of its primary:
 * - `applied`: every operation up to here is in the image (as read);
 * - `durable`: and would survive a power loss here and now;
 * - `recorded`: and the state file says so: what a restart comes back to.
 *
 * Invariants: recorded <= durable <= applied, in one run. An image that is not exact is at its recorded position, and
 * stays there until a staged run or a seeding is complete: what is in it beyond that only the primary can say.
 */
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';

export class ImagePositions {
  #applied: number;
  #durable: number;
  #recorded: number;
  #exact: boolean;
  #unsound = false;
  #cacheLies: boolean;

  /** `clean`: the image was left exact at the recorded position. */
  constructor(recorded: number, clean: boolean) {
    this.#applied = recorded;
    this.#durable = recorded;
    this.#recorded = recorded;
    this.#exact = clean;
    this.#cacheLies = !clean;
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

  /** True when nothing beyond `applied` can be in the image. */
  get exact(): boolean {
    return this.#exact;
  }

  /** True when nothing beyond `recorded` can be in the image: who opens it next may go on there. */
  get exactAsRecorded(): boolean {
    return this.#exact && this.#applied === this.#recorded;
  }

  /** The cache may hold what the medium lost: a sync failed, or the last stop was not clean. */
  get cacheLies(): boolean {
    return this.#cacheLies;
  }

  /** A sync outside a session's own has failed. */
  cacheSuspected(): void {
    this.#cacheLies = true;
  }

  cacheDropped(): void {
    this.#cacheLies = false;
  }

  /** A session begins: what it applies counts again. */
  sessionBegan(): void {
    this.#unsound = false;
  }

  /** Throws `io-error` when the disk has failed in this session: the positions have gone back and must stay there. */
  checkSound(): void {
    if (this.#unsound) throw new Failure('io-error', 'the disk of the image has failed in this session');
  }

  /** The operation with that sequence is in the image. */
  setApplied(sequence: number): void {
    if (this.#unsound) return;
    assert(sequence >= this.#applied, 'operations are applied in order');
    this.#applied = sequence;
  }

  /** A sync has covered what was applied up to `applied` when it began. */
  synced(applied: number): void {
    this.#durable = Math.max(this.#durable, Math.min(applied, this.#applied));
  }

  /** Lost pages may sit in the cache as if clean: back to `recorded`, so that the primary sends them again. */
  syncFailed(): void {
    this.#cacheLies = true;
    this.spoiled();
  }

  /** A call to the disk failed: what it did is not known. */
  spoiled(): void {
    this.#unsound = true;
    this.#exact = false;
    this.#applied = this.#recorded;
    this.#durable = this.#recorded;
  }

  /** Whether anything beyond `applied` is in the image nobody knows. */
  doubted(): void {
    this.#exact = false;
  }

  /** The state file says so. A sync that failed meanwhile took back what came after this, not this. */
  wroteDown(durable: number): void {
    this.#recorded = Math.max(this.#recorded, durable);
    this.#durable = Math.max(this.#durable, durable);
    this.#applied = Math.max(this.#applied, durable);
  }

  /** The image is exactly there now, durably: another run's positions mean nothing any more. */
  moveTo(sequence: number): void {
    this.#applied = sequence;
    this.#durable = sequence;
    this.#recorded = sequence;
    this.#exact = true;
  }

  /** The image holds nothing that counts. */
  forget(): void {
    this.moveTo(0);
    this.#exact = false;
    this.#cacheLies = true;
  }
}
