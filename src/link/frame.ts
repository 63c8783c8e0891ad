/**
 * Frames of the link: a fixed header, then a payload.
 *
 * Header (HEADER_SIZE bytes, little-endian):
 *
 * | offset | size | field                                                                 |
 * | ------ | ---- | --------------------------------------------------------------------- |
 * | 0      | 1    | type                                                                  |
 * | 1      | 1    | flags                                                                 |
 * | 2      | 2    | zero                                                                  |
 * | 4      | 4    | payload length in bytes                                               |
 * | 8      | 8    | sequence                                                              |
 * | 16     | 8    | offset in bytes from the start of the disk                            |
 * | 24     | 8    | length in bytes of the disk that the frame is about                   |
 *
 * Fields that a type does not use are zero. What each type means, and its payload, is in messages.ts and
 * docs/protocol.md.
 */
import { assert } from '../base/assert.ts';
import { getUint64, putUint64 } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import { POOLED_SIZE_MIN, payloadPool } from '../base/payload-pool.ts';
import { MIB } from '../base/units.ts';

export const HEADER_SIZE = 32;

/** The largest payload of a frame: one NBD write. */
export const PAYLOAD_SIZE_MAX = 32 * MIB;
/** The largest payload before both ends have agreed on a version, and of frames that are not data. */
export const CONTROL_PAYLOAD_SIZE_MAX = 64 * 1024;

export const FrameType = {
  // Opening a session.
  HELLO: 1,
  WELCOME: 2,
  BEGIN: 3,
  REFUSED: 4,
  // Primary to mirror: the stream, in order.
  WRITE: 16,
  ZERO: 17,
  BARRIER: 18,
  PASS: 19,
  CHECKPOINT: 20,
  CHECK: 21,
  STAGE: 22,
  MAP_VERSION: 23,
  // Primary to mirror, out of order.
  DIGEST_REQUEST: 32,
  RESCAN_REQUEST: 33,
  // Mirror to primary.
  ACK: 48,
  CHECKPOINT_DONE: 49,
  CHECK_RESULT: 50,
  DIGEST_REPLY: 51,
  RESCAN_PLACE: 52,
  // Both ways.
  PING: 64,
  PONG: 65,
  GOODBYE: 66,
} as const;

export type FrameTypeCode = (typeof FrameType)[keyof typeof FrameType];

/** Flags of WRITE and ZERO: the operation is the last of its epoch. */
export const FRAME_BARRIER = 1;
/** Flags of WRITE and ZERO: not an operation but the outcome of a comparison; its sequence is the last one given out. */
export const FRAME_REPAIR = 2;
/** Flags of CHECKPOINT: a staged run or seeding is complete here; a staged run is committed. */
export const FRAME_COMPLETE = 4;

const KNOWN_TYPES: ReadonlySet<number> = new Set(Object.values(FrameType));
/** Types that carry blocks or digests: the only ones with payloads above CONTROL_PAYLOAD_SIZE_MAX. */
const LARGE_TYPES: ReadonlySet<number> = new Set([FrameType.WRITE, FrameType.DIGEST_REPLY]);

export interface Frame {
  readonly type: FrameTypeCode;
  readonly flags: number;
  readonly sequence: number;
  readonly offset: number;
  readonly length: number;
  /** View of received bytes; belongs to whoever takes the frame. */
  readonly payload: Buffer;
}

interface Header {
  readonly type: FrameTypeCode;
  readonly flags: number;
  readonly sequence: number;
  readonly offset: number;
  readonly length: number;
  /** Payload bytes. */
  readonly size: number;
}

const EMPTY = Buffer.alloc(0);

/** More than the largest payload that is cut from it. */
const SLAB_SIZE = 64 * 1024;

/** Writes a header at `at` of `target`. */
export function putHeader(
  target: Buffer,
  at: number,
  type: FrameTypeCode,
  flags: number,
  payloadSize: number,
  sequence: number,
  offset: number,
  length: number,
): void {
  assert(payloadSize <= PAYLOAD_SIZE_MAX, 'frame payload within its limit');
  target.writeUInt32LE(type | (flags << 8), at);
  target.writeUInt32LE(payloadSize, at + 4);
  putUint64(target, at + 8, sequence);
  putUint64(target, at + 16, offset);
  putUint64(target, at + 24, length);
}

/** One frame, header and payload in one buffer: for frames that are not on the hot path. */
export function encodeFrame(
  type: FrameTypeCode,
  fields: { flags?: number; sequence?: number; offset?: number; length?: number; payload?: Uint8Array } = {},
): Buffer {
  const payload = fields.payload ?? EMPTY;
  const frame = Buffer.alloc(HEADER_SIZE + payload.length);
  putHeader(
    frame,
    0,
    type,
    fields.flags ?? 0,
    payload.length,
    fields.sequence ?? 0,
    fields.offset ?? 0,
    fields.length ?? 0,
  );
  frame.set(payload, HEADER_SIZE);
  return frame;
}

