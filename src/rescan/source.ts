/**
 * The source half of a rescan: one pass over a scope, comparing digests coarse to fine.
 *
 * Why it is right while clients write and the stream runs beside it. Take a region and the operations on it since the
 * pass began. First come those that were left to the pass: all of them took effect before the region's first digest was
 * asked for, none of them and nothing else stands in the stream. Then, from the first one that was streamed, every one is
 * in the stream, in order, or its region is marked for the next pass. Take a block whose digests are equal, read
 * on the primary at one moment and on the mirror at another. A byte of it that no streamed operation touches between
 * the two moments is equal now and stays so; a byte that one does touch ends as the last such operation left it, on
 * both sides. So equal digests need no lock, in whatever order the two were read, and a torn read does no harm. A block
 * that differs is read again under the range lock and put into the stream at that very place (`differing`).
 *
 * What was streamed before the pass must be in the image before the mirror's first digest (else a repair of an earlier
 * pass, still on its way, could undo what a digest has just found equal): PASS stands in the stream, and the target
 * answers only after it.
 *
 * Several batches are in flight; they are finished in order, so that progress is monotonic.
 */
import { assert } from '../base/assert.ts';
import { Failure, isFailure } from '../base/failure.ts';
import { alignDown, GIB, MIB } from '../base/units.ts';
import { DIGEST_SIZE, type ScanResult } from '../io/scan-pool.ts';
import { DIGEST_COUNT_MAX, DIGEST_UNITS, type DigestUnit } from '../link/digests.ts';

export interface Range {
  readonly offset: number;
  readonly length: number;
}

/** A range whose digests differ. */
export interface DifferingRange extends Range {
  /** The mirror holds zeroes there: local zeroes need not be sent. */
  readonly remoteZero: boolean;
}

/** Bytes of one batch of coarse digests, a multiple of 1 MiB, and how many full of data are under way at the same time. */
export interface Stride {
  readonly batchSize: number;
  readonly batches: number;
}

export interface SourcePorts {
  /** The next range of the scope at or after `offset`, at most `lengthMax` bytes; undefined at the end. */
  next(offset: number, lengthMax: number): Range | undefined;
  /** Start of local data at or after `offset` (a hole before it), or the size of the disk. */
  seekData(offset: number): number;
  scanLocal(offset: number, length: number, unit: DigestUnit): Promise<ScanResult>;
  scanRemote(offset: number, length: number, unit: DigestUnit): Promise<ScanResult>;
  /** Everything below `end` is being compared from now on. */
  reached(end: number): void;
  /** A range differs: put its present content into the stream (or, for verify, a check). In order of offset. */
  differing(range: DifferingRange): Promise<void>;
  /** The local disk cannot read that range. */
  unreadable(range: Range): void;
  /** The range is compared and what differed stands in the stream. In order of offset. */
  compared(range: Range): void;
  /** The mirror is being filled for the first time: it holds zeroes nearly everywhere, and what is here is read once, to be sent. */
  readonly seeding: boolean;
  /** Waits until the pass may go on: the rate, clients first. `readSize` bytes were read here; holes are not. */
  pace(readSize: number): Promise<void>;
  /** How much to compare at a time, from now on. */
  stride(): Stride;
  /** True when the session has ended: the pass stops with `connection-lost`. */
  ended(): boolean;
}

/** Bytes of a batch that is all hole locally. */
const HOLE_BATCH_SIZE = GIB;
/** Batches under way, however little data is in them. */
const BATCHES_MAX = 32;

/**
 * Where more units than this share differed of late, the next batches begin with the next finer ones: looking into nearly
 * all of them again would read them twice. Not those that are all hole here: there no unit is looked into again.
 */
const FINER_SHARE = [1 / 4, 3 / 4] as const;

