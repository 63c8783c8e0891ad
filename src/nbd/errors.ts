import { Command, CommandFlag, ErrorCode, type Request } from 'nbd-protocol';
import type { Failure } from '../base/failure.ts';

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
