/** Turns what sockets and TLS say into Failures. */
import { errnoOf, Failure, type FailureCode, messageOf } from '../base/failure.ts';

const LISTEN_CODES: Readonly<Record<string, FailureCode>> = {
  EADDRINUSE: 'address-in-use',
  EADDRNOTAVAIL: 'address-unavailable',
  ENOTFOUND: 'address-unavailable',
  EAI_AGAIN: 'address-unavailable',
  EACCES: 'address-unavailable',
  EPERM: 'address-unavailable',
  ENOENT: 'address-unavailable',
  EROFS: 'address-unavailable',
};

/** Why listening failed: `address-in-use`, `address-unavailable` or `address-invalid`. */
export function listenFailure(error: unknown, where: string): Failure {
  if (error instanceof Failure) return error;
  const code = LISTEN_CODES[errnoOf(error) ?? ''] ?? 'address-invalid';
  return new Failure(code, `cannot listen on ${where}: ${messageOf(error)}`, { cause: error });
}

const NAME_ERRORS = new Set(['ENOTFOUND', 'EAI_AGAIN', 'EAI_FAIL', 'EAI_NODATA', 'EAI_NONAME']);
const ADDRESS_ERRORS = new Set(['ERR_SOCKET_BAD_PORT', 'ERR_INVALID_ARG_VALUE', 'EINVAL']);

/** Why connecting failed: `peer-timeout`, `address-unavailable`, `address-invalid` or `peer-unreachable`. */
export function connectFailure(error: unknown, where: string): Failure {
  if (error instanceof Failure) return error;
  const errno = errnoOf(error) ?? '';
  let code: FailureCode = 'peer-unreachable';
  if (errno === 'ETIMEDOUT') code = 'peer-timeout';
  else if (NAME_ERRORS.has(errno)) code = 'address-unavailable';
  else if (ADDRESS_ERRORS.has(errno)) code = 'address-invalid';
  // Several addresses tried: the message of the whole is empty, those of the parts are not.
  const detail = error instanceof AggregateError ? error.errors.map(messageOf).join('; ') : messageOf(error);
  return new Failure(code, `cannot connect to ${where}: ${detail}`, { cause: error });
}

/** Why a stream ended that had been working. */
export function lostFailure(error: unknown, peerName: string): Failure {
  if (error instanceof Failure) return error;
  return new Failure('connection-lost', `${peerName}: ${messageOf(error)}`, { cause: error });
}

/** What OpenSSL means, without its addresses and file names; else the message. */
export function tlsReason(error: unknown): string {
  if (error instanceof Error && 'reason' in error && typeof error.reason === 'string') return error.reason;
  return messageOf(error).trim();
}
