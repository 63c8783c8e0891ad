import {
  BASE_ALLOCATION,
  ClientFlag,
  Command,
  encodeClientFlags,
  encodeOption,
  encodeOptionAbort,
  encodeOptionExportName,
  encodeOptionExtendedHeaders,
  encodeOptionGo,
  encodeOptionInfo,
  encodeOptionList,
  encodeOptionListMetaContext,
  encodeOptionSetMetaContext,
  encodeOptionStartTls,
  encodeOptionStructuredReply,
  encodeRequest,
  Info,
  Option,
  OptionReply,
  TransmissionFlag,
} from 'nbd-protocol';
import { describe, expect, it } from 'vitest';
import { DEFAULT_LIMITS } from '../../../src/nbd/limits.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { type RawPeer, serveInMemory, settle } from '../../support/nbd-in-memory.ts';

const SIZE = 1024 * 1024;
const KEYS = { keys: [{ identity: 'test', key: Buffer.alloc(16, 7) }] };

function exportOf(name: string, isDefault = false) {
  return { name, description: '', volume: new DiskVolume(new MemoryDisk(4096)), isDefault };
}

async function flagsFor(peer: RawPeer, name = 'disk'): Promise<number> {
  const info = (await peer.ask(encodeOptionInfo(name))).find((reply) => reply.kind === 'info-export');
  return info!.flags;
}

