/**
 * Whether an image is something that a history allows.
 *
 * **Prefix**: there is a moment t such that every operation answered by t is there, no operation begun after t is, and
 * of those under way at t each is there as a whole or not at all. That is exactly what can be left by a cut through the
 * order in which the operations took effect, because that order is known but for operations that were under way together,
 * and any set of those can have come first. An operation may be torn, between sectors, where the caller says so: by a
 * process that was killed in the middle of a write.
 *
 * **Crash state**: there is a barrier such that everything answered before it was begun is there, and of what may belong
 * to the next epoch any set of sectors: what a power loss leaves of a disk, or of a mirror's image (G2). Where barriers
 * were under way together, the epoch is taken to be the longest possible: it may let pass what is no crash state, by as
 * much as those barriers overlap, and never refuses one.
 */
import type { History, Mutation } from './history.ts';
import { Pieces } from './pieces.ts';

/** Legal, with the first and the last moment at which the cut can be; or not, with the reason for a person. */
export type Judgement =
  | { readonly legal: true; readonly from: number; readonly to: number }
  | { readonly legal: false; readonly problem: string };

export interface PrefixOptions {
  /** The cut must not be before this moment. Default: 0. */
  readonly since?: number;
  /** So many operations under way at the cut may be torn. Default: 0. */
  readonly tornMax?: number;
}

export function judgePrefix(history: History, image: Buffer, options: PrefixOptions = {}): Judgement {
  const { since = 0, tornMax = 0 } = options;
  const pieces = new Pieces(history, image, tornMax > 0);
  const sweep = new Sweep(pieces, history);
  let from: number | undefined;
  let to = 0;
  let best = { wrong: Number.POSITIVE_INFINITY, moment: 0 };
  for (;;) {
    if (sweep.moment >= since) {
      if (sweep.wrongCount < best.wrong) best = { wrong: sweep.wrongCount, moment: sweep.moment };
      if (sweep.wrongCount === 0 && sweep.torn().length <= tornMax) {
        from ??= sweep.moment;
        to = sweep.moment;
      }
    }
    if (sweep.moment === history.clock) break;
    sweep.step();
  }
  if (from !== undefined) return { legal: true, from, to };
  return { legal: false, problem: explain(pieces, history, best.moment, since) };
}

/**
 * `since`: the barrier must not have been begun before this moment, as `History.promised` is for a disk that keeps its
 * promises.
 */