/**
 * Bytes to frames, cut at any point. Payloads that lie inside one chunk are views of it; others are assembled once.
 * Throws `frame-invalid` as soon as a header shows it, before any of the payload is awaited or held.
 */
export class FrameDecoder {
  #chunks: Buffer[] = [];
  #available = 0;
  /** Consumed bytes of the first chunk. */
  #consumed = 0;
  #header: Header | undefined;
  #assembly: Buffer | undefined;
  #assembled = 0;
  #slab = EMPTY;
  #slabAt = 0;
  /** Until the session is open only small frames are accepted. */
  #payloadMax = CONTROL_PAYLOAD_SIZE_MAX;

  /** Takes ownership of the chunk: it must not be modified afterwards. */
  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#available += chunk.length;
  }

  /** The session is open: frames with blocks are accepted from now on. */
  admitData(): void {
    this.#payloadMax = PAYLOAD_SIZE_MAX;
  }

  /** True when the stream could end here without cutting a frame. */
  get atBoundary(): boolean {
    return this.#header === undefined && this.#available === 0;
  }

  /** The next whole frame, or undefined when more bytes are needed. */
  next(): Frame | undefined {
    if (this.#header === undefined) {
      if (this.#available < HEADER_SIZE) return undefined;
      this.#header = this.#readHeader(this.#take(HEADER_SIZE));
    }
    const header = this.#header;
    const payload = this.#takePayload(header.size);
    if (payload === undefined) return undefined;
    this.#header = undefined;
    return {
      type: header.type,
      flags: header.flags,
      sequence: header.sequence,
      offset: header.offset,
      length: header.length,
      payload,
    };
  }

  #readHeader(bytes: Buffer): Header {
    const type = bytes[0]!;
    const size = bytes.readUInt32LE(4);
    const sequence = getUint64(bytes, 8);
    const offset = getUint64(bytes, 16);
    const length = getUint64(bytes, 24);
    if (!KNOWN_TYPES.has(type) || bytes.readUInt16LE(2) !== 0) {
      throw new Failure('frame-invalid', `unknown frame of type ${type}`);
    }
    const sizeMax = LARGE_TYPES.has(type) ? this.#payloadMax : CONTROL_PAYLOAD_SIZE_MAX;
    if (size > sizeMax)
      throw new Failure('frame-invalid', `frame of type ${type} with ${size} bytes, limit ${sizeMax}`);
    if (
      sequence === undefined ||
      offset === undefined ||
      length === undefined ||
      !Number.isSafeInteger(offset + length)
    ) {
      throw new Failure('frame-invalid', `frame of type ${type} with an impossible position`);
    }
    return { type: type as FrameTypeCode, flags: bytes[1]!, sequence, offset, length, size };
  }

  #takePayload(size: number): Buffer | undefined {
    if (size === 0) return EMPTY;
    if (this.#assembly === undefined) {
      const first = this.#chunks[0];
      if (first !== undefined && first.length - this.#consumed >= size) return this.#take(size);
      this.#assembly = size < POOLED_SIZE_MIN ? this.#carve(size) : payloadPool.take(size);
      this.#assembled = 0;
    }
    const assembly = this.#assembly;
    while (this.#assembled < size && this.#available > 0) {
      const first = this.#chunks[0]!;
      const count = Math.min(size - this.#assembled, first.length - this.#consumed);
      first.copy(assembly, this.#assembled, this.#consumed, this.#consumed + count);
      this.#assembled += count;
      this.#advance(count);
    }
    if (this.#assembled < size) return undefined;
    this.#assembly = undefined;
    return assembly;
  }

  /** Small payloads are cut from one buffer: the collector has a tenth of the work. They come and go in order. */
  #carve(size: number): Buffer {
    if (this.#slab.length - this.#slabAt < size) {
      this.#slab = Buffer.allocUnsafeSlow(SLAB_SIZE);
      this.#slabAt = 0;
    }
    this.#slabAt += size;
    return this.#slab.subarray(this.#slabAt - size, this.#slabAt);
  }

  /** Takes `size` bytes that are known to be available; a view where they lie in one chunk. */
  #take(size: number): Buffer {
    const first = this.#chunks[0]!;
    if (first.length - this.#consumed >= size) {
      const view = first.subarray(this.#consumed, this.#consumed + size);
      this.#advance(size);
      return view;
    }
    const copy = Buffer.allocUnsafe(size);
    let copied = 0;
    while (copied < size) {
      const chunk = this.#chunks[0]!;
      const count = Math.min(size - copied, chunk.length - this.#consumed);
      chunk.copy(copy, copied, this.#consumed, this.#consumed + count);
      copied += count;
      this.#advance(count);
    }
    return copy;
  }

  #advance(count: number): void {
    this.#available -= count;
    this.#consumed += count;
    if (this.#consumed === this.#chunks[0]!.length) {
      this.#chunks.shift();
      this.#consumed = 0;
    }
  }
}
