/**
 * One segment of the spool: a file that is appended to at its end and read from its start.
 *
 * Its bytes are at first in memory, in *chunks*, which are written one after the other, each in one call. A chunk gives its memory back
 * when it has been written, or when all of it has been read before its writing began: then it never touches the disk.
 *
 * Invariants:
 * - The chunks are in order and without gaps; the last one ends at `size`. What lies before the first one is in the file,
 *   or has been read, or both.
 * - Records never lie across two chunks; at `readAt` one begins.
 * - The file is made when the first chunk is written, empty: what an older file of that name held is cut off.
 */
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import type { Disk, FileSystem } from '../io/disk.ts';
import {
  decodeSegmentHeader,
  encodeSegmentHeader,
  getRecord,
  putRecord,
  RECORD_HEADER_SIZE,
  recordSizeAt,
  SEGMENT_HEADER_SIZE,
  type SegmentHeader,
  type SpoolRecord,
} from './spool-format.ts';

interface Chunk {
  /** Where its first byte belongs in the file. */
  readonly position: number;
  readonly buffer: Buffer;
  filled: number;
  writing: boolean;
}

export class Segment {
  readonly number: number;
  readonly path: string;
  /** Size that the file may reach. */
  readonly capacity: number;
  readonly #id: Buffer;
  readonly #firstSequence: number;
  /** To be added to the times of its records: those of an earlier process are of another clock. */
  readonly shiftMs: number;
  readonly #files: FileSystem;
  readonly #chunks: Chunk[] = [];
  #disk: Promise<Disk> | undefined;
  #size: number;
  #readAt: number;

  private constructor(
    files: FileSystem,
    path: string,
    number: number,
    capacity: number,
    id: Buffer,
    firstSequence: number,
    [size, readAt, shiftMs]: readonly [number, number, number],
    disk: Promise<Disk> | undefined,
  ) {
    this.#files = files;
    this.path = path;
    this.number = number;
    this.capacity = capacity;
    this.#id = id;
    this.#firstSequence = firstSequence;
    this.shiftMs = shiftMs;
    this.#size = size;
    this.#readAt = readAt;
    this.#disk = disk;
  }

  /** An empty one, with no file yet. `capacity` holds at least the header. */
  static begin(
    files: FileSystem,
    path: string,
    number: number,
    capacity: number,
    id: Buffer,
    firstSequence: number,
  ): Segment {
    return new Segment(files, path, number, capacity, id, firstSequence, [0, SEGMENT_HEADER_SIZE, 0], undefined);
  }

  /**
   * One that an earlier process left, from where its header says. `size` is that of the file until `endAt` says better.
   * Undefined when it is missing, another's, or its header is not whole. Failures: those of the disk.
   */
  static async open(
    files: FileSystem,
    path: string,
    number: number,
    id: Buffer,
    shiftMs: number,
  ): Promise<Segment | undefined> {
    if ((await files.exists(path)) !== 'file') return undefined;
    const disk = await files.openState(path);
    let header: SegmentHeader | undefined;
    try {
      const bytes = Buffer.alloc(SEGMENT_HEADER_SIZE);
      await disk.read(bytes, 0);
      header = decodeSegmentHeader(bytes, id, number);
    } finally {
      if (header === undefined || header.start > disk.size) await disk.close();
    }
    if (header === undefined || header.start > disk.size) return undefined;
    const { firstSequence, start } = header;
    const place = [disk.size, start, shiftMs] as const;
    return new Segment(files, path, number, disk.size, id, firstSequence, place, Promise.resolve(disk));
  }

  /** Bytes laid out, header included. */
  get size(): number {
    return this.#size;
  }

  /** Where the oldest record that has not been read begins. */
  get readAt(): number {
    return this.#readAt;
  }

  get allRead(): boolean {
    return this.#readAt >= this.#size;
  }

  /** At opening: no record stands at `end` and behind. */
  endAt(end: number): void {
    this.#size = end;
  }

  /** True when the chunk that is being filled takes `size` bytes more. */
  fits(size: number): boolean {
    const last = this.#chunks.at(-1);
    return last !== undefined && !last.writing && last.filled + size <= last.buffer.length;
  }

