import {
  BASE_ALLOCATION,
  Command,
  CommandFlag,
  type DataChunk,
  ErrorCode,
  encodeOptionGo,
  encodeRequest,
  type Reply,
  type ReplyMode,
  ReplyType,
} from 'nbd-protocol';
import { describe, expect, it } from 'vitest';
import { Failure, type FailureCode } from '../../../src/base/failure.ts';
import { BLOCK_STATUS_COST, DEFAULT_LIMITS, REQUEST_COST } from '../../../src/nbd/limits.ts';
import { serveInMemory, settle, until } from '../../support/nbd-in-memory.ts';
import { enter, gate } from '../../support/nbd-raw-client.ts';

const KIB = 1024;
const SIZE = 1024 * KIB;
const MODES: ReplyMode[] = ['simple', 'structured', 'extended'];

describe.each(MODES)('the transmission with %s replies', (mode) => {
  it('reads what was written, on any connection', async () => {
    const { connect } = await serveInMemory();
    const writer = await connect({ mode });
    const reader = await connect({ mode });
    const data = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251));
    await writer.write(12_345, data);
    expect((await reader.read(12_345, data.length)).equals(data)).toBe(true);
  });

  it.each([
    ['READ past the end', Command.READ, SIZE - 1, 2, ErrorCode.EINVAL],
    ['TRIM past the end', Command.TRIM, SIZE, 1, ErrorCode.EINVAL],
    ['CACHE past the end', Command.CACHE, SIZE, 1, ErrorCode.EINVAL],
    ['WRITE_ZEROES past the end', Command.WRITE_ZEROES, SIZE - 1, 2, ErrorCode.ENOSPC],
    ['READ far past the end', Command.READ, Number.MAX_SAFE_INTEGER - 1, 1, ErrorCode.EINVAL],
    ['an unknown command', 99, 0, 1, ErrorCode.EINVAL],
    ['FLUSH with a length', Command.FLUSH, 0, 1, ErrorCode.EINVAL],
    ['BLOCK_STATUS without a context', Command.BLOCK_STATUS, 0, 512, ErrorCode.EINVAL],
  ])('answers %s with an error', async (_, command, offset, length, error) => {
    const { errorOf } = await enter(mode);
    expect(await errorOf({ command, offset, length })).toBe(error);
    expect(await errorOf({ command: Command.FLUSH, length: 0 })).toBe(0);
  });

  it('answers a WRITE past the end with ENOSPC, and skips its payload', async () => {
    const { errorOf, disk } = await enter(mode);
    const before = disk.content();
    expect(await errorOf({ command: Command.WRITE, offset: SIZE - 100 }, Buffer.alloc(101, 1))).toBe(ErrorCode.ENOSPC);
    expect(await errorOf({ command: Command.FLUSH })).toBe(0);
    expect(disk.content().equals(before)).toBe(true);
  });

  it.each([
    ['READ', Command.READ, CommandFlag.NO_HOLE],
    ['WRITE_ZEROES', Command.WRITE_ZEROES, CommandFlag.DF],
    ['TRIM', Command.TRIM, CommandFlag.REQ_ONE],
    ['CACHE', Command.CACHE, CommandFlag.FAST_ZERO],
  ])('answers %s with a flag that is not its own with EINVAL', async (_, command, flags) => {
    const { errorOf } = await enter(mode);
    expect(await errorOf({ command, flags, length: 512 })).toBe(ErrorCode.EINVAL);
  });

  it('accepts FUA on every command', async () => {
    const { errorOf } = await enter(mode);
    for (const command of [Command.READ, Command.FLUSH, Command.TRIM, Command.CACHE, Command.WRITE_ZEROES]) {
      const length = command === Command.FLUSH ? 0 : 4096;
      expect(await errorOf({ command, flags: CommandFlag.FUA, length })).toBe(0);
    }
    expect(await errorOf({ command: Command.WRITE, flags: CommandFlag.FUA }, Buffer.alloc(512))).toBe(0);
  });

  it('answers requests of no length', async () => {
    const { errorOf } = await enter(mode);
    for (const command of [Command.READ, Command.WRITE, Command.TRIM, Command.CACHE, Command.WRITE_ZEROES]) {
      // With extended headers a WRITE must announce its payload, and there is none.
      const expected = mode === 'extended' && command === Command.WRITE ? [0, ErrorCode.EINVAL] : [0];
      expect(expected).toContain(await errorOf({ command, offset: 4096, length: 0 }));
    }
    expect(await errorOf({ command: Command.BLOCK_STATUS, length: 0 })).toBe(ErrorCode.EINVAL);
    expect(await errorOf({ command: Command.READ, length: 16 })).toBe(0);
  });

  it('refuses everything that writes to a read-only export with EPERM', async () => {
    const { errorOf, disk } = await enter(mode, { readOnly: true });
    expect(await errorOf({ command: Command.WRITE }, Buffer.alloc(512))).toBe(ErrorCode.EPERM);
    for (const command of [Command.TRIM, Command.WRITE_ZEROES]) {
      expect(await errorOf({ command, length: 512 })).toBe(ErrorCode.EPERM);
    }
    expect(await errorOf({ command: Command.FLUSH })).toBe(0);
    expect(await errorOf({ command: Command.READ, length: 512 })).toBe(0);
    expect(disk.counts).toMatchObject({ write: 0, zero: 0, punch: 0 });
  });

  it('answers later requests while an early one is slow', async () => {
    const served = await serveInMemory();
    const waiting = gate(served, (call, offset) => call === 'read' && offset === 0);
    const client = await served.connect({ mode });
    let slow: Buffer | undefined;
    const pending = client.read(0, 512).then((data) => {
      slow = data;
    });
    for (let index = 1; index < 50; index += 1) await client.read(index * 512, 512);
    await client.flush();
    expect(slow).toBeUndefined();
    waiting[0]!.go();
    await pending;
    expect(slow).toHaveLength(512);
  });

  it('answers many requests with one socket write', async () => {
    const { peer, network } = await enter(mode);
    const [stream] = network.accepted;
    const before = stream!.writes.length;
    const header = { command: Command.READ, cookieHigh: 0, offset: 0, length: 512 };
    const isExtended = mode === 'extended';
    peer.send(...Array.from({ length: 64 }, (_, index) => encodeRequest({ ...header, cookieLow: index }, isExtended)));
    await settle();
    expect(stream!.writes.length - before).toBe(1);
    expect(stream!.writes.at(-1)).toBeGreaterThan(64 * 512);
  });

  it('collects the answers of calls that finish in one turn', async () => {
    const served = await enter(mode);
    const waiting = gate(served, (call) => call === 'read');
    for (let index = 0; index < 32; index += 1) served.send({ command: Command.READ, offset: 0, length: 512 });
    await until(() => waiting.length === 32, 'all reads have begun');
    const [stream] = served.network.accepted;
    const before = stream!.writes.length;
    for (const { go } of waiting) go();
    expect(await served.replies()).toHaveLength(32);
    expect(stream!.writes.length - before).toBe(1);
  });

  it('makes what FUA wrote durable before it answers', async () => {
    const { connect, disk } = await serveInMemory();
    const client = await connect({ mode });
    await client.write(0, Buffer.alloc(4096, 1));
    expect(disk.durableContent()[0]).toBe(0);
    await client.write(8192, Buffer.alloc(4096, 2), { fua: true });
    expect(disk.durableContent()[8192]).toBe(2);
    await client.zero(8192, 4096, { fua: true });
    expect(disk.durableContent()[8192]).toBe(0);
    await client.write(8192, Buffer.alloc(4096, 3));
    await client.flush();
    expect(disk.durableContent().equals(disk.content())).toBe(true);
    await client.trim(8192, 4096, { fua: true });
    expect(disk.durableContent()[8192]).toBe(0);
  });

  it.each<[FailureCode, number]>([
    ['no-space', ErrorCode.ENOSPC],
    ['io-error', ErrorCode.EIO],
    ['not-permitted', ErrorCode.EPERM],
    ['invalid-request', ErrorCode.EINVAL],
    ['shutting-down', ErrorCode.ESHUTDOWN],
    ['overflow', ErrorCode.EINVAL],
    ['not-supported', ErrorCode.EINVAL],
    ['connection-lost', ErrorCode.EIO],
  ])('answers a write that failed with %s', async (code, error) => {
    const served = await enter(mode);
    for (const fails of [
      () => {
        throw new Failure(code, 'injected');
      },
      () => Promise.reject(new Failure(code, 'injected')),
    ]) {
      served.disk.hook = fails;
      expect(await served.errorOf({ command: Command.WRITE }, Buffer.alloc(512))).toBe(error);
    }
  });

  it('answers FAST_ZERO with ENOTSUP where zeroing would have to write', async () => {
    const { errorOf } = await enter(mode);
    const request = { command: Command.WRITE_ZEROES, flags: CommandFlag.FAST_ZERO, length: 512 };
    expect(await errorOf({ ...request, offset: 1 })).toBe(ErrorCode.ENOTSUP);
    expect(await errorOf({ ...request, length: 4096 })).toBe(0);
  });

  it('never touches the payload of a write again', async () => {
    const served = await serveInMemory();
    const held: Buffer[] = [];
    const { disk } = served;
    const write = disk.write.bind(disk);
    disk.write = (data, offset) => {
      held.push(data as Buffer);
      return write(data, offset);
    };
    const client = await served.connect({ mode });
    const fill = (index: number) => Buffer.alloc(1000 + index * 37, index + 1);
    await Promise.all(Array.from({ length: 100 }, (_, index) => client.write(index * 5000, fill(index))));
    for (let index = 0; index < 100; index += 1) await client.read(index * 5000, 5000);
    expect(held.every((data, index) => data.equals(fill(index)))).toBe(true);
  });
});

