/**
 * TLS of the NBD server (STARTTLS): pre-shared keys as nbdkit and qemu have them, certificates, or both. TLS 1.2 is
 * kept for GnuTLS and older OpenSSL clients, with forward secrecy and authenticated ciphers only.
 */
import { constants } from 'node:crypto';
import { createSecureContext, type SecureContextOptions, type TLSSocket, type TlsOptions } from 'node:tls';
import { Failure, messageOf } from '../base/failure.ts';
import type { Offer } from './link-tls.ts';
import type { NbdTls } from './tls.ts';

/** Named first, since only suites with SHA-256 work with a pre-shared key in TLS 1.3. */
const TLS13_SHA256 = ['TLS_AES_128_GCM_SHA256', 'TLS_CHACHA20_POLY1305_SHA256'];
const TLS13_CERTIFICATE = ['TLS_AES_256_GCM_SHA384'];
const TLS12_KEYS = ['ECDHE-PSK-CHACHA20-POLY1305', 'DHE-PSK-AES256-GCM-SHA384', 'DHE-PSK-AES128-GCM-SHA256'];
const TLS12_CERTIFICATE = [
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
];

/**
 * Options of a TLS server for one handshake. Throws `tls-config` when there is neither a key nor a certificate, or a
 * PEM text is not what it should be; call it once at start to find out.
 */
export function nbdServerOptions(tls: NbdTls, onOffer: (offer: Offer) => void = () => {}): TlsOptions {
  const keys = new Map((tls.keys ?? []).map((key) => [key.identity, key.key]));
  const { certificate } = tls;
  if (keys.size === 0 && certificate === undefined) {
    throw new Failure('tls-config', 'TLS needs pre-shared keys or a certificate');
  }
  const context: SecureContextOptions = {
    minVersion: 'TLSv1.2',
    ciphers: [
      ...TLS13_SHA256,
      ...(certificate ? TLS13_CERTIFICATE : []),
      ...(keys.size > 0 ? TLS12_KEYS : []),
      ...(certificate ? TLS12_CERTIFICATE : []),
    ].join(':'),
    honorCipherOrder: true,
    // A ticket would outlive a revoked key or certificate.
    secureOptions: constants.SSL_OP_NO_TICKET,
    dhparam: 'auto',
    ca: certificate?.clientAuthority === undefined ? [] : [certificate.clientAuthority],
    ...(certificate ? { cert: certificate.certificate, key: certificate.key } : {}),
  };
  try {
    createSecureContext(context);
  } catch (error) {
    throw new Failure('tls-config', `TLS certificate, key or authority: ${messageOf(error)}`, { cause: error });
  }
  const verifyClients = certificate?.clientAuthority !== undefined;
  return {
    ...context,
    requestCert: verifyClients,
    // `nbdProof` decides, since a client with a key needs no certificate, which Node sees differently by version.
    rejectUnauthorized: false,
    ...(keys.size === 0
      ? {}
      : {
          pskCallback(_socket, identity) {
            const key = keys.get(identity);
            onOffer({ identity, known: key !== undefined });
            return key ?? null;
          },
        }),
  };
}

/**
 * What a finished handshake has proved: the identity of a key, or of a certificate where one is demanded; undefined when
 * nobody had to prove anything. Throws `secret-rejected` when something had to be proved and was not.
 * `offered` is the last known identity that the client named; naming it proves nothing: OpenSSL passes over a key, unseen,
 * when the suite does not fit it, and goes on with certificates.
 */
export function nbdProof(tls: NbdTls, socket: TLSSocket, offered: string | undefined): string | undefined {
  if (offered !== undefined && keyWasUsed(socket)) return offered;
  if (tls.certificate === undefined) throw new Failure('secret-rejected', 'no secret was proved');
  if (tls.certificate.clientAuthority === undefined) return undefined;
  if (!socket.authorized) {
    const reason: unknown = socket.authorizationError;
    throw new Failure('secret-rejected', `no certificate of the named authority: ${String(reason)}`);
  }
  const name = socket.getPeerCertificate().subject.CN;
  return Array.isArray(name) ? name[0] : name;
}

function keyWasUsed(socket: TLSSocket): boolean {
  // In TLS 1.3 a key looks like a resumed session, and there are no others: tickets are off.
  if (socket.getProtocol() === 'TLSv1.3') return socket.isSessionReused();
  return TLS12_KEYS.includes(socket.getCipher().name);
}
