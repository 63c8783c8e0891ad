import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { allCode, productFiles, ROOT, type SourceFile } from './sources.ts';
import {
  FILE_LINES_MAX,
  findFocusedTests,
  findHiddenInputs,
  findLongFiles,
  findUntrackedNotes,
  HIDDEN_INPUT_EXCEPTIONS,
} from './style.ts';

/** Folders of src that face the outside: here time, randomness and the process are real. */
const OUTERMOST = ['io', 'observe', 'control', 'daemon', 'cli'];

function fixture(text: string): SourceFile[] {
  return [{ path: 'src/base/fixture.ts', text }];
}

function foldersOf(path: string): string[] {
  return readdirSync(join(ROOT, path), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name);
}

describe('the source text', () => {
  it('is found at all', () => {
    expect(productFiles().length).toBeGreaterThan(30);
    expect(allCode().length).toBeGreaterThan(productFiles().length);
  });

  it(`has no file of the product above ${FILE_LINES_MAX} lines`, () => {
    expect(findLongFiles(productFiles())).toEqual([]);
  });

  it('has no note of work to do that is not tracked', () => {
    expect(findUntrackedNotes(allCode().filter(({ path }) => !path.startsWith('test/tidy/')))).toEqual([]);
  });

  it('has no focused tests', () => {
    expect(findFocusedTests(allCode().filter(({ path }) => path.endsWith('.test.ts')))).toEqual([]);
  });

  it('takes time, randomness and the process as parameters below the outermost folders', () => {
    const inner = productFiles().filter(({ path }) => !OUTERMOST.includes(path.split('/')[1]!));
    expect(inner.length).toBeGreaterThan(20);
    expect(findHiddenInputs(inner)).toEqual([]);
  });

  it('lists no exception for a hidden input that is not needed', () => {
    const found = findHiddenInputs(productFiles(), []);
    const unneeded = HIDDEN_INPUT_EXCEPTIONS.filter(
      ({ file, uses }) => !found.some((line) => line.startsWith(`${file}:`) && line.includes(`uses ${uses};`)),
    );
    expect(unneeded).toEqual([]);
  });

  it('has unit tests in folders that mirror src, one for each', () => {
    expect(foldersOf('test/unit').sort()).toEqual(foldersOf('src').sort());
  });
});

describe('the checks of style', () => {
  it('report a file that is too long, and none of the longest size allowed', () => {
    const lines = (count: number) => fixture('// a line\n'.repeat(count));
    expect(findLongFiles(lines(FILE_LINES_MAX))).toEqual([]);
    expect(findLongFiles(lines(FILE_LINES_MAX + 1))).toHaveLength(1);
  });

  it('report a note without an issue, and accept one with', () => {
    expect(findUntrackedNotes(fixture('a;\n// TODO: later'))).toEqual([
      'src/base/fixture.ts:2: TODO without an issue, as in TODO(#12)',
    ]);
    expect(findUntrackedNotes(fixture('// TODO(#12): later'))).toEqual([]);
  });

  it.each([
    `it.only('runs', () => {});`,
    `describe.only('runs', () => {});`,
    `it.concurrent.only('runs', () => {});`,
    `test.only.each([1])('runs', () => {});`,
  ])('report the focused test %s', (text) => {
    expect(findFocusedTests(fixture(text))).toEqual(['src/base/fixture.ts:1: a focused test']);
  });

  it('accept tests that are not focused', () => {
    expect(findFocusedTests(fixture(`it('runs only when needed', () => options.only);`))).toEqual([]);
  });

  it.each([
    'Date.now()',
    'new Date()',
    'Math.random()',
    'performance.now()',
    'process.exit(1)',
    'crypto.randomUUID()',
    'setTimeout(() => {}, 1)',
    'setImmediate(() => {})',
  ])('report the hidden input %s', (text) => {
    expect(findHiddenInputs(fixture(`export const value = ${text};`))).toHaveLength(1);
  });

  it('accept arithmetic and the clock of the World', () => {
    expect(findHiddenInputs(fixture('export const value = Math.min(1, world.clock.now());'))).toEqual([]);
  });
});