describe('the handshake', () => {
  it('greets with fixed newstyle and no zeroes', async () => {
    const peer = await (await serveInMemory()).connectRaw();
    expect(await peer.next()).toEqual({ kind: 'greeting', flags: 3 });
  });

  it('lists exports with their descriptions', async () => {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet();
    expect(await peer.ask(encodeOptionList())).toEqual([
      { kind: 'server', option: Option.LIST, name: 'disk', description: 'a disk' },
      { kind: 'ack', option: Option.LIST },
    ]);
  });

  it('describes an export in every respect that INFO asks for', async () => {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet();
    const requests = [Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE, 999];
    const option = Option.INFO;
    const flags =
      TransmissionFlag.HAS_FLAGS |
      TransmissionFlag.SEND_FLUSH |
      TransmissionFlag.SEND_FUA |
      TransmissionFlag.SEND_TRIM |
      TransmissionFlag.SEND_WRITE_ZEROES |
      TransmissionFlag.CAN_MULTI_CONN |
      TransmissionFlag.SEND_CACHE |
      TransmissionFlag.SEND_FAST_ZERO;
    expect(await peer.ask(encodeOptionInfo('', requests))).toEqual([
      { kind: 'info-export', option, size: SIZE, flags },
      { kind: 'info-name', option, name: 'disk' },
      { kind: 'info-description', option, description: 'a disk' },
      { kind: 'info-block-size', option, minimum: 1, preferred: 4096, maximum: 33_554_432 },
      { kind: 'ack', option },
    ]);
  });

  it('answers GO as it answered INFO, and enters the transmission', async () => {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet();
    const info = await peer.ask(encodeOptionInfo('disk', [Info.BLOCK_SIZE]));
    const go = await peer.ask(encodeOptionGo('disk', [Info.BLOCK_SIZE]));
    expect(go.map((reply) => ({ ...reply, option: Option.INFO }))).toEqual(info);
    const before = peer.received.length;
    peer.send(encodeRequest({ command: Command.FLUSH, cookieHigh: 1, cookieLow: 2, offset: 0, length: 0 }, false));
    await settle();
    expect(peer.received.subarray(before).toString('hex')).toBe('67446698000000000000000100000002');
  });

  it('serves requests that came in one piece with GO', async () => {
    const { connectRaw } = await serveInMemory();
    const peer = await connectRaw();
    await peer.greet();
    const flush = encodeRequest({ command: Command.FLUSH, cookieHigh: 0, cookieLow: 9, offset: 0, length: 0 }, false);
    peer.send(encodeOptionGo('disk'), flush);
    await settle();
    expect(peer.received.subarray(-16).toString('hex')).toBe('67446698000000000000000000000009');
  });

  it('takes a handshake that arrives byte by byte', async () => {
    const { connectRaw, server } = await serveInMemory();
    const peer = await connectRaw();
    const said = Buffer.concat([encodeClientFlags(3), encodeOptionStructuredReply(), encodeOptionGo('disk')]);
    for (const byte of said) peer.send(Uint8Array.of(byte));
    await settle(said.length + 50);
    expect(server.connections().map(({ phase, exportName }) => [phase, exportName])).toEqual([
      ['transmission', 'disk'],
    ]);
  });

  it.each([
    ['an unknown name', 'other'],
    ['the empty name where no export is the default', ''],
  ])('refuses %s with ERR_UNKNOWN, and goes on', async (_, name) => {
    const peer = await (await serveInMemory({ exports: [exportOf('disk')] })).connectRaw();
    await peer.greet();
    expect(await peer.answerTo(encodeOptionGo(name))).toBe(OptionReply.ERR_UNKNOWN);
    expect(await peer.answerTo(encodeOptionInfo(name))).toBe(OptionReply.ERR_UNKNOWN);
    expect(await peer.answerTo(encodeOptionGo('disk'))).toBe('ack');
  });

  it.each([
    ['134 bytes', 0, 134],
    ['10 bytes with NO_ZEROES', ClientFlag.NO_ZEROES, 10],
  ])('answers EXPORT_NAME with %s', async (_, flag, length) => {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet(ClientFlag.FIXED_NEWSTYLE | flag);
    peer.send(encodeOptionExportName('disk'));
    await settle();
    const reply = peer.received.subarray(18);
    expect(reply.length).toBe(length);
    expect(reply.readBigUInt64BE(0)).toBe(BigInt(SIZE));
    expect(reply.subarray(10).every((byte) => byte === 0)).toBe(true);
  });

  it('hangs up on EXPORT_NAME with an unknown name, which no error could answer', async () => {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet();
    peer.send(encodeOptionExportName('other'));
    await peer.closed();
    expect(peer.received.length).toBe(18);
  });

  it('acknowledges ABORT and closes', async () => {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet();
    expect(await peer.answerTo(encodeOptionAbort())).toBe('ack');
    await peer.closed();
  });

  it.each([
    ['an unknown option', encodeOption(77), OptionReply.ERR_UNSUP],
    ['LIST with data', encodeOption(Option.LIST, Uint8Array.of(1)), OptionReply.ERR_INVALID],
    ['GO cut short', encodeOption(Option.GO, Uint8Array.of(0, 0, 0, 9)), OptionReply.ERR_INVALID],
    ['an option with 100 kB', encodeOption(Option.INFO, new Uint8Array(100_000)), OptionReply.ERR_TOO_BIG],
  ])('refuses %s, and goes on', async (_, option, error) => {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet();
    expect(await peer.answerTo(option)).toBe(error);
    expect(await peer.answerTo(encodeOptionGo('disk'))).toBe('ack');
  });

  it('offers DF only once structured replies or extended headers are negotiated', async () => {
    const { connectRaw } = await serveInMemory();
    for (const [option, expected] of [
      [encodeOptionList(), 0],
      [encodeOptionStructuredReply(), TransmissionFlag.SEND_DF],
      [encodeOptionExtendedHeaders(), TransmissionFlag.SEND_DF],
    ] as const) {
      const peer = await connectRaw();
      await peer.greet();
      expect(await peer.answerTo(option)).toBe('ack');
      expect((await flagsFor(peer)) & TransmissionFlag.SEND_DF).toBe(expected);
    }
  });

  it('offers the payload form of BLOCK_STATUS only with extended headers and a selected context', async () => {
    const { connectRaw } = await serveInMemory();
    const flag = TransmissionFlag.BLOCK_STATUS_PAYLOAD;
    const peer = await connectRaw();
    await peer.greet();
    await peer.ask(encodeOptionExtendedHeaders());
    expect((await flagsFor(peer)) & flag).toBe(0);
    await peer.ask(encodeOptionSetMetaContext('disk', [BASE_ALLOCATION]));
    expect((await flagsFor(peer)) & flag).toBe(flag);
    expect((await flagsFor(peer, '')) & flag).toBe(0);
  });

  it('offers no command that writes on a read-only export', async () => {
    const peer = await (await serveInMemory({ readOnly: true })).connectRaw();
    await peer.greet();
    const flags = await flagsFor(peer);
    const writing = TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES | TransmissionFlag.SEND_FAST_ZERO;
    expect(flags & (TransmissionFlag.READ_ONLY | writing)).toBe(TransmissionFlag.READ_ONLY);
  });

  it('does not go back from extended headers to structured replies, nor to EXPORT_NAME', async () => {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet();
    await peer.ask(encodeOptionExtendedHeaders());
    expect(await peer.answerTo(encodeOptionStructuredReply())).toBe(OptionReply.ERR_EXT_HEADER_REQD);
    peer.send(encodeOptionExportName('disk'));
    await peer.closed();
  });

  it('lets a client without fixed newstyle do nothing but EXPORT_NAME', async () => {
    const { connectRaw } = await serveInMemory();
    const proper = await connectRaw();
    await proper.greet(0);
    proper.send(encodeOptionExportName('disk'));
    await settle();
    expect(proper.received.length).toBe(18 + 134);
    const other = await connectRaw();
    await other.greet(0);
    other.send(encodeOptionList());
    await other.closed();
  });
});

