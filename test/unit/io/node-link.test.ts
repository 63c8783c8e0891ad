import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import tls from 'node:tls';
import { describe, expect, it, onTestFinished } from 'vitest';
import { isFailure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import type { Address, LinkStream, Listener } from '../../../src/io/network.ts';
import { type LinkLimits, listenLink } from '../../../src/io/node-link.ts';
import { nodeNetwork as network } from '../../../src/io/node-network.ts';
import { linkClientOptions, linkProofFault } from '../../../src/secure/link-tls.ts';
import type { PresharedKey } from '../../../src/secure/tls.ts';
import { needPrograms } from '../../support/peers.ts';
import { newAuthority } from './certificates.ts';
import { closing, collect, foreignServer, LOOPBACK, portOf, Queue } from './stream-helpers.ts';

const KEY: PresharedKey = { identity: 'nbdtwin', key: randomBytes(32) };
const OTHER: PresharedKey = { identity: 'other', key: randomBytes(32) };
const CONNECT_MS = 10_000;

interface Refusal {
  readonly peerName: string;
  readonly reason: Error;
}

interface Mirror {
  readonly listener: Listener;
  readonly port: number;
  readonly streams: Queue<LinkStream>;
  readonly refusals: Queue<Refusal>;
}

async function startMirror(keys: readonly PresharedKey[], limits?: LinkLimits): Promise<Mirror> {
  const streams = new Queue<LinkStream>();
  const refusals = new Queue<Refusal>();
  const onRefused = (peerName: string, reason: Error): void => refusals.push({ peerName, reason });
  const listener = await listenLink(LOOPBACK, { keys }, streams.push, onRefused, limits);
  closing(listener);
  return { listener, port: portOf(listener), streams, refusals };
}

/** A raw TLS client that takes any certificate, and what became of it. */
function rawClient(
  port: number,
  options: tls.ConnectionOptions,
): Promise<{ secure: boolean; sessions: Buffer[]; socket: tls.TLSSocket }> {
  return new Promise((resolve) => {
    const sessions: Buffer[] = [];
    const socket = tls.connect({
      host: '127.0.0.1',
      port,
      rejectUnauthorized: false,
      checkServerIdentity: () => undefined,
      ...options,
    });
    onTestFinished(() => void socket.destroy());
    let secure = false;
    socket.on('session', (session: Buffer) => sessions.push(session));
    socket.on('error', () => {});
    socket.on('close', () => resolve({ secure, sessions, socket }));
    socket.on('secureConnect', () => {
      secure = true;
    });
    // Whoever is let in gets an echo, which proves that the server takes the session for good.
    socket.on('data', () => resolve({ secure, sessions, socket }));
    socket.write('hello');
  });
}

const withKey = (key: PresharedKey): tls.ConnectionOptions => ({
  pskCallback: () => ({ psk: key.key, identity: key.identity }),
  ciphers: 'TLS_AES_128_GCM_SHA256',
});

/** Echoes on every stream that a mirror hands out. */
async function echo(mirror: Mirror): Promise<void> {
  for (;;) {
    const stream = await mirror.streams.next();
    onTestFinished(() => stream.destroy());
    stream.receive({ data: (chunk) => void stream.write([chunk]), drain() {}, end: () => stream.end(), close() {} });
  }
}

const connectLink = (address: Address, key: PresharedKey, timeoutMs = CONNECT_MS): Promise<LinkStream> =>
  network.connectLink(address, { keys: [key] }, timeoutMs);

describe('the link', () => {
  const connect = (mirror: { listener: Listener }, key: PresharedKey): Promise<LinkStream> =>
    connectLink(mirror.listener.address, key);

  it('opens for the right key, and both ends know the identity', async () => {
    const mirror = await startMirror([OTHER, KEY]);
    const client = collect(await connect(mirror, KEY));
    const server = collect(await mirror.streams.next());
    expect([client.stream.identity, server.stream.identity]).toEqual(['nbdtwin', 'nbdtwin']);
    expect([client.stream.encrypted, server.stream.encrypted]).toEqual([true, true]);
    const data = randomBytes(4 * MIB);
    client.stream.write([data.subarray(0, 10), data.subarray(10, MIB), data.subarray(MIB)]);
    client.stream.end();
    await server.ended;
    expect(server.data().equals(data)).toBe(true);
    expect([client.stream.bytesWritten, server.stream.bytesRead]).toEqual([data.length, data.length]);
    server.stream.write([Buffer.from('bye')]);
    server.stream.end();
    expect((await client.received(3)).toString()).toBe('bye');
    expect([await client.closed, await server.closed]).toEqual([undefined, undefined]);
  });

  it('reads no more from a peer than is taken, and all of it in the end', async () => {
    const mirror = await startMirror([KEY]);
    const client = collect(await connect(mirror, KEY));
    const server = collect(await mirror.streams.next());
    client.stream.pause();
    const data = randomBytes(64 * MIB);
    server.stream.write([data]);
    let queuedSize = 0;
    // What the kernel and a bounded buffer of ours do not take stays with the peer.
    while (queuedSize !== server.stream.queuedSize) {
      queuedSize = server.stream.queuedSize;
      await sleep(200);
    }
    expect(queuedSize).toBeGreaterThan(data.length / 2);
    expect(client.data()).toHaveLength(0);
    client.stream.resume();
    expect((await client.received(data.length)).equals(data)).toBe(true);
  });

  it('speaks TLS 1.3 with the named suite and a fresh X25519 exchange', async () => {
    const mirror = await startMirror([KEY]);
    void echo(mirror);
    const { socket, secure } = await rawClient(mirror.port, { ...linkClientOptions(KEY) });
    expect(secure).toBe(true);
    expect([socket.getProtocol(), socket.getCipher().name]).toEqual(['TLSv1.3', 'TLS_AES_128_GCM_SHA256']);
    expect(linkProofFault(socket)).toBeUndefined();
    // A client that offers another group alone finds nobody to exchange keys with: no session is without an exchange.
    expect((await rawClient(mirror.port, { ...withKey(KEY), ecdhCurve: 'P-521' })).secure).toBe(false);
  });

  it.each([
    ['a wrong key', { identity: 'nbdtwin', key: randomBytes(32) }, /does not have our secret: identity nbdtwin$/],
    ['an unknown identity', OTHER, /unknown identity "other"/],
  ])('refuses %s, and both ends say so', async (_name, key, detail) => {
    const mirror = await startMirror([KEY]);
    await expect(connect(mirror, key)).rejects.toMatchObject({ code: 'secret-rejected' });
    const { reason, peerName } = await mirror.refusals.next();
    expect(reason).toMatchObject({ code: 'secret-rejected', message: expect.stringMatching(detail) as unknown });
    expect(peerName).toMatch(/^127\.0\.0\.1:\d+$/);
    expect(mirror.streams.size).toBe(0);
  });

  it('keeps what a hostile identity holds from the log', async () => {
    const mirror = await startMirror([KEY]);
    await rawClient(mirror.port, withKey({ identity: `\u001b[2J${'x'.repeat(100)}`, key: randomBytes(32) }));
    const { reason } = await mirror.refusals.next();
    expect(reason.message).not.toContain('\u001b');
    expect(reason.message.length).toBeLessThan(300);
  });

  it.each([
    ['an HTTP request', Buffer.from('GET / HTTP/1.1\r\nHost: mirror\r\n\r\n')],
    ['random bytes', Buffer.alloc(4096, 0xa5)],
    ['an NBD server’s greeting', Buffer.from('NBDMAGICIHAVEOPT\0\u0003', 'latin1')],
    ['a connection that ends without a word', undefined],
  ])('tells %s from a primary, without waiting for the time to run out', async (_name, bytes) => {
    const mirror = await startMirror([KEY], { handshakeTimeoutMs: 1_000_000, handshakesMax: 64 });
    const socket = net.connect(mirror.port, '127.0.0.1');
    onTestFinished(() => void socket.destroy());
    socket.on('error', () => {});
    if (bytes === undefined) socket.end();
    else socket.write(bytes);
    expect((await mirror.refusals.next()).reason).toMatchObject({ code: 'peer-foreign' });
    expect(mirror.streams.size).toBe(0);
  });

  it.each([
    ['without any key', {}],
    ['of TLS 1.2 with the right key', { ...withKey(KEY), maxVersion: 'TLSv1.2', ciphers: 'PSK' } as const],
  ])('refuses a TLS client %s', async (_name, options) => {
    const mirror = await startMirror([KEY]);
    expect((await rawClient(mirror.port, options)).secure).toBe(false);
    expect((await mirror.refusals.next()).reason).toMatchObject({ code: 'peer-foreign' });
    expect(mirror.streams.size).toBe(0);
  });

  it('refuses a client of other suites, with the right key', async () => {
    const mirror = await startMirror([KEY]);
    const { secure } = await rawClient(mirror.port, { ...withKey(KEY), ciphers: 'TLS_CHACHA20_POLY1305_SHA256' });
    expect(secure).toBe(false);
    expect(isFailure((await mirror.refusals.next()).reason)).toBe(true);
  });

  it('gives up on a client that keeps silent, such as one of NBD, which waits for a greeting', async () => {
    const mirror = await startMirror([KEY], { handshakeTimeoutMs: 50, handshakesMax: 64 });
    const socket = net.connect(mirror.port, '127.0.0.1');
    const closed = new Promise((resolve) => socket.on('close', resolve));
    socket.resume();
    socket.on('end', () => socket.end());
    const { reason } = await mirror.refusals.next();
    expect(reason).toMatchObject({ code: 'peer-foreign', message: expect.stringContaining('sent nothing') as unknown });
    await closed;
  });

  it('limits the time of a handshake as a whole, however slowly bytes drip in', async () => {
    const mirror = await startMirror([KEY], { handshakeTimeoutMs: 200, handshakesMax: 64 });
    const socket = net.connect(mirror.port, '127.0.0.1');
    socket.on('error', () => {});
    // A record of 16 KiB that never becomes complete.
    socket.write(Buffer.from([0x16, 0x03, 0x01, 0x40, 0x00]));
    const drip = setInterval(() => socket.write(Buffer.from([1])), 20);
    onTestFinished(() => {
      clearInterval(drip);
      socket.destroy();
    });
    expect((await mirror.refusals.next()).reason).toMatchObject({ code: 'peer-foreign' });
  });

  it('lets the oldest handshake make room, so that silent connections do not lock out a primary', async () => {
    const mirror = await startMirror([KEY], { handshakeTimeoutMs: 60_000, handshakesMax: 4 });
    const silent = Array.from({ length: 10 }, () => net.connect(mirror.port, '127.0.0.1'));
    onTestFinished(() => silent.forEach((socket) => void socket.destroy()));
    for (const socket of silent) socket.on('error', () => {});
    for (let count = 0; count < 6; count += 1) {
      expect((await mirror.refusals.next()).reason).toMatchObject({ code: 'handshakes-crowded' });
    }
    const client = collect(await connect(mirror, KEY));
    expect(client.stream.identity).toBe('nbdtwin');
    expect((await mirror.refusals.next()).reason).toMatchObject({ code: 'handshakes-crowded' });
  });

  it('hands out nothing after it was closed', async () => {
    const mirror = await startMirror([KEY]);
    const socket = net.connect(mirror.port, '127.0.0.1');
    const closed = new Promise((resolve) => socket.on('close', resolve));
    socket.on('error', () => {});
    await new Promise((resolve) => socket.on('connect', resolve));
    await mirror.listener.close();
    socket.resume();
    await closed;
    expect([mirror.streams.size, mirror.refusals.size]).toEqual([0, 0]);
  });
});

describe('connecting the link', () => {
  it.each([
    ['an NBD server', (socket: net.Socket) => void socket.write('NBDMAGICIHAVEOPT\0\u0003', 'latin1'), 'peer-foreign'],
    [
      'a web server',
      (socket: net.Socket) => void socket.once('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')),
      'peer-foreign',
    ],
    ['an echo', (socket: net.Socket) => void socket.pipe(socket), 'peer-foreign'],
    ['random bytes', (socket: net.Socket) => void socket.write(Buffer.alloc(4096, 0xee)), 'peer-foreign'],
    ['a peer that hangs up', (socket: net.Socket) => void socket.destroy(), 'tls-failed'],
  ])('tells %s from a mirror', async (_name, onSocket, code) => {
    const address = await foreignServer(onSocket);
    await expect(connectLink(address, KEY)).rejects.toMatchObject({ code });
  });

  it('gives up on a peer that keeps silent', async () => {
    const address = await foreignServer(() => {});
    await expect(connectLink(address, KEY, 100)).rejects.toMatchObject({ code: 'peer-timeout' });
  });

  it('tells when nobody listens', async () => {
    const listener = await network.listen(LOOPBACK, () => {});
    await listener.close();
    await expect(connectLink(listener.address, KEY)).rejects.toMatchObject({
      code: 'peer-unreachable',
    });
  });
});