describe('a read of holes', () => {
  const READ = { command: Command.READ, offset: 0, length: 128 * KIB };

  async function withHole(mode: ReplyMode) {
    const served = await enter(mode);
    await served.disk.write(Buffer.alloc(16 * KIB, 1), 32 * KIB);
    return served;
  }

  it.each<ReplyMode>(['structured', 'extended'])('sends them as such with %s replies', async (mode) => {
    const { send, replies } = await withHole(mode);
    send(READ);
    const chunks = (await replies()) as (Reply & { kind: 'chunk' })[];
    expect(chunks.map(({ type, done }) => [type, done])).toEqual([
      [ReplyType.OFFSET_HOLE, false],
      [ReplyType.OFFSET_DATA, false],
      [ReplyType.OFFSET_HOLE, true],
    ]);
    expect(chunks[0]).toMatchObject({ offset: 0, length: 32 * KIB });
    expect(chunks[1]).toMatchObject({ offset: 32 * KIB });
    expect(Buffer.alloc(16 * KIB, 1).equals((chunks[1] as DataChunk).payload)).toBe(true);
    expect(chunks[2]).toMatchObject({ offset: 48 * KIB, length: 80 * KIB });
  });

  it('sends one hole when there is nothing else, and does not read the disk', async () => {
    const { send, replies, disk } = await withHole('structured');
    send({ ...READ, offset: 64 * KIB });
    expect(await replies()).toMatchObject([{ type: ReplyType.OFFSET_HOLE, done: true, length: 128 * KIB }]);
    expect(disk.counts.read).toBe(0);
  });

  it('sends one chunk of data with DF', async () => {
    const { send, replies } = await withHole('structured');
    send({ ...READ, flags: CommandFlag.DF });
    const [chunk, ...others] = await replies();
    expect(chunk).toMatchObject({ type: ReplyType.OFFSET_DATA, done: true, offset: 0 });
    expect(others).toEqual([]);
  });

  it('sends all data with simple replies, where DF is an error', async () => {
    const { send, replies, errorOf } = await withHole('simple');
    send(READ);
    const [reply] = (await replies()) as (Reply & { kind: 'simple' })[];
    expect(reply!.payload.length).toBe(128 * KIB);
    expect(await errorOf({ ...READ, flags: CommandFlag.DF })).toBe(ErrorCode.EINVAL);
  });

  it('is an error as a whole when a part cannot be read', async () => {
    const { errorOf, disk } = await withHole('structured');
    disk.hook = () => Promise.reject(new Failure('io-error', 'injected'));
    expect(await errorOf(READ)).toBe(ErrorCode.EIO);
  });

  it('is refused when it asks for more than the largest payload', async () => {
    const size = 64 * 1024 * KIB;
    const length = 33 * 1024 * KIB;
    const structured = await enter('structured', { size });
    expect(await structured.errorOf({ ...READ, length })).toBe(ErrorCode.EOVERFLOW);
    const simple = await enter('simple', { size });
    expect(await simple.errorOf({ ...READ, length })).toBe(ErrorCode.EINVAL);
  });
});

