import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import type { Address, ByteStream } from '../../../src/io/network.ts';
import { nodeNetwork as network } from '../../../src/io/node-network.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { settle } from './fault-calls.ts';
import { closing, collect, LOOPBACK, portOf, Queue } from './stream-helpers.ts';

async function pair(address: Address = LOOPBACK): Promise<{ client: ByteStream; server: ByteStream }> {
  const streams = new Queue<ByteStream>();
  const listener = closing(await network.listen(address, streams.push));
  const client = await network.connect(listener.address, 5000);
  const server = await streams.next();
  onTestFinished(() => server.destroy());
  return { client, server };
}

const unix = (): Address => ({ kind: 'unix', path: join(temporaryFolder(), 'socket') });

describe('what is received directly', () => {
  it('does not take the loss of the connection for its end', async () => {
    const streams = new Queue<ByteStream>();
    const listener = closing(await network.listen(LOOPBACK, streams.push));
    const client = net.connect(portOf(listener), '127.0.0.1').on('error', () => undefined);
    client.write('one');
    const server = await streams.next();
    const told: string[] = [];
    await new Promise<void>((resolve) => {
      server.receive({
        data() {
          client.resetAndDestroy();
          // The reset comes while we are busy.
          const untilMs = Date.now() + 50;
          while (Date.now() < untilMs);
          expect(server.receiveNow(Buffer.alloc(10))).toBe(0);
        },
        drain: () => undefined,
        end: () => told.push('end'),
        close(reason) {
          told.push(reason === undefined ? 'closed' : 'lost');
          resolve();
        },
      });
    });
    expect(told).toEqual(['lost']);
  });
});