needPrograms(
  'a man in the middle with a trusted certificate and no key',
  'openssl',
)(() => {
  /** A TLS server with a certificate for 127.0.0.1 and no idea of the secret; counts what it was told. */
  async function startImpostor(): Promise<{ address: Address; port: number; authority: string; heard: () => number }> {
    const authority = newAuthority();
    const { certificate, key } = authority.issue('mirror');
    let heard = 0;
    const server = tls.createServer({ cert: certificate, key, minVersion: 'TLSv1.3' }, (socket) => {
      socket.on('error', () => {});
      socket.on('data', (chunk: Buffer) => {
        heard += chunk.length;
        socket.write(chunk);
      });
    });
    server.on('tlsClientError', () => {});
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => void server.close());
    const { port } = server.address() as net.AddressInfo;
    return {
      address: { kind: 'tcp', host: '127.0.0.1', port },
      port,
      authority: authority.certificate,
      heard: () => heard,
    };
  }

  /** Runs a handshake with exactly these options, as connectLink would. */
  function shake(port: number, options: tls.ConnectionOptions): Promise<string> {
    return new Promise((resolve) => {
      const socket = tls.connect({ host: '127.0.0.1', port, ...options });
      onTestFinished(() => void socket.destroy());
      socket.on('error', (error) => resolve(`refused: ${error.message}`));
      socket.on('secureConnect', () => resolve(`accepted: ${linkProofFault(socket) ?? 'proved'}`));
    });
  }

  it('is refused', async () => {
    const impostor = await startImpostor();
    await expect(connectLink(impostor.address, KEY)).rejects.toMatchObject({
      code: 'peer-foreign',
    });
    expect(impostor.heard()).toBe(0);
  });

  it('is refused also by one who trusts its authority', async () => {
    const impostor = await startImpostor();
    const options = { ...linkClientOptions(KEY), ca: [impostor.authority] };
    expect(await shake(impostor.port, options)).toMatch(/^refused: the peer showed a certificate/);
  });

  it('would be accepted by a client that checks names as it is often written, and is then caught by the proof', async () => {
    const impostor = await startImpostor();
    const trusting = { ...linkClientOptions(KEY), ca: [impostor.authority], checkServerIdentity: () => undefined };
    expect(await shake(impostor.port, trusting)).toBe('accepted: the secret was not used');
  });
});

