/** Who may come in: secrets, identities, names, and peers that speak something else. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, truncateSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import tls from 'node:tls';
import { expect, test } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { MIB } from '../../../src/base/units.ts';
import { systemClock } from '../../../src/io/clock.ts';
import { listenLink } from '../../../src/io/node-link.ts';
import { nodeNetwork } from '../../../src/io/node-network.ts';
import { encodeHello } from '../../../src/link/messages.ts';
import { connectNbd } from '../../../src/nbd/client.ts';
import { startNbdServer } from '../../../src/nbd/server.ts';
import { type LogLine, memoryLog } from '../../support/memory-log.ts';
import { Pair, type PairOptions } from '../../support/pair.ts';
import { needPrograms } from '../../support/peers.ts';
import { RawPeer, someHello } from '../../support/raw-link.ts';
import { tryProgram } from '../../support/run-program.ts';

/** Handshakes that a silent client holds up end soon. */
const hasty = {
  ...nodeNetwork,
  listenLink: (...args: Parameters<typeof nodeNetwork.listenLink>) =>
    listenLink(...args, { handshakeTimeoutMs: 300, handshakesMax: 64 }),
};

function codes(lines: readonly LogLine[]): unknown[] {
  return lines.flatMap(({ fields }) => ('code' in fields ? [fields.code] : []));
}

/** What the mirror keeps besides its lock. */
function kept(pair: Pair): string[] {
  return readdirSync(pair.mirrorFolder).filter((name) => name !== 'lock');
}

/** A mirror, and a primary that writes something and is refused. */
async function refused(options: PairOptions): Promise<{ pair: Pair; lines: LogLine[] }> {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log, ...options });
  await pair.startMirror();
  await pair.startPrimary();
  await pair.write(5, Buffer.from('hello'));
  await pair.until('refused', () => pair.link.state === 'refused');
  return { pair, lines };
}

test('a wrong secret: both sides say so and nothing is written', async () => {
  const { pair, lines } = await refused({ mirror: { tls: { keys: [{ identity: 'nbdtwin', key: randomBytes(32) }] } } });
  expect(pair.link.problem).toMatchObject({
    code: 'secret-rejected',
    message: expect.stringContaining('rejects our secret'),
    hint: expect.stringContaining('same secret'),
  });
  const refusal = lines.find(({ message }) => message.startsWith('connection refused'));
  expect(refusal).toMatchObject({ level: 'warn', fields: { code: 'secret-rejected' } });
  expect(refusal!.message).toContain('does not have our secret');
  expect(lines.find(({ message }) => message.startsWith('refused: '))?.fields).toMatchObject({
    code: 'secret-rejected',
  });
  expect(kept(pair)).toEqual([]);
});

test('an identity that the mirror does not know: both sides say so and nothing is written', async () => {
  const stranger = { identity: 'stranger', key: randomBytes(32) };
  const { pair, lines } = await refused({ primary: { tls: { keys: [stranger] } } });
  expect(pair.link.problem?.code).toBe('secret-rejected');
  expect(lines.find(({ message }) => message.startsWith('connection refused'))?.message).toContain('stranger');
  expect(kept(pair)).toEqual([]);
});

test('an identity may not write an export of another name', async () => {
  const host1 = { identity: 'host1', key: randomBytes(32) };
  const { pair, lines } = await refused({
    primary: { tls: { keys: [host1] }, exportName: 'host2' },
    mirror: { tls: { keys: [host1] } },
  });
  expect(pair.link.problem?.code).toBe('identity-refused');
  expect(pair.link.problem?.message).toContain('host1');
  expect(pair.link.problem?.message).toContain('host2');
  const refusal = lines.find(({ message }) => message.startsWith('session refused'));
  expect(refusal).toMatchObject({ level: 'warn', fields: { code: 'identity-refused' } });
  expect(kept(pair)).toEqual([]);
});

test('an identity may write exports below its name', async () => {
  const host1 = { identity: 'host1', key: randomBytes(32) };
  const pair = await Pair.inStep({
    primary: { tls: { keys: [host1] }, exportName: 'host1/root' },
    mirror: { tls: { keys: [host1] } },
  });
  await pair.write(MIB, randomBytes(5000));
  await pair.untilInStep();
  pair.expectIdentical(`${pair.mirrorFolder}/host1/root.img`);
});