/** Runs one pass. Rejects when a digest of the mirror cannot be had, the session ends, or a port fails. */
export async function runPass(ports: SourcePorts): Promise<void> {
  const batches: { range: Range; readSize: number; differing: Promise<DifferingRange[]> }[] = [];
  let offset = 0;
  let firstLevel = 0;
  try {
    for (;;) {
      const stride = ports.stride();
      while (batches.length < BATCHES_MAX) {
        const next = nextBatch(ports, offset, stride.batchSize);
        if (next === undefined) break;
        const { range, readSize } = next;
        const underWay = batches.reduce((size, batch) => size + batch.readSize, 0);
        if (underWay > 0 && underWay + readSize > stride.batchSize * stride.batches) break;
        offset = range.offset + range.length;
        ports.reached(offset);
        const differing = compare(ports, range, ports.seeding || readSize === 0 ? 0 : firstLevel);
        // Awaited in order below; until then a failure must not count as unhandled.
        differing.catch(() => undefined);
        batches.push({ range, readSize, differing });
      }
      const batch = batches.shift();
      if (batch === undefined) return;
      const differing = await batch.differing;
      if (batch.readSize > 0) firstLevel = firstLevelAfter(batch.range, differing);
      for (const range of differing) {
        if (ports.ended()) throw new Failure('connection-lost', 'the session ended during a pass');
        await ports.differing(range);
      }
      ports.compared(batch.range);
      await ports.pace(batch.readSize);
      if (ports.ended()) throw new Failure('connection-lost', 'the session ended during a pass');
    }
  } finally {
    await Promise.allSettled(batches.map((batch) => batch.differing));
  }
}

/** Long where the local side is a hole (one question to the mirror settles it), else of moderate length. */
function nextBatch(
  ports: SourcePorts,
  offset: number,
  batchSize: number,
): { range: Range; readSize: number } | undefined {
  const first = ports.next(offset, batchSize);
  if (first === undefined) return undefined;
  const data = ports.seekData(first.offset);
  if (data <= first.offset + batchSize) return { range: first, readSize: dataSizeOf(ports, first) };
  const range = ports.next(offset, HOLE_BATCH_SIZE);
  assert(range !== undefined && range.offset === first.offset, 'the scope does not move under a pass');
  if (data >= range.offset + range.length) return { range, readSize: 0 };
  const holeLength = Math.floor((data - range.offset) / MIB) * MIB;
  return { range: { offset: range.offset, length: Math.min(range.length, holeLength) }, readSize: 0 };
}

/** Bytes of the MiB of a range in which there is data. */
function dataSizeOf(ports: SourcePorts, { offset, length }: Range): number {
  const end = offset + length;
  let size = 0;
  for (let at = offset; at < end; ) {
    const data = ports.seekData(at);
    if (data >= end) break;
    at = Math.min(end, alignDown(data, MIB) + MIB);
    size += Math.min(MIB, at - offset);
  }
  return size;
}

/** The ranges of a batch that differ, in order, neighbours joined, in units of 4 KiB where both sides hold data. */
async function compare(ports: SourcePorts, batch: Range, firstLevel: number): Promise<DifferingRange[]> {
  const differing: DifferingRange[] = [];
  let suspects: Range[] = [batch];
  for (const [level, unit] of [...DIGEST_UNITS.entries()].slice(firstLevel)) {
    const finest = level === DIGEST_UNITS.length - 1;
    const results = await Promise.all(
      suspects
        .flatMap((range) => split(range, unit * DIGEST_COUNT_MAX))
        .map((range) => compareUnits(ports, range, unit, finest)),
    );
    suspects = joined(
      results.flatMap((result) => result.suspects),
      () => true,
    );
    // One by one: there may be more than a call takes arguments.
    for (const result of results) for (const range of result.differing) differing.push(range);
    if (suspects.length === 0) break;
  }
  assert(suspects.length === 0, 'the finest level leaves no suspects');
  return joined(
    differing.sort((a, b) => a.offset - b.offset),
    (a, b) => a.remoteZero === b.remoteZero,
  );
}

/** The level to begin with after a batch in which that differed. */
function firstLevelAfter(batch: Range, differing: readonly Range[]): number {
  let level = 0;
  for (const share of FINER_SHARE) {
    if (touchedUnits(differing, DIGEST_UNITS[level]!) * DIGEST_UNITS[level]! <= batch.length * share) break;
    level += 1;
  }
  return level;
}

