/**
 * What each command does to the volume, and its reply. One for each connection.
 *
 * A command whose volume answers at once is answered in the same turn, without a promise.
 *
 * @see NBD spec, "Request types", "Error values"
 */
import { Command, CommandFlag, ErrorCode, type ReplyEncoder, type Request } from 'nbd-protocol';
import { unreachable } from '../base/assert.ts';
import { POOLED_SIZE_MIN, payloadPool } from '../base/payload-pool.ts';
import { ALLOCATION_CONTEXT, EXTENT_ZERO, type Extent, type Volume, type WriteOptions } from '../volume/volume.ts';
import type { Arena } from './arena.ts';
import { EXTENTS_MAX, PAYLOAD_MAX, SPARSE_CHUNKS_MAX, SPARSE_READ_MIN } from './limits.ts';
import type { SelectedContext } from './meta-contexts.ts';
import type { Replies } from './replies.ts';

/** Room for the largest header of a chunk with data. */
const HEADER_MAX = 64;

const FUA: WriteOptions = { fua: true };
const WITHOUT_FUA: WriteOptions = { fua: false };

export interface CommandsOptions {
  readonly volume: Volume;
  readonly encoder: ReplyEncoder;
  readonly contexts: readonly SelectedContext[];
  /** Where `encoder` puts its replies too. */
  readonly arena: Arena;
  readonly replies: Replies;
}

export class Commands {
  readonly #volume: Volume;
  readonly #encoder: ReplyEncoder;
  readonly #contexts: readonly SelectedContext[];
  readonly #arena: Arena;
  readonly #replies: Replies;
  readonly #findsHoles: boolean;

  constructor(options: CommandsOptions) {
    this.#volume = options.volume;
    this.#encoder = options.encoder;
    this.#contexts = options.contexts;
    this.#arena = options.arena;
    this.#replies = options.replies;
    this.#findsHoles = options.encoder.mode !== 'simple' && options.volume.contexts.includes(ALLOCATION_CONTEXT);
  }

  /**
   * Carries out a request other than DISC. Its whole reply has been pushed when this returns, or when the promise
   * resolves. Throws or rejects with the Failure of the volume, nothing having been pushed.
   */
  run(request: Request): void | Promise<void> {
    const error = request.fault ?? this.#faultOf(request);
    if (error !== undefined) return this.fail(request, error);
    switch (request.command as Command) {
      case Command.READ:
        return this.#read(request);
      case Command.WRITE:
        return this.#write(request);
      case Command.FLUSH:
        return this.#volume.flush().then(() => this.#ok(request));
      case Command.TRIM:
        return this.#trim(request);
      case Command.CACHE:
        if (request.length > 0) this.#volume.cache(request.offset, Math.min(request.length, PAYLOAD_MAX));
        return this.#ok(request);
      case Command.WRITE_ZEROES:
        return this.#writeZeroes(request);
      case Command.BLOCK_STATUS:
        return this.#blockStatus(request);
      case Command.DISC:
      case Command.RESIZE:
        return this.fail(request, ErrorCode.EINVAL);
      default:
        return unreachable(request.command as never);
    }
  }

  /** Pushes an error as the whole reply. */
  fail(request: Request, error: ErrorCode, message = ''): void {
    this.#replies.push(this.#encoder.error(request, error, message));
  }

  /** What is wrong with a request in respect of this export and of what was negotiated. */
  #faultOf(request: Request): ErrorCode | undefined {
    const { command, flags, length } = request;
    const isOutside = request.offset + length > this.#volume.size;
    switch (command) {
      case Command.READ:
        if (isOutside || ((flags & CommandFlag.DF) !== 0 && this.#encoder.mode === 'simple')) return ErrorCode.EINVAL;
        if (length > PAYLOAD_MAX) return this.#encoder.mode === 'simple' ? ErrorCode.EINVAL : ErrorCode.EOVERFLOW;
        return undefined;
      case Command.WRITE:
      case Command.WRITE_ZEROES:
        if (this.#volume.readOnly) return ErrorCode.EPERM;
        return isOutside ? ErrorCode.ENOSPC : undefined;
      case Command.TRIM:
        if (this.#volume.readOnly) return ErrorCode.EPERM;
        return isOutside ? ErrorCode.EINVAL : undefined;
      case Command.CACHE:
        return isOutside ? ErrorCode.EINVAL : undefined;
      case Command.BLOCK_STATUS:
        return isOutside || length === 0 || this.#contexts.length === 0 ? ErrorCode.EINVAL : undefined;
      case Command.FLUSH:
        return undefined;
      default:
        return ErrorCode.EINVAL;
    }
  }

  #ok(request: Request): void {
    this.#replies.push(this.#encoder.ok(request));
  }

  #read(request: Request): void | Promise<void> {
    const { offset, length } = request;
    if (length === 0) return this.#readNothing(request);
    if (this.#findsHoles && length >= SPARSE_READ_MIN && (request.flags & CommandFlag.DF) === 0) {
      const extents = this.#volume.extents(ALLOCATION_CONTEXT, offset, length, SPARSE_CHUNKS_MAX);
      if (extents instanceof Promise) return extents.then((found) => this.#readExtents(request, found));
      return this.#readExtents(request, extents);
    }
    return this.#readWhole(request);
  }

  #readNothing(request: Request): void {
    const isSimple = this.#encoder.mode === 'simple';
    const reply = isSimple ? this.#encoder.dataHeader(request, request.offset, 0, true) : this.#encoder.ok(request);
    this.#replies.push(reply);
  }

  #readWhole(request: Request): void | Promise<void> {
    const { offset, length } = request;
    // Larger data would leave the rest of a slab unused.
    const isSmall = length < POOLED_SIZE_MIN;
    if (isSmall) this.#arena.reserve(HEADER_MAX + length);
    const header = this.#encoder.dataHeader(request, offset, length, true);
    const data = isSmall ? this.#arena.take(length) : payloadPool.take(length);
    const pending = this.#volume.read(data, offset);
    if (pending !== undefined) return pending.then(() => this.#pushData(header, data));
    this.#pushData(header, data);
  }

  #pushData(header: Uint8Array, data: Uint8Array): void {
    this.#replies.push(header);
    this.#replies.pushOwned(data);
  }

