import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import { newByteRing, RingReader } from '../../../src/io/byte-ring.ts';
import { RING_CAPACITY, RING_LOW_SIZE, TAKEN_SIZE, type ToThread } from '../../../src/io/link-thread-messages.ts';
import { LinkThread } from '../../../src/io/threaded-link.ts';
import { ThreadedStream } from '../../../src/io/threaded-stream.ts';
import { collect } from './stream-helpers.ts';

const ID = 7;

/** A stream whose thread is the test. */
function newStream() {
  const said: ToThread['type'][] = [];
  const stream = new ThreadedStream(ID, newByteRing(RING_CAPACITY), ({ type }) => said.push(type));
  stream.connected('mirror:7070', 'nbdtwin');
  const reader = new RingReader(stream.ring);
  /** As the thread does: takes what is there, and tells when the stream waits for that. */
  const pass = (): Buffer => {
    const bytes = Buffer.concat(reader.take());
    if (reader.free(bytes.length, RING_LOW_SIZE)) stream.take({ type: 'room', id: ID });
    return bytes;
  };
  const tell = (text: string): void => stream.take({ type: 'data', id: ID, bytes: new Uint8Array(Buffer.from(text)) });
  return { stream, said, reader, pass, tell };
}

describe('a stream whose socket is in a thread', () => {
  it('wakes the thread only while it sleeps', () => {
    const { stream, said, reader, pass } = newStream();
    reader.sleep();
    stream.write([Buffer.from('a')]);
    stream.write([Buffer.from('b'), Buffer.from('c')]);
    expect(said).toEqual(['wake']);
    expect(pass().toString()).toBe('abc');
    expect([stream.bytesWritten, stream.queuedSize]).toEqual([3, 0]);
  });

  it('asks to wait when a MiB waits, and tells when there is room', async () => {
    const { stream, pass } = newStream();
    const collected = collect(stream);
    expect(stream.write([Buffer.alloc(MIB - 1)])).toBe(true);
    expect(stream.write([Buffer.alloc(1)])).toBe(false);
    expect(collected.events).toEqual([]);
    pass();
    expect(collected.events).toEqual(['drain']);
  });

  it('keeps what is larger than the ring, and passes all of it on, in order', () => {
    const { stream, said, pass } = newStream();
    const collected = collect(stream);
    const data = randomBytes(3 * RING_CAPACITY + 5 * KIB);
    expect(stream.write([data.subarray(0, 100), data.subarray(100)])).toBe(false);
    const more = randomBytes(1000);
    expect(stream.write([more])).toBe(false);
    stream.end();
    expect(stream.queuedSize).toBe(data.length + more.length);
    expect(said).not.toContain('end');
    const passed: Buffer[] = [];
    for (let bytes = pass(); bytes.length > 0; bytes = pass()) passed.push(bytes);
    expect(Buffer.concat(passed).equals(Buffer.concat([data, more]))).toBe(true);
    expect(said.at(-1)).toBe('end');
    expect(stream.queuedSize).toBe(0);
    expect(collected.events).toEqual(['drain']);
  });

  it('tells what came before it was received, in order', async () => {
    const { stream, tell } = newStream();
    tell('a');
    stream.take({ type: 'end', id: ID });
    stream.take({ type: 'closed', id: ID, failure: undefined });
    const collected = collect(stream);
    expect(collected.events).toEqual([]);
    expect(await collected.closed).toBeUndefined();
    expect(collected.events).toEqual(['data', 'end', 'close']);
    expect(collected.data().toString()).toBe('a');
  });

  it('holds back what comes while it is paused, but not the loss', async () => {
    const { stream, said, tell } = newStream();
    const collected = collect(stream);
    stream.pause();
    tell('a');
    tell('b');
    expect(collected.events).toEqual([]);
    stream.resume();
    await collected.received(2);
    expect([collected.data().toString(), said]).toEqual(['ab', []]);
    stream.pause();
    tell('c');
    stream.take({ type: 'closed', id: ID, failure: { code: 'connection-lost', message: 'reset' } });
    expect(await collected.closed).toMatchObject({ code: 'connection-lost', message: 'reset' });
    expect(collected.data().toString()).toBe('ab');
  });

  it('goes on holding back when it is paused again in the middle of what was held', async () => {
    const { stream, tell } = newStream();
    const seen: string[] = [];
    stream.receive({
      data: (chunk) => {
        seen.push(chunk.toString());
        stream.pause();
      },
      drain() {},
      end() {},
      close() {},
    });
    stream.pause();
    tell('a');
    tell('b');
    stream.resume();
    await Promise.resolve();
    tell('c');
    expect(seen).toEqual(['a']);
    stream.resume();
    await Promise.resolve();
    stream.resume();
    await Promise.resolve();
    expect(seen).toEqual(['a', 'b', 'c']);
  });

  it('lets go of what it holds when it is destroyed while paused', async () => {
    const { stream, tell } = newStream();
    const collected = collect(stream);
    stream.pause();
    tell('a');
    stream.destroy();
    stream.take({ type: 'closed', id: ID, failure: undefined });
    expect(await collected.closed).toBeUndefined();
    expect(collected.events).toEqual(['close']);
  });

  it('is closed when it is destroyed behind an end that a pause holds back', async () => {
    const { stream, said, tell } = newStream();
    const collected = collect(stream);
    stream.pause();
    tell('a');
    stream.take({ type: 'end', id: ID });
    stream.take({ type: 'closed', id: ID, failure: undefined });
    expect(collected.events).toEqual([]);
    stream.destroy();
    expect(await collected.closed).toBeUndefined();
    expect([collected.events, said]).toEqual([['close'], []]);
  });

  it('leaves the ring alone once the thread has closed it', () => {
    const { stream, reader } = newStream();
    const collected = collect(stream);
    stream.pause();
    stream.take({ type: 'closed', id: ID, failure: undefined });
    expect(stream.write([Buffer.from('late')])).toBe(false);
    stream.end();
    expect([reader.take(), stream.queuedSize, collected.events]).toEqual([[], 0, []]);
  });

  it('passes on many small pieces as fast as few large ones', () => {
    const { stream, pass } = newStream();
    collect(stream);
    stream.write([Buffer.alloc(RING_CAPACITY)]);
    const count = 300_000;
    const piece = Buffer.alloc(32, 7);
    for (let index = 0; index < count; index += 1) stream.write([piece]);
    let size = 0;
    for (let bytes = pass(); bytes.length > 0; bytes = pass()) size += bytes.length;
    expect(size).toBe(RING_CAPACITY + count * piece.length);
    stream.pause();
    const one = new Uint8Array(1);
    for (let index = 0; index < count; index += 1) stream.take({ type: 'data', id: ID, bytes: one });
    stream.resume();
  });

  it('tells the thread now and then how much it has taken, and nothing while it is paused', () => {
    const { stream, said } = newStream();
    collect(stream);
    const bytes = new Uint8Array(TAKEN_SIZE / 2);
    stream.take({ type: 'data', id: ID, bytes });
    expect(said).toEqual([]);
    stream.take({ type: 'data', id: ID, bytes });
    expect(said).toEqual(['taken']);
    stream.pause();
    for (let count = 0; count < 4; count += 1) stream.take({ type: 'data', id: ID, bytes });
    expect(said).toEqual(['taken']);
  });

  it('tells nothing more but its end once destroyed, with the first reason', async () => {
    const { stream, said, tell } = newStream();
    const collected = collect(stream);
    stream.write([Buffer.alloc(2 * RING_CAPACITY)]);
    stream.destroy(new Error('ours'));
    stream.destroy(new Error('later'));
    tell('a');
    expect(stream.write([Buffer.from('x')])).toBe(false);
    expect(said.filter((type) => type === 'destroy')).toHaveLength(1);
    stream.take({ type: 'room', id: ID });
    stream.take({ type: 'closed', id: ID, failure: { code: 'connection-lost', message: 'theirs' } });
    expect(await collected.closed).toMatchObject({ message: 'ours' });
    expect(collected.events).toEqual(['close']);
  });
});