describe('BLOCK_STATUS', () => {
  async function fragmented(options: { mode?: ReplyMode } = {}) {
    const served = await serveInMemory();
    for (let page = 1; page < 8; page += 2) await served.disk.write(Buffer.alloc(4096, 1), page * 4096);
    const client = await served.connect({ mode: options.mode, contexts: [BASE_ALLOCATION] });
    return { ...served, client };
  }

  it.each<ReplyMode>(['structured', 'extended'])('tells holes from data with %s replies', async (mode) => {
    const { client } = await fragmented({ mode });
    const extents = (await client.blockStatus(0, 5 * 4096)).get(BASE_ALLOCATION)!;
    expect(extents.map(({ length, flags }) => [length, flags])).toEqual([
      [4096, 3],
      [4096, 0],
      [4096, 3],
      [4096, 0],
      [4096, 3],
    ]);
  });

  it('answers one extent within the request for REQ_ONE', async () => {
    const { client } = await fragmented();
    const extents = (await client.blockStatus(100, 1000, { one: true })).get(BASE_ALLOCATION)!;
    expect(extents).toMatchObject([{ length: 1000, flags: 3 }]);
  });

  it('answers the contexts that the payload names, and refuses others', async () => {
    const { client } = await fragmented({ mode: 'extended' });
    const [id] = client.agreed.contexts.keys();
    const answered = await client.blockStatus(0, 4096, { contextIds: [id!] });
    expect([...answered.keys()]).toEqual([BASE_ALLOCATION]);
    await expect(client.blockStatus(0, 4096, { contextIds: [id!, 4711] })).rejects.toMatchObject({
      code: 'invalid-request',
    });
  });

  it('is refused past the end', async () => {
    const { client } = await fragmented();
    await expect(client.blockStatus(SIZE - 1, 2)).rejects.toMatchObject({ code: 'invalid-request' });
  });
});

