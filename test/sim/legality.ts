/**
 * Which past positions of a run a content can be a legal crash state of: everything up to a barrier, and of the
 * operations of the epoch after it some, whole or in part, and of nothing else anything.
 *
 * For each byte that operations after `from` have touched, the operations that wrote it are tried in turn: the byte has
 * the value of writer w when the barrier lies before the next writer and w is not beyond the epoch after the barrier. Each
 * byte so allows some barriers; a content is legal when one barrier is allowed by all.
 */
import { type Content, PAGE_SIZE } from './content.ts';
import type { Operation, Run } from './history.ts';

const SECTOR_SIZE = 512;
const ZEROES = Buffer.alloc(PAGE_SIZE);

export interface Verdict {
  /** Barriers (or `from` itself) at which the content can stand; empty when it is no legal crash state. */
  readonly positions: readonly number[];
  /** Where it first went wrong. */
  readonly complaint: string;
}

/** A write that may or may not have happened, at a place of the order that is not known. */
export interface Loose {
  readonly offset: number;
  readonly length: number;
  readonly data: Uint8Array | undefined;
}

export interface LegalityOptions {
  /** Operations up to here may have happened; default: all. */
  readonly to?: number;
  /** False: all operations after `from` are one epoch. */
  readonly epochs?: boolean;
  /** All positions are asked for, not one. */
  readonly allPositions?: boolean;
  /** Those that have no sequence yet. */
  readonly loose?: readonly Loose[];
}

/** Judges `image` as a crash state of `run` that holds everything up to `from` at least. */
export function judge(image: Content, run: Run, from: number, options: LegalityOptions = {}): Verdict {
  const to = options.to ?? run.sequence;
  const base = run.contentAt(from);
  const loose = options.loose ?? [];
  if (image.size !== base.size) return { positions: [], complaint: `it has ${image.size} bytes, not ${base.size}` };
  const differing = image.differences(base);
  if (differing.length === 0 && options.allPositions !== true) return { positions: [from], complaint: '' };
  const positions = [from];
  if (options.epochs !== false)
    for (const barrier of run.barriers) if (barrier > from && barrier <= to) positions.push(barrier);
  if (to === from && loose.length === 0) {
    return differing.length === 0
      ? { positions, complaint: '' }
      : { positions: [], complaint: describeDifference(image, base, differing[0]!) };
  }
  const touched = touchedPages(run, from, to, loose);
  for (const page of differing) {
    if (!touched.has(page)) {
      return { positions: [], complaint: `untouched since: ${describeDifference(image, base, page)}` };
    }
  }
  // Mostly nothing is torn inside a sector; only if that does not explain it, bytes are looked at one by one.
  const coarse = judgePages(image, base, touched, positions, SECTOR_SIZE);
  return coarse.positions.length > 0 ? coarse : judgePages(image, base, touched, positions, 1);
}

type Writer = Operation | Loose;

function touchedPages(run: Run, from: number, to: number, loose: readonly Loose[]): Map<number, Writer[]> {
  const touched = new Map<number, Writer[]>();
  const add = (writer: Writer): void => {
    const last = Math.floor((writer.offset + writer.length - 1) / PAGE_SIZE);
    for (let page = Math.floor(writer.offset / PAGE_SIZE); page <= last; page += 1) {
      const writers = touched.get(page);
      if (writers === undefined) touched.set(page, [writer]);
      else writers.push(writer);
    }
  };
  for (let sequence = from + 1; sequence <= to; sequence += 1) add(run.operation(sequence));
  for (const writer of loose) add(writer);
  return touched;
}

function judgePages(
  image: Content,
  base: Content,
  touched: ReadonlyMap<number, readonly Writer[]>,
  positions: readonly number[],
  unit: number,
): Verdict {
  /** Positions that everything so far allows, and that the present stretch allows: 1 or 0. */
  const allowed = new Uint8Array(positions.length).fill(1);
  const here = new Uint8Array(positions.length);
  let low = 0;
  let high = positions.length - 1;
  for (const [page, writers] of touched) {
    const pageStart = page * PAGE_SIZE;
    const pageEnd = Math.min(pageStart + PAGE_SIZE, image.size);
    const edges: number[] = [];
    for (let at = pageStart; at < pageEnd; at += unit) edges.push(at);
    edges.push(pageEnd);
    for (const { offset, length } of writers) {
      if (offset > pageStart && offset % unit !== 0) edges.push(offset);
      const end = offset + length;
      if (end < pageEnd && end % unit !== 0) edges.push(end);
    }
    edges.sort((a, b) => a - b);
    const content = image.page(page) ?? ZEROES;
    const before = base.page(page) ?? ZEROES;
    for (let index = 0; index + 1 < edges.length; index += 1) {
      const start = edges[index]!;
      const end = edges[index + 1]!;
      if (start === end) continue;
      allowHere(here, content, before, writers, start, end, pageStart, positions, low, high);
      while (low <= high && (here[low]! & allowed[low]!) === 0) low += 1;
      while (low <= high && (here[high]! & allowed[high]!) === 0) high -= 1;
      if (low > high) {
        const value = content.subarray(start - pageStart, end - pageStart);
        return { positions: [], complaint: explain(value, before, writers, start, end, positions, allowed, here) };
      }
      for (let place = low; place <= high; place += 1) allowed[place]! &= here[place]!;
    }
  }
  return {
    positions: positions.filter((_, place) => place >= low && place <= high && allowed[place] === 1),
    complaint: '',
  };
}

