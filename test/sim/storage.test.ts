/** The simulator's own disks: what a power loss may leave of a file, and what it may not. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Content, PAGE_SIZE } from './content.ts';
import { Medium } from './medium.ts';
import { SeededRandom } from './random.ts';
import { type Fate, StoredFile } from './stored-file.ts';

const SIZE = 8 * PAGE_SIZE;
const ALL: Fate = { kept: 1, torn: 0 };
const NOTHING: Fate = { kept: 0, torn: 0 };
const TORN: Fate = { kept: 0, torn: 1 };

function newFile(): StoredFile {
  const file = new StoredFile('test:1', SIZE, 0n);
  return file;
}

function write(file: StoredFile, offset: number, length: number, value: number): void {
  file.change({ kind: 'write', offset, data: Buffer.alloc(length, value) }, 1n);
}

function bytes(content: Content): Buffer {
  return content.slice(0, content.size);
}

describe('a content in pages', () => {
  it('is a flat buffer to whoever reads it, whatever was written, zeroed and cloned', () => {
    const step = fc.record({
      kind: fc.constantFrom('write', 'zero', 'clone'),
      offset: fc.nat(SIZE - 1),
      length: fc.integer({ min: 1, max: 3 * PAGE_SIZE }),
      value: fc.integer({ min: 1, max: 255 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        let content = new Content(SIZE);
        let flat = Buffer.alloc(SIZE);
        const kept: { content: Content; flat: Buffer }[] = [];
        for (const { kind, offset, length, value } of steps) {
          if (kind === 'clone') {
            kept.push({ content, flat });
            content = content.clone();
            flat = Buffer.from(flat);
          } else if (kind === 'write') {
            content.write(Buffer.alloc(length, value), offset);
            flat.fill(value, offset, Math.min(offset + length, SIZE));
          } else {
            content.zero(offset, length);
            flat.fill(0, offset, Math.min(offset + length, SIZE));
          }
        }
        for (const pair of [...kept, { content, flat }]) expect(bytes(pair.content).equals(pair.flat)).toBe(true);
        for (const pair of kept) {
          const differ = new Set<number>();
          for (let at = 0; at < SIZE; at += 1) if (pair.flat[at] !== flat[at]) differ.add(Math.floor(at / PAGE_SIZE));
          expect(pair.content.differences(content)).toEqual([...differ]);
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe('a power loss', () => {
  /** A page that is synced, three that are not: what is left of them, and what the cache showed before. */
  function lose(fate: Fate): { left: Buffer; before: Buffer; shown: Buffer } {
    const file = newFile();
    write(file, 0, PAGE_SIZE, 1);
    const before = bytes(file.cache);
    file.synced(file.changeCount);
    write(file, 100, 3 * PAGE_SIZE, 2);
    const shown = bytes(file.cache);
    file.powerLost(fate, new SeededRandom(1));
    return { left: bytes(file.cache), before, shown };
  }

  it('leaves what was synced, and of the rest nothing or all, as fate has it', () => {
    const nothing = lose(NOTHING);
    expect(nothing.left.equals(nothing.before)).toBe(true);
    const all = lose(ALL);
    expect(all.left.equals(all.shown)).toBe(true);
  });

  it('tears a write at sectors', () => {
    const { left, before, shown } = lose(TORN);
    let changed = 0;
    for (let at = 0; at < SIZE; at += 512) {
      const sector = left.subarray(at, at + 512);
      const isOld = sector.equals(before.subarray(at, at + 512));
      expect(isOld || sector.equals(shown.subarray(at, at + 512))).toBe(true);
      if (!isOld) changed += 1;
    }
    expect(changed).toBeGreaterThan(0);
    expect(changed).toBeLessThan(25);
  });

  it('may take back the time of modification, unless a sync of more than the data has covered it', () => {
    const times = (synced: bigint): Set<bigint> => {
      const found = new Set<bigint>();
      for (let seed = 0; seed < 40; seed += 1) {
        const file = newFile();
        write(file, 0, 512, 1);
        file.synced(file.changeCount);
        file.timeSynced(synced);
        file.powerLost(NOTHING, new SeededRandom(seed));
        found.add(file.modifiedNs);
        // What is there after the power has come back stays.
        const { modifiedNs } = file;
        file.powerLost(NOTHING, new SeededRandom(seed + 1));
        expect(file.modifiedNs).toBe(modifiedNs);
      }
      return found;
    };
    expect(times(0n)).toEqual(new Set([0n, 1n]));
    expect(times(1n)).toEqual(new Set([1n]));
  });

  it('covers by a sync only what was written before it began', () => {
    const file = newFile();
    write(file, 0, 512, 1);
    const count = file.changeCount;
    write(file, 512, 512, 2);
    file.synced(count);
    file.powerLost(NOTHING, new SeededRandom(1));
    expect(
      bytes(file.cache)
        .subarray(0, 512)
        .every((byte) => byte === 1),
    ).toBe(true);
    expect(
      bytes(file.cache)
        .subarray(512)
        .every((byte) => byte === 0),
    ).toBe(true);
  });

  it('never brings back an older write over a newer one, nor a part of a sector without what was there before', () => {
    for (let seed = 0; seed < 50; seed += 1) {
      const file = newFile();
      for (let value = 1; value <= 6; value += 1) write(file, (value % 3) * 100, 200, value);
      const states = new Set<string>();
      const replay = new Content(SIZE);
      states.add(bytes(replay).subarray(0, 512).toString('hex'));
      for (let value = 1; value <= 6; value += 1) {
        replay.write(Buffer.alloc(200, value), (value % 3) * 100);
        states.add(bytes(replay).subarray(0, 512).toString('hex'));
      }
      file.powerLost({ kept: 0.5, torn: 0 }, new SeededRandom(seed));
      expect(states.has(bytes(file.cache).subarray(0, 512).toString('hex'))).toBe(true);
    }
  });
});

