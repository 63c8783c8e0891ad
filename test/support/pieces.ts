/**
 * A disk cut into pieces at every place where an operation of a history begins or ends: all bytes of a piece have the
 * same writers, in the same order. With each piece stand its writers, and which of them left what an image holds there.
 */
import type { History, Mutation } from './history.ts';

/** Of a disk: what one write to it leaves whole, whatever happens. */
export const SECTOR_SIZE = 512;

/** One operation and the pieces that it covers. */
export interface Writer {
  readonly mutation: Mutation;
  /** Index of the first piece, and of the first one behind. */
  readonly first: number;
  readonly end: number;
  /** For each of its pieces 1 when the image holds what it wrote there. */
  readonly matches: Uint8Array;
}

export class Pieces {
  /** Start of each piece; one more at the end. A piece without writers is as the history began. */
  readonly starts: Float64Array;
  /** In the order of the history. */
  readonly writers: readonly Writer[];
  /** Indices of writers, for each piece, in the order in which they were begun. */
  readonly writersOf: readonly (readonly number[])[];
  /** For each piece 1 when the image holds what was there at the beginning. */
  readonly baseMatches: Uint8Array;

  /** `atSectors`: cut at each multiple of SECTOR_SIZE too, for disks that tear operations. */
  constructor(history: History, image: Buffer, atSectors: boolean) {
    const { base, mutations } = history;
    if (image.length !== base.length) throw new Error(`the image has ${image.length} bytes, not ${base.length}`);
    this.starts = cuts(history, atSectors);
    const count = this.count;
    this.baseMatches = new Uint8Array(count);
    for (let piece = 0; piece < count; piece += 1) {
      const [from, to] = [this.starts[piece]!, this.starts[piece + 1]!];
      this.baseMatches[piece] = image.compare(base, from, to, from, to) === 0 ? 1 : 0;
    }
    const writersOf: number[][] = Array.from({ length: count }, () => []);
    this.writers = mutations.map((mutation, index) => {
      const first = this.#pieceAt(mutation.offset);
      const end = this.#pieceAt(mutation.offset + mutation.length);
      const matches = new Uint8Array(end - first);
      for (let piece = first; piece < end; piece += 1) {
        writersOf[piece]!.push(index);
        const [from, to] = [this.starts[piece]!, this.starts[piece + 1]!];
        matches[piece - first] = holds(image, mutation, from, to) ? 1 : 0;
      }
      return { mutation, first, end, matches };
    });
    this.writersOf = writersOf;
  }

  get count(): number {
    return this.starts.length - 1;
  }

  /** Whether the image holds there what this writer, or for -1 the beginning, left. */
  matches(writer: number, piece: number): boolean {
    if (writer < 0) return this.baseMatches[piece] === 1;
    const { first, matches } = this.writers[writer]!;
    return matches[piece - first] === 1;
  }

  /** For a person: where the piece is, who wrote it, whose bytes it holds. */
  describe(piece: number): string {
    const writers = this.writersOf[piece]!;
    const found = [-1, ...writers].filter((writer) => this.matches(writer, piece));
    const name = (writer: number): string => (writer < 0 ? 'the beginning' : this.#name(writer));
    const who = found.length === 0 ? 'bytes of nobody, or of several' : `those of ${found.map(name).join(', ')}`;
    const all = writers.slice(-6).map(name).join(', ');
    return `bytes ${this.starts[piece]} to ${this.starts[piece + 1]}: ${who}; written by ${all || 'nobody'}`;
  }

  #name(writer: number): string {
    const { begun, answered, data, offset, length } = this.writers[writer]!.mutation;
    return `#${writer} (${data === undefined ? 'zero' : 'write'} of ${length} at ${offset}, moments ${begun} to ${answered})`;
  }

  /** Index of the piece that starts at this place, which is a cut. */
  #pieceAt(offset: number): number {
    let low = 0;
    let high = this.starts.length - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.starts[middle]! < offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function cuts({ base, mutations }: History, atSectors: boolean): Float64Array {
  const places = new Set<number>([0, base.length]);
  for (const { offset, length } of mutations) {
    const end = offset + length;
    places.add(offset).add(end);
    if (!atSectors) continue;
    const first = Math.ceil(offset / SECTOR_SIZE) * SECTOR_SIZE;
    for (let sector = first; sector < end; sector += SECTOR_SIZE) places.add(sector);
  }
  return Float64Array.from(places).sort();
}

function holds(image: Buffer, { offset, data }: Mutation, from: number, to: number): boolean {
  if (data !== undefined) return image.compare(data, from - offset, to - offset, from, to) === 0;
  for (let at = from; at < to; at += ZEROES.length) {
    const end = Math.min(to, at + ZEROES.length);
    if (image.compare(ZEROES, 0, end - at, at, end) !== 0) return false;
  }
  return true;
}

const ZEROES = Buffer.alloc(1024 * 1024);
