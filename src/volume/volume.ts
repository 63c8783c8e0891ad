/**
 * Volume: our block device. A *layer* is a volume that wraps a volume; the NBD server serves any volume and knows
 * nothing of what is underneath.
 *
 * Offsets and lengths are bytes; every range lies inside [0, size) and is not empty: the server refuses others first.
 * A call that can finish at once returns a value, else a promise. Requests may run concurrently and finish in any
 * order; overlapping mutations take effect one after the other. Errors are Failures with the codes `no-space`,
 * `io-error`, `not-permitted`, `invalid-request`, `overflow`, `not-supported`, `shutting-down`.
 */

/** A run of bytes with one status, as in NBD's block status. */
export interface Extent {
  readonly length: number;
  /** `base:allocation`: bit 0 hole, bit 1 reads as zeroes. Other contexts define their own. */
  readonly flags: number;
}

export const EXTENT_HOLE = 1;
export const EXTENT_ZERO = 2;

/** Bit 0 of `x-nbdtwin:unreplicated`: some mirror does not have this extent durably yet. */
export const EXTENT_UNREPLICATED = 1;

export interface WriteOptions {
  /** Answer only when the effect is durable, as far as the mode demands. */
  readonly fua: boolean;
}

export interface ZeroOptions extends WriteOptions {
  /** NBD's NO_HOLE: space stays or becomes allocated. */
  readonly allocate: boolean;
  /** NBD's FAST_ZERO: fail with `not-supported` at once, unchanged, unless no data needs to be written. */
  readonly fast: boolean;
}

export interface Volume {
  readonly size: number;
  readonly readOnly: boolean;
  /** Names of the metadata contexts that `extents` answers; always has `base:allocation`. */
  readonly contexts: readonly string[];

  /** Fills `target` from `offset`. */
  read(target: Buffer, offset: number): void | Promise<void>;
  /**
   * Writes `data` at `offset`. From now on the buffer belongs to the volume, for as long as it likes (a mirror's
   * window may hold it): the caller must never modify it. On return the write is visible on every connection; durable
   * after a later `flush`, or at once with `fua`.
   */
  write(offset: number, data: Uint8Array, options: WriteOptions): void | Promise<void>;
  /** Makes the range read as zeroes. */
  zero(offset: number, length: number, options: ZeroOptions): void | Promise<void>;
  /** A hint that the range is no longer needed. True: it now reads as zeroes; false: nothing was changed. */
  trim(offset: number, length: number, options: WriteOptions): boolean | Promise<boolean>;
  /** Everything answered before this call, on any connection, is durable when it resolves, as far as the mode demands. */
  flush(): Promise<void>;
  /** Reads ahead. */
  cache(offset: number, length: number): void;
  /**
   * Extents of a context, consecutive from `offset`, at most `countMax`, together at least one byte and at most
   * `length`; neighbours differ in flags where cheap.
   */
  extents(context: string, offset: number, length: number, countMax: number): Extent[] | Promise<Extent[]>;
  /** Waits for requests in flight, then releases what lies underneath. No request may follow. */
  close(): Promise<void>;
}

export const ALLOCATION_CONTEXT = 'base:allocation';
export const UNREPLICATED_CONTEXT = 'x-nbdtwin:unreplicated';
