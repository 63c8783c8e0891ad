import { Command, CommandFlag, ErrorCode, type Request } from 'nbd-protocol';
import { Failure, type FailureCode } from '../base/failure.ts';

/**
 * The protocol's error for a request that failed. Two values are reserved by the specification: ENOTSUP for FAST_ZERO,
 * EOVERFLOW for commands without payload.
 *
 * @see NBD spec, "Error values"
 */
export function errorOf(failure: Failure, request: Request): ErrorCode {
  switch (failure.code) {
    case 'no-space':
      return ErrorCode.ENOSPC;
    case 'not-permitted':
      return ErrorCode.EPERM;
    case 'invalid-request':
      return ErrorCode.EINVAL;
    case 'overflow':
      return request.command === Command.WRITE ? ErrorCode.EINVAL : ErrorCode.EOVERFLOW;
    case 'not-supported':
      return isFastZero(request) ? ErrorCode.ENOTSUP : ErrorCode.EINVAL;
    case 'shutting-down':
      return ErrorCode.ESHUTDOWN;
    default:
      return ErrorCode.EIO;
  }
}

function isFastZero(request: Request): boolean {
  return request.command === Command.WRITE_ZEROES && (request.flags & CommandFlag.FAST_ZERO) !== 0;
}

const CODES: Readonly<Record<number, FailureCode>> = {
  [ErrorCode.EPERM]: 'not-permitted',
  [ErrorCode.EINVAL]: 'invalid-request',
  [ErrorCode.ENOSPC]: 'no-space',
  [ErrorCode.EOVERFLOW]: 'overflow',
  [ErrorCode.ENOTSUP]: 'not-supported',
  [ErrorCode.ESHUTDOWN]: 'shutting-down',
};

/** The other way round: what a server's error means to a client. */
export function failureOf(error: number, message: string): Failure {
  return new Failure(CODES[error] ?? 'io-error', message === '' ? `the server answered with error ${error}` : message);
}
