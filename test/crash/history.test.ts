/** The judge of images is judged: by histories of which we know every state that they can leave. */
import { describe, expect, it } from 'vitest';
import { Chance } from '../support/chance.ts';
import { History, type Mutation } from '../support/history.ts';
import { judgeCrashState, judgePrefix } from '../support/judge.ts';
import { SECTOR_SIZE } from '../support/pieces.ts';

const SIZE = 64 * 1024;

/** Data that nobody else writes. */
function bytes(chance: Chance, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => 1 + chance.below(255)));
}

function put(image: Buffer, { offset, length, data }: Mutation): void {
  if (data === undefined) image.fill(0, offset, offset + length);
  else image.set(data, offset);
}

/** One operation after the other, each answered before the next. */
function oneByOne(chance: Chance, count: number): History {
  const history = new History(bytes(chance, SIZE));
  for (let index = 0; index < count; index += 1) {
    const length = 1 + chance.below(4 * SECTOR_SIZE);
    const offset = chance.below(SIZE - length);
    const kind = chance.below(8);
    if (kind === 0) history.answer(history.beginFlush());
    else if (kind === 1) history.answer(history.beginZero(offset, length));
    else history.answer(history.beginWrite(offset, bytes(chance, length)));
  }
  return history;
}

/** What is there when the first `count` operations have been carried out, but for one. */
function contentAfter(history: History, count: number, without = -1): Buffer {
  const image = Buffer.from(history.base);
  for (const [index, mutation] of history.mutations.slice(0, count).entries())
    if (index !== without) put(image, mutation);
  return image;
}

const SEEDS = Array.from({ length: 20 }, (_, seed) => seed + 1);

describe('a prefix', () => {
  it.each(SEEDS)('is recognised wherever it is cut (seed %i)', (seed) => {
    const history = oneByOne(new Chance(seed), 100);
    for (const count of [0, 1, 50, history.mutations.length]) {
      const judgement = judgePrefix(history, contentAfter(history, count));
      const cut = count === 0 ? 0 : history.mutations[count - 1]!.begun;
      expect(judgement).toMatchObject({ legal: true });
      if (!judgement.legal) return;
      expect(judgement.from).toBeLessThanOrEqual(cut);
      expect(judgement.to).toBeGreaterThanOrEqual(cut);
    }
  });

  it.each(SEEDS)('is none when an operation is lost in the middle of it (seed %i)', (seed) => {
    const history = oneByOne(new Chance(seed), 60);
    const { mutations } = history;
    // One whose bytes were not all written over until the cut.
    const lost = mutations.findIndex(
      (_, index) => index > 10 && !contentAfter(history, 40, index).equals(contentAfter(history, 40)),
    );
    const judgement = judgePrefix(history, contentAfter(history, 40, lost));
    expect(judgement).toMatchObject({ legal: false, problem: expect.stringContaining(`#${lost} `) });
  });

  it('is none when two operations on the same bytes have come in the wrong order', () => {
    const chance = new Chance(1);
    const history = new History(Buffer.alloc(SIZE));
    for (const offset of [0, 100]) history.answer(history.beginWrite(offset, bytes(chance, 200)));
    const swapped = Buffer.from(history.base);
    for (const mutation of history.mutations.toReversed()) put(swapped, mutation);
    expect(judgePrefix(history, swapped)).toMatchObject({ legal: false });
    expect(judgePrefix(history, contentAfter(history, 2))).toMatchObject({ legal: true });
  });

  it('is none when a later operation is there and an earlier one, elsewhere, is not', () => {
    const chance = new Chance(2);
    const history = new History(Buffer.alloc(SIZE));
    for (const offset of [0, 4096]) history.answer(history.beginWrite(offset, bytes(chance, 100)));
    expect(judgePrefix(history, contentAfter(history, 2, 0))).toMatchObject({ legal: false });
  });

  it('is none when something is there that nobody wrote, also where nobody ever wrote', () => {
    const history = new History(Buffer.alloc(SIZE));
    history.answer(history.beginWrite(0, Buffer.alloc(10, 1)));
    for (const place of [5, 11, SIZE - 1]) {
      const image = contentAfter(history, 1);
      image[place] = 9;
      expect(judgePrefix(history, image)).toMatchObject({ legal: false });
    }
  });

  it('may hold any of the operations that were under way together', () => {
    const chance = new Chance(3);
    const history = new History(Buffer.alloc(SIZE));
    const begun = [0, 1000, 2000].map((offset) => history.beginWrite(offset, bytes(chance, 500)));
    for (const mutation of begun) history.answer(mutation);
    history.answer(history.beginWrite(3000, bytes(chance, 500)));
    for (const without of [0, 1, 2]) {
      expect(judgePrefix(history, contentAfter(history, 3, without))).toMatchObject({ legal: true });
      // But none may be missing once a later one is there.
      expect(judgePrefix(history, contentAfter(history, 4, without))).toMatchObject({ legal: false });
    }
  });

  it.each([1, 2])('holds at most so many torn operations: %i', (torn) => {
    const chance = new Chance(4);
    const history = new History(Buffer.alloc(SIZE));
    const begun = [0, 5000, 10_000].map((offset) => history.beginWrite(offset, bytes(chance, 3000)));
    for (const mutation of begun) history.answer(mutation);
    const image = Buffer.from(history.base);
    for (const { offset, data } of begun.slice(0, torn)) {
      const end = Math.ceil((offset + 1500) / SECTOR_SIZE) * SECTOR_SIZE;
      image.set(data!.subarray(0, end - offset), offset);
    }
    expect(judgePrefix(history, image, { tornMax: torn })).toMatchObject({ legal: true });
    expect(judgePrefix(history, image, { tornMax: torn - 1 })).toMatchObject({ legal: false });
  });

  it('may lack what was never answered, for ever, and may have it', () => {
    const chance = new Chance(5);
    const history = new History(Buffer.alloc(SIZE));
    history.beginWrite(0, bytes(chance, 100));
    history.answer(history.beginWrite(200, bytes(chance, 100)));
    const since = history.clock;
    expect(judgePrefix(history, contentAfter(history, 2), { since })).toMatchObject({ legal: true });
    expect(judgePrefix(history, contentAfter(history, 2, 0), { since })).toMatchObject({ legal: true });
    expect(judgePrefix(history, contentAfter(history, 2, 1), { since })).toMatchObject({ legal: false });
  });

  it('is refused when it is older than it may be', () => {
    const history = oneByOne(new Chance(6), 60);
    const { begun, answered } = history.mutations[30]!;
    expect(judgePrefix(history, contentAfter(history, 31), { since: begun })).toMatchObject({ legal: true });
    expect(judgePrefix(history, contentAfter(history, 30), { since: answered })).toMatchObject({ legal: false });
  });
});

