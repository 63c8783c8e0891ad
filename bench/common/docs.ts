/** docs/benchmarks.md: text by hand, and sections that runs of the benchmarks replace. */
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PAGE = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'docs/benchmarks.md');

/** Replaces what stands between the marks of a section by `text`, as it is. */
export async function writeSection(name: string, text: string): Promise<void> {
  const page = await readFile(PAGE, 'utf8');
  const begin = `<!-- begin ${name} -->\n`;
  const end = `<!-- end ${name} -->`;
  const from = page.indexOf(begin);
  const to = page.indexOf(end);
  if (from < 0 || to < from) throw new Error(`${PAGE} has no section ${name}`);
  await writeFile(PAGE, `${page.slice(0, from + begin.length)}\n\`\`\`text\n${text}\n\`\`\`\n\n${page.slice(to)}`);
}