test.each([
  ['says nothing', () => undefined],
  ['sends an HTTP request', (socket: net.Socket) => socket.write('GET / HTTP/1.1\r\nHost: mirror\r\n\r\n')],
  ['sends random bytes', (socket: net.Socket) => socket.write(randomBytes(4000))],
  ['sends the greeting of an NBD server', (socket: net.Socket) => socket.write('NBDMAGICIHAVEOPT\0\x03')],
])('a plain TCP client at the link port that %s is cut off; a primary goes on beside it', async (_, speak) => {
  const { log, lines } = memoryLog();
  const pair = await Pair.inStep({ log, mirrorWorld: { network: hasty } });
  const socket = net.connect(pair.mirrorPort, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.resume();
  speak(socket);
  await once(socket, 'close');
  await pair.until('refused', () => codes(lines).includes('peer-foreign'));
  await pair.write(MIB, randomBytes(5000));
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.sessions).toBe(1);
  expect(kept(pair)).toEqual(['disk.img', 'disk.img.twin']);
});

needPrograms(
  'NBD clients at the link port',
  'qemu-img',
  'nbdinfo',
)(() => {
  test.each([
    ['qemu-img', 'info'],
    ['nbdinfo', '--list'],
  ])('%s is refused', async (program, option) => {
    const { log, lines } = memoryLog();
    const pair = await Pair.make({ log, mirrorWorld: { network: hasty } });
    await pair.startMirror();
    const { status } = await tryProgram(program, [option, `nbd://127.0.0.1:${pair.mirrorPort}`]);
    expect(status).not.toBe(0);
    await pair.until('refused', () => codes(lines).includes('peer-foreign'));
    expect(kept(pair)).toEqual([]);
  });
});

test('our own NBD client at the link port is refused', async () => {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log, mirrorWorld: { network: hasty } });
  await pair.startMirror();
  const address = { kind: 'tcp', host: '127.0.0.1', port: pair.mirrorPort } as const;
  await expect(connectNbd({ network: nodeNetwork, address, exportName: '' })).rejects.toThrow(Failure);
  await pair.until('refused', () => codes(lines).includes('peer-foreign'));
  expect(lines.find(({ message }) => message.includes('an NBD client'))).toBeDefined();
});

test('a TLS client without the secret is refused', async () => {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log });
  await pair.startMirror();
  const socket = tls.connect({ port: pair.mirrorPort, host: '127.0.0.1', rejectUnauthorized: false });
  const [error] = (await once(socket, 'error')) as [Error];
  expect(error.message).toMatch(/handshake|alert/i);
  await pair.until('refused', () => codes(lines).includes('peer-foreign'));
  expect(kept(pair)).toEqual([]);
});

test('a primary pointed at the NBD port of another primary says so, and that one goes on', async () => {
  const pair = await Pair.inStep();
  const server = await startNbdServer({
    network: nodeNetwork,
    clock: systemClock,
    log: silentLog,
    exports: [{ name: 'disk', description: '', volume: pair.primary!.volume, isDefault: true }],
    listeners: [{ kind: 'tcp', host: '127.0.0.1', port: 0 }],
    tls: 'off',
  });
  const path = `${pair.folder}/lost.img`;
  writeFileSync(path, '');
  truncateSync(path, MIB);
  const lost = await pair.openOther(path, { mirror: server.addresses[0]! });
  try {
    await pair.until('refused', () => lost.status().mirrors[0]!.state === 'refused');
    expect(lost.status().mirrors[0]!.problem?.code).toBe('peer-foreign');
    expect(lost.status().mirrors[0]!.problem?.message).toContain('NBD server');
    await pair.write(MIB, randomBytes(5000));
    await pair.untilInStep();
    pair.expectIdentical();
  } finally {
    await lost.close(0);
    await server.close(0);
  }
});