describe.each([
  ['TCP', () => LOOPBACK],
  ['a unix socket', unix],
])('a stream over %s', (_name, address) => {
  it('carries bytes both ways, in order, and counts them', async () => {
    const streams = await pair(address());
    const [client, server] = [collect(streams.client), collect(streams.server)];
    const chunks = Array.from({ length: 200 }, (_, index) => randomBytes(index * 50));
    const sent = Buffer.concat(chunks);
    client.stream.write(chunks);
    server.stream.write([Buffer.from('back')]);
    expect((await server.received(sent.length)).equals(sent)).toBe(true);
    expect((await client.received(4)).toString()).toBe('back');
    expect([client.stream.bytesWritten, server.stream.bytesRead]).toEqual([sent.length, sent.length]);
    expect([server.stream.bytesWritten, client.stream.bytesRead]).toEqual([4, 4]);
    expect([client.stream.encrypted, client.stream.identity]).toEqual([false, undefined]);
  });

  it('lets each side end its own direction, and closes without reason when both have', async () => {
    const streams = await pair(address());
    const [client, server] = [collect(streams.client), collect(streams.server)];
    client.stream.end();
    await server.ended;
    server.stream.write([Buffer.from('still here')]);
    expect((await client.received(10)).toString()).toBe('still here');
    server.stream.end();
    expect([await client.closed, await server.closed]).toEqual([undefined, undefined]);
    expect(client.events).toEqual(['data', 'end', 'close']);
    expect(server.events).toEqual(['end', 'close']);
  });

  it('sends what is queued before the end', async () => {
    const streams = await pair(address());
    const server = collect(streams.server);
    const client = collect(streams.client);
    const data = randomBytes(8 * MIB);
    client.stream.write([data]);
    client.stream.end();
    await server.ended;
    expect(server.data().equals(data)).toBe(true);
  });

  it('asks a writer to wait when much is queued, and tells when it may go on', async () => {
    const streams = await pair(address());
    const client = collect(streams.client);
    const block = Buffer.alloc(MIB);
    let count = 0;
    while (client.stream.write([block])) count += 1;
    expect(count).toBeLessThan(64);
    expect(client.stream.queuedSize).toBeGreaterThanOrEqual(MIB);
    const drained = client.drained();
    const server = collect(streams.server);
    await drained;
    expect(client.stream.queuedSize).toBe(0);
    await server.received((count + 1) * MIB);
    expect(server.data().length).toBe((count + 1) * MIB);
  });

  it('stops reading while paused: what the peer sends stays with the peer', async () => {
    const streams = await pair(address());
    const server = collect(streams.server);
    const client = collect(streams.client);
    server.stream.pause();
    await settle();
    const sent = randomBytes(32 * MIB);
    for (let offset = 0; offset < sent.length; offset += MIB)
      client.stream.write([sent.subarray(offset, offset + MIB)]);
    while (client.stream.queuedSize > 0 && client.events.includes('drain') === false) {
      const before = client.stream.queuedSize;
      await new Promise((resolve) => setTimeout(resolve, 20));
      if (client.stream.queuedSize === before) break;
    }
    expect(client.stream.queuedSize).toBeGreaterThan(0);
    expect(server.data().length).toBeLessThan(sent.length);
    server.stream.resume();
    expect((await server.received(sent.length)).equals(sent)).toBe(true);
  });

  it.each(['ends its direction', 'closes'])(
    'knows while paused that the peer %s, though nothing tells',
    async (way) => {
      const streams = await pair(address());
      const client = collect(streams.client);
      const server = collect(streams.server);
      // More than Node reads ahead: it will not come to the peer's end by itself.
      const sent = randomBytes(128 * KIB);
      server.stream.pause();
      client.stream.write([sent]);
      while (client.stream.queuedSize > 0) await settle();
      expect(server.stream.peerGone()).toBe(false);
      if (way === 'closes') client.stream.destroy();
      else client.stream.end();
      while (!server.stream.peerGone()) await settle();
      expect(server.events).not.toContain('end');
      expect(server.events).not.toContain('close');
      server.stream.resume();
      await server.ended;
      expect(server.data().equals(sent)).toBe(true);
      server.stream.destroy();
      await server.closed;
      expect(server.stream.peerGone()).toBe(true);
    },
  );

  it('gives out what it had held back when it was lost while paused', async () => {
    const streams = await pair(address());
    const client = collect(streams.client);
    const server = collect(streams.server);
    server.stream.pause();
    const sent = randomBytes(5 * KIB);
    client.stream.write([sent]);
    server.stream.write([Buffer.alloc(32 * MIB)]);
    await client.received(1);
    // A peer that closes before it has read everything resets the connection.
    client.stream.destroy();
    await server.closed;
    expect(server.events).toEqual(['close']);
    expect(server.stream.takeUnread()?.equals(sent)).toBe(true);
    expect(server.stream.takeUnread()).toBeUndefined();
  });

  it('receives directly behind what it was told of, in order, and never while it is paused', async () => {
    const { client, server } = await pair(address());
    const sent = randomBytes(3 * MIB);
    const got: Buffer[] = [];
    let gotSize = 0;
    let direct = 0;
    const done = new Promise<void>((resolve) => {
      server.receive({
        data(chunk) {
          got.push(chunk);
          gotSize += chunk.length;
          for (const size of [28, 100 * KIB, 1]) {
            const target = Buffer.alloc(size);
            const count = server.receiveNow(target);
            got.push(target.subarray(0, count));
            gotSize += count;
            direct += count;
          }
          server.pause();
          expect(server.receiveNow(Buffer.alloc(100))).toBe(0);
          setImmediate(() => server.resume());
          if (gotSize >= sent.length) resolve();
        },
        drain: () => undefined,
        end: () => undefined,
        close: () => undefined,
      });
    });
    for (let at = 0; at < sent.length; at += 300 * KIB) client.write([sent.subarray(at, at + 300 * KIB)]);
    client.receive({ data: () => undefined, drain: () => undefined, end: () => undefined, close: () => undefined });
    await done;
    expect(Buffer.concat(got).equals(sent)).toBe(true);
    expect([server.bytesRead, direct > 0]).toEqual([sent.length, true]);
    server.destroy();
    expect(server.receiveNow(Buffer.alloc(100))).toBe(0);
  });

  it('says when the kernel has what was written, and not when the stream went before', async () => {
    const { client, server } = await pair(address());
    const sent: string[] = [];
    client.receive({ data: () => undefined, drain: () => undefined, end: () => undefined, close: () => undefined });
    client.write([Buffer.alloc(10), Buffer.alloc(10)], () => sent.push('small'));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(sent).toEqual(['small']);
    client.write([Buffer.alloc(64 * MIB)], () => sent.push('large'));
    await new Promise((resolve) => setTimeout(resolve, 50));
    server.destroy();
    client.destroy();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(sent).toEqual(['small']);
  });

  it('knows how much has not reached the peer', async () => {
    const streams = await pair(address());
    const client = collect(streams.client);
    const server = collect(streams.server);
    expect(client.stream.undeliveredSize()).toBe(0);
    server.stream.pause();
    client.stream.write([Buffer.alloc(32 * MIB)]);
    await settle();
    const before = client.stream.undeliveredSize();
    expect(before).toBeGreaterThan(MIB);
    server.stream.resume();
    await server.received(32 * MIB);
    while (client.stream.undeliveredSize() > 0) await settle();
    client.stream.destroy();
    await client.closed;
    expect(client.stream.undeliveredSize()).toBe(0);
  });

  it('tells of a peer that is gone, once and last, and swallows later writes', async () => {
    const streams = await pair(address());
    const client = collect(streams.client);
    const server = collect(streams.server);
    server.stream.destroy();
    await client.ended;
    while (!client.events.includes('close')) {
      client.stream.write([Buffer.from('to nobody')]);
      await settle();
    }
    expect(await client.closed).toMatchObject({ code: 'connection-lost' });
    expect(client.stream.write([Buffer.from('late')])).toBe(false);
    client.stream.end();
    client.stream.destroy();
    await settle();
    expect(client.events).toEqual(['end', 'close']);
    expect([await server.closed, server.events]).toEqual([undefined, ['close']]);
  });

  it('gives the reason of its own destruction', async () => {
    const streams = await pair(address());
    const client = collect(streams.client);
    const reason = new Error('enough');
    client.stream.destroy(reason);
    client.stream.destroy(new Error('later'));
    expect(await client.closed).toBe(reason);
  });

  it('tells of a loss before anybody received it', async () => {
    const streams = await pair(address());
    streams.client.destroy(new Error('early'));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await collect(streams.client).closed).toMatchObject({ message: 'early' });
  });

  it('holds data back until it is received', async () => {
    const streams = await pair(address());
    const client = collect(streams.client);
    client.stream.write([Buffer.from('early')]);
    client.stream.end();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const server = collect(streams.server);
    await server.ended;
    expect(server.data().toString()).toBe('early');
  });
});

