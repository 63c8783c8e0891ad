/** What a clean stop adds to the spool, and what the start after it looks through. */
import { Failure, isFailure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import type { FileSystem } from '../io/disk.ts';
import type { World } from '../io/world.ts';
import {
  decodeComplete,
  recordSize,
  SEGMENT_HEADER_SIZE,
  type SpoolComplete,
  type SpoolRecord,
} from './spool-format.ts';
import { Segment } from './spool-segment.ts';

export type SpoolWorld = Pick<World, 'clock' | 'files' | 'random'>;

/** What the primary's state says of a clean stop. */
export interface SpoolKept {
  readonly run: Buffer;
  /** The sequence after which everything is in the spool. */
  readonly base: number;
  /** The last one of that run. */
  readonly sequence: number;
}

export const COMPLETE_NAME = 'complete';

export function segmentName(number: number): string {
  return `${String(number).padStart(8, '0')}.seg`;
}

/** What is written or read at a time. */
const PIECE_SIZE = MIB;

/**
 * Writes these records, in order, as a segment of their own; durable on return but for its name in the folder. Its file
 * is closed. Undefined when there are none. Failures: `no-space` also above `sizeMax` bytes, `io-error`,
 * `state-unwritable`.
 */
export async function writeHead(
  files: FileSystem,
  path: string,
  number: number,
  id: Buffer,
  records: readonly SpoolRecord[],
  sizeMax: number,
): Promise<Segment | undefined> {
  const first = records[0];
  if (first === undefined) return undefined;
  const size = records.reduce((sum, { data }) => sum + recordSize(data?.length ?? 0), SEGMENT_HEADER_SIZE);
  if (size > sizeMax) {
    throw new Failure('no-space', `the window takes ${size} bytes in the spool, which has ${sizeMax} left`);
  }
  const segment = Segment.begin(files, path, number, size, id, first.sequence);
  try {
    for (const { type, flags, sequence, offset, length, data, atMs } of records) {
      const recordLength = recordSize(data?.length ?? 0);
      if (!segment.fits(recordLength)) {
        if (segment.hasUnwritten(true)) await segment.writeOldest();
        const headerSize = segment.size === 0 ? SEGMENT_HEADER_SIZE : 0;
        segment.addChunk(Math.max(headerSize + recordLength, Math.min(PIECE_SIZE, size - segment.size)));
      }
      segment.append(recordLength, type, flags, sequence, offset, length, data, atMs);
    }
    await segment.writeOldest();
    await segment.sync();
  } finally {
    await segment.close();
  }
  return segment;
}

export interface SpoolLeft {
  readonly id: Buffer;
  readonly segments: Segment[];
  readonly count: number;
}

/**
 * What a clean stop has left, to be read from its first record on; undefined when it is not all there, is another one, or
 * the disk cannot give it back: as if nothing had been left. `visit` sees each record, in order; also in vain.
 */
export async function readKept(
  world: SpoolWorld,
  pathOf: (name: string) => string,
  kept: SpoolKept,
  visit: (record: SpoolRecord) => void,
): Promise<SpoolLeft | undefined> {
  const segments: Segment[] = [];
  let left: SpoolLeft | undefined;
  try {
    const bytes = await world.files.readFile(pathOf(COMPLETE_NAME), PIECE_SIZE);
    const complete = bytes === undefined ? undefined : decodeComplete(bytes);
    if (complete !== undefined && isSame(complete, kept)) {
      const count = await readSegments(world, pathOf, complete, segments, visit);
      if (count === complete.count) left = { id: Buffer.from(complete.id), segments, count };
    }
  } catch (error) {
    if (!isFailure(error)) throw error;
  }
  if (left === undefined) await Promise.all(segments.map((segment) => segment.close()));
  return left;
}

function isSame(complete: SpoolComplete, kept: SpoolKept): boolean {
  return complete.run.equals(kept.run) && complete.base === kept.base && complete.sequence === kept.sequence;
}

/** Returns how many records there are as far as they are whole and in order. */
async function readSegments(
  { clock, files }: SpoolWorld,
  pathOf: (name: string) => string,
  complete: SpoolComplete,
  segments: Segment[],
  visit: (record: SpoolRecord) => void,
): Promise<number> {
  const shiftMs = clock.nowMs() - complete.nowMs - Math.max(0, clock.wallMs() - complete.wallMs);
  // What the mirror has recorded meanwhile may still be among it.
  let sequence = 0;
  let count = 0;
  const id = Buffer.from(complete.id);
  for (let number = complete.first; number <= complete.last; number += 1) {
    const segment = await Segment.open(files, pathOf(segmentName(number)), number, id, shiftMs);
    if (segment === undefined) return count;
    const start = segment.readAt;
    segments.push(segment);
    while (!segment.allRead) {
      const { records, end } = await segment.read(PIECE_SIZE, 'ends');
      if (records.length === 0) segment.endAt(end);
      for (const record of records) {
        if (record.sequence < sequence || record.sequence > complete.sequence) return count;
        sequence = record.sequence;
        count += 1;
        visit(record);
      }
      segment.taken(end);
    }
    segment.taken(start);
  }
  return count;
}
