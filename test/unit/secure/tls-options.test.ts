import { constants } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { linkClientOptions, linkServerOptions, type Offer } from '../../../src/secure/link-tls.ts';
import { nbdServerOptions } from '../../../src/secure/nbd-tls.ts';

const KEY = { identity: 'nbdtwin', key: Buffer.alloc(32, 1) };

// What these options do on the wire is tested with real handshakes in test/unit/io.
describe('options of the link', () => {
  it.each([
    ['server', linkServerOptions({ keys: [KEY] }, () => {})],
    ['client', linkClientOptions(KEY)],
  ])('allow one version, one suite, one group, no tickets and no authority: %s', (_name, options) => {
    expect(options).toMatchObject({
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      ciphers: 'TLS_AES_128_GCM_SHA256',
      ecdhCurve: 'X25519',
      ca: [],
    });
    expect((options.secureOptions ?? 0) & constants.SSL_OP_NO_TICKET).not.toBe(0);
  });

  it('refuse every certificate, whatever the environment says', () => {
    const options = linkClientOptions(KEY);
    expect(options.rejectUnauthorized).toBe(true);
    expect(options.checkServerIdentity?.('mirror', {} as never)).toBeInstanceOf(Error);
  });

  it('hand out known keys only, and tell what was offered', () => {
    const offers: Offer[] = [];
    const { pskCallback } = linkServerOptions({ keys: [KEY] }, (offer) => offers.push(offer));
    expect(pskCallback?.({} as never, 'nbdtwin')).toBe(KEY.key);
    expect(pskCallback?.({} as never, 'constructor')).toBeNull();
    expect(offers).toEqual([
      { identity: 'nbdtwin', known: true },
      { identity: 'constructor', known: false },
    ]);
  });
});

describe('options of the NBD server', () => {
  it('need a key or a certificate, and a certificate that is one', () => {
    const refused = expect.objectContaining({ code: 'tls-config' });
    expect(() => nbdServerOptions({})).toThrow(refused);
    expect(() => nbdServerOptions({ keys: [] })).toThrow(refused);
    expect(() => nbdServerOptions({ certificate: { certificate: 'x', key: 'y' } })).toThrow(refused);
    expect(nbdServerOptions({ keys: [KEY] })).toMatchObject({ minVersion: 'TLSv1.2', requestCert: false });
  });

  it('name a SHA-256 suite first, without which a key does not work in TLS 1.3', () => {
    expect(nbdServerOptions({ keys: [KEY] }).ciphers).toMatch(/^TLS_AES_128_GCM_SHA256:/);
    expect(nbdServerOptions({ keys: [KEY] }).honorCipherOrder).toBe(true);
  });
});
