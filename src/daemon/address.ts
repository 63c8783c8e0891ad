/** Addresses as people write them, and as NBD clients want them. */
import path from 'node:path';
import { Failure } from '../base/failure.ts';
import type { Address } from '../io/network.ts';

export type { Address };

export type TcpAddress = Extract<Address, { kind: 'tcp' }>;

/** Registered for NBD. */
export const NBD_PORT = 10809;
export const LINK_PORT = 10810;

/** Bytes of a path in a socket address, without the zero at its end. */
const SOCKET_PATH_SIZE_MAX = 107;

const WITH_PORT = /^(?:\[([^[\]]+)\]|([^:[\]]+)):(\d{1,5})$/;
/** Roughly: whether the address exists is for the network to say. */
const IPV6 = /^[0-9a-f]*:[0-9a-f:.]*:[0-9a-f.]*(?:%\w+)?$/i;
const HOST_ALONE = /^(?:\[([^[\]]+)\]|([^[\]]+))$/;

/**
 * Reads `HOST:PORT` or `[IPv6]:PORT`; with a `defaultPort` also a host alone. Port 0 picks a free one.
 * Failures: `address-invalid`.
 */
export function parseTcpAddress(text: string, defaultPort?: number): TcpAddress {
  const match = WITH_PORT.exec(text);
  if (match !== null) {
    const port = Number(match[3]);
    if (port > 65535) throw new Failure('address-invalid', `${text}: ports go up to 65535`);
    return { kind: 'tcp', host: (match[1] ?? match[2])!, port };
  }
  const alone = defaultPort === undefined ? null : HOST_ALONE.exec(text);
  const host = alone === null ? '' : (alone[1] ?? alone[2])!;
  if (host === '' || /\s/.test(host) || (host.includes(':') && !IPV6.test(host))) {
    throw new Failure('address-invalid', `${JSON.stringify(text)} is not an address`);
  }
  return { kind: 'tcp', host, port: defaultPort! };
}

/** The path of a unix socket. Failures: `address-invalid`. */
export function parseSocketPath(text: string): Extract<Address, { kind: 'unix' }> {
  if (text === '' || Buffer.byteLength(text) > SOCKET_PATH_SIZE_MAX) {
    throw new Failure(
      'address-invalid',
      `a socket path has 1 to ${SOCKET_PATH_SIZE_MAX} bytes: ${JSON.stringify(text)}`,
    );
  }
  return { kind: 'unix', path: text };
}

/** True for addresses that only this machine reaches. */
export function isLocal(address: Address): boolean {
  if (address.kind !== 'tcp') return true;
  return address.host === 'localhost' || address.host === '::1' || address.host.startsWith('127.');
}

/** The NBD URI of an export. @see https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md */
export function nbdUri(address: Address, exportName: string, tls: boolean): string {
  const scheme = tls ? 'nbds' : 'nbd';
  const name = exportName.split('/').map(encodeURIComponent).join('/');
  if (address.kind === 'unix') return `${scheme}+unix:///${name}?socket=${encodeURI(path.resolve(address.path))}`;
  if (address.kind === 'descriptor') return `${scheme}://fd:${address.descriptor}/${name}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `${scheme}://${host}:${address.port}/${name}`;
}
