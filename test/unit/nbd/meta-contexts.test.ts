import { describe, expect, it } from 'vitest';
import { listContexts, selectContexts } from '../../../src/nbd/meta-contexts.ts';

const AVAILABLE = ['base:allocation', 'x-nbdtwin:unreplicated'];

describe('metadata contexts', () => {
  it.each([
    [[], AVAILABLE],
    [['x-nbdtwin:'], ['x-nbdtwin:unreplicated']],
    [['x-nbdtwin:', 'base:allocation'], AVAILABLE],
    [['x-nbdtwin'], []],
    [['', ':', 'base:all'], []],
  ])('list %j as %j', (queries, names) => {
    expect(listContexts(AVAILABLE, queries)).toEqual(names);
  });

  it('are selected by exact name, each once, with ids of their own that are never 0', () => {
    const selected = selectContexts(AVAILABLE, [
      'x-nbdtwin:unreplicated',
      'base:allocation',
      'base:allocation',
      'base:',
    ]);
    expect(selected).toEqual([
      { id: 1, name: 'base:allocation' },
      { id: 2, name: 'x-nbdtwin:unreplicated' },
    ]);
  });
});
