/**
 * The link's listener and its client: TCP or unix sockets that count only after the TLS handshake of
 * secure/link-tls.ts has proved the secret on both sides.
 */
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { assert } from '../base/assert.ts';
import { errnoOf, Failure, type FailureCode } from '../base/failure.ts';
import { linkClientOptions, linkProofFault } from '../secure/link-tls.ts';
import type { LinkTls } from '../secure/tls.ts';
import { type Address, type ByteStream, formatAddress, type LinkStream, type Listener } from './network.ts';
import { tlsReason } from './network-failure.ts';
import { acceptLinkTls, HANDSHAKE_TIMEOUT_MS, type Take } from './node-handshake.ts';
import { connectSocket, listenSockets, peerNameOf } from './node-socket.ts';
import { NodeStream } from './node-stream.ts';

/** Handshakes at a time. When full, the oldest makes room: an honest one takes milliseconds, a silent one its whole time. */
const HANDSHAKES_MAX = 64;

/** Limits that tests make small. */
export interface LinkLimits {
  readonly handshakeTimeoutMs: number;
  readonly handshakesMax: number;
}

const linkLimits: LinkLimits = { handshakeTimeoutMs: HANDSHAKE_TIMEOUT_MS, handshakesMax: HANDSHAKES_MAX };

/** See Network.listenLink. */
export async function listenLink(
  address: Address,
  tls: LinkTls,
  onStream: (stream: LinkStream) => void,
  onRefused: (peerName: string, reason: Error) => void,
  limits: LinkLimits = linkLimits,
): Promise<Listener> {
  /** Sockets in their handshake, oldest first. */
  const pending = new Set<Socket>();
  const displaced = new WeakSet<Socket>();
  let closed = false;

  const shake = async (socket: Socket): Promise<void> => {
    const peerName = peerNameOf(socket);
    try {
      const take: Take<ByteStream> = (accepted, identity) => new NodeStream(accepted, peerName, identity);
      const stream = await acceptLinkTls(socket, peerName, tls, limits.handshakeTimeoutMs, take);
      pending.delete(socket);
      if (closed) stream.destroy();
      else onStream(stream);
    } catch (error) {
      pending.delete(socket);
      if (!(error instanceof Failure)) throw error;
      if (closed) return;
      onRefused(peerName, displaced.has(socket) ? crowdedFailure(peerName, limits.handshakesMax) : error);
    }
  };

  const listener = await listenSockets(address, (socket) => {
    if (pending.size >= limits.handshakesMax) {
      const [oldest] = pending;
      assert(oldest !== undefined, 'a full set has a first member');
      pending.delete(oldest);
      displaced.add(oldest);
      oldest.destroy();
    }
    pending.add(socket);
    void shake(socket);
  });
  return {
    address: listener.address,
    async close() {
      closed = true;
      for (const socket of pending) socket.destroy();
      await listener.close();
    },
  };
}

/** See Network.connectLink. */
export async function connectLink(address: Address, tls: LinkTls, timeoutMs: number): Promise<ByteStream> {
  const [key, another] = tls.keys;
  assert(key !== undefined && another === undefined, 'a primary has chosen one key');
  const where = formatAddress(address);
  const deadlineMs = performance.now() + timeoutMs;
  const raw = await connectSocket(address, timeoutMs);
  // The TLS socket reports what happens to the one below it.
  raw.on('error', () => {});
  const peerName = peerNameOf(raw);
  return new Promise((resolve, reject) => {
    const socket = connectTls({ ...linkClientOptions(key), socket: raw });
    const fail = (failure: Failure): void => {
      clearTimeout(timer);
      reject(failure);
      socket.destroy();
      raw.destroy();
    };
    const timer = setTimeout(
      () => fail(new Failure('peer-timeout', `${where} does not answer the TLS handshake`)),
      Math.max(0, deadlineMs - performance.now()),
    );
    const onError = (error: Error): void => fail(clientRefusal(error, where));
    const onClose = (): void => fail(clientRefusal(new Error('closed during the TLS handshake'), where));
    socket.once('error', onError);
    socket.once('close', onClose);
    socket.once('secureConnect', () => {
      const fault = linkProofFault(socket);
      if (fault !== undefined) {
        fail(new Failure('secret-rejected', `${where}: ${fault}`));
        return;
      }
      clearTimeout(timer);
      const stream = new NodeStream(socket, peerName, key.identity);
      socket.off('error', onError);
      socket.off('close', onClose);
      resolve(stream);
    });
  });
}

function crowdedFailure(peerName: string, handshakesMax: number): Failure {
  const detail = `made room for newer connections: over ${handshakesMax} were in their handshake`;
  return new Failure('handshakes-crowded', `${peerName} ${detail}`);
}

/** Alerts with which the other end refuses the offered key; from an end that knows no keys they look the same. */
const REJECTED =
  /ALERT_(HANDSHAKE_FAILURE|ILLEGAL_PARAMETER|DECRYPT_ERROR|UNKNOWN_PSK_IDENTITY|BAD_RECORD_MAC|ACCESS_DENIED)/;

function clientRefusal(error: unknown, where: string): Failure {
  if (error instanceof Failure) return error;
  const code = errnoOf(error) ?? '';
  // What OpenSSL says about the last one is all that is known; of the others it is in `cause`.
  let kind: FailureCode = 'tls-failed';
  let meaning = `the TLS handshake failed (${tlsReason(error)})`;
  if (REJECTED.test(code)) {
    kind = 'secret-rejected';
    meaning = 'it rejects our secret';
  } else if (code.startsWith('ERR_SSL_') && (!code.includes('ALERT') || code.includes('PROTOCOL_VERSION'))) {
    kind = 'peer-foreign';
    meaning = 'it does not speak the link: an NBD server, a web server?';
  } else if (/CERT|SELF_SIGNED|ISSUER|VERIFY/.test(code)) {
    kind = 'peer-foreign';
    meaning = 'it showed a certificate and did not prove the secret';
  }
  return new Failure(kind, `${where}: ${meaning}`, { cause: error });
}
