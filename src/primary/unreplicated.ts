/**
 * Which extents some mirror's image does not have durably, as far as is known here: what clients see as the metadata
 * context `x-nbdtwin:unreplicated`. Never less than what is missing; as exact as the operations while all of them are in
 * the window, whole regions where only marks, the spool or a staged run tell of it.
 */
import { EXTENT_UNREPLICATED, type Extent } from '../volume/volume.ts';
import type { Replica } from './replica.ts';

interface Span {
  readonly start: number;
  readonly end: number;
}

/** Consecutive extents from `offset`, at most `countMax`; they end early when that are too few. */
export function unreplicatedExtents(
  replicas: readonly Replica[],
  offset: number,
  length: number,
  countMax: number,
): Extent[] {
  const end = offset + length;
  const spans: Span[] = [];
  const add = (from: number, size: number): void => {
    if (from < end && from + size > offset) {
      spans.push({ start: Math.max(from, offset), end: Math.min(from + size, end) });
    }
  };
  for (const replica of replicas) forEachLacking(replica, offset, end, add);
  spans.sort((a, b) => a.start - b.start);
  return toExtents(spans, offset, end, countMax);
}

function forEachLacking(
  { window, marks, backlog, stagedRun, regions, recorded }: Replica,
  offset: number,
  end: number,
  add: (from: number, size: number) => void,
): void {
  window.forEachOperation(add);
  let range = marks.nextMarked(offset, end - offset);
  while (range !== undefined && range.offset < end) {
    add(range.offset, range.length);
    const at = range.offset + range.length;
    range = marks.nextMarked(at, end - at);
  }
  if (backlog.isInWindow && stagedRun.kind === undefined) return;
  // What is spooled is not in the window yet, and what is only staged not any more.
  regions.forEachAfter(recorded, (region) => add(region * regions.regionSize, regions.regionSize));
  for (let region = Math.floor(offset / regions.regionSize); region * regions.regionSize < end; region += 1) {
    if (stagedRun.holds(region)) add(region * regions.regionSize, regions.regionSize);
  }
}

/** Sorted, possibly overlapping spans as consecutive extents from `offset` to `end`, cut after `countMax`. */
function toExtents(spans: readonly Span[], offset: number, end: number, countMax: number): Extent[] {
  const extents: Extent[] = [];
  let at = offset;
  let index = 0;
  while (at < end && extents.length < countMax) {
    while (index < spans.length && spans[index]!.end <= at) index += 1;
    const span = spans[index];
    if (span === undefined || span.start > at) {
      const cleanEnd = span === undefined ? end : span.start;
      extents.push({ length: cleanEnd - at, flags: 0 });
      at = cleanEnd;
      continue;
    }
    let dirtyEnd = span.end;
    while (index + 1 < spans.length && spans[index + 1]!.start <= dirtyEnd) {
      index += 1;
      dirtyEnd = Math.max(dirtyEnd, spans[index]!.end);
    }
    extents.push({ length: dirtyEnd - at, flags: EXTENT_UNREPLICATED });
    at = dirtyEnd;
  }
  return extents;
}
