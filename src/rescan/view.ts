/**
 * A disk as a rescan sees it: the disk itself, or what a staged run will make of it. Digests of it are those of the
 * content that a reader would get, unit by unit:
 *
 * - units that nothing newer covers are scanned on the disk, units all of newer data in the file that holds it, at the
 *   same offset, both by the scan pool;
 * - units covered with zeroes are zero;
 * - the others, and those that end beyond the disk, are put together and digested here, a little at a time.
 *
 * Content may change meanwhile: each byte is digested as it was at some moment during the call (source.ts says why that
 * is enough).
 */
import { alignDown, MIB } from '../base/units.ts';
import type { Clock } from '../io/clock.ts';
import { digestUnits } from '../io/digest.ts';
import type { Disk } from '../io/disk.ts';
import { DIGEST_SIZE, type ScanPool, type ScanRequest, type ScanResult } from '../io/scan-pool.ts';
import { newScanResult } from '../io/scan-request.ts';
import type { Overlay } from '../store/overlay.ts';

export interface View {
  readonly disk: Disk;
  /** Bytes of the view; the disk may be smaller, the rest is zero. */
  readonly size: number;
  readonly over?: {
    readonly overlay: Overlay;
    /** The overlay's data, at the offsets of the disk. */
    readonly data: Disk;
    /** Keeps both open; returns how to let go. */
    hold(): () => void;
  };
}

type Source = 'disk' | 'data' | 'zero' | 'mixed';

/** Bytes that are read and digested here before others run. */
const STEP_SIZE = 4 * MIB;

/** Digests of a range of the view. `ended`: nobody waits for it any more. Failures: `io-error`, `scan-failed`. */
export function scanView(
  view: View,
  scan: ScanPool,
  clock: Clock,
  request: ScanRequest,
  ended: () => boolean,
): Promise<ScanResult> {
  if (view.over === undefined && view.disk.size === view.size) return scan.scan(view.disk, request);
  return scanPieces(view, new ViewScan(view, scan, clock, request), ended);
}

async function scanPieces({ over }: View, pieces: ViewScan, ended: () => boolean): Promise<ScanResult> {
  const release = over?.hold();
  try {
    return await pieces.run(ended);
  } finally {
    release?.();
  }
}

class ViewScan {
  readonly #view: View;
  readonly #scan: ScanPool;
  readonly #clock: Clock;
  readonly #request: ScanRequest;
  readonly #result: ScanResult;
  readonly #pooled: Promise<void>[] = [];
  readonly #mixed: { offset: number; length: number }[] = [];

  constructor(view: View, scan: ScanPool, clock: Clock, request: ScanRequest) {
    this.#view = view;
    this.#scan = scan;
    this.#clock = clock;
    this.#request = request;
    this.#result = newScanResult(request.length, request.unitSize);
  }

  async run(ended: () => boolean): Promise<ScanResult> {
    this.#divide();
    let failure: unknown;
    try {
      await this.#digestMixed(ended);
    } catch (error) {
      failure = error;
    }
    // All must have settled before the files may be closed, also when one has failed.
    const settled = await Promise.allSettled(this.#pooled);
    if (failure !== undefined) throw failure;
    for (const outcome of settled) if (outcome.status === 'rejected') throw outcome.reason;
    return this.#result;
  }

  /** Neighbouring units that come from the same place are taken together. */
  #divide(): void {
    const { offset, length } = this.#request;
    const end = offset + length;
    let start = offset;
    let { source, until } = this.#sourceOf(start);
    while (until < end) {
      const next = this.#sourceOf(until);
      if (next.source !== source) {
        this.#take(source, start, until);
        start = until;
        source = next.source;
      }
      until = next.until;
    }
    this.#take(source, start, end);
  }

  /** Where the unit at that offset comes from, and all up to the one at `until`. */
  #sourceOf(offset: number): { readonly source: Source; readonly until: number } {
    const { disk, over, size } = this.#view;
    const { unitSize } = this.#request;
    const end = Math.min(offset + unitSize, size);
    const range = over?.overlay.next(offset);
    let source: Source = 'mixed';
    let sourceEnd = offset;
    if (range === undefined || range.offset >= end) {
      const wholeEnd = disk.size === size ? size : alignDown(disk.size, unitSize);
      if (end <= wholeEnd) {
        source = 'disk';
        sourceEnd = Math.min(wholeEnd, range?.offset ?? wholeEnd);
      }
    } else if (range.offset === offset && range.length >= end - offset) {
      source = range.zero ? 'zero' : 'data';
      sourceEnd = offset + range.length;
    }
    return { source, until: Math.max(offset + unitSize, alignDown(sourceEnd, unitSize)) };
  }

  #take(source: Source, start: number, end: number): void {
    const { disk, over } = this.#view;
    const { offset, unitSize, key } = this.#request;
    const first = (start - offset) / unitSize;
    if (source === 'zero') {
      this.#result.zero.fill(1, first, first + Math.ceil((end - start) / unitSize));
    } else if (source === 'mixed') {
      this.#mixed.push({ offset: start, length: end - start });
    } else {
      const from = source === 'data' ? over!.data : disk;
      const request = { offset: start, length: end - start, unitSize, key };
      const pooled = this.#scan.scan(from, request).then((part) => {
        this.#result.zero.set(part.zero, first);
        this.#result.digests.set(part.digests, first * DIGEST_SIZE);
      });
      // Asked for only when what is mixed is done: a failure before that must not count as one that nobody handles.
      pooled.catch(() => undefined);
      this.#pooled.push(pooled);
    }
  }

  async #digestMixed(ended: () => boolean): Promise<void> {
    if (this.#mixed.length === 0) return;
    const { unitSize, key, offset: requestOffset } = this.#request;
    const buffer = Buffer.allocUnsafe(unitSize);
    let stepSize = 0;
    for (const { offset, length } of this.#mixed) {
      for (let at = offset; at < offset + length; at += unitSize) {
        if (ended()) return;
        const unit = buffer.subarray(0, Math.min(unitSize, offset + length - at));
        await this.#read(unit, at);
        digestUnits(unit, at, unitSize, key, this.#result, (at - requestOffset) / unitSize);
        stepSize += unit.length;
        if (stepSize < STEP_SIZE) continue;
        stepSize = 0;
        await this.#clock.sleep(0);
      }
    }
  }

  #read(unit: Buffer, offset: number): void | Promise<void> {
    const { disk, over } = this.#view;
    return over === undefined ? disk.read(unit, offset) : over.overlay.read(unit, offset, disk);
  }
}
