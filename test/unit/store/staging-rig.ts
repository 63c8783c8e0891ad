/** A staged run that is driven by a script, and what may be found of it after whatever has happened. */
import assert from 'node:assert/strict';
import { NO_ID } from '../../../src/base/bytes.ts';
import { Staging } from '../../../src/store/staging.ts';
import type { CommitRecord } from '../../../src/store/staging-log.ts';
import { SeededRandom } from '../../sim/random.ts';
import { CutFiles } from '../../support/cut-files.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';

export const DIRECTORY = '/twin/staging';
export const SIZE = 96 * 1024 + 512;
const OPERATIONS = 40;
/** So low that the log is rewritten a few times in a script. */
const LOG_SIZE_LOW = 700;
export const ID: Buffer = Buffer.alloc(16, 0xab);
export const BASE = { run: Buffer.alloc(16, 0x11), sequence: 77 };

interface Operation {
  readonly offset: number;
  readonly length: number;
  /** Undefined: zeroes. */
  readonly data: Buffer | undefined;
}

export class Script {
  readonly files: CutFiles;
  /** Below the overlay. */
  readonly image = new MemoryDisk(SIZE);
  readonly record: CommitRecord = {
    generation: Buffer.alloc(16, 1),
    run: Buffer.alloc(16, 2),
    parentRun: NO_ID,
    parentSequence: 0,
    sequence: OPERATIONS,
    checkpoint: 9,
    mapVersion: 3,
    committedAtMs: 4,
  };
  readonly #operations: Operation[] = [];
  /** The view after each number of operations. */
  readonly #views: Buffer[] = [];
  /** Operations that have begun. */
  begun = 0;
  /** Sequence of a sync that has returned, and of the last that has begun. */
  synced = 0;
  syncing = 0;
  commit: 'not begun' | 'begun' | 'done' = 'not begun';
  removal: 'not begun' | 'begun' | 'done' = 'not begun';

  constructor(seed: number) {
    this.files = new CutFiles(seed);
    const random = new SeededRandom(seed);
    const view = random.bytes(SIZE);
    void this.image.write(view, 0);
    this.#views.push(Buffer.from(view));
    for (let index = 0; index < OPERATIONS; index += 1) {
      const unit = random.pick([1, 512, 4096]);
      const offset = random.below(Math.floor(SIZE / unit)) * unit;
      const length = Math.min(SIZE - offset, unit * (1 + random.below(random.pick([1, 6]))));
      const data = random.chance(0.3) ? undefined : random.bytes(length);
      this.#operations.push({ offset, length, data });
      if (data === undefined) view.fill(0, offset, offset + length);
      else data.copy(view, offset);
      this.#views.push(Buffer.from(view));
    }
  }

  get final(): Buffer {
    return this.#views.at(-1)!;
  }

  create(): Promise<Staging> {
    return Staging.create(this.files, DIRECTORY, ID, SIZE, SIZE, BASE, LOG_SIZE_LOW);
  }

  open(): Promise<Staging | undefined> {
    return Staging.open(this.files, DIRECTORY, SIZE, SIZE, LOG_SIZE_LOW);
  }

  /** The whole life of a run; what a call throws ends it. */
  async run(upTo: 'synced' | 'committed' | 'removed'): Promise<Staging> {
    const staging = await this.create();
    for (const [index, operation] of this.#operations.entries()) {
      this.begun = index + 1;
      if (operation.data === undefined) await staging.overlay.zero(operation.offset, operation.length);
      else await staging.overlay.write(operation.offset, operation.data);
      if (index % 3 !== 2) continue;
      this.syncing = this.begun;
      await staging.sync({ sequence: this.begun, checkpoint: this.begun * 2 });
      this.synced = this.begun;
    }
    if (upTo === 'synced') return staging;
    this.commit = 'begun';
    await staging.commit(this.record);
    this.commit = 'done';
    if (upTo === 'committed') return staging;
    this.removal = 'begun';
    await staging.remove();
    this.removal = 'done';
    return staging;
  }

  /** That what has been found is what may be found, by how far the script had come. */
  async check(found: Staging | undefined): Promise<void> {
    if (found === undefined) {
      const mayBeGone = this.removal !== 'not begun' || this.synced === 0;
      assert(mayBeGone, 'a run that was synced is still there');
      assert.deepEqual(await this.files.list(DIRECTORY), []);
      return;
    }
    assert.notEqual(this.removal, 'done');
    assert.deepEqual(found.id, ID);
    assert.deepEqual(found.base, BASE);
    assert.equal(found.size, SIZE);
    assert.equal(found.spoiled, undefined);
    if (found.committed === undefined) {
      assert.notEqual(this.commit, 'done');
      assert([this.synced, this.syncing].includes(found.position.sequence), 'the position is one that was synced');
      assert.equal(found.position.checkpoint, found.position.sequence * 2);
    } else {
      assert.notEqual(this.commit, 'not begun');
      assert.deepEqual(found.committed, this.record);
      assert.deepEqual(found.position, { sequence: this.record.sequence, checkpoint: this.record.checkpoint });
    }
    await this.#checkContent(found, found.committed === undefined ? this.begun : found.position.sequence);
  }

  /** Each byte is what it was at the position, or has become by an operation after it that had begun. */
  async #checkContent(found: Staging, begun: number): Promise<void> {
    const view = await this.view(found);
    const possible = this.#views.slice(found.position.sequence, begun + 1);
    for (let at = 0; at < SIZE; at += 1) {
      // Most of it has not changed at all.
      if (at % 512 === 0 && possible[0]!.compare(view, at, at + 512, at, at + 512) === 0) {
        at += 511;
        continue;
      }
      if (possible.some((each) => each[at] === view[at])) continue;
      assert.fail(`byte ${at} is ${view[at]}, which it never was from ${found.position.sequence} to ${begun}`);
    }
  }

  async view(staging: Staging): Promise<Buffer> {
    const view = Buffer.alloc(SIZE);
    await staging.overlay.read(view, 0, this.image);
    return view;
  }

  /** Goes on as a rescan does: writes only what differs, as read through the run; then commits, copies and removes. */
  async finish(found: Staging | undefined): Promise<void> {
    const staging = found ?? (await this.create());
    if (staging.committed === undefined) {
      const view = await this.view(staging);
      for (let at = 0; at < SIZE; at += 512) {
        const wanted = this.final.subarray(at, at + 512);
        if (!wanted.equals(view.subarray(at, at + 512))) await staging.overlay.write(at, wanted);
      }
      await staging.commit(this.record);
    }
    // Whatever was not synced is lost: the commit must not have needed it.
    this.files.powerCycle({ kept: 0, torn: 0 });
    const opened = await this.open();
    assert.deepEqual(opened?.committed, this.record);
    await opened.overlay.copyInto(this.image);
    assert(this.image.content().equals(this.final), 'the image is as it should be');
    await opened.remove();
    this.files.powerCycle({ kept: 0, torn: 0 });
    assert.equal(await this.open(), undefined);
  }
}
