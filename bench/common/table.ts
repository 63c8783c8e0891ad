/** A whole number with separators. */
export function whole(value: number): string {
  return Math.round(value).toLocaleString('en-GB');
}

/** Rows of equally many cells, the first row the headings, as lines. Columns in `left` begin at the left. */
export function formatTable(rows: readonly (readonly string[])[], left: readonly number[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (left.includes(column) ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