describe('bytes in flight', () => {
  const LENGTH = 8 * KIB;
  const COST = LENGTH + REQUEST_COST;

  it('are bounded on one connection: past the bound its socket is not read', async () => {
    const served = await serveInMemory({ limits: { connectionInFlight: 4 * COST } });
    const waiting = gate(served, (call) => call === 'write');
    const client = await served.connect();
    const writes = Array.from({ length: 20 }, (_, index) => client.write(index * LENGTH, Buffer.alloc(LENGTH, 1)));
    await settle();
    expect(waiting).toHaveLength(4);
    expect(served.network.accepted[0]!.isPaused).toBe(true);
    expect(served.server.connections()[0]).toMatchObject({ requestsInFlight: 4, bytesInFlight: 4 * COST });
    for (let done = 0; done < 20; done += 1) {
      await until(() => waiting.length > 0, 'the next write begins');
      expect(waiting.length).toBeLessThanOrEqual(4);
      waiting.shift()!.go();
      await settle();
    }
    await Promise.all(writes);
    expect(served.network.accepted[0]!.isPaused).toBe(false);
    expect(served.server.connections()[0]!.bytesInFlight).toBe(0);
  });

  it('are bounded for all connections together, and go round', async () => {
    const served = await serveInMemory({ limits: { serverInFlight: 3 * COST } });
    const waiting = gate(served, (call) => call === 'read');
    const clients = await Promise.all([served.connect(), served.connect(), served.connect()]);
    const reads = clients.flatMap((client) =>
      Array.from({ length: 10 }, (_, index) => client.read(index * 512, LENGTH)),
    );
    await settle();
    expect(waiting).toHaveLength(3);
    for (let done = 0; done < 30; done += 1) {
      await until(() => waiting.length > 0, 'the next read begins');
      expect(waiting.length).toBeLessThanOrEqual(3);
      waiting.shift()!.go();
      await settle(5);
    }
    await Promise.all(reads);
    await settle();
    expect(served.server.connections().map(({ bytesInFlight }) => bytesInFlight)).toEqual([0, 0, 0]);
  });

  it('let a request pass that is larger than the bound, alone', async () => {
    const { connect } = await serveInMemory({ limits: { connectionInFlight: 1000, serverInFlight: 1000 } });
    const client = await connect();
    const data = Buffer.alloc(500 * KIB, 3);
    await Promise.all([client.write(0, data), client.write(1, data), client.flush()]);
    expect((await client.read(1, data.length)).equals(data)).toBe(true);
  });

  it('count what a client does not read: memory does not grow', async () => {
    const limit = 20 * (64 * KIB + REQUEST_COST);
    const served = await enter('simple', { limits: { connectionInFlight: limit } });
    const { peer, server, network } = served;
    peer.stream.pause();
    for (let count = 0; count < 200; count += 1) served.send({ command: Command.READ, length: 64 * KIB });
    await settle(500);
    const [status] = server.connections();
    expect(status!.bytesInFlight).toBeLessThanOrEqual(limit);
    expect(network.accepted[0]!.isPaused).toBe(true);
    expect(network.accepted[0]!.bytesWritten).toBeLessThan(30 * 64 * KIB);
    peer.stream.resume();
    let answered = 0;
    for (let round = 0; round < 40; round += 1) answered += (await served.replies()).length;
    expect(answered).toBe(200);
    expect(server.connections()[0]!.bytesInFlight).toBe(0);
  });

  it('are taken for a payload before it has arrived, and given back when the client goes', async () => {
    const served = await enter('simple');
    const header = { command: Command.WRITE, cookieHigh: 0, cookieLow: 1, offset: 0, length: 512 * KIB };
    served.peer.send(encodeRequest(header, false), Buffer.alloc(1000));
    await settle();
    expect(served.server.connections()[0]).toMatchObject({
      requestsInFlight: 0,
      bytesInFlight: 512 * KIB + REQUEST_COST,
    });
    served.peer.stream.destroy();
    await settle();
    expect(served.server.connections()).toEqual([]);
    await (await served.connect()).write(0, Buffer.alloc(SIZE));
  });

  it('wait for a payload in their turn: one that does not move on is cut off', async () => {
    const limits = { serverInFlight: 600 * KIB, payloadStallMs: 1000 };
    const served = await enter('simple', { limits });
    const header = { command: Command.WRITE, cookieHigh: 0, cookieLow: 1, offset: 0, length: 512 * KIB };
    served.peer.send(encodeRequest(header, false), Buffer.alloc(1000));
    await settle();
    const other = await served.connect();
    let isWritten = false;
    const write = other.write(0, Buffer.alloc(512 * KIB, 9)).then(() => {
      isWritten = true;
    });
    await settle();
    served.clock.advance(900);
    served.peer.send(Buffer.alloc(1000));
    await settle();
    served.clock.advance(900);
    await settle();
    expect([isWritten, served.peer.isClosed]).toEqual([false, false]);
    served.clock.advance(1000);
    await write;
    await settle();
    expect(served.peer.isClosed).toBe(true);
  });

  it('wait for a payload that itself had to wait: it is watched all the same', async () => {
    const limits = { serverInFlight: 512 * KIB + REQUEST_COST, payloadStallMs: 1000 };
    const served = await enter('simple', { limits });
    const waiting = gate(served, (call) => call === 'write');
    const other = await served.connect();
    const write = other.write(0, Buffer.alloc(LENGTH, 9));
    await until(() => waiting.length === 1, 'the other write has begun');
    const header = { command: Command.WRITE, cookieHigh: 0, cookieLow: 1, offset: 0, length: 512 * KIB };
    served.peer.send(encodeRequest(header, false), Buffer.alloc(1000));
    await settle();
    waiting[0]!.go();
    await write;
    await settle();
    expect(served.server.connections()[0]).toMatchObject({ bytesInFlight: 512 * KIB + REQUEST_COST });
    served.clock.advance(1000);
    await served.peer.closed();
  });

  it('wait for clients to read: one that does not is cut off, so that the others are served', async () => {
    const limits = { connectionInFlight: 512 * KIB, serverInFlight: 512 * KIB };
    const served = await enter('simple', { limits });
    const { peer, clock, server, lines } = served;
    peer.stream.pause();
    for (let count = 0; count < 20; count += 1) served.send({ command: Command.READ, length: 256 * KIB });
    await settle();
    const other = await served.connect();
    let isRead = false;
    const read = other.read(0, 512 * KIB - REQUEST_COST).then(() => {
      isRead = true;
    });
    await settle();
    clock.advance(DEFAULT_LIMITS.replyStallMs - 1);
    await settle();
    expect([isRead, peer.isClosed, server.connections().length]).toEqual([false, false, 2]);
    clock.advance(1);
    await read;
    await peer.closed();
    expect(lines.some(({ level, message }) => level === 'warn' && message.includes('does not read replies'))).toBe(
      true,
    );
    expect(server.connections()).toHaveLength(1);
  });

  it('wait for a client that reads slowly as long as it reads', async () => {
    const served = await enter('simple', { limits: { connectionInFlight: 512 * KIB } });
    const { peer, clock } = served;
    peer.stream.pause();
    for (let count = 0; count < 20; count += 1) served.send({ command: Command.READ, length: 256 * KIB });
    await settle();
    for (let minute = 0; minute < 5; minute += 1) {
      const { bytesRead } = peer.stream;
      peer.stream.resume();
      await until(() => peer.stream.bytesRead > bytesRead, 'the client has read something');
      peer.stream.pause();
      await settle();
      clock.advance(DEFAULT_LIMITS.replyStallMs);
      await settle();
    }
    expect(peer.isClosed).toBe(false);
    peer.stream.resume();
    let answered = 0;
    for (let round = 0; round < 40; round += 1) answered += (await served.replies()).length;
    expect(answered).toBe(20);
    // It has nothing left to read: nobody waits for it any more.
    clock.advance(10 * DEFAULT_LIMITS.replyStallMs);
    await settle();
    expect(peer.isClosed).toBe(false);
  });

  it('hold for BLOCK_STATUS too', async () => {
    const served = await serveInMemory({ limits: { connectionInFlight: 2 * BLOCK_STATUS_COST } });
    const client = await served.connect({ contexts: [BASE_ALLOCATION] });
    const answers = await Promise.all(Array.from({ length: 30 }, () => client.blockStatus(0, SIZE)));
    expect(answers.map((answer) => answer.get(BASE_ALLOCATION)!.length)).toEqual(Array.from({ length: 30 }, () => 1));
  });
});

