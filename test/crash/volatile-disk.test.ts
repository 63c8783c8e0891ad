import { describe, expect, it } from 'vitest';
import { Chance } from '../support/chance.ts';
import { History } from '../support/history.ts';
import { judgeCrashState } from '../support/judge.ts';
import { VolatileDisk } from '../support/volatile-disk.ts';

const SIZE = 64 * 1024;
const WITHOUT_FUA = { fua: false };

function content(disk: VolatileDisk): Buffer {
  const bytes = Buffer.alloc(disk.size);
  disk.read(bytes, 0);
  return bytes;
}

describe('a disk with a cache that forgets', () => {
  it('keeps what was flushed, and loses what was not', async () => {
    const disk = new VolatileDisk(SIZE, new Chance(1));
    disk.write(0, Buffer.alloc(100, 1), WITHOUT_FUA);
    await disk.flush();
    disk.write(50, Buffer.alloc(100, 2), WITHOUT_FUA);
    expect(content(disk)[120]).toBe(2);
    expect(disk.losePower('none')).toBe(1);
    disk.powerUp();
    const expected = Buffer.alloc(SIZE);
    expected.fill(1, 0, 100);
    expect(content(disk)).toEqual(expected);
  });

  it('keeps a write with FUA', () => {
    const disk = new VolatileDisk(SIZE, new Chance(1));
    disk.write(0, Buffer.alloc(100, 1), { fua: true });
    disk.losePower('none');
    disk.powerUp();
    expect(content(disk)[99]).toBe(1);
  });

  it('does nothing without power', async () => {
    const disk = new VolatileDisk(SIZE, new Chance(1));
    disk.losePower('some');
    expect(() => disk.write(0, Buffer.alloc(1, 1), WITHOUT_FUA)).toThrow(/no power/);
    expect(() => content(disk)).toThrow(/no power/);
    await expect(disk.flush()).rejects.toThrow(/no power/);
    disk.powerUp();
    expect(content(disk)).toEqual(Buffer.alloc(SIZE));
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])('leaves a crash state, and hardly ever a prefix (seed %i)', async (seed) => {
    const chance = new Chance(seed);
    const disk = new VolatileDisk(SIZE, chance);
    const history = new History(Buffer.alloc(SIZE));
    for (let index = 0; index < 200; index += 1) {
      const data = Buffer.alloc(1 + chance.below(3000), 1 + (index % 255));
      const mutation = history.beginWrite(chance.below(SIZE - data.length), data);
      disk.write(mutation.offset, data, WITHOUT_FUA);
      history.answer(mutation);
      if (index % 25 !== 12) continue;
      const flush = history.beginFlush();
      await disk.flush();
      history.answer(flush);
    }
    expect(disk.losePower('some')).toBeGreaterThan(0);
    disk.powerUp();
    expect(judgeCrashState(history, content(disk), history.promised)).toMatchObject({ legal: true });
    const spoiled = content(disk);
    const first = history.mutations.find(({ begun }) => begun < history.promised)!;
    spoiled.fill(0, first.offset, first.offset + first.length);
    expect(judgeCrashState(history, spoiled, history.promised)).toMatchObject({ legal: false });
  });
});
