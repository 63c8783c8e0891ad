import { describe, expect, it } from 'vitest';
import { findBrokenLinks } from './links.ts';
import { filesBelow } from './sources.ts';

function page(text: string) {
  return [{ path: 'docs/fixture.md', text }];
}

describe('links of the documentation', () => {
  it('lead to files and headings that are there', () => {
    const pages = filesBelow('.', ['.md']);
    expect(pages.map(({ path }) => path)).toContain('docs/testing.md');
    expect(findBrokenLinks(pages)).toEqual([]);
  });
});

describe('the check of links', () => {
  it('reports a file that is not there', () => {
    expect(findBrokenLinks(page('See [this](no-such-page.md).'))).toEqual([
      'docs/fixture.md: no-such-page.md: no such file',
    ]);
    expect(findBrokenLinks(page('[this]: ../no-such-page.md'))).toHaveLength(1);
    expect(findBrokenLinks(page('See [this](../../outside.md).'))).toHaveLength(1);
  });

  it('reports a heading that is not there', () => {
    expect(findBrokenLinks(page('# A heading\n[this](#another-heading)'))).toHaveLength(1);
    expect(findBrokenLinks(page('# Not (so) simple: `a`, b\n[this](#not-so-simple-a-b)'))).toEqual([]);
    expect(findBrokenLinks(page('# Twice\n# Twice\n[first](#twice) [second](#twice-1)'))).toEqual([]);
  });

  it('leaves alone the web, code, and links that lead somewhere', () => {
    expect(findBrokenLinks(page('[web](https://example.com/x) `[code](none.md)`\n```\n[code](none.md)\n```'))).toEqual(
      [],
    );
    expect(findBrokenLinks(page('[the licence](../LICENSE)'))).toEqual([]);
  });
});