describe('metadata contexts in the handshake', () => {
  async function structured(): Promise<RawPeer> {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet();
    await peer.ask(encodeOptionStructuredReply());
    return peer;
  }

  it.each([encodeOptionListMetaContext('disk'), encodeOptionSetMetaContext('disk', [])])(
    'need structured replies first',
    async (option) => {
      const peer = await (await serveInMemory()).connectRaw();
      await peer.greet();
      expect(await peer.answerTo(option)).toBe(OptionReply.ERR_INVALID);
    },
  );

  it.each([
    ['no query', [], [BASE_ALLOCATION]],
    ['the namespace', ['base:'], [BASE_ALLOCATION]],
    ['the name', ['x-other:', BASE_ALLOCATION], [BASE_ALLOCATION]],
    ['an unknown leaf', ['base:other'], []],
    ['an unknown namespace', ['x-other:'], []],
  ])('are listed for %s', async (_, queries, names) => {
    const replies = await (await structured()).ask(encodeOptionListMetaContext('disk', queries));
    expect(replies.flatMap((reply) => (reply.kind === 'meta-context' ? [reply.name] : []))).toEqual(names);
    expect(replies.at(-1)!.kind).toBe('ack');
  });

  it.each([
    ['the name', [BASE_ALLOCATION, BASE_ALLOCATION], [BASE_ALLOCATION]],
    ['the namespace, which is a wildcard for listing only', ['base:'], []],
    ['no query', [], []],
  ])('are selected by %s', async (_, queries, names) => {
    const replies = await (await structured()).ask(encodeOptionSetMetaContext('disk', queries));
    expect(replies.flatMap((reply) => (reply.kind === 'meta-context' ? [reply.name] : []))).toEqual(names);
    expect(replies.at(-1)!.kind).toBe('ack');
  });

  it('are forgotten when a later selection fails', async () => {
    const peer = await (await serveInMemory()).connectRaw();
    await peer.greet();
    await peer.ask(encodeOptionExtendedHeaders());
    await peer.ask(encodeOptionSetMetaContext('disk', [BASE_ALLOCATION]));
    expect(await peer.answerTo(encodeOptionSetMetaContext('other', [BASE_ALLOCATION]))).toBe(OptionReply.ERR_UNKNOWN);
    expect((await flagsFor(peer)) & TransmissionFlag.BLOCK_STATUS_PAYLOAD).toBe(0);
  });
});

describe('STARTTLS', () => {
  it('is refused by policy where TLS is off', async () => {
    const peer = await (await serveInMemory({ tls: 'off' })).connectRaw();
    await peer.greet();
    expect(await peer.answerTo(encodeOptionStartTls())).toBe(OptionReply.ERR_POLICY);
  });

  it.each([
    encodeOptionList(),
    encodeOptionInfo('disk'),
    encodeOptionGo('disk'),
    encodeOptionStructuredReply(),
    encodeOption(77),
    encodeOption(Option.LIST, Uint8Array.of(1)),
    encodeOption(Option.INFO, new Uint8Array(100_000)),
  ])('where it is required, every other option gets ERR_TLS_REQD', async (option) => {
    const peer = await (await serveInMemory({ tls: 'require', nbdTls: KEYS })).connectRaw();
    await peer.greet();
    expect(await peer.answerTo(option)).toBe(OptionReply.ERR_TLS_REQD);
  });

  it('where it is required, EXPORT_NAME without it ends the connection, and ABORT works', async () => {
    const { connectRaw } = await serveInMemory({ tls: 'require', nbdTls: KEYS });
    const naming = await connectRaw();
    await naming.greet();
    naming.send(encodeOptionExportName('disk'));
    await naming.closed();
    expect(naming.received.length).toBe(18);
    const aborting = await connectRaw();
    await aborting.greet();
    expect(await aborting.answerTo(encodeOptionAbort())).toBe('ack');
  });

  it('forgets what was negotiated before it', async () => {
    const peer = await (await serveInMemory({ tls: 'on', nbdTls: KEYS })).connectRaw();
    await peer.greet();
    await peer.ask(encodeOptionExtendedHeaders());
    await peer.ask(encodeOptionSetMetaContext('disk', [BASE_ALLOCATION]));
    expect(await peer.answerTo(encodeOptionStartTls())).toBe('ack');
    await settle();
    const flags = await flagsFor(peer);
    expect(flags & (TransmissionFlag.SEND_DF | TransmissionFlag.BLOCK_STATUS_PAYLOAD)).toBe(0);
    expect(await peer.answerTo(encodeOptionListMetaContext('disk'))).toBe(OptionReply.ERR_INVALID);
  });

  it('happens once, and leads to an encrypted transmission', async () => {
    const { connectRaw, server } = await serveInMemory({ tls: 'require', nbdTls: KEYS });
    const peer = await connectRaw();
    await peer.greet();
    await peer.ask(encodeOptionStartTls());
    await settle();
    expect(await peer.answerTo(encodeOptionStartTls())).toBe(OptionReply.ERR_INVALID);
    expect(await peer.answerTo(encodeOptionGo('disk'))).toBe('ack');
    expect(server.connections()[0]).toMatchObject({ phase: 'transmission', encrypted: true, identity: 'memory' });
  });

  it('ends the connection when anything came behind it in the clear', async () => {
    const { connectRaw, lines } = await serveInMemory({ tls: 'on', nbdTls: KEYS });
    const peer = await connectRaw();
    await peer.greet();
    peer.send(encodeOptionStartTls(), encodeOptionGo('disk'));
    await peer.closed();
    expect(peer.received.length).toBe(18);
    expect(lines.at(-2)!.message).toContain('plain bytes behind STARTTLS');
  });

  it('needs keys or a certificate from the start', async () => {
    await expect(serveInMemory({ tls: 'require' })).rejects.toMatchObject({ code: 'tls-config' });
  });
});

