import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { ThrottledLink } from '../../bench/scenarios/throttled-link.ts';
import { TokenBucket } from '../../bench/scenarios/token-bucket.ts';
import { digest, readAll } from './sockets.ts';

describe('a token bucket', () => {
  it('gives no more than the rate and one burst in any span of time', () => {
    const steps = fc.array(fc.record({ passMs: fc.nat(200), least: fc.nat(100), most: fc.nat(5000) }), {
      minLength: 1,
      maxLength: 60,
    });
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 100_000 }),
        fc.integer({ min: 1, max: 10_000 }),
        steps,
        (rate, burst, all) => {
          const bucket = new TokenBucket(rate, burst, 0);
          let nowMs = 0;
          const takes = all.map(({ passMs, least, most }) => {
            nowMs += passMs;
            const taken = bucket.take(Math.min(least, most, burst), most, nowMs);
            expect(taken).toBeLessThanOrEqual(most);
            return { nowMs, taken };
          });
          for (const [from, first] of takes.entries()) {
            let sum = 0;
            for (const { nowMs: atMs, taken } of takes.slice(from)) {
              sum += taken;
              expect(sum).toBeLessThanOrEqual((rate * (atMs - first.nowMs)) / 1000 + burst + 1e-6 * rate);
            }
          }
        },
      ),
    );
  });

  it('wastes nothing while somebody takes all there is', () => {
    const bucket = new TokenBucket(1000, 100, 0);
    let taken = 0;
    for (let nowMs = 0; nowMs <= 10_000; nowMs += 7) taken += bucket.take(1, 1000, nowMs);
    expect(taken).toBeGreaterThanOrEqual(100 + 9990);
  });

  it('says how long to wait, and has the tokens then', () => {
    const bucket = new TokenBucket(1000, 100, 0);
    expect(bucket.take(1, 1000, 0)).toBe(100);
    expect(bucket.take(1, 1000, 0)).toBe(0);
    expect(bucket.waitMs(50)).toBe(50);
    expect(bucket.take(50, 1000, 49)).toBe(0);
    expect(bucket.waitMs(50)).toBe(1);
    expect(bucket.take(50, 1000, 50)).toBe(50);
  });
});

/** A server that keeps what it gets and answers with `answer` when the client has ended. */
async function listen(answer: Buffer): Promise<{ port: number; received: Promise<Buffer> }> {
  const server = net.createServer({ allowHalfOpen: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const received = (async () => {
    const [socket] = (await once(server, 'connection')) as [net.Socket];
    const bytes = await readAll(socket);
    socket.end(answer);
    return bytes;
  })();
  return { port: (server.address() as net.AddressInfo).port, received };
}

describe('the throttled link', () => {
  it('carries both directions unchanged, passes on their ends, and counts every byte', async () => {
    const question = randomBytes(300_000);
    const answer = randomBytes(200_000);
    const { port, received } = await listen(answer);
    const link = await ThrottledLink.open(port, 2_000_000);
    onTestFinished(() => link.close());
    const client = net.connect({ port: link.port, host: '127.0.0.1', allowHalfOpen: true });
    client.end(question);
    const answered = await readAll(client);
    expect(digest(await received)).toBe(digest(question));
    expect(digest(answered)).toBe(digest(answer));
    expect(link.carried).toEqual({ toTarget: question.length, toClient: answer.length });
    expect(link.connections).toBe(1);
    // Five milliseconds of the rate at a time, or all that waits: not a few bytes whenever there are a few tokens.
    expect(link.pieces.toTarget).toBeLessThan(question.length / 2000);
  });

  it('takes no more from a sender than its tokens and the receiver allow', async () => {
    const server = net.createServer({ pauseOnConnect: true });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const accepted = once(server, 'connection');
    onTestFinished(() => void server.close());
    const link = await ThrottledLink.open((server.address() as net.AddressInfo).port, 1e12);
    onTestFinished(() => link.close());
    const client = net.connect(link.port, '127.0.0.1');
    onTestFinished(() => void client.destroy());
    client.on('error', () => undefined);
    // More than all buffers on the way together: the rest stays with the sender until the receiver reads.
    const size = 256 * 2 ** 20;
    client.end(Buffer.alloc(size));
    const [receiver] = (await accepted) as [net.Socket];
    for (let carried = -1; carried !== link.carried.toTarget; ) {
      carried = link.carried.toTarget;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    expect(link.carried.toTarget).toBeLessThan(size / 2);
    let read = 0;
    for await (const chunk of receiver as AsyncIterable<Buffer>) read += chunk.length;
    expect(read).toBe(size);
  });

  it('ends both sides when one is lost', async () => {
    const server = net.createServer((socket) => void socket.resetAndDestroy());
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    onTestFinished(() => void server.close());
    const link = await ThrottledLink.open((server.address() as net.AddressInfo).port, 1000);
    onTestFinished(() => link.close());
    const client = net.connect(link.port, '127.0.0.1');
    client.on('error', () => undefined).resume();
    await once(client, 'close');
    expect(client.destroyed).toBe(true);
  });
});
