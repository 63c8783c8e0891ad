import { join } from 'node:path';
import { Command, CommandFlag, encodeRequest } from 'nbd-protocol';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { silentLog } from '../../../src/base/log.ts';
import { systemClock } from '../../../src/io/clock.ts';
import type { Address } from '../../../src/io/network.ts';
import { nodeNetwork } from '../../../src/io/node-network.ts';
import { DEFAULT_LIMITS, type NbdLimits, REQUEST_COST } from '../../../src/nbd/limits.ts';
import { type NbdServer, startNbdServer } from '../../../src/nbd/server.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { OrderedVolume } from '../../../src/volume/ordered-volume.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import type { LogLine } from '../../support/memory-log.ts';
import { settle, until } from '../../support/nbd-in-memory.ts';
import { enter, gate } from '../../support/nbd-raw-client.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { KEY, PATIENCE, Visitor } from './visitor.ts';

const KIB = 1024;
/** Where the disk hangs: two reads there use up what a connection may have in flight. */
const SLOW = [0, 128 * KIB] as const;
const SLOW_LENGTH = 64 * KIB;
const IN_FLIGHT_MAX = 2 * (SLOW_LENGTH + REQUEST_COST);
/** The request that waits until both have finished, and those that wait behind it, in the server and in the kernel. */
const STALLED = 512 * KIB;
const STALLED_LENGTH = 72 * KIB;
const BEHIND = 700 * KIB;
const BEHIND_COUNT = 6;
const LENGTH = 8 * KIB;

const ADDRESSES = {
  tcp: (): Address => ({ kind: 'tcp', host: '127.0.0.1', port: 0 }),
  unix: (): Address => ({ kind: 'unix', path: join(temporaryFolder(), 'nbd') }),
};
type Transport = keyof typeof ADDRESSES;

/** A server on real sockets whose disk does not finish what begins at `SLOW`, until told to. */
async function serve(transport: Transport, isEncrypted: boolean) {
  const disk = new MemoryDisk(1024 * KIB);
  const release = new Map<number, () => void>();
  const begun: number[] = [];
  disk.hook = (call, offset) => {
    if (call === 'sync') return;
    begun.push(offset);
    if (!SLOW.some((slow) => slow === offset)) return;
    return new Promise<void>((resolve) => release.set(offset, resolve));
  };
  const volume = new OrderedVolume(new DiskVolume(disk));
  const server = await startNbdServer({
    network: nodeNetwork,
    clock: systemClock,
    log: silentLog,
    exports: [{ name: 'disk', description: '', volume, isDefault: true }],
    listeners: [ADDRESSES[transport]()],
    tls: isEncrypted ? 'require' : 'off',
    nbdTls: isEncrypted ? { keys: [KEY] } : undefined,
    limits: { connectionInFlight: IN_FLIGHT_MAX },
  });
  onTestFinished(async () => {
    for (const go of release.values()) go();
    await server.close(0);
  });
  const byteAt = (offset: number): number => disk.content()[offset]!;
  return { server, disk, begun, byteAt, release: (offset: number) => release.get(offset)!() };
}

/** A client that has used up what it may have in flight, and has sent more. */
async function crowd(transport: Transport, isEncrypted = false) {
  const served = await serve(transport, isEncrypted);
  const visitor = await Visitor.enter(served.server, isEncrypted);
  for (const offset of SLOW) visitor.sendRead(offset, SLOW_LENGTH);
  visitor.send(STALLED, STALLED_LENGTH, 0xaa);
  for (let index = 0; index < BEHIND_COUNT; index += 1) visitor.send(BEHIND + index * LENGTH, LENGTH, 0xcc);
  await visitor.sent();
  await vi.waitFor(() => expect(served.begun).toEqual([...SLOW]), PATIENCE);
  return { ...served, visitor };
}

/** Every way to leave: the client's end, its close, a reset. */
const LEAVE = {
  'ends its direction': (visitor: Visitor) => void visitor.socket.end(),
  closes: (visitor: Visitor) => void visitor.plain.destroy(),
  resets: (visitor: Visitor) => void visitor.plain.resetAndDestroy(),
};
type Way = keyof typeof LEAVE;

