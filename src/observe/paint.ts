import { stripVTControlCharacters, styleText } from 'node:util';

const ESCAPE = '\u001b';
const COLOUR = new RegExp(`(${ESCAPE}\\[[0-9;]*m)`);

type Brush = (text: string) => string;

/** Colours by meaning. `plainPaint` leaves text as it is. */
export interface Paint {
  /** As it should be. */
  readonly good: Brush;
  /** On its way, or worth a look. */
  readonly busy: Brush;
  /** Needs a human. */
  readonly bad: Brush;
  /** Names, which stand out. */
  readonly strong: Brush;
  /** Labels, which stand back. */
  readonly faint: Brush;
}

export const plainPaint: Paint = {
  good: (text) => text,
  busy: (text) => text,
  bad: (text) => text,
  strong: (text) => text,
  faint: (text) => text,
};

/** Whether there is a terminal is decided by `paintFor`, not by the state of stdout. */
const ALWAYS = { validateStream: false } as const;

export const colourPaint: Paint = {
  good: (text) => styleText('green', text, ALWAYS),
  busy: (text) => styleText('yellow', text, ALWAYS),
  bad: (text) => styleText('red', text, ALWAYS),
  strong: (text) => styleText('bold', text, ALWAYS),
  faint: (text) => styleText('gray', text, ALWAYS),
};

/** Colours where `stream` is a terminal and $NO_COLOR is not set. */
export function paintFor(stream: { readonly isTTY?: boolean }): Paint {
  return stream.isTTY === true && (process.env['NO_COLOR'] ?? '') === '' ? colourPaint : plainPaint;
}

/** Columns that a text takes on a terminal, leaving out colours. */
export function widthOf(text: string): number {
  return Array.from(stripVTControlCharacters(text)).length;
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
