import { describe, expect, it } from 'vitest';
import { LiveScreen } from '../../../src/observe/live-screen.ts';
import { clip, colourPaint, widthOf } from '../../../src/observe/paint.ts';
import { ProgressReporter } from '../../../src/observe/progress-reporter.ts';
import { progressBar } from '../../../src/observe/progress-text.ts';
import { alignTable } from '../../../src/observe/table.ts';

/** A terminal that keeps what stands on it: understands text, line ends, cursor up and clear to the end. */
class FakeTerminal {
  readonly isTTY: boolean;
  columns = 20;
  rows = 5;
  lines: string[] = [];

  constructor(isTTY = true) {
    this.isTTY = isTTY;
  }

  write(text: string): boolean {
    const move = new RegExp(`^${String.fromCharCode(27)}\\[(\\d+)A${String.fromCharCode(27)}\\[J`);
    const match = move.exec(text);
    if (match !== null) this.lines.length -= Number(match[1]);
    const rest = match === null ? text : text.slice(match[0].length);
    if (rest !== '') this.lines.push(...rest.slice(0, -1).split('\n'));
    return true;
  }
}

describe('LiveScreen', () => {
  it('draws again in place, with more or fewer lines', () => {
    const terminal = new FakeTerminal();
    const screen = new LiveScreen(terminal);
    screen.draw(['a', 'b']);
    screen.draw(['c']);
    expect(terminal.lines).toEqual(['c']);
    screen.draw(['d', 'e', 'f']);
    expect(terminal.lines).toEqual(['d', 'e', 'f']);
    screen.clear();
    expect(terminal.lines).toEqual([]);
  });

  it('puts lines that stay above those that are drawn', () => {
    const terminal = new FakeTerminal();
    const screen = new LiveScreen(terminal);
    screen.draw(['live']);
    screen.print('kept');
    screen.draw(['live again']);
    expect(terminal.lines).toEqual(['kept', 'live again']);
  });

  it('never draws more than the terminal holds: it would scroll and not find its start again', () => {
    const terminal = new FakeTerminal();
    new LiveScreen(terminal).draw(Array.from({ length: 9 }, (_, index) => `${index}: ${'x'.repeat(40)}`));
    expect(terminal.lines).toHaveLength(4);
    expect(terminal.lines[0]).toBe(`0: ${'x'.repeat(16)}…`);
  });

  it('writes plain lines and draws nothing without a terminal', () => {
    const terminal = new FakeTerminal(false);
    const screen = new LiveScreen(terminal);
    screen.draw(['live']);
    screen.print('kept', 'also kept');
    screen.clear();
    expect(terminal.lines).toEqual(['kept', 'also kept']);
  });
});

describe('ProgressReporter', () => {
  it('writes a line at every tenth of the way without a terminal, for each thing anew', () => {
    const terminal = new FakeTerminal(false);
    const reporter = new ProgressReporter(terminal);
    for (let done = 0; done <= 100; done += 1) reporter.update(done, 100, `${done}`);
    expect(terminal.lines).toEqual(['0', '10', '20', '30', '40', '50', '60', '70', '80', '90', '100']);
    reporter.finish();
    reporter.update(0, 0, 'nothing to do');
    expect(terminal.lines.at(-1)).toBe('nothing to do');
  });
});

describe('text', () => {
  it('is clipped to columns, colours not counted and not lost', () => {
    const text = `${colourPaint.good('green')} and more`;
    expect(widthOf(text)).toBe(14);
    expect(clip(text, 14)).toBe(text);
    expect(clip(text, 8)).toBe(`${colourPaint.good('green')} a…`);
    expect(widthOf(clip(text, 3))).toBe(3);
  });

  it('shows shares from nothing to all', () => {
    expect(progressBar(0, 10)).toBe('[░░░░░░░░░░░░░░░░░░░░]   0 %');
    expect(progressBar(10, 10)).toBe('[████████████████████] 100 %');
    expect(progressBar(0, 0)).toBe('[████████████████████] 100 %');
    expect(progressBar(99.9, 100)).toContain(' 99 %');
  });

  it('stands in columns, numbers to the right', () => {
    expect(
      alignTable(
        ['what', 'count'],
        [
          ['a', '1'],
          ['longer', '1,000'],
        ],
      ),
    ).toEqual(['what    count', '──────  ─────', 'a           1', 'longer  1,000']);
  });
});
