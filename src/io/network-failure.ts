/** Turns what sockets and TLS say into Failures. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { errnoOf, Failure, type FailureCode } from '../base/failure.ts';
import { systemReason } from '../base/system-reason.ts';
import { type Address, formatAddress } from './network.ts';

const LISTEN_CODES: Readonly<Record<string, FailureCode>> = {
  EADDRINUSE: 'address-in-use',
  EADDRNOTAVAIL: 'address-unavailable',
  ENOTFOUND: 'address-unavailable',
  EAI_AGAIN: 'address-unavailable',
  EACCES: 'port-forbidden',
  EPERM: 'port-forbidden',
};

/** Of a unix socket it is the folder that is at fault. */
const FOLDER_ERRORS = new Set(['ENOENT', 'ENOTDIR', 'EACCES', 'EPERM', 'EROFS']);

/**
 * Why listening failed: `address-in-use`, `address-unavailable`, `port-forbidden` or `address-invalid`; for a unix
 * socket also `directory-missing` or `directory-read-only`.
 */
export function listenFailure(error: unknown, address: Address): Failure {
  if (error instanceof Failure) return error;
  const what = `cannot listen on ${formatAddress(address)}`;
  const errno = errnoOf(error) ?? '';
  if (address.kind === 'descriptor') {
    const message = `descriptor ${address.descriptor}, named by LISTEN_FDS, is not a socket that listens`;
    return new Failure('address-invalid', `${message}: ${systemReason(error)}`, { cause: error });
  }
  if (address.kind === 'unix' && FOLDER_ERRORS.has(errno)) {
    // libuv says EACCES also where there is no folder.
    return existsSync(path.dirname(address.path))
      ? new Failure('directory-read-only', `${what}: its folder may not be written`, { cause: error })
      : new Failure('directory-missing', `${what}: its folder does not exist`, { cause: error });
  }
  return new Failure(LISTEN_CODES[errno] ?? 'address-invalid', `${what}: ${systemReason(error)}`, { cause: error });
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
  const reasons = error instanceof AggregateError ? error.errors.map(systemReason) : [systemReason(error)];
  const detail = [...new Set(reasons)].join('; ');
  return new Failure(code, `cannot connect to ${where}: ${detail}`, { cause: error });
}

/** Why a stream ended that had been working. */
export function lostFailure(error: unknown, peerName: string): Failure {
  if (error instanceof Failure) return error;
  return new Failure('connection-lost', `${peerName}: ${systemReason(error)}`, { cause: error });
}

/** What OpenSSL means, without its addresses and file names; else the message. */
export function tlsReason(error: unknown): string {
  if (error instanceof Error && 'reason' in error && typeof error.reason === 'string') return error.reason;
  return systemReason(error).trim();
}