/** How many units some of the ranges, which are sorted, lie in. */
function touchedUnits(ranges: readonly Range[], unit: number): number {
  let count = 0;
  let counted = -1;
  for (const { offset, length } of ranges) {
    const first = Math.max(Math.floor(offset / unit), counted + 1);
    const last = Math.floor((offset + length - 1) / unit);
    count += Math.max(0, last - first + 1);
    counted = Math.max(counted, last);
  }
  return count;
}

/** Compares the units of a range: those that differ for good, and those to look into more finely. */
async function compareUnits(
  ports: SourcePorts,
  range: Range,
  unit: DigestUnit,
  finest: boolean,
): Promise<{ differing: DifferingRange[]; suspects: Range[] }> {
  const remoteScan = ports.scanRemote(range.offset, range.length, unit);
  remoteScan.catch(() => undefined);
  if (ports.seeding) {
    const { zero } = await remoteScan;
    if (zero.every((isZero) => isZero === 1)) return { differing: dataUnits(ports, range, unit), suspects: [] };
  }
  let local: ScanResult;
  try {
    local = await ports.scanLocal(range.offset, range.length, unit);
  } catch (error) {
    if (!isFailure(error, 'io-error')) throw error;
    await remoteScan;
    if (!finest) return { differing: [], suspects: [range] };
    if (range.length <= unit) {
      ports.unreadable(range);
      return { differing: [], suspects: [] };
    }
    // One bad block must not hide its neighbours.
    const parts = await Promise.all(split(range, unit).map((part) => compareUnits(ports, part, unit, finest)));
    return { differing: parts.flatMap((part) => part.differing), suspects: [] };
  }
  const remote = await remoteScan;
  const differing: DifferingRange[] = [];
  const suspects: Range[] = [];
  for (let index = 0; index * unit < range.length; index += 1) {
    const localZero = local.zero[index] === 1;
    const remoteZero = remote.zero[index] === 1;
    if (localZero && remoteZero) continue;
    if (!localZero && !remoteZero && sameDigest(local.digests, remote.digests, index)) continue;
    const part = { offset: range.offset + index * unit, length: Math.min(unit, range.length - index * unit) };
    // Where one side is all zeroes a closer look would find every block of data different anyway.
    if (finest || localZero || remoteZero) differing.push({ ...part, remoteZero });
    else suspects.push(part);
  }
  return { differing, suspects };
}

/** Units of a range in which the local disk has data, or may have, where the mirror holds zeroes. */
function dataUnits(ports: SourcePorts, range: Range, unit: DigestUnit): DifferingRange[] {
  const differing: DifferingRange[] = [];
  const end = range.offset + range.length;
  for (let at = range.offset; at < end; ) {
    const data = ports.seekData(at);
    if (data >= end) break;
    const offset = Math.max(at, alignDown(data, unit));
    at = Math.min(end, offset + unit);
    differing.push({ offset, length: at - offset, remoteZero: true });
  }
  return joined(differing);
}

function sameDigest(a: Uint8Array, b: Uint8Array, index: number): boolean {
  const from = index * DIGEST_SIZE;
  for (let at = from; at < from + DIGEST_SIZE; at += 1) {
    if (a[at] !== b[at]) return false;
  }
  return true;
}

/** Sorted ranges with those neighbours made one that are `alike`. */
function joined<R extends Range>(ranges: readonly R[], alike: (a: R, b: R) => boolean = () => true): R[] {
  const result: R[] = [];
  for (const range of ranges) {
    const last = result.at(-1);
    if (last !== undefined && last.offset + last.length === range.offset && alike(last, range)) {
      result[result.length - 1] = { ...last, length: last.length + range.length };
    } else {
      result.push(range);
    }
  }
  return result;
}

function split(range: Range, lengthMax: number): Range[] {
  const parts: Range[] = [];
  for (let at = 0; at < range.length; at += lengthMax) {
    parts.push({ offset: range.offset + at, length: Math.min(lengthMax, range.length - at) });
  }
  return parts;
}
