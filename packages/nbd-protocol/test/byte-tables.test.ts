import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { Size } from '../src/index.ts';

interface Table {
  readonly file: string;
  readonly rows: readonly { readonly offset: number; readonly size: number }[];
  readonly totals: readonly { readonly offset: number; readonly name: keyof typeof Size }[];
}

const source = new URL('../src/', import.meta.url);

/** The byte tables in the comments of one file; offsets and sizes with a variable part count with that part empty. */
function tablesOf(file: string): Table[] {
  const text = readFileSync(new URL(file, source), 'utf8');
  return [...text.matchAll(/\* offset {2}size {2}field\n([\s\S]*?)```/g)].map(([, body]) => {
    const lines = body!.split('\n').map((line) => line.replace(/^\s*\*/, ''));
    const rows = lines.flatMap((line) => {
      const row = /^\s*(\d+)(?: \+ n)?\s+(\d+|n)\s{2}\S/.exec(line);
      return row === null ? [] : [{ offset: Number(row[1]), size: row[2] === 'n' ? 0 : Number(row[2]) }];
    });
    const totals = lines.flatMap((line) => {
      const total = /^\s*(\d+)(?: \+ n)?\s+= Size\.(\w+)/.exec(line);
      return total === null ? [] : [{ offset: Number(total[1]), name: total[2] as keyof typeof Size }];
    });
    return { file, rows, totals };
  });
}

const tables = readdirSync(source)
  .filter((file) => file.endsWith('.ts'))
  .flatMap(tablesOf);

describe('byte tables', () => {
  test('have no gap and no overlap', () => {
    for (const { file, rows } of tables) {
      expect({ file, isEmpty: rows.length === 0 }).toEqual({ file, isEmpty: false });
      let end = 0;
      for (const { offset, size } of rows) {
        expect({ file, offset }).toEqual({ file, offset: end });
        end = offset + size;
      }
    }
  });

  test('end where the constant says that the message ends', () => {
    for (const { file, rows, totals } of tables) {
      const ends = [0, ...rows.map(({ offset, size }) => offset + size)];
      for (const { offset, name } of totals) {
        expect({ file, name, size: Size[name] }).toEqual({ file, name, size: offset });
        expect(ends).toContain(offset);
      }
    }
  });

  test('exist for each size', () => {
    const described = tables.flatMap(({ totals }) => totals.map(({ name }) => name));
    expect(described.toSorted()).toEqual(Object.keys(Size).toSorted());
  });
});
