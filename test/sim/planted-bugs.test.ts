import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { PLANTED_BUGS, plant } from './planted-bugs.ts';

describe('a planted bug', () => {
  it.each(PLANTED_BUGS)('$name replaces texts that are in their files exactly once', (bug) => {
    expect(bug.edits.length).toBeGreaterThan(0);
    for (const { file } of bug.edits) {
      const source = readFileSync(file, 'utf8');
      expect(plant(bug, file, source)).not.toBe(source);
    }
  });

  it('has a name of its own', () => {
    expect(new Set(PLANTED_BUGS.map(({ name }) => name)).size).toBe(PLANTED_BUGS.length);
  });

  it('whose text is not there, or is there twice, fails loudly', () => {
    const bug = { name: 'test', what: '', edits: [{ file: 'x.ts', find: 'one', replace: 'two' }] };
    expect(() => plant(bug, 'x.ts', 'nothing')).toThrow('0 times');
    expect(() => plant(bug, 'x.ts', 'one one')).toThrow('2 times');
    expect(plant(bug, 'y.ts', 'one one')).toBe('one one');
  });
});
