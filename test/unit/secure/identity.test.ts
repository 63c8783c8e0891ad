import { describe, expect, it } from 'vitest';
import { mayWrite, selectKey } from '../../../src/secure/identity.ts';

const key = (identity: string) => ({ identity, key: Buffer.alloc(32) });

describe('what an identity may write', () => {
  it.each([
    ['nbdtwin', 'anything/at/all', true],
    ['site-a', 'site-a', true],
    ['site-a', 'site-a/db', true],
    ['site-a', 'site-ab', false],
    ['site-a', 'site-ab/db', false],
    ['site-a', 'site', false],
    ['site-a', 'other/site-a', false],
    ['site-a', 'nbdtwin', false],
    ['nbdtwin/x', 'other', false],
    ['NBDTWIN', 'other', false],
    ['', 'other', false],
  ])('%j and the export %j: %s', (identity, exportName, allowed) => {
    expect(mayWrite(identity, exportName)).toBe(allowed);
  });
});

describe('the key of a primary', () => {
  it('is the only one, or the one that is named', () => {
    expect(selectKey([key('a')]).identity).toBe('a');
    expect(selectKey([key('a'), key('b')], 'b').identity).toBe('b');
  });

  it('is missing or ambiguous otherwise', () => {
    expect(() => selectKey([])).toThrow(expect.objectContaining({ code: 'secret-missing' }));
    expect(() => selectKey([key('a')], 'b')).toThrow(expect.objectContaining({ code: 'secret-missing' }));
    const many = Array.from({ length: 9 }, (_, index) => key(`i${index}`));
    expect(() => selectKey(many)).toThrow(expect.objectContaining({ code: 'secret-ambiguous' }));
    expect(() => selectKey(many)).toThrow('9 keys (i0, i1, i2, i3, i4, …)');
  });
});
