/**
 * Bugs that can be planted into the product while the simulator is bundled, to see that it finds them: `npm run sim --
 * --plant NAME`, or `--planted` for the whole table. A text that is not in its file exactly once fails loudly, here and
 * in planted-bugs.test.ts: a bug that was not planted would be one that is never found.
 */

export interface PlantedBug {
  readonly name: string;
  /** What goes wrong, for the table. */
  readonly what: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: 'zero-block-last-byte',
    what: 'a block of zeroes with a last byte that is none is taken for a hole',
    file: 'src/io/digest.ts',
    find: 'if (zeroes.compare(data, done, done + size, 0, size) !== 0) return false;',
    replace: 'if (zeroes.compare(data, done, done + size - 1, 0, size - 1) !== 0) return false;',
  },
];

/** The source of a file with the bug in it. */
export function plant(bug: PlantedBug, source: string): string {
  const parts = source.split(bug.find);
  if (parts.length !== 2) {
    throw new Error(`${bug.name}: the text to replace stands ${parts.length - 1} times in ${bug.file}`);
  }
  return parts.join(bug.replace);
}
