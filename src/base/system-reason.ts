import { getSystemErrorMap } from 'node:util';
import { errnoOf, messageOf } from './failure.ts';

/** Where the system's own words do not fit a sentence about a path or a host. */
const PLAIN: Readonly<Record<string, string>> = {
  ENOENT: 'does not exist',
  ENOTFOUND: 'no such host',
  EAI_AGAIN: 'the name could not be looked up',
};

/**
 * Why the system refused, in words for a person: `permission denied` instead of Node's
 * `EACCES: permission denied, open 'disk.img'`. Of anything else its message.
 */
export function systemReason(error: unknown): string {
  const plain = PLAIN[errnoOf(error) ?? ''];
  if (plain !== undefined) return plain;
  if (!(error instanceof Error) || !('errno' in error) || typeof error.errno !== 'number') return messageOf(error);
  return getSystemErrorMap().get(error.errno)?.[1] ?? messageOf(error);
}

/** `disk.img: permission denied`, or `disk.img does not exist` */
export function systemReasonOf(what: string, error: unknown): string {
  return errnoOf(error) === 'ENOENT' ? `${what} does not exist` : `${what}: ${systemReason(error)}`;
}
