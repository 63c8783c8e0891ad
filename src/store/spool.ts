/**
 * The spool: operations past the window, in order, on disk. Who appends never waits, and who reads gets the oldest.
 *
 * What it keeps: segments (spool-segment.ts), the oldest first; records are appended to the last one and read from the
 * first. A segment's file is removed when all its records have been taken out, and never used again. That the mirror has
 * recorded an operation is not known here: what was taken out stays in the window until it has (backlog.ts).
 *
 * Bounds: `size` (bytes of all files, headers included, until they are removed) stays within `sizeMax`; memory for what
 * has not been written within `bufferMax`, but for one record larger than that.
 *
 * Failures never reach who appends: `append` says false, `failure` says why, and from then on nothing more is taken in.
 * What was accepted before can still be read: what could not be written is kept in memory.
 *
 * Survives a crash: nothing. While a primary runs nothing is synced, and after an unclean stop the folder is emptied.
 * Survives a clean stop: everything, when `persist` has returned: segments, then the file `complete` that says what
 * belongs to them; then only does the primary's state call the stop clean. One that cannot be read back whole, in order,
 * and as that file says is not used.
 *
 * Rejected: a ring in one file (space could not be given back), syncs while running (the dirty map tells what may
 * differ after a crash, and costs less).
 */
