import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT, type SourceFile } from './sources.ts';

/** Links of Markdown pages that lead nowhere: missing files, missing headings. Links to the web are not followed. */
export function findBrokenLinks(pages: readonly SourceFile[]): string[] {
  return pages.flatMap((page) =>
    linksOf(page.text).flatMap((link) => {
      const problem = problemOf(page, link, pages);
      return problem === undefined ? [] : [`${page.path}: ${link}: ${problem}`];
    }),
  );
}

function problemOf(page: SourceFile, link: string, pages: readonly SourceFile[]): string | undefined {
  const [target = '', anchor] = link.split('#');
  const path = target === '' ? page.path : join(dirname(page.path), target);
  if (target !== '' && (path.startsWith('..') || !existsSync(join(ROOT, path)))) return 'no such file';
  if (anchor === undefined) return undefined;
  const text = pages.find((candidate) => candidate.path === path)?.text;
  if (text === undefined)
    return statSync(join(ROOT, path)).isFile() ? 'an anchor in something that is no page' : undefined;
  return anchorsOf(text).has(anchor) ? undefined : 'no such heading';
}

function withoutCode(text: string): string {
  return text.replaceAll(/^(```|~~~)[\s\S]*?^\1/gm, '').replaceAll(/`[^`\n]*`/g, '');
}

/** Targets of inline links, images and reference definitions, those to the web left out. */
function linksOf(text: string): string[] {
  const prose = withoutCode(text);
  const inline = [...prose.matchAll(/\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)/g)].map((match) => match[1]!);
  const references = [...prose.matchAll(/^\[[^\]]+\]:\s*(\S+)/gm)].map((match) => match[1]!);
  return [...inline, ...references].filter((link) => !/^[a-z][a-z0-9+.-]*:/i.test(link));
}

/** The anchors of a page's headings, made as GitHub makes them. */
function anchorsOf(text: string): Set<string> {
  const anchors = new Set<string>();
  for (const match of text.replaceAll(/^(```|~~~)[\s\S]*?^\1/gm, '').matchAll(/^#{1,6}\s+(.*?)\s*#*$/gm)) {
    const slug = match[1]!
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replaceAll(/[^\p{Letter}\p{Number}\p{Mark}\s_-]/gu, '')
      .replaceAll(/\s/g, '-');
    let anchor = slug;
    for (let count = 1; anchors.has(anchor); count += 1) anchor = `${slug}-${count}`;
    anchors.add(anchor);
  }
  return anchors;
}