const WAYS: [Transport, string, boolean, Way][] = [
  ['tcp', 'TCP', false, 'ends its direction'],
  ['tcp', 'TCP', false, 'closes'],
  ['tcp', 'TCP', false, 'resets'],
  ['tcp', 'TLS over TCP', true, 'ends its direction'],
  ['tcp', 'TLS over TCP', true, 'closes'],
  ['tcp', 'TLS over TCP', true, 'resets'],
  ['unix', 'a unix socket', false, 'ends its direction'],
  ['unix', 'a unix socket', false, 'closes'],
  ['unix', 'TLS over a unix socket', true, 'closes'],
];

const gone = (server: NbdServer, count: number) =>
  vi.waitFor(() => expect(server.connections()).toHaveLength(count), PATIENCE);

describe.each(WAYS)('behind a pause a client that (%s) over %s', (transport, _, isEncrypted, way) => {
  it(`${way}: nothing of it begins any more, so nothing old lands over what a new connection wrote`, async () => {
    const { server, visitor, release, begun, byteAt } = await crowd(transport, isEncrypted);
    LEAVE[way](visitor);
    const second = await Visitor.enter(server, isEncrypted);
    await second.write(STALLED, LENGTH, 0xaa);
    await second.write(STALLED, LENGTH, 0xbb, CommandFlag.FUA);
    for (const offset of SLOW) release(offset);
    await gone(server, 1);
    expect(byteAt(STALLED)).toBe(0xbb);
    expect(begun).toEqual([...SLOW, STALLED, STALLED]);
  });

  it(`${way}, having said goodbye: all that it asked for is carried out`, async () => {
    const { server, visitor, release, begun, byteAt } = await crowd(transport, isEncrypted);
    visitor.sayGoodbye();
    await visitor.sent();
    LEAVE[way](visitor);
    // One after the other: the first reply must not make the kernel throw away what is unread.
    release(SLOW[1]);
    await vi.waitFor(() => expect(server.connections()[0]!.requestsInFlight).toBe(1), PATIENCE);
    release(SLOW[0]);
    await gone(server, 0);
    expect(begun).toHaveLength(SLOW.length + 1 + BEHIND_COUNT);
    expect(byteAt(STALLED)).toBe(0xaa);
    for (let index = 0; index < BEHIND_COUNT; index += 1) expect(byteAt(BEHIND + index * LENGTH)).toBe(0xcc);
  });
});

describe.each(['tcp', 'unix'] as const)('behind a pause (%s)', (transport) => {
  it('a client that stays is served in full', async () => {
    const { visitor, release, byteAt } = await crowd(transport);
    for (const offset of SLOW) release(offset);
    await visitor.replied(SLOW.length + 1 + BEHIND_COUNT, SLOW.length * SLOW_LENGTH);
    expect([byteAt(STALLED), byteAt(BEHIND)]).toEqual([0xaa, 0xcc]);
  });

  it('a client that said goodbye and still listens is told of everything', async () => {
    const { server, visitor, release, begun } = await crowd(transport);
    visitor.sayGoodbye();
    visitor.socket.end();
    for (const offset of SLOW) release(offset);
    await visitor.replied(SLOW.length + 1 + BEHIND_COUNT, SLOW.length * SLOW_LENGTH);
    await visitor.closed;
    expect(begun).toHaveLength(SLOW.length + 1 + BEHIND_COUNT);
    await gone(server, 0);
  });
});