import { assert } from '../base/assert.ts';
import { ID_SIZE } from '../base/bytes.ts';
import { Failure, isFailure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import type { DirectoryLock } from '../io/disk.ts';
import { encodeComplete, recordSize, SEGMENT_HEADER_SIZE, type SpoolRecord } from './spool-format.ts';
import { COMPLETE_NAME, readKept, type SpoolKept, type SpoolWorld, segmentName, writeHead } from './spool-keeping.ts';
import { Segment } from './spool-segment.ts';

export type { SpoolRecord } from './spool-format.ts';
export type { SpoolKept } from './spool-keeping.ts';

/** The files of a spool, half-made ones included: nothing else in the folder is touched. */
const OWN_NAME = /^(?:\d+\.seg|complete(?:\.tmp)?|merged-\d+)$/;
/** Numbers go up from here: a clean stop puts the window before them. */
const FIRST_NUMBER = 1_000_000;
/** What is written at a time. */
const CHUNK_SIZE = MIB;
const SEGMENT_SIZE = 16 * MIB;

export interface SpoolSettings {
  /** Made when missing. */
  readonly directory: string;
  /** Bytes on disk at most, headers included. */
  readonly sizeMax: number;
  /** Bytes of memory for what waits to be written. */
  readonly bufferMax: number;
}

/** Bytes of a segment: between 64 and 256 of them make a spool. */
export function segmentSizeFor(sizeMax: number): number {
  return Math.ceil(Math.max(Math.min(SEGMENT_SIZE, sizeMax / 64), sizeMax / 256, 4 * SEGMENT_HEADER_SIZE));
}

export class Spool {
  readonly #world: SpoolWorld;
  readonly #settings: SpoolSettings;
  readonly #lock: DirectoryLock;
  readonly #segmentSize: number;
  readonly #chunkSize: number;
  #id: Buffer;
  #restored = false;
  /** The oldest first. The last one is appended to, unless it was left by an earlier process. */
  #segments: Segment[] = [];
  #appendable: Segment | undefined;
  #nextNumber = FIRST_NUMBER;
  #count = 0;
  /** Bytes of segments that are being removed, or could not be. */
  #removingSize = 0;
  #segmentsSize = 0;
  #bufferSize = 0;
  #failure: Failure | undefined;
  #writing: Promise<void> | undefined;
  /** Everything is to be written, the chunk that is being filled included. */
  #flushing = false;
  #reading = false;
  /** Counts `clear`: what was begun before it counts no more. */
  #era = 0;
  readonly #removals = new Set<Promise<void>>();

  private constructor(world: SpoolWorld, settings: SpoolSettings, lock: DirectoryLock) {
    this.#world = world;
    this.#settings = settings;
    this.#lock = lock;
    this.#segmentSize = segmentSizeFor(settings.sizeMax);
    this.#chunkSize = Math.min(CHUNK_SIZE, Math.ceil(settings.bufferMax / 4), this.#segmentSize);
    this.#id = world.random.bytes(ID_SIZE);
  }

  /**
   * Opens the spool: with what a clean stop has left (`kept`), or empty. `visit` sees each record that is there, in
   * order. When what was left is not usable, `visit` may have seen some of it all the same, and the spool is empty.
   * Failures: `state-unwritable`, `directory-busy`.
   */
  static async open(
    world: SpoolWorld,
    settings: SpoolSettings,
    kept: SpoolKept | undefined,
    visit: (record: SpoolRecord) => void,
  ): Promise<Spool> {
    await world.files.makeDirectory(settings.directory);
    const lock = await world.files.lockDirectory(settings.directory);
    const spool = new Spool(world, settings, lock);
    try {
      if (kept === undefined || !(await spool.#readBack(kept, visit))) await spool.#removeAll();
      return spool;
    } catch (error) {
      await spool.close();
      throw error;
    }
  }

  /** What a clean stop had left was taken over, even if that were no records. */
  get isRestored(): boolean {
    return this.#restored;
  }

  get isEmpty(): boolean {
    return this.#count === 0;
  }

  /** Records. */
  get count(): number {
    return this.#count;
  }

  /** Bytes on disk, or to be: of all segments, until their files are gone. */
  get size(): number {
    return this.#segmentsSize + this.#removingSize;
  }

  /** Memory that holds what has not been written. */
  get bufferSize(): number {
    return this.#bufferSize;
  }

  /** Why nothing is taken in any more, until `clear`. */
  get failure(): Failure | undefined {
    return this.#failure;
  }

  /**
   * Appends a record, at once: the data is copied. False when it is not taken in: no room on disk or in memory, or the
   * disk has failed. Nothing is durable.
   */
  append(
    type: number,
    flags: number,
    sequence: number,
    offset: number,
    length: number,
    data: Uint8Array | undefined,
    atMs: number,
  ): boolean {
    const size = recordSize(data?.length ?? 0);
    const segment = this.#roomFor(size, sequence);
    if (segment === undefined) return false;
    segment.append(size, type, flags, sequence, offset, length, data, atMs);
    this.#segmentsSize += size;
    this.#count += 1;
    if (segment.isFull) this.#write();
    return true;
  }

  /**
   * Takes the oldest records out, in order: at least one unless it is empty, and otherwise at most `sizeMax` bytes, where
   * each record counts `recordCost` bytes more than it has. Their data are views of one buffer. One call at a time.
   * Failure: `io-error`, also when a record is not what was written: nothing has been taken out then.
   */
  async read(sizeMax: number, recordCost = 0): Promise<SpoolRecord[]> {
    assert(!this.#reading, 'one reader at a time');
    const segment = this.#firstUnread();
    if (segment === undefined) return [];
    const era = this.#era;
    this.#reading = true;
    try {
      const { records, end } = await segment.read(sizeMax, 'fails', recordCost);
      if (era !== this.#era) return [];
      segment.taken(end);
      this.#count -= records.length;
      this.#bufferSize -= segment.dropRead(segment !== this.#appendable);
      this.#firstUnread();
      return records;
    } catch (error) {
      // Of a segment that was dropped meanwhile.
      if (era !== this.#era && isFailure(error)) return [];
      throw error;
    } finally {
      this.#reading = false;
    }
  }

  /** Drops everything; the files are removed in the background. What had failed is tried anew. */
  clear(): void {
    this.#era += 1;
    for (const segment of this.#segments) this.#remove(segment);
    this.#segments = [];
    this.#appendable = undefined;
    this.#count = 0;
    this.#failure = undefined;
  }

  /** Resolves when the files of everything that has been read are gone, or cannot be removed. */
  async removed(): Promise<void> {
    while (this.#removals.size > 0) await Promise.all(this.#removals);
  }

  /**
   * A clean stop: `head` (older than everything here, in order) and what is here are durable on return, and can be read
   * back by `open` with the same `kept`. Nothing may be appended or read any more. Failures: `no-space` also for
   * `sizeMax`, `io-error`, `state-unwritable`.
   */
  async persist(kept: SpoolKept, head: readonly SpoolRecord[]): Promise<void> {
    const { files, clock } = this.#world;
    await this.#flush();
    const start = this.#firstUnread();
    await this.removed();
    if (this.#failure !== undefined) throw this.#failure;
    // The number before the first one is free: its file has been removed.
    const number = start === undefined ? this.#nextNumber : start.number - 1;
    const path = this.#segmentPath(number);
    const headSegment = await writeHead(files, path, number, this.#id, head, this.#settings.sizeMax - this.size);
    const left = start === undefined ? [] : this.#segments;
    await start?.writeHeader();
    for (const segment of left) await segment.sync();
    await files.syncDirectory(this.#settings.directory);
    const first = headSegment?.number ?? start?.number ?? number;
    const complete = encodeComplete({
      ...kept,
      id: this.#id,
      first,
      last: left.at(-1)?.number ?? headSegment?.number ?? first - 1,
      count: this.#count + head.length,
      nowMs: clock.nowMs(),
      wallMs: clock.wallMs(),
    });
    await files.replaceFile(this.#pathOf(COMPLETE_NAME), complete);
  }

  /** Waits for what is under way and closes all files; they stay, of use only after `persist`. */
  async close(): Promise<void> {
    this.#failure ??= new Failure('shutting-down', 'the spool is closed');
    await this.#writing;
    await this.removed();
    for (const segment of this.#segments) await segment.close();
    await this.#lock.release();
  }

  /** The segment that takes a record of `size` bytes, with room in memory for it; undefined when there is none. */
  #roomFor(size: number, sequence: number): Segment | undefined {
    if (this.#failure !== undefined) return undefined;
    const current = this.#appendable;
    if (current?.fits(size) === true && current.size + size <= current.capacity) {
      return this.size + size <= this.#settings.sizeMax ? current : undefined;
    }
    const goesOn = current !== undefined && current.size + size <= current.capacity;
    const headerSize = goesOn ? 0 : SEGMENT_HEADER_SIZE;
    if (this.size + headerSize + size > this.#settings.sizeMax) return undefined;
    const capacity = goesOn ? current.capacity : Math.max(this.#segmentSize, headerSize + size);
    const restSize = capacity - (goesOn ? current.size : 0);
    const chunkSize = Math.max(headerSize + size, Math.min(this.#chunkSize, restSize));
    // What has been read and is held only to be filled further is given back.
    const held = this.#bufferSize - (current?.dropRead(true) ?? 0);
    this.#bufferSize = held;
    if (held > 0 && held + chunkSize > this.#settings.bufferMax) {
      this.#write();
      return undefined;
    }
    const segment = goesOn ? current : this.#begin(capacity, sequence);
    segment.addChunk(chunkSize);
    this.#bufferSize += chunkSize;
    this.#segmentsSize += headerSize;
    this.#write();
    return segment;
  }

  #begin(capacity: number, sequence: number): Segment {
    const number = this.#nextNumber;
    this.#nextNumber += 1;
    const segment = Segment.begin(this.#world.files, this.#segmentPath(number), number, capacity, this.#id, sequence);
    this.#segments.push(segment);
    this.#appendable = segment;
    this.#firstUnread();
    return segment;
  }

  /** The oldest segment with something to read; those before it are removed. */
  #firstUnread(): Segment | undefined {
    for (;;) {
      const first = this.#segments[0];
      if (first === undefined || !first.allRead) return first;
      // What is being filled is kept, or a spool that is read as fast as it is written would make a file for each record.
      if (first === this.#appendable) return undefined;
      this.#segments.shift();
      this.#remove(first);
    }
  }

  #remove(segment: Segment): void {
    this.#bufferSize -= segment.abandon();
    this.#segmentsSize -= segment.size;
    this.#removingSize += segment.size;
    const removal = segment.remove().then(
      () => {
        this.#removingSize -= segment.size;
      },
      (error: unknown) => this.#failed(error),
    );
    this.#removals.add(removal);
    void removal.finally(() => this.#removals.delete(removal));
  }

  /** Writes what waits, chunk by chunk, one at a time: while a disk hangs no more than one call hangs with it. */
  #write(): void {
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = undefined;
    });
  }

  async #writeAll(): Promise<void> {
    // Begins after this turn: what is appended in it is written together.
    await Promise.resolve();
    for (;;) {
      const segment = this.#firstUnwritten();
      if (segment === undefined || this.#failure !== undefined) return;
      const era = this.#era;
      try {
        const freed = await segment.writeOldest();
        this.#bufferSize -= freed;
      } catch (error) {
        if (!isFailure(error)) throw error;
        // Of a segment that is no more: its chunk goes with it.
        if (era === this.#era && this.#segments.includes(segment)) this.#failed(error);
        else this.#bufferSize -= segment.abandon();
      }
    }
  }

  #firstUnwritten(): Segment | undefined {
    return this.#segments.find((segment) => segment.hasUnwritten(this.#flushing || segment !== this.#appendable));
  }

  async #flush(): Promise<void> {
    this.#flushing = true;
    await this.#writing;
    this.#write();
    await this.#writing;
    this.#flushing = false;
    if (this.#failure !== undefined) throw this.#failure;
  }

  #failed(error: unknown): void {
    if (!isFailure(error)) throw error;
    this.#failure ??= error;
  }

  /** Takes over what a clean stop has left, if all of it is there: false otherwise. */
  async #readBack(kept: SpoolKept, visit: (record: SpoolRecord) => void): Promise<boolean> {
    const left = await readKept(this.#world, (name) => this.#pathOf(name), kept, visit);
    if (left === undefined) return false;
    this.#restored = true;
    this.#id = left.id;
    this.#segments = left.segments;
    this.#count = left.count;
    for (const { size, number } of left.segments) {
      this.#segmentsSize += size;
      this.#nextNumber = Math.max(this.#nextNumber, number + 1);
    }
    return true;
  }

  /** Empties the folder of what is a spool's. */
  async #removeAll(): Promise<void> {
    const { files } = this.#world;
    const names = await files.list(this.#settings.directory);
    for (const name of names) {
      if (OWN_NAME.test(name)) await files.remove(this.#pathOf(name));
    }
  }

  #segmentPath(number: number): string {
    return this.#pathOf(segmentName(number));
  }

  #pathOf(name: string): string {
    return `${this.#settings.directory}/${name}`;
  }
}