  /** Adds a chunk of `capacity` bytes to be filled from now on. */
  addChunk(capacity: number): void {
    const buffer = Buffer.allocUnsafeSlow(capacity);
    const chunk = { position: this.#size, buffer, filled: 0, writing: false };
    this.#chunks.push(chunk);
    if (chunk.position > 0) return;
    encodeSegmentHeader(this.#id, this.number, this.#firstSequence).copy(buffer, 0);
    chunk.filled = SEGMENT_HEADER_SIZE;
    this.#size = SEGMENT_HEADER_SIZE;
  }

  /** Appends a record of `size` bytes, header included, to a chunk that has room for it. The data is copied. */
  append(
    size: number,
    type: number,
    flags: number,
    sequence: number,
    offset: number,
    length: number,
    data: Uint8Array | undefined,
    atMs: number,
  ): void {
    assert(this.fits(size), 'a record is appended where there is room for it');
    const chunk = this.#chunks.at(-1)!;
    putRecord(chunk.buffer, chunk.filled, type, flags, sequence, offset, length, data, atMs);
    chunk.filled += size;
    this.#size += size;
  }

  /**
   * Drops the chunks of which everything has been read, but not one that is being written. `last`: also the one that is
   * being filled. Returns the bytes of memory given back.
   */
  dropRead(last: boolean): number {
    let freed = 0;
    while (this.#chunks.length > (last ? 0 : 1)) {
      const chunk = this.#chunks[0]!;
      if (chunk.writing || chunk.position + chunk.filled > this.#readAt) break;
      this.#chunks.shift();
      freed += chunk.buffer.length;
    }
    return freed;
  }

  /** True when a chunk waits to be written; `last`: also the one that is being filled, if it takes anything more. */
  hasUnwritten(last: boolean): boolean {
    return this.#chunks.length > (last || this.isFull ? 0 : 1);
  }

  /** The chunk that is being filled takes nothing more. */
  get isFull(): boolean {
    return !this.fits(RECORD_HEADER_SIZE);
  }

  /** Writes its oldest chunk. Returns the bytes of memory given back. Failures: those of the disk; it stays then. */
  async writeOldest(): Promise<number> {
    const chunk = this.#chunks[0];
    assert(chunk !== undefined && !chunk.writing, 'chunks are written one at a time');
    chunk.writing = true;
    try {
      const disk = await this.#opened();
      await disk.write(chunk.buffer.subarray(0, chunk.filled), chunk.position);
    } finally {
      chunk.writing = false;
    }
    assert(this.#chunks.shift() === chunk, 'chunks are dropped in order');
    return chunk.buffer.length;
  }

  /** Drops all chunks but one that is being written. Returns the bytes of memory given back. */
  abandon(): number {
    const dropped = this.#chunks.filter(({ writing }) => !writing);
    this.#chunks.splice(0, this.#chunks.length, ...this.#chunks.filter(({ writing }) => writing));
    return dropped.reduce((sum, { buffer }) => sum + buffer.length, 0);
  }

  /**
   * The oldest records that lie in one place: at least one, and otherwise at most `sizeMax` bytes, where each counts
   * `recordCost` bytes more than it has. They are views of one buffer of their own, and `end` is where they end. Nothing
   * is taken: `taken` says so. Where no record stands, it `fails` or the segment `ends`, as told. Failure: `io-error`,
   * also for bytes that are not what was written.
   */
  async read(
    sizeMax: number,
    ending: 'fails' | 'ends',
    recordCost = 0,
  ): Promise<{ records: SpoolRecord[]; end: number }> {
    const available = this.#availableFrom(this.#readAt);
    let bytes = await this.#fetch(this.#readAt, Math.min(available, Math.max(sizeMax, RECORD_HEADER_SIZE)));
    const firstSize = bytes.length < RECORD_HEADER_SIZE ? 0 : (recordSizeAt(bytes, 0) ?? 0);
    // One record larger than what was asked for.
    if (firstSize > bytes.length && firstSize <= available) bytes = await this.#fetch(this.#readAt, firstSize);
    const records: SpoolRecord[] = [];
    let at = 0;
    while (at + RECORD_HEADER_SIZE <= bytes.length) {
      const size = recordSizeAt(bytes, at);
      if (size === undefined || size === 0 || at + size > bytes.length) break;
      if (records.length > 0 && at + size + (records.length + 1) * recordCost > sizeMax) break;
      const record = getRecord(bytes, at, size);
      if (record === undefined) break;
      records.push(this.shiftMs === 0 ? record : { ...record, atMs: record.atMs + this.shiftMs });
      at += size;
    }
    if (records.length === 0 && ending === 'fails') {
      throw new Failure('io-error', `${this.path}: the record at byte ${this.#readAt} is not what was written`);
    }
    return { records, end: this.#readAt + at };
  }

  /** The records before `end` have been taken out; or, at opening, looked at, and reading begins anew there. */
  taken(end: number): void {
    this.#readAt = end;
  }

  /** Writes the header with what has been read: a later process begins there. (Its chunk may never have been written.) */
  async writeHeader(): Promise<void> {
    const header = encodeSegmentHeader(this.#id, this.number, this.#firstSequence, this.#readAt);
    await (await this.#opened()).write(header, 0);
  }

  /** Durable on return. All chunks have been written. */
  async sync(): Promise<void> {
    if (this.#disk !== undefined) await (await this.#disk).sync();
  }

  /** Waits for calls in flight. The file stays. */
  async close(): Promise<void> {
    await (await this.#disk?.catch(() => undefined))?.close();
  }

  /** Closes and removes the file, where there is one. Failure: `state-unwritable`. */
  async remove(): Promise<void> {
    if (this.#disk === undefined) return;
    await this.close();
    await this.#files.remove(this.path);
  }

  /** How many bytes from there on lie in one place, the file or one chunk. */
  #availableFrom(position: number): number {
    const first = this.#chunks[0];
    if (first === undefined || position < first.position) return (first?.position ?? this.#size) - position;
    const chunk = this.#chunks.find((other) => position < other.position + other.filled);
    assert(chunk !== undefined, 'what has not been read is somewhere');
    return chunk.position + chunk.filled - position;
  }

  async #fetch(position: number, length: number): Promise<Buffer> {
    const target = Buffer.allocUnsafeSlow(length);
    const chunk = this.#chunks.find((other) => position < other.position + other.filled);
    if (chunk !== undefined && position >= chunk.position) {
      chunk.buffer.copy(target, 0, position - chunk.position, position - chunk.position + length);
      return target;
    }
    await (await this.#opened()).read(target, position);
    return target;
  }

  #opened(): Promise<Disk> {
    this.#disk ??= this.#make();
    return this.#disk;
  }

  async #make(): Promise<Disk> {
    const disk = await this.#files.openState(this.path);
    try {
      await disk.resize(0);
      await disk.resize(this.capacity);
      return disk;
    } catch (error) {
      await disk.close();
      throw error;
    }
  }
}
