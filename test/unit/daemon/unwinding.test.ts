import { describe, expect, it } from 'vitest';
import { Unwinding } from '../../../src/daemon/unwinding.ts';

describe('a start that fails', () => {
  it('undoes its steps, the last first, each of them although one before it fails', async () => {
    const undone: string[] = [];
    const opened = new Unwinding();
    opened.add(() => undone.push('disk'));
    opened.add(async () => {
      undone.push('volume');
      throw new Error('the disk is broken');
    });
    opened.add(() => undone.push('server'));
    await opened.unwind();
    await opened.unwind();
    expect(undone).toEqual(['server', 'volume', 'disk']);
  });

  it('undoes nothing once the start has succeeded', async () => {
    const undone: string[] = [];
    const opened = new Unwinding();
    opened.add(() => undone.push('disk'));
    opened.forget();
    await opened.unwind();
    expect(undone).toEqual([]);
  });
});
