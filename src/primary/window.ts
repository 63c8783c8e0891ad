/**
 * The window: operations that a mirror has not recorded yet, in order, in memory.
 *
 * Entries are of two kinds. *Operations* (WRITE, ZERO, BARRIER) stay until the mirror has recorded them, across
 * sessions: that is what makes resuming possible. *Remarks* (repairs, passes, checkpoints, checks) stand in the same
 * order but belong to one session: they are dropped when it ends, and give their data back once sent.
 *
 * Invariants:
 * - Sequences never go down from head to tail.
 * - Every operation in (baseSequence, lastSequence] that was not left to a pass is here.
 * - `usedSize` counts the memory that the entries keep alive: ENTRY_OVERHEAD_SIZE each, and every underlying buffer once.
 *   (A small write may be a view of a large chunk that came from a socket; counting the view alone would let a client
 *   that mixes tiny writes with other requests pin far more than the limit.)
 *
 * The buffers are the very ones that were written to the disk, never a later read of it. The window of the one mirror is their
 * last owner.
 */
import { assert } from '../base/assert.ts';
import { payloadPool } from '../base/payload-pool.ts';
import { FRAME_BARRIER, FrameType, type FrameTypeCode } from '../link/frame.ts';

/** What an entry costs besides its data, in bytes: about what the objects take. */
export const ENTRY_OVERHEAD_SIZE = 128;

export interface WindowEntry {
  readonly type: FrameTypeCode;
  /** An operation not yet sent may become the last of its epoch. */
  flags: number;
  /** That of a barrier not yet sent moves on when another follows at once. */
  sequence: number;
  /** Of a version of the dirty map: that version. It moves on too. */
  offset: number;
  readonly length: number;
  /** Payload; taken away from a remark once it has been sent. */
  data: Uint8Array | undefined;
  readonly remark: boolean;
  /** When it entered, in ms of the clock's `nowMs`. */
  readonly atMs: number;
  /** Bytes of operations up to and including this one since the window began. */
  readonly throughSize: number;
}

export class Window {
  readonly limit: number;
  #entries: WindowEntry[] = [];
  /** Index of the oldest entry kept. */
  #head = 0;
  /** Index of the next entry to send. */
  #unsent = 0;
  /** Index of the first entry that the mirror has not applied. */
  #unapplied = 0;
  #usedSize = 0;
  /** Underlying buffers that entries keep alive, with how many do. */
  readonly #pinned = new Map<ArrayBufferLike, number>();
  #throughSize = 0;
  #appliedThroughSize = 0;
  #baseSequence: number;
  #sentSequence: number;
  #lastBarrier = -1;
  /** A version of the dirty map that has not been sent. */
  #unsentVersion: WindowEntry | undefined;

  /** `limit` in bytes; the window begins empty after `baseSequence`. */
  constructor(limit: number, baseSequence: number) {
    this.limit = limit;
    this.#baseSequence = baseSequence;
    this.#sentSequence = baseSequence;
  }

  get usedSize(): number {
    return this.#usedSize;
  }

  /** The last operation that is no longer here because the mirror has recorded it. */
  get baseSequence(): number {
    return this.#baseSequence;
  }

  /** The last sequence that this session has told the mirror, or began after. */
  get sentSequence(): number {
    return this.#sentSequence;
  }

