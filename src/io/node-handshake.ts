/**
 * The server's half of TLS handshakes on sockets that are already there: the link's, and NBD's STARTTLS.
 *
 * Each handshake has a TLS server object of its own (0.2 ms): what a client offered is known by its closure, and no
 * ticket of one connection could mean anything to another, whatever OpenSSL would issue. The time limit covers the whole
 * handshake; Node's own starts anew with every byte that drips in.
 */
import type { Socket } from 'node:net';
import { createServer, type TLSSocket, type TlsOptions } from 'node:tls';
import { errnoOf, Failure } from '../base/failure.ts';
import { linkProofFault, linkServerOptions, type Offer } from '../secure/link-tls.ts';
import { nbdProof, nbdServerOptions } from '../secure/nbd-tls.ts';
import type { LinkTls, NbdTls } from '../secure/tls.ts';
import { tlsReason } from './network-failure.ts';

/** For a whole handshake, from the first byte waited for to the last. */
export const HANDSHAKE_TIMEOUT_MS = 10_000;

/**
 * Makes the stream of a finished handshake. Called at once, in the event that ends the handshake: what the peer sent right
 * behind it, its end included, comes in the same turn.
 */
export type Take<Stream> = (socket: TLSSocket, identity: string | undefined) => Stream;

/** Takes the socket through the link's handshake. On failure the socket is destroyed: `secret-rejected`, `peer-foreign`. */
export async function acceptLinkTls<Stream>(
  socket: Socket,
  peerName: string,
  tls: LinkTls,
  timeoutMs: number,
  take: Take<Stream>,
): Promise<Stream> {
  const offers = new Offers();
  try {
    return await accept(socket, linkServerOptions(tls, offers.note), timeoutMs, (accepted) => {
      const fault = offers.known === undefined ? 'no secret was offered' : linkProofFault(accepted);
      if (fault !== undefined) throw new Failure('secret-rejected', `${peerName}: ${fault}`);
      return take(accepted, offers.known);
    });
  } catch (error) {
    throw linkRefusal(error, socket, peerName, offers);
  }
}

/** Takes the socket through NBD's STARTTLS. On failure the socket is destroyed: `secret-rejected`, `tls-failed`, `tls-config`. */
export async function acceptNbdTls<Stream>(
  socket: Socket,
  peerName: string,
  tls: NbdTls,
  take: Take<Stream>,
): Promise<Stream> {
  const offers = new Offers();
  try {
    const options = nbdServerOptions(tls, offers.note);
    // Our answer to STARTTLS must be out before the first byte of TLS.
    await flushed(socket, HANDSHAKE_TIMEOUT_MS);
    return await accept(socket, options, HANDSHAKE_TIMEOUT_MS, (accepted) =>
      take(accepted, nbdProof(tls, accepted, offers.known)),
    );
  } catch (error) {
    socket.destroy();
    if (error instanceof Failure) throw error;
    const rejected = offers.any && isRejectedOffer(error);
    const detail = `${peerName}: TLS handshake failed: ${offers.describe(rejected ? undefined : tlsReason(error))}`;
    throw new Failure(rejected ? 'secret-rejected' : 'tls-failed', detail, { cause: error });
  }
}

/** What a client offered during one handshake. */
class Offers {
  /** The last identity offered that has a key. Proved only when the handshake has succeeded *and used the key*. */
  known: string | undefined;
  #unknown: string | undefined;

  readonly note = (offer: Offer): void => {
    if (offer.known) this.known = offer.identity;
    else this.#unknown = offer.identity;
  };

  get any(): boolean {
    return this.known !== undefined || this.#unknown !== undefined;
  }

  /** For messages: the identity that was offered, if any, with this behind it. An unknown one may hold anything. */
  describe(reason?: string): string {
    let who: string | undefined;
    if (this.known !== undefined) who = `identity ${this.known}`;
    else if (this.#unknown !== undefined) who = `unknown identity ${JSON.stringify(this.#unknown.slice(0, 80))}`;
    return [who, reason].filter((part) => part !== undefined).join(': ');
  }
}

function accept<Stream>(
  socket: Socket,
  options: TlsOptions,
  timeoutMs: number,
  take: (accepted: TLSSocket) => Stream,
): Promise<Stream> {
  return new Promise((resolve, reject) => {
    const server = createServer(options);
    // The TLS socket reports what happens to the one below it.
    socket.on('error', () => {});
    // A peer that ends before the handshake is through has nothing to say. The TLS socket copies this.
    socket.allowHalfOpen = false;
    const timer = setTimeout(() => {
      reject(timeoutError());
      socket.destroy();
    }, timeoutMs);
    server.once('secureConnection', (accepted) => {
      clearTimeout(timer);
      accepted.allowHalfOpen = true;
      try {
        resolve(take(accepted));
      } catch (error) {
        accepted.on('error', () => {});
        accepted.destroy();
        reject(error);
      }
    });
    server.once('tlsClientError', (error, failed) => {
      clearTimeout(timer);
      reject(error);
      // The alert that says why has gone to the kernel before this event.
      failed.on('error', () => {});
      failed.destroy();
      socket.destroy();
    });
    server.emit('connection', socket);
  });
}

function flushed(socket: Socket, timeoutMs: number): Promise<void> | void {
  if (socket.writableLength === 0) return;
  return new Promise((resolve, reject) => {
    const onClose = (): void => finish(new Failure('connection-lost', 'the peer closed before TLS began'));
    const onDrain = (): void => finish();
    const timer = setTimeout(() => finish(timeoutError()), timeoutMs);
    function finish(error?: Error): void {
      clearTimeout(timer);
      socket.off('close', onClose);
      socket.off('drain', onDrain);
      if (error === undefined) resolve();
      else reject(error);
    }
    socket.once('close', onClose);
    socket.once('drain', onDrain);
  });
}

function timeoutError(): Error {
  return Object.assign(new Error('timed out'), { code: 'ERR_TLS_HANDSHAKE_TIMEOUT' });
}

/** Errors of OpenSSL that mean: an offer was made, and it was no good. */
function isRejectedOffer(error: unknown): boolean {
  const code = errnoOf(error) ?? '';
  // A wrong key; an unknown identity (then a certificate would be needed, and there is none); the same in TLS 1.2.
  return /BINDER_DOES_NOT_VERIFY|NO_SUITABLE_SIGNATURE|NO_SHARED_CIPHER|PSK_IDENTITY|BAD_RECORD_MAC|DECRYPT/.test(code);
}

function linkRefusal(error: unknown, socket: Socket, peerName: string, offers: Offers): Failure {
  if (error instanceof Failure) return error;
  if (offers.any && isRejectedOffer(error)) {
    return new Failure('secret-rejected', `${peerName} does not have our secret: ${offers.describe()}`, {
      cause: error,
    });
  }
  const detail = offers.describe(tlsReason(error));
  if (offers.any) return new Failure('tls-failed', `${peerName}: TLS handshake failed: ${detail}`, { cause: error });
  // A client of the link offers its key in its first message.
  const silent = socket.bytesRead === 0 ? ' It sent nothing: an NBD client, or a probe?' : '';
  return new Failure('peer-foreign', `${peerName} is no nbdtwin primary: ${detail}.${silent}`, { cause: error });
}