test.each([
  ['that climbs out of the directory', '../x', 'name-invalid'],
  ['that ends in .twin', 'a.twin', 'name-invalid'],
  ['that ends in .img', 'a.img', 'name-invalid'],
  ['that is empty', '', 'name-invalid'],
  ['that is absolute', '/etc/passwd', 'name-invalid'],
  ['with a control character', 'a\u001b[2Jb', 'name-invalid'],
  ['below the lock', 'lock/a', 'name-invalid'],
  ['with a segment no file system takes', 'x'.repeat(250), 'name-invalid'],
])('an export name %s is refused by the mirror', async (_, exportName, code) => {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log });
  await pair.startMirror();
  const peer = await RawPeer.connect(pair.mirrorPort, pair.key);
  peer.send(encodeHello(someHello(MIB, { exportName })));
  const failure = await peer.refusal();
  expect(failure.code).toBe(code);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
  expect(failure.message).not.toMatch(/[\u0000-\u001f]/);
  expect(codes(lines)).toContain(code);
  expect(kept(pair)).toEqual([]);
  expect(existsSync(`${pair.folder}/x.img`)).toBe(false);
});

test('an export name of 300 characters is refused by both sides', async () => {
  const pair = await Pair.make();
  await pair.startMirror();
  await expect(pair.startPrimary({ exportName: 'x'.repeat(300) })).rejects.toMatchObject({ code: 'name-invalid' });
  const peer = await RawPeer.connect(pair.mirrorPort, pair.key);
  const hello = encodeHello(someHello(MIB, { exportName: 'x'.repeat(250) }));
  // The frame's payload and the name's length say 300.
  const long = Buffer.concat([hello, Buffer.alloc(50, 'x')]);
  long.writeUInt32LE(hello.readUInt32LE(4) + 50, 4);
  long.writeUInt16LE(300, 32 + 80);
  peer.send(long);
  expect((await peer.refusal()).code).toBe('frame-invalid');
  expect(kept(pair)).toEqual([]);
});

test('exports a and a/b stand side by side and do not touch each other', async () => {
  const pair = await Pair.make({ primary: { exportName: 'a' }, size: 4 * MIB });
  await pair.startMirror();
  await pair.startPrimary();
  const path = `${pair.folder}/b.img`;
  writeFileSync(path, randomBytes(MIB));
  const below = await pair.openOther(path, { exportName: 'a/b' });
  try {
    await pair.write(0, randomBytes(100_000));
    await below.volume.write(7, randomBytes(100_000), { fua: false });
    await pair.untilInStep();
    await pair.until('b in step', () => {
      const { state, recorded } = below.status().mirrors[0]!;
      return state === 'streaming' && recorded === below.status().sequence;
    });
    pair.expectIdentical(`${pair.mirrorFolder}/a.img`);
    pair.expectIdentical(`${pair.mirrorFolder}/a/b.img`, path);
    const names = pair.mirror!.status().exports.map(({ name }) => name);
    expect(names.sort()).toEqual(['a', 'a/b']);
  } finally {
    await below.close(0);
  }
});

test('a second volume under a name that is being written is refused as taken, and later as foreign', async () => {
  const { log, lines } = memoryLog();
  const pair = await Pair.inStep({ log });
  await pair.write(MIB, randomBytes(5000));
  const path = `${pair.folder}/other.img`;
  writeFileSync(path, randomBytes(pair.size));
  const other = await pair.openOther(path);
  try {
    const problem = (): string | undefined => other.status().mirrors[0]!.problem?.code;
    await pair.until('taken', () => problem() === 'name-taken');
    expect(other.status().mirrors[0]!.state).toBe('refused');
    await pair.untilInStep();
    pair.expectIdentical();
    expect(pair.link.sessions).toBe(1);
    await pair.stopPrimary();
    await pair.until('foreign', () => problem() === 'image-foreign');
    pair.expectIdentical();
    expect(codes(lines)).toEqual(expect.arrayContaining(['name-taken', 'image-foreign']));
    await pair.startPrimary();
    await pair.write(2 * MIB, randomBytes(5000));
    await pair.untilInStep();
    pair.expectIdentical();
  } finally {
    await other.close(0);
  }
});