describe('a failed sync', () => {
  it('gives pages up: the cache shows them until it is dropped, and no later sync writes them', () => {
    const random = new SeededRandom(3);
    const file = newFile();
    write(file, 0, SIZE, 1);
    file.syncFailed(file.changeCount, random);
    file.synced(file.changeCount);
    expect(bytes(file.cache).every((byte) => byte === 1)).toBe(true);
    const durable = bytes(file.durable);
    const lost = [...durable].filter((byte) => byte === 0).length / PAGE_SIZE;
    expect(lost).toBeGreaterThan(0);
    expect(lost).toBeLessThan(8);
    file.dropCache();
    expect(bytes(file.cache).equals(durable)).toBe(true);
  });

  it('is mended for a page, whole, by a new write to it', () => {
    const file = newFile();
    write(file, 0, SIZE, 1);
    file.syncFailed(file.changeCount, new SeededRandom(3));
    for (let page = 0; page < 8; page += 1) write(file, page * PAGE_SIZE + 7, 1, 2);
    file.synced(file.changeCount);
    const wanted = bytes(file.cache);
    file.powerLost(NOTHING, new SeededRandom(3));
    expect(bytes(file.cache).equals(wanted)).toBe(true);
  });
});

describe('a name', () => {
  it('is durable only once its directory was synced; until then it is any that it had since', () => {
    const seen = new Set<string>();
    for (let seed = 0; seed < 60; seed += 1) {
      const medium = new Medium('host', new SeededRandom(seed));
      medium.put('/a', 'directory');
      medium.syncDirectory('/');
      const first = medium.newFile(1, 0n);
      const second = medium.newFile(1, 0n);
      medium.put('/a/x', first);
      medium.syncDirectory('/a');
      medium.put('/a/x', second);
      medium.put('/a/x', undefined);
      medium.powerLost({ kept: 0.5, torn: 0 });
      const left = medium.file('/a/x');
      seen.add(left === first ? 'first' : left === second ? 'second' : 'none');
    }
    expect(seen).toEqual(new Set(['first', 'second', 'none']));
  });

  it('and its content are apart in a copy', () => {
    const medium = new Medium('host', new SeededRandom(1));
    const file = medium.newFile(PAGE_SIZE, 0n);
    medium.put('/x', file);
    const copy = medium.clone(new SeededRandom(2));
    write(file, 0, 1, 9);
    expect(copy.file('/x')!.cache.slice(0, 1)[0]).toBe(0);
    medium.restore(copy);
    expect(medium.file('/x')!.cache.slice(0, 1)[0]).toBe(0);
  });
});
