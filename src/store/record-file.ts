/**
 * A small record that is replaced often and never torn.
 *
 * The file has two slots. A new version goes to the slot that does not hold the current one, then the file is synced:
 * whatever a power cut leaves, one slot is whole. Reading takes the whole slot with the highest counter. The file
 * itself appears by FileSystem.replaceFile, so it is never seen half made.
 *
 * Opening it settles what the page cache shows and the medium may not hold: a slot whose process was killed before its
 * sync is made durable, one that a failed sync gave up is forgotten. Otherwise the next version would go over the only
 * slot that is durable, and a power cut in it leave none.
 *
 * Slot (SLOT_SIZE bytes, little-endian):
 *
 * | offset | size | field                                             |
 * | ------ | ---- | ------------------------------------------------- |
 * | 0      | 8    | magic `NBDTWIN` and a zero byte                   |
 * | 8      | 4    | kind: four ASCII letters                          |
 * | 12     | 2    | version of the content                            |
 * | 14     | 2    | content length                                    |
 * | 16     | 8    | counter, from 1                                   |
 * | 24     | 4    | CRC-32 of the slot's header and content, this field zero |
 * | 28     | 4    | zero                                              |
 * | 32     | n    | content                                           |
 *
 * Rejected: rename for each version (two directory syncs a second would cost more than the record).
 */
import { crc32 } from 'node:zlib';
import { assert } from '../base/assert.ts';
import { getUint64, putUint64 } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import type { Disk, FileSystem } from '../io/disk.ts';

export const SLOT_SIZE = 4096;
export const SLOT_HEADER_SIZE = 32;
const SLOT_COUNT = 2;
const MAGIC = Buffer.from('NBDTWIN\0', 'ascii');

export interface RecordKind {
  /** Four ASCII letters. */
  readonly letters: string;
  readonly version: number;
}

/** Encodes one slot; exported for the format's own tests. */
export function encodeSlot(kind: RecordKind, counter: number, content: Uint8Array): Buffer {
  assert(content.length <= SLOT_SIZE - SLOT_HEADER_SIZE, 'record fits its slot');
  const slot = Buffer.alloc(SLOT_SIZE);
  MAGIC.copy(slot, 0);
  slot.write(kind.letters, 8, 'ascii');
  slot.writeUInt16LE(kind.version, 12);
  slot.writeUInt16LE(content.length, 14);
  putUint64(slot, 16, counter);
  slot.set(content, SLOT_HEADER_SIZE);
  slot.writeUInt32LE(crc32(slot.subarray(0, SLOT_HEADER_SIZE + content.length)), 24);
  return slot;
}

/** Decodes a slot; undefined when it is not whole. A whole slot of another kind or version is `state-corrupt`. */
export function decodeSlot(kind: RecordKind, slot: Buffer): { counter: number; content: Buffer } | undefined {
  if (slot.length < SLOT_SIZE || !slot.subarray(0, 8).equals(MAGIC)) return undefined;
  const length = slot.readUInt16LE(14);
  if (length > SLOT_SIZE - SLOT_HEADER_SIZE) return undefined;
  const checked = Buffer.from(slot.subarray(0, SLOT_HEADER_SIZE + length));
  checked.writeUInt32LE(0, 24);
  if (crc32(checked) !== slot.readUInt32LE(24)) return undefined;
  const letters = slot.toString('ascii', 8, 12);
  const version = slot.readUInt16LE(12);
  if (letters !== kind.letters || version !== kind.version) {
    throw new Failure(
      'state-corrupt',
      `state is of kind ${letters} version ${version}, not ${kind.letters} ${kind.version}`,
    );
  }
  const counter = getUint64(slot, 16);
  if (counter === undefined) return undefined;
  return { counter, content: Buffer.from(slot.subarray(SLOT_HEADER_SIZE, SLOT_HEADER_SIZE + length)) };
}

export class RecordFile {
  readonly #kind: RecordKind;
  readonly #disk: Disk;
  #counter: number;
  /** Writes one after the other: each must land in the slot that does not hold the last good version. */
  #writing: Promise<void> = Promise.resolve();

  private constructor(kind: RecordKind, disk: Disk, counter: number) {
    this.#kind = kind;
    this.#disk = disk;
    this.#counter = counter;
  }

  /**
   * Opens the record and reads its current content, which is durable on return; undefined when the file does not exist.
   * Failures: `state-corrupt` when neither slot is whole, or of another kind or version; those of the disk.
   */
  static async open(
    files: FileSystem,
    kind: RecordKind,
    path: string,
  ): Promise<{ file: RecordFile; content: Buffer } | undefined> {
    if ((await files.exists(path)) === undefined) return undefined;
    const disk = await files.openState(path);
    try {
      await disk.sync();
      await disk.dropCache();
      const bytes = Buffer.alloc(SLOT_SIZE * SLOT_COUNT);
      await disk.read(bytes, 0);
      const { counter, content } = currentIn(kind, bytes, path);
      return { file: new RecordFile(kind, disk, counter), content };
    } catch (error) {
      await disk.close();
      throw error;
    }
  }

  /** Reads the current content as the cache shows it, and changes nothing; otherwise like `open`. */
  static async read(
    files: FileSystem,
    kind: RecordKind,
    path: string,
  ): Promise<{ counter: number; content: Buffer } | undefined> {
    const bytes = await files.readFile(path, SLOT_SIZE * SLOT_COUNT);
    if (bytes === undefined) return undefined;
    return currentIn(kind, bytes, path);
  }

  /** Creates the record with its first content; durable on return. */
  static async create(files: FileSystem, kind: RecordKind, path: string, content: Uint8Array): Promise<RecordFile> {
    const bytes = Buffer.alloc(SLOT_SIZE * SLOT_COUNT);
    encodeSlot(kind, 1, content).copy(bytes, slotOffset(1));
    await files.replaceFile(path, bytes);
    return new RecordFile(kind, await files.openState(path), 1);
  }

  /** Replaces the content; durable on return. On failure the old content stays. */
  write(content: Uint8Array): Promise<void> {
    const written = this.#writing.then(() => this.#writeSlot(content));
    this.#writing = written.catch(() => undefined);
    return written;
  }

  async #writeSlot(content: Uint8Array): Promise<void> {
    const counter = this.#counter + 1;
    await this.#disk.write(encodeSlot(this.#kind, counter, content), slotOffset(counter));
    await this.#disk.sync();
    this.#counter = counter;
  }

  async close(): Promise<void> {
    await this.#writing;
    await this.#disk.close();
  }
}

/** The whole slot with the highest counter. */
function currentIn(kind: RecordKind, bytes: Buffer, path: string): { counter: number; content: Buffer } {
  let best: { counter: number; content: Buffer } | undefined;
  for (let index = 0; index < SLOT_COUNT; index += 1) {
    const slot = decodeSlot(kind, bytes.subarray(index * SLOT_SIZE, (index + 1) * SLOT_SIZE));
    if (slot !== undefined && (best === undefined || slot.counter > best.counter)) best = slot;
  }
  if (best === undefined) throw new Failure('state-corrupt', `no whole record in ${path}`);
  return best;
}

function slotOffset(counter: number): number {
  return (counter % SLOT_COUNT) * SLOT_SIZE;
}
