/** Plain sockets: listening, connecting, and the files of unix sockets. */
import fs from 'node:fs';
import net from 'node:net';
import { errnoOf, Failure } from '../base/failure.ts';
import { type Address, formatAddress, type Listener } from './network.ts';
import { connectFailure, listenFailure } from './network-failure.ts';

/** Idle time after which the kernel asks whether a TCP peer is still there. */
const KEEP_ALIVE_MS = 30_000;
/** How long a socket file may take to show that somebody listens behind it. */
const STALE_PROBE_MS = 2000;
/** Only the owner may connect; who wants more opens it up. */
const SOCKET_MODE = 0o600;

/** Bytes of the path of a unix socket (sun_path without its end). libuv cuts longer ones off without a word. */
const UNIX_PATH_SIZE_MAX = 107;

/** Listens; sockets are handed over unread, half-open allowed, without delay for small writes. */
export async function listenSockets(address: Address, onSocket: (socket: net.Socket) => void): Promise<Listener> {
  const where = formatAddress(address);
  try {
    checkPath(address);
    return await bind(address, onSocket);
  } catch (error) {
    if (address.kind !== 'unix' || errnoOf(error) !== 'EADDRINUSE') throw listenFailure(error, address);
    await removeStale(address.path, where);
  }
  try {
    return await bind(address, onSocket);
  } catch (error) {
    throw listenFailure(error, address);
  }
}

/** Connects within the time. Failures: `peer-unreachable`, `peer-timeout`, `address-unavailable`, `address-invalid`. */
export function connectSocket(address: Address, timeoutMs: number): Promise<net.Socket> {
  const where = formatAddress(address);
  return new Promise((resolve, reject) => {
    let socket: net.Socket;
    try {
      checkPath(address);
      socket = net.connect(connectOptions(address));
    } catch (error) {
      reject(connectFailure(error, where));
      return;
    }
    const timer = setTimeout(() => {
      reject(new Failure('peer-timeout', `${where} does not answer`));
      socket.destroy();
    }, timeoutMs);
    const onError = (error: Error): void => {
      clearTimeout(timer);
      reject(connectFailure(error, where));
    };
    socket.once('error', onError);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', onError);
      resolve(socket);
    });
  });
}

/** For logs: `203.0.113.7:40112`, `[2001:db8::1]:40112`, or `unix`. */
export function peerNameOf(socket: net.Socket): string {
  const { remoteAddress, remotePort } = socket;
  if (remoteAddress === undefined || remotePort === undefined) {
    // A TCP peer that has gone already has no name left.
    return socket.localAddress === undefined ? 'unix' : 'unknown';
  }
  const host = remoteAddress.startsWith('::ffff:') ? remoteAddress.slice('::ffff:'.length) : remoteAddress;
  return formatAddress({ kind: 'tcp', host, port: remotePort });
}

function connectOptions(address: Address): net.NetConnectOpts & { allowHalfOpen: boolean } {
  switch (address.kind) {
    case 'tcp':
      return {
        host: address.host,
        port: address.port,
        noDelay: true,
        keepAlive: true,
        keepAliveInitialDelay: KEEP_ALIVE_MS,
        allowHalfOpen: true,
      };
    case 'unix':
      return { path: address.path, allowHalfOpen: true };
    case 'descriptor':
      throw new Failure('address-invalid', 'a handed-over socket is for listening');
  }
}

function checkPath(address: Address): void {
  if (address.kind !== 'unix' || Buffer.byteLength(address.path) <= UNIX_PATH_SIZE_MAX) return;
  throw new Failure(
    'address-invalid',
    `${address.path} is longer than ${UNIX_PATH_SIZE_MAX} bytes, too long for a socket`,
  );
}

function bind(address: Address, onSocket: (socket: net.Socket) => void): Promise<Listener> {
  return new Promise((resolve, reject) => {
    const server = net.createServer(
      { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_MS },
      (socket) => onSocket(socket),
    );
    server.once('error', reject);
    server.once('listening', () => {
      server.off('error', reject);
      // What goes wrong later concerns one connection attempt (EMFILE, ECONNABORTED): the listener goes on.
      server.on('error', () => {});
      resolve({
        address: boundAddress(server, address),
        close() {
          // The socket closes at once; the callback would wait for all streams to end.
          server.close();
          return Promise.resolve();
        },
      });
    });
    switch (address.kind) {
      case 'tcp':
        server.listen({ host: address.host, port: address.port });
        break;
      case 'unix':
        server.listen({ path: address.path });
        // The socket exists when `listen` returns without error, and nobody can have been accepted yet.
        if (server.listening) fs.chmodSync(address.path, SOCKET_MODE);
        break;
      case 'descriptor':
        server.listen({ fd: address.descriptor });
        break;
    }
  });
}

function boundAddress(server: net.Server, asked: Address): Address {
  const bound = server.address();
  if (typeof bound === 'string') return { kind: 'unix', path: bound };
  if (bound === null || bound.address === undefined) return asked;
  return { kind: 'tcp', host: bound.address, port: bound.port };
}

/** Removes a socket file behind which nobody listens, left by a process that was killed. */
async function removeStale(path: string, where: string): Promise<void> {
  const before = fs.lstatSync(path, { throwIfNoEntry: false });
  if (before === undefined) return;
  if (!before.isSocket()) throw new Failure('address-in-use', `${path} exists and is no socket`);
  try {
    const socket = await connectSocket({ kind: 'unix', path }, STALE_PROBE_MS);
    socket.destroy();
  } catch (error) {
    const refused = error instanceof Failure && errnoOf(error.cause) === 'ECONNREFUSED';
    if (!refused) throw new Failure('address-in-use', `${where} is in use`, { cause: error });
    // Another process may have taken the place meanwhile.
    const now = fs.lstatSync(path, { throwIfNoEntry: false });
    if (now?.ino === before.ino) fs.unlinkSync(path);
    return;
  }
  throw new Failure('address-in-use', `${where} is in use`);
}