describe('the end of a connection', () => {
  it('by DISC comes after every outstanding request has been answered', async () => {
    const served = await enter('structured');
    const waiting = gate(served, (call) => call === 'read');
    served.send({ command: Command.READ, length: 512 });
    served.send({ command: Command.READ, length: 512 });
    served.send({ command: Command.DISC });
    await until(() => waiting.length === 2, 'both reads have begun');
    expect(served.peer.isClosed).toBe(false);
    waiting[0]!.go();
    waiting[1]!.go();
    expect(await served.replies()).toHaveLength(2);
    await served.peer.closed();
    expect(served.server.connections()).toEqual([]);
  });

  it('ignores what comes after DISC', async () => {
    const served = await enter('simple');
    served.send({ command: Command.DISC });
    served.send({ command: Command.WRITE }, Buffer.alloc(512, 1));
    await served.peer.closed();
    expect(served.disk.counts.write).toBe(0);
  });

  it('by the client’s end of the socket comes after its requests have been answered', async () => {
    const served = await enter('structured');
    const waiting = gate(served, (call) => call === 'read');
    served.send({ command: Command.READ, length: 512 });
    await until(() => waiting.length === 1, 'the read has begun');
    served.peer.stream.end();
    await settle();
    waiting[0]!.go();
    expect(await served.replies()).toHaveLength(1);
    await served.peer.closed();
  });

  it('by a lost socket counts only when its requests have finished', async () => {
    const served = await enter('simple');
    const waiting = gate(served, (call) => call === 'write');
    served.send({ command: Command.WRITE }, Buffer.alloc(512, 1));
    await until(() => waiting.length === 1, 'the write has begun');
    served.peer.stream.destroy();
    await settle();
    expect(served.server.connections()).toMatchObject([{ phase: 'gone', requestsInFlight: 1 }]);
    waiting[0]!.go();
    await settle();
    expect(served.server.connections()).toEqual([]);
    expect(served.disk.content()[0]).toBe(1);
  });

  it('by a lost socket leaves the order of overlapping writes as they came, old connection first', async () => {
    const served = await enter('simple');
    const waiting = gate(served, (call) => call === 'write');
    served.send({ command: Command.WRITE }, Buffer.alloc(512, 1));
    await until(() => waiting.length === 1, 'the old write has begun');
    served.peer.stream.destroy();
    await settle();
    const client = await served.connect();
    const write = client.write(0, Buffer.alloc(512, 2));
    await settle();
    expect(waiting).toHaveLength(1);
    waiting[0]!.go();
    await settle();
    waiting[1]!.go();
    await write;
    expect(served.disk.content()[0]).toBe(2);
  });

  it('comes at once on a request that is none, and the log says so', async () => {
    const { peer, lines } = await enter('simple');
    peer.send(Buffer.from('this is not a request, however long it gets'));
    await peer.closed();
    expect(lines.some(({ level, message }) => level === 'warn' && message.includes('broke the protocol'))).toBe(true);
  });

  it('cuts off a client that does not follow', async () => {
    const served = await enter('simple');
    const { stream } = served.peer;
    stream.pause();
    served.send({ command: Command.DISC });
    await settle();
    expect(served.server.connections()).toMatchObject([{ phase: 'ending' }]);
    served.clock.advance(10_000);
    await settle();
    expect(served.server.connections()).toEqual([]);
  });
});

