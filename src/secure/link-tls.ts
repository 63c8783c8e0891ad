/**
 * TLS of the link: 1.3 only, an external pre-shared key with X25519 and TLS_AES_128_GCM_SHA256, nothing else.
 *
 * Two traps that the usual options leave open, both seen:
 * - With a `checkServerIdentity` that accepts, a man in the middle who has *any* trusted certificate and no key is
 *   accepted. Ours always refuses (under a pre-shared key it is never called), no authority is trusted, and after the
 *   handshake `linkProofFault` demands that the key was used.
 * - A session ticket outlives a revoked key. Tickets are off on both ends, and the server accepts only a handshake in
 *   which its own callback has handed out the key.
 *
 * The suite is named because only those with SHA-256 work with a pre-shared key. OpenSSL answers no `psk_ke`, so every
 * session has a fresh key exchange: forward secrecy.
 */
import { constants } from 'node:crypto';
import type { ConnectionOptions, SecureContextOptions, TLSSocket, TlsOptions } from 'node:tls';
import { Failure } from '../base/failure.ts';
import type { LinkTls, PresharedKey } from './tls.ts';

const LINK_VERSION = 'TLSv1.3';
const LINK_CIPHER = 'TLS_AES_128_GCM_SHA256';

const common: SecureContextOptions = {
  minVersion: LINK_VERSION,
  maxVersion: LINK_VERSION,
  ciphers: LINK_CIPHER,
  ecdhCurve: 'X25519',
  secureOptions: constants.SSL_OP_NO_TICKET,
  // No authority at all: neither Node's list nor NODE_EXTRA_CA_CERTS counts here.
  ca: [],
};

/** What a client offered in a handshake, as the server's callback saw it. */
export interface Offer {
  /** The identity as sent: anything the peer likes, up to 64 KiB. */
  readonly identity: string;
  /** True when there is a key of that identity, which the handshake then has to prove. */
  readonly known: boolean;
}

/**
 * Options of a TLS server for one handshake. `onOffer` is called for each identity; the last known one is proved when
 * the handshake has succeeded and `linkProofFault` finds no fault.
 */
export function linkServerOptions(tls: LinkTls, onOffer: (offer: Offer) => void): TlsOptions {
  const keys = new Map(tls.keys.map((key) => [key.identity, key.key]));
  return {
    ...common,
    pskCallback(_socket, identity) {
      const key = keys.get(identity);
      onOffer({ identity, known: key !== undefined });
      return key ?? null;
    },
  };
}

/** Options of `tls.connect`; `socket` is to be added. */
export function linkClientOptions(key: PresharedKey): ConnectionOptions {
  return {
    ...common,
    // Said aloud, or the environment (NODE_TLS_REJECT_UNAUTHORIZED=0) could turn it off.
    rejectUnauthorized: true,
    checkServerIdentity: () =>
      new Failure('peer-foreign', 'the peer showed a certificate and did not prove the secret'),
    pskCallback: () => ({ psk: key.key, identity: key.identity }),
  };
}

/** What is wrong with a finished handshake of the link; undefined when the pre-shared key was used, as it must be. */
export function linkProofFault(socket: TLSSocket): string | undefined {
  if (socket.getProtocol() !== LINK_VERSION) return `the protocol is ${String(socket.getProtocol())}`;
  if (socket.getCipher().name !== LINK_CIPHER) return `the cipher is ${socket.getCipher().name}`;
  // OpenSSL treats a pre-shared key as a resumed session.
  if (!socket.isSessionReused()) return 'the secret was not used';
  const certificate: object | null = socket.getPeerCertificate();
  if (certificate !== null && Object.keys(certificate).length > 0) return 'the peer showed a certificate';
  return undefined;
}
