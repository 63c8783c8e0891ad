import { randomBytes } from 'node:crypto';
import net from 'node:net';
import tls from 'node:tls';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { ByteStream } from '../../../src/io/network.ts';
import { nodeNetwork as network } from '../../../src/io/node-network.ts';
import type { NbdTls, PresharedKey } from '../../../src/secure/tls.ts';
import { needPrograms } from '../../support/peers.ts';
import { type Authority, newAuthority } from './certificates.ts';
import { type Collected, closing, collect, LOOPBACK, portOf, Queue } from './stream-helpers.ts';

const KEY: PresharedKey = { identity: 'alice', key: randomBytes(32) };
const withKey = (key: PresharedKey): tls.ConnectionOptions => ({
  pskCallback: () => ({ psk: key.key, identity: key.identity }),
  checkServerIdentity: () => undefined,
});

/**
 * A server that answers `START` with `ACK` and begins TLS, as NBD does, and a plain client of it. `beyond` receives what came
 * with or behind START before TLS began.
 */
async function startServer(material: NbdTls): Promise<{
  plain: net.Socket;
  outcome: Promise<Collected | Error>;
  beyond: Buffer[];
}> {
  const accepted = new Queue<ByteStream>();
  const listener = closing(await network.listen(LOOPBACK, accepted.push));
  const plain = net.connect(portOf(listener), '127.0.0.1');
  plain.on('error', () => {});
  onTestFinished(() => void plain.destroy());
  const stream = await accepted.next();
  onTestFinished(() => stream.destroy());
  const beyond: Buffer[] = [];
  const outcome = new Promise<Collected | Error>((resolve) => {
    stream.receive({
      data(chunk) {
        beyond.push(chunk.subarray('START'.length));
        stream.write([Buffer.from('ACK')]);
        stream.startTls(material).then((encrypted) => resolve(collect(encrypted)), resolve);
      },
      drain() {},
      end() {},
      close() {},
    });
  });
  return { plain, outcome, beyond };
}

/** Sends START, awaits ACK, then TLS. */
function startClient(plain: net.Socket, options: tls.ConnectionOptions): Promise<tls.TLSSocket | Error> {
  return new Promise((resolve) => {
    plain.once('data', (answer) => {
      expect(answer.toString()).toBe('ACK');
      const socket = tls.connect({ socket: plain, ...options });
      onTestFinished(() => void socket.destroy());
      socket.on('error', resolve);
      socket.on('close', () => resolve(new Error('closed')));
      socket.on('secureConnect', () => resolve(socket));
    });
    plain.write('START');
  });
}

async function expectEcho(client: tls.TLSSocket | Error, outcome: Collected | Error): Promise<Collected> {
  if (client instanceof Error) throw client;
  if (outcome instanceof Error) throw outcome;
  client.write('ping');
  expect((await outcome.received(4)).toString()).toBe('ping');
  const answer = new Promise<Buffer>((resolve) => client.once('data', resolve));
  outcome.stream.write([Buffer.from('po'), Buffer.from('ng')]);
  expect((await answer).toString()).toBe('pong');
  expect(outcome.stream.encrypted).toBe(true);
  return outcome;
}

