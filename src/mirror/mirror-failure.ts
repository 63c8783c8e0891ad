import { errnoOf, Failure } from '../base/failure.ts';

/** A failure of our own disk, as the primary should read it. */
export function asMirrorFailure(error: unknown): Failure {
  if (error instanceof Failure) {
    if (error.code === 'no-space' || (error.code === 'state-unwritable' && isNoSpace(error.cause)))
      return new Failure('mirror-no-space', `the mirror’s disk is full: ${error.message}`, { cause: error });
    if (error.code === 'io-error' || error.code === 'not-permitted' || error.code === 'state-unwritable') {
      return new Failure('mirror-io-error', `the mirror’s disk failed: ${error.message}`, { cause: error });
    }
    return error;
  }
  if (errnoOf(error) !== undefined) return new Failure('mirror-io-error', String(error), { cause: error });
  throw error;
}

/** True for what the system says when a file system is full. */
export function isNoSpace(cause: unknown): boolean {
  const errno = errnoOf(cause);
  return errno === 'ENOSPC' || errno === 'EDQUOT';
}
