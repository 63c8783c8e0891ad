import { describe, expect, it } from 'vitest';
import { LineSplitter } from '../../../src/control/lines.ts';

function splitterWith(sizeMax: number): { splitter: LineSplitter; lines: string[] } {
  const lines: string[] = [];
  return { splitter: new LineSplitter(sizeMax, (line) => lines.push(line)), lines };
}

describe('LineSplitter', () => {
  it('finds the same lines wherever the bytes are cut', () => {
    const text = Buffer.from('one\n\nzwölf\nlast');
    for (let cut = 0; cut <= text.length; cut += 1) {
      const { splitter, lines } = splitterWith(100);
      expect(splitter.push(text.subarray(0, cut))).toBe(true);
      expect(splitter.push(text.subarray(cut))).toBe(true);
      expect(lines).toEqual(['one', '', 'zwölf']);
    }
  });

  it('takes a line of the largest size and gives up on one byte more, before its end has come', () => {
    const { splitter, lines } = splitterWith(4);
    expect(splitter.push(Buffer.from('abcd\n'))).toBe(true);
    expect(lines).toEqual(['abcd']);
    expect(splitter.push(Buffer.from('abc'))).toBe(true);
    expect(splitter.push(Buffer.from('de'))).toBe(false);
  });

  it('counts each line for itself', () => {
    const { splitter, lines } = splitterWith(4);
    expect(splitter.push(Buffer.from('abc\nabc\nabc\n'))).toBe(true);
    expect(lines).toHaveLength(3);
  });
});
