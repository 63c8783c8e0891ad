import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { PLANTED_BUGS, plant } from './planted-bugs.ts';

describe('a planted bug', () => {
  it.each(PLANTED_BUGS)('$name replaces a text that is in its file exactly once', (bug) => {
    const source = readFileSync(bug.file, 'utf8');
    expect(plant(bug, source)).not.toBe(source);
  });

  it('whose text is not there, or is there twice, fails loudly', () => {
    const bug = { name: 'test', what: '', file: 'x.ts', find: 'one', replace: 'two' };
    expect(() => plant(bug, 'nothing')).toThrow('0 times');
    expect(() => plant(bug, 'one one')).toThrow('2 times');
  });
});