  /** Sequence after which the next entry will stand: that of the last one, or what a session began after. */
  get lastSequence(): number {
    return Math.max(this.#entries.at(-1)?.sequence ?? 0, this.#baseSequence, this.#sentSequence);
  }

  get hasUnsent(): boolean {
    return this.#unsent < this.#entries.length;
  }

  /** Bytes of operations that have not been handed to the stream. */
  get unsentSize(): number {
    const next = this.#entries[this.#unsent];
    if (next === undefined) return 0;
    return this.#throughSize - next.throughSize + (next.remark ? 0 : next.length);
  }

  /** Bytes of operations that the mirror has not applied. */
  get unappliedSize(): number {
    return this.#throughSize - this.#appliedThroughSize;
  }

  /** When the oldest operation that the mirror has not applied entered; undefined when it has applied all. */
  get oldestUnappliedMs(): number | undefined {
    return this.unappliedSize === 0 ? undefined : this.#entries[this.#unapplied]?.atMs;
  }

  /** An empty window takes any single operation: the largest write bounds it. */
  hasRoomFor(dataSize: number): boolean {
    return this.#usedSize === 0 || this.#usedSize + dataSize + ENTRY_OVERHEAD_SIZE <= this.limit;
  }

  push(
    type: FrameTypeCode,
    flags: number,
    sequence: number,
    offset: number,
    length: number,
    data: Uint8Array | undefined,
    remark: boolean,
    atMs: number,
  ): WindowEntry {
    assert(sequence >= (this.#entries.at(-1)?.sequence ?? this.#baseSequence), 'the window is in order');
    if (!remark) this.#throughSize += length;
    const entry = { type, flags, sequence, offset, length, data, remark, atMs, throughSize: this.#throughSize };
    this.#entries.push(entry);
    this.#usedSize += ENTRY_OVERHEAD_SIZE;
    if (data !== undefined) this.#pin(data);
    return entry;
  }

  /**
   * Pushes an operation that the mirror has applied already, though not recorded: of a backlog that was read back. All
   * entries before it have been sent.
   */
  pushApplied(
    type: FrameTypeCode,
    flags: number,
    sequence: number,
    offset: number,
    length: number,
    data: Uint8Array | undefined,
    atMs: number,
  ): void {
    assert(!this.hasUnsent && sequence <= this.#sentSequence, 'what was applied stands before what was not sent');
    this.push(type, flags, sequence, offset, length, data, false, atMs);
    this.#unsent = this.#entries.length;
    this.#unapplied = this.#unsent;
    this.#appliedThroughSize = this.#throughSize;
  }

  /** A barrier after `sequence`, unless that is already the last thing said. */
  pushBarrier(sequence: number, atMs: number): void {
    if (this.#lastBarrier === sequence) return;
    this.#lastBarrier = sequence;
    const last = this.hasUnsent ? this.#entries.at(-1) : undefined;
    if (last?.type === FrameType.BARRIER) {
      last.sequence = sequence;
      return;
    }
    if (last !== undefined && !last.remark && last.sequence === sequence) {
      last.flags |= FRAME_BARRIER;
      return;
    }
    this.push(FrameType.BARRIER, 0, sequence, 0, 0, undefined, false, atMs);
  }

  /**
   * A version of the dirty map: a remark in front of every operation that relies on it. While one has not been sent it
   * tells the newest instead: a mirror may know too early, never too late. So a mirror that takes nothing costs one entry.
   */
  pushMapVersion(version: number, sequence: number, atMs: number): void {
    if (this.#unsentVersion !== undefined) {
      this.#unsentVersion.offset = version;
      return;
    }
    this.push(FrameType.MAP_VERSION, 0, sequence, version, 0, undefined, true, atMs);
    this.#unsentVersion = this.#entries.at(-1);
  }

  /** The next entry to send; it counts as sent. */
  takeUnsent(): WindowEntry | undefined {
    const entry = this.#entries[this.#unsent];
    if (entry === undefined) return undefined;
    if (entry === this.#unsentVersion) this.#unsentVersion = undefined;
    this.#unsent += 1;
    this.#sentSequence = Math.max(this.#sentSequence, entry.sequence);
    return entry;
  }

  /**
   * The payload of a remark has been handed to the stream and is not needed again. True when nothing else here holds its
   * underlying buffer: it may be used again as soon as it has been sent.
   */
  releaseRemark(entry: WindowEntry): boolean {
    assert(entry.remark, 'only remarks are released before they are recorded');
    return this.#unpin(entry);
  }

  /** The mirror has applied up to `sequence`. */
  applied(sequence: number): void {
    while (this.#unapplied < this.#unsent && this.#entries[this.#unapplied]!.sequence <= sequence) {
      this.#appliedThroughSize = this.#entries[this.#unapplied]!.throughSize;
      this.#unapplied += 1;
    }
  }

  /**
   * The mirror has recorded up to `sequence`: those sent entries are forgotten, and their buffers used again. The socket of
   * an earlier session may still hold some of them; what it sends has no effect, since the mirror lets a session begin only
   * when the one before is over.
   */
  forget(sequence: number): void {
    const limit = Math.min(this.#unsent, this.#unapplied);
    while (this.#head < limit && this.#entries[this.#head]!.sequence <= sequence) {
      const entry = this.#entries[this.#head]!;
      this.#usedSize -= ENTRY_OVERHEAD_SIZE;
      this.#unpin(entry, true);
      this.#head += 1;
    }
    this.#baseSequence = Math.max(this.#baseSequence, sequence);
    if (this.#head >= COMPACT_COUNT && this.#head * 2 >= this.#entries.length) this.#compact();
  }

  /** A session begins after `sequence`: remarks of the last one are gone, everything later is sent (again). */
  rewind(sequence: number): void {
    const kept: WindowEntry[] = [];
    for (let index = this.#head; index < this.#entries.length; index += 1) {
      const entry = this.#entries[index]!;
      if (!entry.remark) {
        kept.push(entry);
        continue;
      }
      this.#usedSize -= ENTRY_OVERHEAD_SIZE;
      this.#unpin(entry);
    }
    this.#entries = kept;
    this.#unsentVersion = undefined;
    this.#head = 0;
    let index = 0;
    while (index < kept.length && kept[index]!.sequence <= sequence) index += 1;
    this.#unsent = index;
    this.#unapplied = index;
    this.#sentSequence = sequence;
    this.#appliedThroughSize =
      kept[index - 1]?.throughSize ??
      (kept[0] === undefined ? this.#throughSize : kept[0].throughSize - kept[0].length);
  }

  /** Drops everything; the window begins anew after `sequence`. `dropped` sees each operation. */
  clear(sequence: number, dropped: (entry: WindowEntry) => void): void {
    for (let index = this.#head; index < this.#entries.length; index += 1) {
      const entry = this.#entries[index]!;
      if (!entry.remark && entry.length > 0) dropped(entry);
    }
    this.#entries = [];
    this.#unsentVersion = undefined;
    this.#head = 0;
    this.#unsent = 0;
    this.#unapplied = 0;
    this.#usedSize = 0;
    this.#pinned.clear();
    this.#appliedThroughSize = this.#throughSize;
    this.#baseSequence = sequence;
    this.#sentSequence = sequence;
    this.#lastBarrier = -1;
  }

  /** Calls `visit` for each operation that the mirror has not recorded. */
  forEachOperation(visit: (offset: number, length: number) => void): void {
    for (let index = this.#head; index < this.#entries.length; index += 1) {
      const entry = this.#entries[index]!;
      if (!entry.remark && entry.length > 0) visit(entry.offset, entry.length);
    }
  }

  /** The operations and barriers that the mirror has not recorded, in order: live, nothing may be forgotten meanwhile. */
  unrecorded(): WindowEntry[] {
    return this.#entries.slice(this.#head).filter(({ remark }) => !remark);
  }

  #pin(data: Uint8Array): void {
    const holders = this.#pinned.get(data.buffer) ?? 0;
    if (holders === 0) this.#usedSize += data.buffer.byteLength;
    this.#pinned.set(data.buffer, holders + 1);
  }

  /** `reuse`: the mirror has recorded it, so nothing will send it any more. True when it was the last holder of its buffer. */
  #unpin(entry: WindowEntry, reuse = false): boolean {
    const data = entry.data;
    if (data === undefined) return false;
    entry.data = undefined;
    const holders = this.#pinned.get(data.buffer)!;
    if (holders > 1) {
      this.#pinned.set(data.buffer, holders - 1);
      return false;
    }
    this.#pinned.delete(data.buffer);
    this.#usedSize -= data.buffer.byteLength;
    if (reuse) payloadPool.give(data);
    return true;
  }

  #compact(): void {
    this.#entries.splice(0, this.#head);
    this.#unsent -= this.#head;
    this.#unapplied -= this.#head;
    this.#head = 0;
  }
}

/** Forgotten entries are dropped from the head in lots of at least this many. */
const COMPACT_COUNT = 1024;
