import { Failure } from './failure.ts';

/** Bytes of an export's name; it arrives from peers. */
const EXPORT_NAME_SIZE_MAX = 255;
/** Bytes of one segment: with `.img.twin` and `.tmp` behind it, it must still be a file name. */
const EXPORT_SEGMENT_SIZE_MAX = 240;

const SEGMENT = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/;

/**
 * Checks the name of an export: segments of letters, digits, dot, dash and underscore, separated by `/`, none starting
 * with a dot (so no `.` or `..`), none ending in `.img` or `.twin`, which mark what the mirror keeps beside them. The first of
 * several segments is not `lock`: a file of that name stands in the mirror's directory.
 * Returns the text; throws `name-invalid`. Such a name is safe to append to a directory.
 */
export function parseExportName(text: string): string {
  const fault = faultOf(text);
  if (fault !== undefined) throw new Failure('name-invalid', `export name ${quote(text)}: ${fault}`);
  return text;
}

function faultOf(text: string): string | undefined {
  if (text === '') return 'it is empty';
  if (text.length > EXPORT_NAME_SIZE_MAX) return `it is longer than ${EXPORT_NAME_SIZE_MAX} characters`;
  const segments = text.split('/');
  for (const segment of segments) {
    if (segment === '') return 'it has an empty segment';
    if (segment.length > EXPORT_SEGMENT_SIZE_MAX)
      return `a segment is longer than ${EXPORT_SEGMENT_SIZE_MAX} characters`;
    if (!SEGMENT.test(segment)) return 'a segment holds a character that is not allowed, or starts with a dot';
    if (segment.endsWith('.img') || segment.endsWith('.twin')) return 'a segment ends in .img or .twin';
  }
  if (segments.length > 1 && segments[0] === 'lock') return 'its first segment is lock';
  return undefined;
}

/** A name from a peer may hold anything: control characters must not reach a terminal. */
function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