describe('closing the server', () => {
  it('answers what is in flight, refuses what comes later with ESHUTDOWN, then ends the connections', async () => {
    const served = await enter('structured');
    const waiting = gate(served, (call) => call === 'write');
    served.send({ command: Command.WRITE }, Buffer.alloc(512, 1));
    await until(() => waiting.length === 1, 'the write has begun');
    let isClosed = false;
    const closed = served.server.close(1000).then(() => {
      isClosed = true;
    });
    expect(await served.errorOf({ command: Command.READ, length: 512 })).toBe(ErrorCode.ESHUTDOWN);
    expect(isClosed).toBe(false);
    await expect(served.network.connect({ kind: 'unix', path: 'nbd' })).rejects.toMatchObject({
      code: 'peer-unreachable',
    });
    waiting[0]!.go();
    expect(await served.replies()).toMatchObject([{ type: ReplyType.NONE, done: true }]);
    await closed;
    await served.peer.closed();
    expect(served.disk.content()[0]).toBe(1);
  });

  it('ends idle clients at once', async () => {
    const served = await serveInMemory();
    const client = await served.connect();
    await served.server.close(1000);
    await expect(client.flush()).rejects.toMatchObject({ code: 'connection-lost' });
  });

  it('refuses what was waiting for room, and does not wait for anything else', async () => {
    const served = await enter('simple', { limits: { connectionInFlight: 512 + REQUEST_COST } });
    const waiting = gate(served, (call) => call === 'write');
    served.send({ command: Command.WRITE }, Buffer.alloc(512, 1));
    served.send({ command: Command.WRITE, offset: 4096 }, Buffer.alloc(512, 1));
    await settle();
    expect(waiting).toHaveLength(1);
    const closed = served.server.close(1000);
    waiting[0]!.go();
    expect(await served.replies()).toMatchObject([{ error: 0 }, { error: ErrorCode.ESHUTDOWN }]);
    await closed;
    expect(served.disk.counts.write).toBe(1);
  });

  it('cuts off what has not drained in time', async () => {
    const served = await enter('simple');
    const waiting = gate(served, (call) => call === 'write');
    served.send({ command: Command.WRITE }, Buffer.alloc(512, 1));
    await until(() => waiting.length === 1, 'the write has begun');
    const sentBefore = served.peer.received.length;
    const closed = served.server.close(1000);
    served.clock.advance(1000);
    await closed;
    await served.peer.closed();
    expect(served.peer.received.length).toBe(sentBefore);
  });

  it('tells a client in the handshake that it is stopping, and does not wait for it for long', async () => {
    const served = await serveInMemory();
    const peer = await served.connectRaw();
    await peer.greet();
    await settle();
    const closed = served.server.close(60_000);
    const [reply] = await peer.ask(encodeOptionGo('disk'));
    expect(reply).toMatchObject({ kind: 'option-error', message: 'the server is stopping' });
    served.clock.advance(1000);
    await closed;
  });
});