  #readExtents(request: Request, extents: readonly Extent[]): void | Promise<void> {
    if (!extents.some((extent) => (extent.flags & EXTENT_ZERO) !== 0)) return this.#readWhole(request);
    if (extents[0]!.length === request.length) {
      return this.#replies.push(this.#encoder.hole(request, request.offset, request.length, true));
    }
    return this.#readSparse(request, extents);
  }

  /** Holes as holes; data, and what lies past the last extent told, as data. Pushed only when all of it was read. */
  async #readSparse(request: Request, extents: readonly Extent[]): Promise<void> {
    const end = request.offset + request.length;
    const pieces: { offset: number; length: number; data: Buffer | undefined }[] = [];
    let at = request.offset;
    for (const { length, flags } of [...extents, { length: Number.POSITIVE_INFINITY, flags: 0 }]) {
      if (at === end) break;
      const pieceLength = Math.min(length, end - at);
      const isZero = (flags & EXTENT_ZERO) !== 0;
      pieces.push({ offset: at, length: pieceLength, data: isZero ? undefined : Buffer.allocUnsafeSlow(pieceLength) });
      at += pieceLength;
    }
    await Promise.all(pieces.map(async ({ offset, data }) => data && this.#volume.read(data, offset)));
    pieces.forEach(({ offset, length, data }, index) => {
      const isLast = index === pieces.length - 1;
      if (data === undefined) this.#replies.push(this.#encoder.hole(request, offset, length, isLast));
      else this.#pushData(this.#encoder.dataHeader(request, offset, length, isLast), data);
    });
  }

  #write(request: Request): void | Promise<void> {
    if (request.length === 0) return this.#ok(request);
    const pending = this.#volume.write(request.offset, request.payload!, writeOptions(request));
    if (pending !== undefined) return pending.then(() => this.#ok(request));
    this.#ok(request);
  }

  #trim(request: Request): void | Promise<void> {
    if (request.length === 0) return this.#ok(request);
    const pending = this.#volume.trim(request.offset, request.length, writeOptions(request));
    if (typeof pending !== 'boolean') return pending.then(() => this.#ok(request));
    this.#ok(request);
  }

  #writeZeroes(request: Request): void | Promise<void> {
    if (request.length === 0) return this.#ok(request);
    const pending = this.#volume.zero(request.offset, request.length, {
      fua: (request.flags & CommandFlag.FUA) !== 0,
      allocate: (request.flags & CommandFlag.NO_HOLE) !== 0,
      fast: (request.flags & CommandFlag.FAST_ZERO) !== 0,
    });
    if (pending !== undefined) return pending.then(() => this.#ok(request));
    this.#ok(request);
  }

  /** One chunk for each context that was selected, or for each that the request names. */
  async #blockStatus(request: Request): Promise<void> {
    const asked = request.contextIds ?? this.#contexts.map(({ id }) => id);
    const contexts = this.#contexts.filter(({ id }) => asked.includes(id));
    if (contexts.length !== asked.length) return this.fail(request, ErrorCode.EINVAL, 'unknown metadata context');
    const countMax = (request.flags & CommandFlag.REQ_ONE) !== 0 ? 1 : EXTENTS_MAX;
    const answers = await Promise.all(
      contexts.map(async ({ name }) => this.#volume.extents(name, request.offset, request.length, countMax)),
    );
    answers.forEach((extents, index) => {
      const isLast = index === answers.length - 1;
      this.#replies.push(this.#encoder.blockStatus(request, contexts[index]!.id, extents, isLast));
    });
  }
}

function writeOptions(request: Request): WriteOptions {
  return (request.flags & CommandFlag.FUA) !== 0 ? FUA : WITHOUT_FUA;
}