describe('behind a pause', () => {
  const BLOCK = 8 * KIB;
  const OFFSETS = [0, 4 * BLOCK, 5 * BLOCK] as const;
  /** Of the first write alone, or of the two others. */
  const ROOM = 3 * BLOCK + REQUEST_COST;

  /** One write hangs, one waits for room, one is on its way. */
  async function crowdInMemory(limits: Partial<NbdLimits> = {}) {
    const served = await enter('simple', { limits: { connectionInFlight: ROOM, serverInFlight: ROOM, ...limits } });
    const waiting = gate(served, (call, offset) => call === 'write' && offset === 0);
    for (const offset of OFFSETS) {
      served.send({ command: Command.WRITE, offset }, Buffer.alloc(offset === 0 ? 3 * BLOCK : BLOCK, 1));
    }
    await until(() => waiting.length === 1, 'the first write has begun');
    await settle();
    const written = () => OFFSETS.map((offset) => served.disk.content()[offset]);
    const nothingLeft = async () => {
      await until(() => served.server.connections().length === 0, 'nothing of the client is left');
      // All the room there is has been given back, or this would wait for ever.
      await (await served.connect()).write(8 * BLOCK, Buffer.alloc(3 * BLOCK, 3));
    };
    return { ...served, waiting, written, nothingLeft };
  }

  function expectDropped(lines: readonly LogLine[], count: number): void {
    expect(lines.find(({ message }) => message === 'client gone')?.fields).toMatchObject({ requestsDropped: count });
  }

  function expectViolation(lines: readonly LogLine[]): void {
    expect(lines.some(({ level, message }) => level === 'warn' && message.includes('broke the protocol'))).toBe(true);
  }

  it('what is read only after it does not begin either, once the client has gone', async () => {
    const { disk, peer, waiting, written, lines, nothingLeft } = await crowdInMemory();
    const { hook } = disk;
    disk.hook = (call, offset, length) => {
      if (offset === OFFSETS[1]) peer.stream.end();
      return hook?.(call, offset, length);
    };
    waiting[0]!.go();
    await nothingLeft();
    expect(written()).toEqual([1, 1, 0]);
    expectDropped(lines, 1);
  });

  it('what a lost socket held back is looked at for a goodbye', async () => {
    const { send, peer, server, waiting, written, lines, nothingLeft } = await crowdInMemory();
    send({ command: Command.DISC });
    peer.stream.destroy();
    await settle();
    expect(server.connections()).toMatchObject([{ phase: 'gone', requestsInFlight: 1 }]);
    waiting[0]!.go();
    await nothingLeft();
    expect(written()).toEqual([1, 1, 1]);
    expectDropped(lines, 0);
  });

  it('a lost socket without a goodbye leaves nothing to do', async () => {
    const { peer, waiting, written, lines, nothingLeft } = await crowdInMemory();
    peer.stream.destroy();
    await settle();
    waiting[0]!.go();
    await nothingLeft();
    expect(written()).toEqual([1, 0, 0]);
    expectDropped(lines, 2);
  });

  it('a goodbye is not looked for beyond the room that there is for it', async () => {
    const { send, peer, waiting, written, lines, nothingLeft } = await crowdInMemory({ partingSize: BLOCK });
    send({ command: Command.WRITE, offset: 0 }, Buffer.alloc(BLOCK, 2));
    send({ command: Command.DISC });
    peer.stream.end();
    waiting[0]!.go();
    await nothingLeft();
    expect(written()).toEqual([1, 0, 0]);
    expectDropped(lines, 3);
  });

  it('a server that cuts its clients off begins nothing for them any more', async () => {
    const { send, peer, server, clock, waiting, written } = await crowdInMemory();
    send({ command: Command.DISC });
    peer.stream.destroy();
    await settle();
    const closed = server.close(1000);
    clock.advance(1000);
    await closed;
    waiting[0]!.go();
    await settle();
    expect(written()).toEqual([1, 0, 0]);
  });

  it('a client that breaks the protocol is cut off, and nobody else', async () => {
    const { peer, waiting, written, lines, nothingLeft } = await crowdInMemory();
    peer.send(Buffer.alloc(64, 0x55));
    await settle();
    waiting[0]!.go();
    await peer.closed();
    await nothingLeft();
    expect(written()).toEqual([1, 1, 1]);
    expectViolation(lines);
  });

  it('a violation that came with the request that waits cuts off its client, and nobody else', async () => {
    const served = await enter('simple', { limits: { connectionInFlight: ROOM } });
    const waiting = gate(served, (call) => call === 'write');
    const header = { command: Command.WRITE, cookieHigh: 0, cookieLow: 0, length: BLOCK };
    const writes = OFFSETS.flatMap((offset) => [encodeRequest({ ...header, offset }, false), Buffer.alloc(BLOCK)]);
    served.peer.send(...writes, Buffer.alloc(64, 0x55));
    await until(() => waiting.length === 2, 'room has been used up');
    for (const { go } of waiting) go();
    await served.peer.closed();
    expectViolation(served.lines);
  });

  it('a client whose end does not come, though the kernel tells of it, is cut off', async () => {
    const { network, peer, server, clock, waiting, written, nothingLeft } = await crowdInMemory();
    network.accepted[0]!.peerGone = () => true;
    waiting[0]!.go();
    await settle();
    expect(server.connections()).toMatchObject([{ phase: 'transmission' }]);
    clock.advance(DEFAULT_LIMITS.lingerMs);
    await peer.closed();
    await nothingLeft();
    expect(written()).toEqual([1, 0, 0]);
  });
});