describe('limits of the handshake', () => {
  it('gives a client so much time and no more', async () => {
    const { connectRaw, clock, server } = await serveInMemory();
    const peer = await connectRaw();
    await peer.greet();
    await settle();
    clock.advance(DEFAULT_LIMITS.handshakeMs - 1);
    await settle();
    expect(peer.isClosed).toBe(false);
    clock.advance(1);
    await peer.closed();
    await settle();
    expect(server.connections()).toEqual([]);
  });

  it('does not cut off a client that has entered the transmission', async () => {
    const { connect, clock } = await serveInMemory();
    const client = await connect();
    clock.advance(DEFAULT_LIMITS.handshakeMs * 10);
    await settle();
    expect(await client.read(0, 16)).toHaveLength(16);
  });

  it('counts options', async () => {
    const { connectRaw } = await serveInMemory({ limits: { options: 3 } });
    const peer = await connectRaw();
    await peer.greet();
    for (let count = 0; count < 3; count += 1) expect(await peer.answerTo(encodeOptionList())).toBe('ack');
    peer.send(encodeOptionList());
    await peer.closed();
  });

  it('ends a client that asks and does not read the answers', async () => {
    const { connectRaw, network } = await serveInMemory({ limits: { handshakeUnread: 2000 } });
    const peer = await connectRaw();
    await peer.greet();
    peer.stream.pause();
    for (let count = 0; count < 100; count += 1) peer.send(encodeOptionList());
    await peer.closed();
    expect(network.accepted[0]!.bytesWritten).toBeLessThan(2200);
  });

  it('refuses a client too many, and takes another when one has gone', async () => {
    const { connect, connectRaw } = await serveInMemory({ limits: { connections: 2 } });
    const first = await connect();
    await connect();
    const refused = await connectRaw();
    await refused.closed();
    expect(refused.received.length).toBe(0);
    await first.close();
    await settle();
    await (await connect()).flush();
  });
});

describe('a client that does not speak NBD', () => {
  it.each([
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'), 'an HTTP request'],
    ['the link', Buffer.from('160301020001000001fc0303', 'hex'), 'a TLS handshake'],
    ['SSH', Buffer.from('SSH-2.0-OpenSSH_9.2\r\n'), 'an SSH client'],
    ['noise', Buffer.from('00000003deadbeefdeadbeef00', 'hex'), 'bytes 00000003deadbeef'],
  ])('(%s) is disconnected, and the log says what it looked like', async (_, bytes, words) => {
    const { connectRaw, lines } = await serveInMemory();
    const peer = await connectRaw();
    peer.send(bytes);
    await peer.closed();
    const [line] = lines.filter(({ level }) => level === 'warn');
    expect(line!.message).toContain(words);
    expect(line!.fields).toMatchObject({ peer: 'memory-client' });
  });
});
