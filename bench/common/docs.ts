/** docs/benchmarks.md: text by hand, and sections that runs of the benchmarks replace. */
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PAGE = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'docs/benchmarks.md');

/** Whether the page has a place for what a benchmark found. */
export async function hasSection(name: string): Promise<boolean> {
  return placeOf(name, await readFile(PAGE, 'utf8')) !== undefined;
}

/** Replaces what stands between the marks of a section by `text`, as it is. */
export async function writeSection(name: string, text: string): Promise<void> {
  const page = await readFile(PAGE, 'utf8');
  const place = placeOf(name, page);
  if (place === undefined) throw new Error(`${PAGE} has no section ${name}`);
  await writeFile(PAGE, `${page.slice(0, place.from)}\n\`\`\`text\n${text}\n\`\`\`\n\n${page.slice(place.to)}`);
}

/** What lies between the marks of a section. */
function placeOf(name: string, page: string): { readonly from: number; readonly to: number } | undefined {
  const begin = `<!-- begin ${name} -->\n`;
  const from = page.indexOf(begin);
  const to = page.indexOf(`<!-- end ${name} -->`);
  return from < 0 || to < from ? undefined : { from: from + begin.length, to };
}