/**
 * Sets for each position from `low` to `high` whether a stretch that has these bytes is legal there. What is legal beyond
 * is not looked at: mostly few positions are left after a few stretches, and then few writers count.
 */
function allowHere(
  here: Uint8Array,
  content: Buffer,
  before: Buffer,
  writers: readonly Writer[],
  start: number,
  end: number,
  pageStart: number,
  positions: readonly number[],
  low: number,
  high: number,
): void {
  here.fill(0, low, high + 1);
  const from = start - pageStart;
  const to = end - pageStart;
  /** Up to this position the writer looked at was not overwritten by the next. */
  let until = positions.length - 1;
  for (let index = writers.length - 1; index >= 0; index -= 1) {
    const writer = writers[index]!;
    if (writer.offset > start || writer.offset + writer.length < end) continue;
    if (!('sequence' in writer)) {
      // It may have come last of all.
      if (hasValue(content, from, to, writer, start)) {
        here.fill(1, low, high + 1);
        return;
      }
      continue;
    }
    const place = placeOf(writer.sequence, positions);
    if (place <= high && until >= low && hasValue(content, from, to, writer, start)) {
      here.fill(1, Math.max(low, place), Math.min(high, until) + 1);
    }
    // At any barrier before it, what was there before may have stayed.
    until = place;
    if (until < low || (place <= low && here[low] === 1 && high === low)) return;
  }
  if (before.compare(content, from, to, from, to) === 0) here.fill(1, low, Math.min(high, until) + 1);
}

/** Place of the last position before that sequence: the earliest barrier whose epoch has it. */
function placeOf(sequence: number, positions: readonly number[]): number {
  let low = 0;
  let high = positions.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (positions[middle]! < sequence) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** True when the stretch of the page has the bytes that the writer wrote there. */
function hasValue(content: Buffer, from: number, to: number, writer: Writer, start: number): boolean {
  const { data, offset } = writer;
  // The first byte tells nearly all of them apart, without the cost of a call.
  const first = data === undefined ? 0 : data[start - offset];
  if (content[from] !== first) return false;
  if (data === undefined) return ZEROES.compare(content, from, to, from, to) === 0;
  return content.compare(data, start - offset, start - offset + to - from, from, to) === 0;
}

function explain(
  value: Buffer,
  before: Buffer,
  writers: readonly Writer[],
  start: number,
  end: number,
  positions: readonly number[],
  allowed: Uint8Array,
  here: Uint8Array,
): string {
  const covering = writers.filter((writer) => writer.offset <= start && writer.offset + writer.length >= end);
  const names = covering.map((writer) => {
    const name = 'sequence' in writer ? `${writer.sequence}` : 'unanswered';
    return hasValue(value, 0, value.length, writer, start) ? `[${name}]` : name;
  });
  const listed = (flags: Uint8Array): string => positions.filter((_, place) => flags[place] === 1).join(' ');
  const isBase = Buffer.compare(value, before.subarray(start % PAGE_SIZE, (start % PAGE_SIZE) + value.length)) === 0;
  return (
    `bytes ${start} to ${end} were written by ${names.join(' ')} after ${positions[0]} (in brackets: have that value` +
    `${isBase ? '; they have the value of before' : ''}): legal at barriers (${listed(here)}), all bytes before them at (${listed(allowed)})`
  );
}

/** For a person: where two contents differ first. */
export function describeDifference(image: Content, wanted: Content, page: number): string {
  const a = image.page(page) ?? ZEROES;
  const b = wanted.page(page) ?? ZEROES;
  let first = 0;
  while (first < PAGE_SIZE && a[first] === b[first]) first += 1;
  let last = PAGE_SIZE - 1;
  while (last > first && a[last] === b[last]) last -= 1;
  const at = page * PAGE_SIZE;
  return `bytes ${at + first} to ${at + last + 1} are ${a.toString('hex', first, Math.min(last + 1, first + 8))}…, not ${b.toString('hex', first, Math.min(last + 1, first + 8))}…`;
}
