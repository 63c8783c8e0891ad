import { widthOf } from './paint.ts';

/** `label  value` lines with the values in one column. A value may have several lines. */
export function alignPairs(pairs: readonly (readonly [label: string, value: string])[], indent: string): string[] {
  const width = Math.max(0, ...pairs.map(([label]) => widthOf(label)));
  return pairs.flatMap(([label, value]) =>
    value.split('\n').map((line, index) => `${indent}${pad(index === 0 ? label : '', width)}  ${line}`.trimEnd()),
  );
}

/** Rows in columns: the first column to the left, all others to the right, a rule below the heading. */
export function alignTable(heading: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = heading.map((title, column) => Math.max(widthOf(title), ...rows.map((row) => widthOf(row[column]!))));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => (column === 0 ? pad(cell, widths[0]!) : pad('', widths[column]! - widthOf(cell)) + cell))
      .join('  ')
      .trimEnd();
  return [line(heading), line(widths.map((width) => '─'.repeat(width))), ...rows.map(line)];
}

function pad(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - widthOf(text)));
}
