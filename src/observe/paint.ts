import { stripVTControlCharacters, styleText } from 'node:util';

const ESCAPE = '\u001b';
const COLOUR = new RegExp(`(${ESCAPE}\\[[0-9;]*m)`);

/** Colours by meaning. `plainPaint` leaves text as it is. */
export interface Paint {
  /** As it should be. */
  good(text: string): string;
  /** On its way, or worth a look. */
  busy(text: string): string;
  /** Needs a human. */
  bad(text: string): string;
  /** Names, which stand out. */
  strong(text: string): string;
  /** Labels, which stand back. */
  faint(text: string): string;
}

export const plainPaint: Paint = {
  good: (text) => text,
  busy: (text) => text,
  bad: (text) => text,
  strong: (text) => text,
  faint: (text) => text,
};

export const colourPaint: Paint = {
  good: (text) => styleText('green', text),
  busy: (text) => styleText('yellow', text),
  bad: (text) => styleText('red', text),
  strong: (text) => styleText('bold', text),
  faint: (text) => styleText('gray', text),
};

/** Colours where `stream` is a terminal and $NO_COLOR is not set. */
export function paintFor(stream: { readonly isTTY?: boolean }): Paint {
  return stream.isTTY === true && (process.env['NO_COLOR'] ?? '') === '' ? colourPaint : plainPaint;
}

/** Columns that a text takes on a terminal, leaving out colours. */
export function widthOf(text: string): number {
  return [...stripVTControlCharacters(text)].length;
}

/** The first `columns` columns of a line, colours kept. */
export function clip(text: string, columns: number): string {
  if (widthOf(text) <= columns) return text;
  let kept = '';
  let width = 0;
  for (const part of text.split(COLOUR)) {
    if (part.startsWith(ESCAPE)) {
      kept += part;
      continue;
    }
    for (const character of part) {
      if (width >= columns - 1) break;
      kept += character;
      width += 1;
    }
  }
  return `${kept}…`;
}