export function judgeCrashState(history: History, image: Buffer, since = 0): Judgement {
  const pieces = new Pieces(history, image, true);
  const epochs = epochsOf(history).filter((epoch) => epoch.begun >= since);
  const change = new Int32Array(epochs.length + 1);
  const firstWhere = (matches: (epoch: Epoch) => boolean): number => {
    let low = 0;
    let high = epochs.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (matches(epochs[middle]!)) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  for (let piece = 0; piece < pieces.count; piece += 1) {
    const writers = pieces.writersOf[piece]!;
    let end = Number.POSITIVE_INFINITY;
    let covered = epochs.length;
    for (let index = writers.length - 1; index >= -1; index -= 1) {
      const writer = index < 0 ? -1 : writers[index]!;
      const mutation = index < 0 ? undefined : pieces.writers[writer]!.mutation;
      if (pieces.matches(writer, piece)) {
        // What this one left can be there from the epoch in which it may first have come, until one that needs a later one.
        const first = mutation === undefined ? 0 : firstWhere((epoch) => epoch.limit >= mutation.begun);
        const last = Math.min(
          covered,
          firstWhere((epoch) => epoch.begun >= end),
        );
        if (first < last) {
          change[first]! += 1;
          change[last]! -= 1;
          covered = first;
        }
      }
      if (mutation !== undefined) end = Math.min(end, mutation.answered);
    }
  }
  let right = 0;
  let best = { right: -1, index: 0 };
  const legal: number[] = [];
  for (const [index, epoch] of epochs.entries()) {
    right += change[index]!;
    if (right > best.right) best = { right, index };
    if (right === pieces.count) legal.push(epoch.begun);
  }
  if (legal.length > 0) return { legal: true, from: legal[0]!, to: legal.at(-1)! };
  if (epochs.length === 0) return { legal: false, problem: `there is no barrier since moment ${since}` };
  return { legal: false, problem: explainEpoch(pieces, epochs[best.index]!) };
}

/** From one barrier to the next. */
interface Epoch {
  /** Everything answered before this moment is there. */
  readonly begun: number;
  /** Nothing begun after this moment is. */
  readonly limit: number;
}

/** In the order of their beginnings, the first before any barrier. */
function epochsOf({ mutations, flushes }: History): Epoch[] {
  const barriers = [...flushes, ...mutations.filter(({ fua }) => fua)].sort((a, b) => a.begun - b.begun);
  // For each barrier the earliest end among those that were begun from there on.
  const soonest: number[] = Array.from({ length: barriers.length + 1 }, () => Number.POSITIVE_INFINITY);
  for (let index = barriers.length - 1; index >= 0; index -= 1) {
    soonest[index] = Math.min(soonest[index + 1]!, barriers[index]!.answered);
  }
  let limit = soonest[0]!;
  const epochs: Epoch[] = [{ begun: 0, limit }];
  for (const { begun, answered } of barriers) {
    const next = barriers.findIndex((barrier) => barrier.begun > answered);
    limit = Math.max(limit, next < 0 ? Number.POSITIVE_INFINITY : soonest[next]!);
    epochs.push({ begun, limit });
  }
  return epochs;
}

/** The pieces of a disk at one moment of the history after the other. */
class Sweep {
  moment = 0;
  /** Pieces whose bytes cannot be there at this moment, whatever became of the operations under way. */
  wrongCount = 0;
  readonly #pieces: Pieces;
  readonly #history: History;
  readonly #indexOf: ReadonlyMap<object, number>;
  readonly #underWay = new Set<number>();
  /** For each piece how many of its writers have begun, and the place of the last that was answered among them, or -1. */
  readonly #begun: Int32Array;
  readonly #answered: Int32Array;
  readonly #wrong: Uint8Array;

  constructor(pieces: Pieces, history: History) {
    this.#pieces = pieces;
    this.#history = history;
    this.#indexOf = new Map(history.mutations.map((mutation, index) => [mutation, index]));
    this.#begun = new Int32Array(pieces.count);
    this.#answered = new Int32Array(pieces.count).fill(-1);
    this.#wrong = new Uint8Array(pieces.count);
    for (let piece = 0; piece < pieces.count; piece += 1) this.#look(piece);
  }

  /** On to the next moment. */
  step(): void {
    const { operation, isAnswer } = this.#history.events[this.moment]!;
    this.moment += 1;
    const index = this.#indexOf.get(operation);
    if (index === undefined) return;
    if (isAnswer) this.#underWay.delete(index);
    else this.#underWay.add(index);
    const { first, end } = this.#pieces.writers[index]!;
    for (let piece = first; piece < end; piece += 1) {
      const writers = this.#pieces.writersOf[piece]!;
      if (!isAnswer) this.#begun[piece]! += 1;
      else this.#answered[piece] = Math.max(this.#answered[piece]!, writers.lastIndexOf(index, this.#begun[piece]));
      this.#look(piece);
    }
  }

  wrongPieces(): number[] {
    return [...this.#wrong.keys()].filter((piece) => this.#wrong[piece] === 1);
  }

  /** Operations under way of which some bytes must be there, and others cannot be. Only where nothing is wrong. */
  torn(): Mutation[] {
    const torn: Mutation[] = [];
    for (const index of this.#underWay) {
      const { mutation, first, end } = this.#pieces.writers[index]!;
      let isIn = false;
      let isOut = false;
      for (let piece = first; piece < end && !(isIn && isOut); piece += 1) {
        const candidates = this.#candidates(piece);
        if (!candidates.includes(index)) continue;
        if (!this.#pieces.matches(index, piece)) isOut = true;
        else if (!candidates.some((other) => other !== index && this.#pieces.matches(other, piece))) isIn = true;
      }
      if (isIn && isOut) torn.push(mutation);
    }
    return torn;
  }

  #look(piece: number): void {
    const wrong = this.#candidates(piece).some((writer) => this.#pieces.matches(writer, piece)) ? 0 : 1;
    this.wrongCount += wrong - this.#wrong[piece]!;
    this.#wrong[piece] = wrong;
  }

  /** Whose bytes the piece can hold now: the last that was answered, and those begun after it. -1 is the beginning. */
  #candidates(piece: number): number[] {
    const answered = this.#answered[piece]!;
    const writers = this.#pieces.writersOf[piece]!;
    const later = writers.slice(answered + 1, this.#begun[piece]);
    return [answered < 0 ? -1 : writers[answered]!, ...later];
  }
}

const PIECES_TOLD = 5;

function explain(pieces: Pieces, history: History, moment: number, since: number): string {
  const sweep = new Sweep(pieces, history);
  while (sweep.moment < moment) sweep.step();
  const wrong = sweep.wrongPieces();
  const told = wrong.slice(0, PIECES_TOLD).map((piece) => `  ${pieces.describe(piece)}`);
  const torn = wrong.length > 0 ? [] : sweep.torn();
  for (const { offset, length } of torn) told.push(`  torn: the operation of ${length} bytes at ${offset}`);
  const range = `from moment ${since} to ${history.clock}`;
  return [`no prefix ${range}: at ${moment}, the nearest, ${wrong.length} pieces are wrong`, ...told].join('\n');
}

function explainEpoch(pieces: Pieces, { begun, limit }: Epoch): string {
  const wrong: number[] = [];
  for (let piece = 0; piece < pieces.count; piece += 1) {
    const writers = pieces.writersOf[piece]!;
    const mutationOf = (writer: number): Mutation => pieces.writers[writer]!.mutation;
    const needed = writers.findLastIndex((writer) => mutationOf(writer).answered < begun);
    const later = writers.slice(needed + 1).filter((writer) => mutationOf(writer).begun <= limit);
    const candidates = [needed < 0 ? -1 : writers[needed]!, ...later];
    if (!candidates.some((writer) => pieces.matches(writer, piece))) wrong.push(piece);
  }
  const told = wrong.slice(0, PIECES_TOLD).map((piece) => `  ${pieces.describe(piece)}`);
  const title = `no crash state: for the epoch of moments ${begun} to ${limit}, the nearest, ${wrong.length} pieces are wrong`;
  return [title, ...told].join('\n');
}
