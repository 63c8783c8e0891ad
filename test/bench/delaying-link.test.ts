import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type DelayingLinkOptions, openDelayingLink } from '../../bench/scenarios/delaying-link.ts';
import type { TcpProxy } from '../../bench/scenarios/tcp-proxy.ts';
import { digest, readAll } from './sockets.ts';

const DELAY_MS = 30;

async function openLink(server: net.Server, options: DelayingLinkOptions = { delayMs: DELAY_MS }): Promise<TcpProxy> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const link = await openDelayingLink((server.address() as net.AddressInfo).port, options);
  onTestFinished(() => link.close());
  return link;
}

function connect(link: TcpProxy, allowHalfOpen = true): net.Socket {
  const client = net.connect({ port: link.port, host: '127.0.0.1', allowHalfOpen });
  client.on('error', () => undefined);
  onTestFinished(() => void client.destroy());
  return client;
}

describe('the delaying link', () => {
  it('carries both directions unchanged and in order, whatever the pieces', async () => {
    const question = randomBytes(3_000_000);
    const answer = randomBytes(2_000_000);
    const server = net.createServer({ allowHalfOpen: true });
    const link = await openLink(server);
    const accepted = once(server, 'connection') as Promise<[net.Socket]>;
    const client = connect(link);
    for (let from = 0, size = 1; from < question.length; from += size, size = (size * 3) % 65_521)
      client.write(question.subarray(from, from + size));
    client.end();
    const [socket] = await accepted;
    const answered = readAll(client);
    expect(digest(await readAll(socket))).toBe(digest(question));
    socket.end(answer);
    expect(digest(await answered)).toBe(digest(answer));
  });

  it('delays each direction: nothing comes out before its time', async () => {
    const arrivals: number[] = [];
    const server = net.createServer((socket) => {
      socket.on('data', (chunk: Buffer) => {
        arrivals.push(performance.now());
        socket.write(chunk);
      });
    });
    const client = connect(await openLink(server));
    await once(client, 'connect');
    const sent: number[] = [];
    const returned: number[] = [];
    for (let count = 0; count < 5; count += 1) {
      sent.push(performance.now());
      client.write('x');
      await once(client, 'data');
      returned.push(performance.now());
    }
    for (const [index, sentMs] of sent.entries()) {
      expect(arrivals[index]! - sentMs).toBeGreaterThanOrEqual(DELAY_MS);
      expect(returned[index]! - arrivals[index]!).toBeGreaterThanOrEqual(DELAY_MS);
    }
  });

  it('lets what is sent later set out before what was sent earlier has arrived', async () => {
    let received = 0;
    const server = net.createServer((socket) => {
      socket.on('data', (chunk: Buffer) => {
        received += chunk.length;
      });
    });
    const link = await openLink(server, { delayMs: 500 });
    const accepted = once(server, 'connection') as Promise<[net.Socket]>;
    const client = connect(link);
    const [socket] = await accepted;
    let sent = 0;
    const timer = setInterval(() => {
      client.write('x');
      sent += 1;
    }, 5);
    onTestFinished(() => clearInterval(timer));
    await once(socket, 'data');
    // One at a time, it would be one.
    expect(sent - received).toBeGreaterThan(10);
  });

  it('passes on an end behind the last byte, while the other direction goes on', async () => {
    const server = net.createServer({ allowHalfOpen: true });
    const link = await openLink(server);
    const accepted = once(server, 'connection') as Promise<[net.Socket]>;
    const client = connect(link);
    const [socket] = await accepted;
    // The server has ended before the client says anything: the client's bytes are then the last on the link.
    socket.end('farewell');
    expect((await readAll(client)).toString()).toBe('farewell');
    const received = readAll(socket);
    client.end('the last word');
    expect((await received).toString()).toBe('the last word');
  });

  it('takes no more from a sender than may be on its way', async () => {
    const server = net.createServer({ pauseOnConnect: true });
    const inFlightMax = 1 << 20;
    const link = await openLink(server, { delayMs: 0, inFlightMax });
    const accepted = once(server, 'connection') as Promise<[net.Socket]>;
    const client = connect(link);
    const [receiver] = await accepted;
    // More than all buffers on the way together: the rest stays with the sender until the receiver reads.
    const size = 64 * 2 ** 20;
    let isSent = false;
    client.end(Buffer.alloc(size), () => {
      isSent = true;
    });
    for (let written = -1; written !== client.bytesWritten - client.writableLength; ) {
      written = client.bytesWritten - client.writableLength;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    expect(isSent).toBe(false);
    let read = 0;
    for await (const chunk of receiver as AsyncIterable<Buffer>) read += chunk.length;
    expect(read).toBe(size);
  });

  it('ends both sides when either is lost', async () => {
    const server = net.createServer((socket) => void socket.resetAndDestroy());
    const client = connect(await openLink(server), false);
    client.resume();
    await once(client, 'close');
    expect(client.destroyed).toBe(true);

    const other = net.createServer();
    const link = await openLink(other);
    const accepted = once(other, 'connection') as Promise<[net.Socket]>;
    const leaving = connect(link);
    const [socket] = await accepted;
    const closed = once(socket.on('error', () => undefined).resume(), 'close');
    leaving.write('something that is on its way');
    leaving.resetAndDestroy();
    await closed;
    expect(socket.destroyed).toBe(true);
  });
});
