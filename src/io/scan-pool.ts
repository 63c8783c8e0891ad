/**
 * Reading and digesting ranges of a disk off the event loop, for both sides of a rescan. The Node implementation
 * (node-scan-pool.ts) runs worker threads that share the disk's file descriptor; the simulator runs inline.
 */
import type { Disk } from './disk.ts';

export interface ScanRequest {
  /** First byte; a multiple of `unitSize`. */
  readonly offset: number;
  /** Bytes; a multiple of `unitSize` except at the end of the disk. */
  readonly length: number;
  /** Bytes that one digest covers: 1 MiB, 64 KiB or 4 KiB. */
  readonly unitSize: number;
  /** AES-128 key of the pass, 16 bytes. */
  readonly key: Uint8Array;
}

/** What a scan thread says first where it has to do without OpenSSL's own calls. */
export const SLOW_DIGESTS = 'slow digests';

/** Bytes of one digest. */
export const DIGEST_SIZE = 16;

export interface ScanResult {
  /** One per unit: 1 when the unit reads as zeroes throughout (a hole, or written zeroes), else 0. */
  readonly zero: Uint8Array;
  /** DIGEST_SIZE bytes per unit; all zero bytes for a unit that is zero. */
  readonly digests: Uint8Array;
}

export interface ScanPool {
  /**
   * Digests of the units of a range, as the disk reads at some moment during the call. Failures: `io-error`, and `scan-failed`, which says
   * nothing about the disk.
   */
  scan(disk: Disk, request: ScanRequest): Promise<ScanResult>;
  /** Ends the threads; calls in flight reject. */
  close(): Promise<void>;
}