describe('the thread of the link', () => {
  const ADDRESS = { kind: 'tcp', host: '127.0.0.1', port: 1 } as const;
  const TLS = { keys: [{ identity: 'nbdtwin', key: randomBytes(32) }] };
  /** A thread that answers each message with what `answer` makes of it. */
  const fakeThread = (answer: string): URL =>
    new URL(
      `data:text/javascript,${encodeURIComponent(`import { parentPort } from 'node:worker_threads'; parentPort.on('message', (message) => { ${answer} });`)}`,
    );

  it('uses the rings of streams that have gone again, emptied', async () => {
    const answer = `const { id } = message;
      if (message.type === 'connect') {
        parentPort.postMessage({ type: 'connected', id, peerName: [...new Int32Array(message.ring, 0, 2)].join() });
        new Int32Array(message.ring).fill(9, 0, 2);
      } else parentPort.postMessage({ type: 'closed', id });`;
    const thread = new LinkThread(() => {}, fakeThread(answer));
    const rings = new Set<SharedArrayBuffer>();
    for (let round = 0; round < 5; round += 1) {
      const stream = await thread.connect(ADDRESS, TLS, 1000);
      expect(stream.peerName).toBe('0,0');
      rings.add((stream as ThreadedStream).ring);
      const collected = collect(stream);
      stream.destroy();
      await collected.closed;
    }
    expect(rings.size).toBe(1);
  });

  it('may still say something after it has died', async () => {
    const answer = `for (let id = 0; id < 1000; id += 1) parentPort.postMessage({ type: 'room', id: message.id });
      throw new Error('a bug');`;
    for (let round = 0; round < 10; round += 1) {
      const thread = new LinkThread(() => {}, fakeThread(answer));
      await expect(thread.connect(ADDRESS, TLS, 1000)).rejects.toMatchObject({ code: 'connection-lost' });
    }
  });

  it('fails the connection under way when it dies', async () => {
    let died = 0;
    const thread = new LinkThread(() => (died += 1), fakeThread(`throw new Error('a bug')`));
    await expect(thread.connect(ADDRESS, TLS, 1000)).rejects.toMatchObject({
      code: 'connection-lost',
      message: expect.stringContaining('the thread of the link ended: Error: a bug') as unknown,
    });
    expect(died).toBe(1);
  });

  it('is given up, with its streams, when it does not answer', async () => {
    let died = 0;
    const answer = `if (message.timeoutMs === 1) while (true);
      else parentPort.postMessage({ type: 'connected', id: message.id, peerName: 'mirror' });`;
    const thread = new LinkThread(() => (died += 1), fakeThread(answer));
    const collected = collect(await thread.connect(ADDRESS, TLS, 1000));
    await expect(thread.connect(ADDRESS, TLS, 1)).rejects.toMatchObject({ code: 'connection-lost' });
    expect(await collected.closed).toMatchObject({ message: 'the thread of the link ended: it hung' });
    expect(died).toBe(1);
  });

  it('takes its streams with it when it dies', async () => {
    const answer = `if (message.type === 'connect') parentPort.postMessage({ type: 'connected', id: message.id, peerName: 'mirror' }); else process.exit(3);`;
    const thread = new LinkThread(() => {}, fakeThread(answer));
    const collected = collect(await thread.connect(ADDRESS, TLS, 1000));
    collected.stream.end();
    expect(await collected.closed).toMatchObject({ code: 'connection-lost' });
  });
});
