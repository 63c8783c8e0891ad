/** Turns what the system says about a disk or file into a Failure. */
import { errnoOf, Failure, type FailureCode, messageOf } from '../base/failure.ts';

const CODES: Readonly<Record<string, FailureCode>> = {
  ENOSPC: 'no-space',
  EDQUOT: 'no-space',
  EFBIG: 'no-space',
  EIO: 'io-error',
  EROFS: 'not-permitted',
  EPERM: 'not-permitted',
  EACCES: 'not-permitted',
  EINVAL: 'invalid-request',
  EOPNOTSUPP: 'not-supported',
  ENOTSUP: 'not-supported',
  ENOSYS: 'not-supported',
};

/** A Failure for a request to a disk; anything unknown is an `io-error`. A Failure is returned as it is. */
export function diskFailure(error: unknown, what: string): Failure {
  if (error instanceof Failure) return error;
  const code = CODES[errnoOf(error) ?? ''] ?? 'io-error';
  return new Failure(code, `${what}: ${messageOf(error)}`, { cause: error });
}

/** True when the store says that it has no such operation. */
export function isUnsupported(error: unknown): boolean {
  const code = errnoOf(error);
  return code === 'EOPNOTSUPP' || code === 'ENOTSUP' || code === 'ENOSYS';
}