describe('listening and connecting', () => {
  it('names the port that it found, and peers by address', async () => {
    const streams = new Queue<ByteStream>();
    const listener = closing(await network.listen(LOOPBACK, streams.push));
    expect(portOf(listener)).toBeGreaterThan(0);
    const client = collect(await network.connect(listener.address, 5000));
    expect(client.stream.peerName).toBe(`127.0.0.1:${portOf(listener)}`);
    expect(collect(await streams.next()).stream.peerName).toMatch(/^127\.0\.0\.1:\d+$/);
  });

  it('tells a refused port, a bad name and a taken port apart', async () => {
    const listener = await network.listen(LOOPBACK, () => {});
    await expect(network.listen(listener.address, () => {})).rejects.toMatchObject({ code: 'address-in-use' });
    await listener.close();
    await expect(network.connect(listener.address, 5000)).rejects.toMatchObject({ code: 'peer-unreachable' });
    const unknown: Address = { kind: 'tcp', host: 'no-such-host.invalid', port: 1 };
    await expect(network.connect(unknown, 5000)).rejects.toMatchObject({ code: 'address-unavailable' });
    await expect(network.listen(unknown, () => {})).rejects.toMatchObject({ code: 'address-unavailable' });
    await expect(network.listen({ kind: 'tcp', host: '192.0.2.1', port: 0 }, () => {})).rejects.toMatchObject({
      code: 'address-unavailable',
    });
    await expect(network.connect({ kind: 'tcp', host: '127.0.0.1', port: 70_000 }, 5000)).rejects.toMatchObject({
      code: 'address-invalid',
    });
  });

  it('frees the port when it closes, while streams live on', async () => {
    const streams = new Queue<ByteStream>();
    const listener = await network.listen(LOOPBACK, streams.push);
    const client = collect(await network.connect(listener.address, 5000));
    const server = collect(await streams.next());
    await listener.close();
    closing(await network.listen(listener.address, () => {}));
    client.stream.write([Buffer.from('still')]);
    expect((await server.received(5)).toString()).toBe('still');
  });

  it('makes unix sockets for their owner alone and removes them at the end', async () => {
    const address = unix() as { kind: 'unix'; path: string };
    const listener = await network.listen(address, () => {});
    expect(listener.address).toEqual(address);
    expect(fs.statSync(address.path).mode & 0o777).toBe(0o600);
    await expect(network.listen(address, () => {})).rejects.toMatchObject({ code: 'address-in-use' });
    expect((await network.connect(address, 1000).then(collect)).stream.peerName).toBe('unix');
    await listener.close();
    expect(fs.existsSync(address.path)).toBe(false);
  });

  it('takes over the socket file of a process that was killed', async () => {
    const address = unix() as { kind: 'unix'; path: string };
    const script = `require('node:net').createServer().listen(${JSON.stringify(address.path)}, () => console.log('up'))`;
    const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    await expect(network.listen(address, () => {})).rejects.toMatchObject({ code: 'address-in-use' });
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(fs.existsSync(address.path)).toBe(true);
    closing(await network.listen(address, () => {}));
    await network.connect(address, 1000).then(collect);
  });

  it('never removes what is no socket', async () => {
    const path = join(temporaryFolder(), 'precious');
    fs.writeFileSync(path, 'content');
    await expect(network.listen({ kind: 'unix', path }, () => {})).rejects.toMatchObject({ code: 'address-in-use' });
    expect(fs.readFileSync(path, 'utf8')).toBe('content');
    const missing = join(temporaryFolder(), 'none', 'socket');
    await expect(network.listen({ kind: 'unix', path: missing }, () => {})).rejects.toMatchObject({
      code: 'directory-missing',
      message: `cannot listen on ${missing}: its folder does not exist`,
    });
    const long = join(temporaryFolder(), 'x'.repeat(200));
    await expect(network.listen({ kind: 'unix', path: long }, () => {})).rejects.toMatchObject({
      code: 'address-invalid',
    });
  });

  it('serves a socket that was handed over by its descriptor', async () => {
    const path = join(temporaryFolder(), 'handed-over');
    // As systemd does it: the parent listens, the child finds the socket at descriptor 3.
    const parent = net.createServer().listen(path);
    await once(parent, 'listening');
    onTestFinished(() => void parent.close());
    const { fd } = (parent as unknown as { _handle: { fd: number } })._handle;
    const script = `
      import { nodeNetwork } from ${JSON.stringify(new URL('../../../dist/io/node-network.js', import.meta.url))};
      const listener = await nodeNetwork.listen({ kind: 'descriptor', descriptor: 3 }, (stream) => {
        stream.receive({ data: (chunk) => stream.write([Buffer.from('echo '), chunk]), drain() {}, end: () => stream.end(), close: () => process.exit() });
      });
      console.log(JSON.stringify(listener.address));`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit', fd],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    const [ready] = (await once(child.stdout!, 'data')) as [Buffer];
    expect(JSON.parse(ready.toString())).toEqual({ kind: 'descriptor', descriptor: 3 });
    // Synchronous, so that the parent, which holds the socket too, does not accept the connection itself.
    const client = spawnSync(
      process.execPath,
      [
        '-e',
        `const s = require('node:net').connect(${JSON.stringify(path)}); s.on('data', (d) => { process.stdout.write(d); s.end(); }); s.write('hello');`,
      ],
      { encoding: 'utf8', timeout: 10_000 },
    );
    expect(client.stdout).toBe('echo hello');
  });
});