describe('a revoked key', () => {
  /** The session that a client of the right key was given, as its library would keep it. */
  async function oldSession(port: number): Promise<Buffer> {
    const first = await rawClient(port, withKey(KEY));
    expect(first.secure).toBe(true);
    const session = first.sessions[0] ?? first.socket.getSession();
    if (session === undefined) throw new Error('the client has no session');
    return session;
  }

  it('opens nothing by an old session, at the same listener or a new one', async () => {
    const mirror = await startMirror([KEY]);
    void echo(mirror);
    const session = await oldSession(mirror.port);
    // Without the key, as one would be who stole the session or whose key is gone.
    const again = await rawClient(mirror.port, { session, ciphers: 'TLS_AES_128_GCM_SHA256' });
    expect(again.secure).toBe(false);
    expect((await mirror.refusals.next()).reason).toMatchObject({
      code: expect.stringMatching(/rejected|foreign/) as unknown,
    });

    const restarted = await startMirror([OTHER]);
    const later = await rawClient(restarted.port, { session, ciphers: 'TLS_AES_128_GCM_SHA256' });
    expect(later.secure).toBe(false);
    const withOldKey = await rawClient(restarted.port, { session, ...withKey(KEY) });
    expect(withOldKey.secure).toBe(false);
    expect(restarted.streams.size).toBe(0);
  });

  it('would open a server that is written as the manual has it', async () => {
    const keys = new Map([[KEY.identity, KEY.key]]);
    const server = tls.createServer(
      { pskCallback: (_socket, identity) => keys.get(identity) ?? null, ciphers: 'TLS_AES_128_GCM_SHA256' },
      (socket) => {
        socket.on('error', () => {});
        socket.pipe(socket);
      },
    );
    server.on('tlsClientError', () => {});
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => void server.close());
    const { port } = server.address() as net.AddressInfo;
    const session = await oldSession(port);
    keys.clear();
    const again = await rawClient(port, { session, ciphers: 'TLS_AES_128_GCM_SHA256' });
    expect(again.secure).toBe(true);
  });
});