describe('a crash state', () => {
  /** Epochs of ten operations each. */
  function epochs(chance: Chance, count: number): History {
    const history = new History(bytes(chance, SIZE));
    for (let epoch = 0; epoch < count; epoch += 1) {
      for (let index = 0; index < 10; index += 1) {
        const length = 1 + chance.below(4 * SECTOR_SIZE);
        history.answer(history.beginWrite(chance.below(SIZE - length), bytes(chance, length)));
      }
      history.answer(history.beginFlush());
    }
    return history;
  }

  /** The first `count` operations, and of the later ones some sectors in any order. */
  function crashed(history: History, chance: Chance, count: number, later: readonly Mutation[]): Buffer {
    const image = contentAfter(history, count);
    for (const mutation of later) {
      const source = Buffer.from(image);
      put(source, mutation);
      for (let sector = 0; sector < SIZE; sector += SECTOR_SIZE) {
        if (chance.hits(1, 2)) source.copy(image, sector, sector, sector + SECTOR_SIZE);
      }
    }
    return image;
  }

  it.each(SEEDS)('holds an epoch, and any sectors of the next (seed %i)', (seed) => {
    const chance = new Chance(seed);
    const history = epochs(chance, 6);
    for (const epoch of [0, 1, 5]) {
      const next = history.mutations.slice(10 * epoch, 10 * epoch + 10);
      const image = crashed(history, chance, 10 * epoch, next.toReversed());
      expect(judgeCrashState(history, image)).toMatchObject({ legal: true });
    }
  });

  it.each(SEEDS)('is none when an operation before the epoch is lost (seed %i)', (seed) => {
    const chance = new Chance(seed);
    const history = epochs(chance, 4);
    const { mutations } = history;
    const isSeen = (index: number): boolean => !contentAfter(history, 40, index).equals(contentAfter(history, 40));
    const lost = mutations.findIndex((_, index) => index > 5 && index < 28 && isSeen(index));
    const judgement = judgeCrashState(history, contentAfter(history, 40, lost));
    expect(judgement).toMatchObject({ legal: false, problem: expect.stringContaining(`#${lost} `) });
  });

  it.each(SEEDS)('is none when an operation of a later epoch is there too soon (seed %i)', (seed) => {
    const chance = new Chance(seed);
    const history = epochs(chance, 4);
    const early = history.mutations[25]!;
    const image = contentAfter(history, 9);
    put(image, early);
    expect(judgeCrashState(history, image)).toMatchObject({ legal: false });
  });

  it('is none without what was promised to be durable', () => {
    const history = epochs(new Chance(7), 5);
    expect(history.promised).toBe(history.flushes[4]!.begun);
    expect(judgeCrashState(history, contentAfter(history, 50), history.promised)).toMatchObject({ legal: true });
    expect(judgeCrashState(history, contentAfter(history, 49))).toMatchObject({ legal: true });
    expect(judgeCrashState(history, contentAfter(history, 49), history.promised)).toMatchObject({ legal: false });
  });

  it('ends at a write with FUA as at a flush', () => {
    const chance = new Chance(8);
    const history = new History(Buffer.alloc(SIZE));
    history.answer(history.beginWrite(0, bytes(chance, 100)));
    history.answer(history.beginWrite(1000, bytes(chance, 100), true));
    history.answer(history.beginWrite(2000, bytes(chance, 100)));
    expect(judgeCrashState(history, contentAfter(history, 2, 0))).toMatchObject({ legal: true });
    expect(judgeCrashState(history, contentAfter(history, 3, 0))).toMatchObject({ legal: false });
  });
});
