import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { compareSparse } from '../../bench/scenarios/compare-sparse.ts';
import { courseOf, sharesOf } from '../../bench/scenarios/course.ts';
import { fillDisk } from '../../bench/scenarios/fill-disk.ts';
import { ioOf } from '../../bench/scenarios/process-io.ts';
import { claimLines } from '../../bench/scenarios/scenario.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

describe('the course of a figure', () => {
  it('has the greatest values of the begin, the middle and the end of the time', () => {
    const values = [9, 1, 2, 3, 7, 4, 5, 6];
    const points = values.map((value, index) => ({ atMs: (index + 1) * 100, value }));
    expect(courseOf(points)).toEqual({ begin: 9, middle: 7, end: 6 });
    expect(courseOf([])).toEqual({ begin: 0, middle: 0, end: 0 });
  });

  it('shows growth', () => {
    const points = Array.from({ length: 100 }, (_, index) => ({ atMs: index, value: index }));
    const { middle, end } = courseOf(points);
    expect(end).toBeGreaterThan(middle * 1.25);
  });

  it('of words: the share of each, the most frequent first', () => {
    expect(Object.entries(sharesOf(['a', 'b', 'b', 'b']))).toEqual([
      ['b', 0.75],
      ['a', 0.25],
    ]);
  });
});

describe('two sparse files', () => {
  const MIB = 2 ** 20;

  async function files(): Promise<readonly [string, string]> {
    const folder = temporaryFolder();
    const paths = [join(folder, 'a'), join(folder, 'b')] as const;
    for (const path of paths) {
      await writeFile(path, '');
      await truncate(path, 4096 * MIB);
    }
    return paths;
  }

  it('are compared where either has data, and nowhere else', async () => {
    const [a, b] = await files();
    expect(await compareSparse(a, b)).toEqual({ comparedSize: 0, differingChunks: 0, firstDifference: undefined });
    await fillDisk(a, 4096 * MIB, 3 * MIB);
    const one = await compareSparse(a, b);
    expect(one).toMatchObject({ differingChunks: 3, firstDifference: 0 });
    expect(one.comparedSize).toBe(3 * MIB);
    expect(await compareSparse(b, a)).toEqual(one);
    expect(await compareSparse(a, a)).toMatchObject({ comparedSize: 3 * MIB, differingChunks: 0 });
  });

  it('differ when they have different sizes', async () => {
    const [a, b] = await files();
    await truncate(b, 4095 * MIB);
    expect(await compareSparse(a, b)).toMatchObject({ differingChunks: 1, firstDifference: 4095 * MIB });
  });
});

describe('what a process has read', () => {
  it('is what the kernel counts', async () => {
    const before = await ioOf(process.pid);
    const { length } = await readFile(import.meta.filename);
    const after = await ioOf(process.pid);
    expect(after.called).toBeGreaterThanOrEqual(before.called + length);
    expect(after.fromMedium).toBeGreaterThanOrEqual(before.fromMedium);
  });
});

describe('claims', () => {
  it('say whether they have held', () => {
    expect(
      claimLines([
        { text: 'a', held: true },
        { text: 'b', held: false },
      ]),
    ).toEqual(['held      a', 'NOT HELD  b']);
  });
});