describe('STARTTLS with pre-shared keys', () => {
  it.each([
    ['TLS 1.3', { ciphers: 'TLS_AES_128_GCM_SHA256' }, 'TLSv1.3'],
    ['TLS 1.2', { ciphers: 'ECDHE-PSK-CHACHA20-POLY1305', maxVersion: 'TLSv1.2' } as const, 'TLSv1.2'],
    [
      'TLS 1.2 and finite-field exchange',
      { ciphers: 'DHE-PSK-AES128-GCM-SHA256', maxVersion: 'TLSv1.2' } as const,
      'TLSv1.2',
    ],
    ['a client that offers everything', { ciphers: 'ALL:PSK' }, 'TLSv1.3'],
  ])('serves %s', async (_name, options, version) => {
    const server = await startServer({ keys: [{ identity: 'bob', key: randomBytes(16) }, KEY] });
    const client = await startClient(server.plain, { ...withKey(KEY), ...options });
    const { stream } = await expectEcho(client, await server.outcome);
    expect(stream.identity).toBe('alice');
    expect((client as tls.TLSSocket).getProtocol()).toBe(version);
  });

  it.each([
    ['a wrong key', { identity: 'alice', key: randomBytes(32) }, 'TLSv1.3'],
    ['a wrong key', { identity: 'alice', key: randomBytes(32) }, 'TLSv1.2'],
    ['an unknown identity', { identity: 'mallory', key: KEY.key }, 'TLSv1.3'],
    ['an unknown identity', { identity: 'mallory', key: KEY.key }, 'TLSv1.2'],
  ] as const)('refuses %s in %s', async (_name, key, maxVersion) => {
    const server = await startServer({ keys: [KEY] });
    const ciphers = 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305';
    const client = await startClient(server.plain, { ...withKey(key), maxVersion, ciphers });
    expect(client).toBeInstanceOf(Error);
    expect(await server.outcome).toMatchObject({ code: 'secret-rejected' });
  });

  it.each([
    ['without forward secrecy', { ciphers: 'PSK-AES128-GCM-SHA256', maxVersion: 'TLSv1.2' } as const],
    ['of TLS 1.1', { ciphers: 'PSK:@SECLEVEL=0', minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1' } as const],
  ])('refuses a session %s', async (_name, options) => {
    const server = await startServer({ keys: [KEY] });
    expect(await startClient(server.plain, { ...withKey(KEY), ...options })).toBeInstanceOf(Error);
    expect(await server.outcome).toBeInstanceOf(Error);
  });

  it('refuses what is no TLS', async () => {
    const server = await startServer({ keys: [KEY] });
    server.plain.once('data', () => server.plain.write('IHAVEOPT and some more plaintext'));
    server.plain.write('START');
    expect(await server.outcome).toMatchObject({ code: 'tls-failed' });
  });

  it('hands plaintext that came too early to the caller, and takes none of it for what TLS carries', async () => {
    const server = await startServer({ keys: [KEY] });
    server.plain.write('STARTsmuggled');
    const client = await new Promise<tls.TLSSocket>((resolve, reject) => {
      server.plain.once('data', () => {
        const socket = tls.connect({ socket: server.plain, ...withKey(KEY), ciphers: 'TLS_AES_128_GCM_SHA256' });
        socket.on('error', reject);
        socket.on('secureConnect', () => resolve(socket));
      });
    });
    const outcome = await expectEcho(client, await server.outcome);
    expect(Buffer.concat(server.beyond).toString()).toBe('smuggled');
    expect(outcome.data().toString()).toBe('ping');
  });

  it('loses nothing that the client sends right behind the handshake', async () => {
    const server = await startServer({ keys: [KEY] });
    const client = await startClient(server.plain, { ...withKey(KEY), ciphers: 'TLS_AES_128_GCM_SHA256' });
    if (client instanceof Error) throw client;
    const data = randomBytes(1_000_000);
    client.end(data);
    const outcome = await server.outcome;
    if (outcome instanceof Error) throw outcome;
    await outcome.ended;
    expect(outcome.data().equals(data)).toBe(true);
  });

  it('tells when the client is gone', async () => {
    const server = await startServer({ keys: [KEY] });
    server.plain.once('data', () => server.plain.destroy());
    server.plain.write('START');
    expect(await server.outcome).toMatchObject({ code: 'tls-failed' });
  });

  it('refuses to start with nothing to prove itself by, and a certificate that is none', async () => {
    for (const material of [{}, { certificate: { certificate: 'no PEM', key: 'no PEM' } }]) {
      const server = await startServer(material);
      server.plain.write('START');
      expect(await server.outcome).toMatchObject({ code: 'tls-config' });
    }
  });
});

needPrograms(
  'STARTTLS with certificates',
  'openssl',
)(() => {
  const trusting = (authority: Authority): tls.ConnectionOptions => ({
    ca: [authority.certificate],
    servername: 'localhost',
  });

  it.each(['TLSv1.2', 'TLSv1.3'] as const)('serves a client that trusts its authority, in %s', async (maxVersion) => {
    const authority = newAuthority();
    const server = await startServer({ certificate: authority.issue('server') });
    const client = await startClient(server.plain, { ...trusting(authority), maxVersion });
    const { stream } = await expectEcho(client, await server.outcome);
    expect(stream.identity).toBeUndefined();
    expect((client as tls.TLSSocket).getProtocol()).toBe(maxVersion);
  });

  it.each(['TLSv1.2', 'TLSv1.3'] as const)(
    'demands a certificate of the named authority, in %s',
    async (maxVersion) => {
      const authority = newAuthority();
      const material = { certificate: { ...authority.issue('server'), clientAuthority: authority.certificate } };

      const good = await startServer(material);
      const issued = authority.issue('carol');
      const identified = { ...trusting(authority), maxVersion, cert: issued.certificate, key: issued.key };
      const { stream } = await expectEcho(await startClient(good.plain, identified), await good.outcome);
      expect(stream.identity).toBe('carol');

      const none = await startServer(material);
      void startClient(none.plain, { ...trusting(authority), maxVersion });
      expect(await none.outcome).toMatchObject({ code: 'secret-rejected' });

      const foreign = newAuthority('another authority').issue('carol');
      const wrong = await startServer(material);
      void startClient(wrong.plain, {
        ...trusting(authority),
        maxVersion,
        cert: foreign.certificate,
        key: foreign.key,
      });
      expect(await wrong.outcome).toMatchObject({ code: 'secret-rejected' });
    },
  );

  it('takes no identity for proved that was only named, with a suite that passes over its key', async () => {
    const authority = newAuthority();
    const issued = authority.issue('server');
    const naming = {
      ...trusting(authority),
      ...withKey({ identity: 'alice', key: randomBytes(32) }),
      ciphers: 'TLS_AES_256_GCM_SHA384',
    };
    const open = await startServer({ keys: [KEY], certificate: issued });
    const { stream } = await expectEcho(await startClient(open.plain, naming), await open.outcome);
    expect(stream.identity).toBeUndefined();

    const closed = await startServer({
      keys: [KEY],
      certificate: { ...issued, clientAuthority: authority.certificate },
    });
    void startClient(closed.plain, naming);
    expect(await closed.outcome).toMatchObject({ code: 'secret-rejected' });
  });

  it('serves keys and certificates side by side, also when clients need a certificate', async () => {
    const authority = newAuthority();
    const material: NbdTls = {
      keys: [KEY],
      certificate: { ...authority.issue('server'), clientAuthority: authority.certificate },
    };
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const byKey = await startServer(material);
      const ciphers = 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305';
      const keyed = await expectEcho(
        await startClient(byKey.plain, { ...withKey(KEY), ciphers, maxVersion }),
        await byKey.outcome,
      );
      expect(keyed.stream.identity).toBe('alice');

      const issued = authority.issue('carol');
      const byCertificate = await startServer(material);
      const certified = await expectEcho(
        await startClient(byCertificate.plain, {
          ...trusting(authority),
          maxVersion,
          cert: issued.certificate,
          key: issued.key,
        }),
        await byCertificate.outcome,
      );
      expect(certified.stream.identity).toBe('carol');
    }
  });
});
