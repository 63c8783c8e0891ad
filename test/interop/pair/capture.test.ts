/** What someone sees, and can do, who records the link. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { expect, test } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { memoryLog } from '../../support/memory-log.ts';
import { Pair } from '../../support/pair.ts';

/** Long enough not to turn up by chance. */
const NAME = 'ledgers-of-the-house';

/** A pair whose every byte on the link was recorded: a seeding, writes of a known pattern, a verify. */
async function recorded() {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log, primary: { exportName: NAME } });
  const recording = { toTarget: [] as Buffer[], toClient: [] as Buffer[] };
  pair.proxy.recording = recording;
  const pattern = randomBytes(32).toString('hex');
  await pair.startMirror();
  await pair.startPrimary();
  await pair.write(0, Buffer.from(pattern.repeat(1000)));
  await pair.untilInStep();
  await pair.write(MIB, Buffer.from(pattern.repeat(5000)), true);
  await pair.untilInStep();
  await pair.primary!.verify(() => undefined);
  return { pair, recording, pattern, lines, image: `${pair.mirrorFolder}/${NAME}.img` };
}

test('a capture of the link holds no plaintext: no data, no names, no magic, no key', async () => {
  const { pair, recording, pattern, image } = await recorded();
  const both = Buffer.concat([...recording.toTarget, ...recording.toClient]);
  expect(both.length).toBeGreaterThan(6000 * pattern.length);
  expect(readFileSync(image).includes(pattern)).toBe(true);
  const secrets = [
    Buffer.from(pattern),
    Buffer.from(pattern.slice(0, 16)),
    Buffer.from('NBDTWIN'),
    Buffer.from(NAME),
    pair.key.key,
  ];
  for (const secret of secrets) expect(both.includes(secret)).toBe(false);
  // The identity is no secret: TLS sends it in the open, and who looks at a capture should know.
  expect(both.includes('nbdtwin')).toBe(true);
});

test('captured bytes sent again are refused and change nothing', async () => {
  const { pair, recording, lines, image } = await recorded();
  const before = readFileSync(image);
  const refusals = () => lines.filter(({ message }) => message.startsWith('connection refused')).length;
  for (const bytes of [Buffer.concat(recording.toTarget), Buffer.concat(recording.toClient)]) {
    const seen = refusals();
    const socket = net.connect(pair.mirrorPort, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.resume();
    socket.write(bytes);
    await once(socket, 'close');
    await pair.until('refused', () => refusals() > seen);
  }
  expect(readFileSync(image).equals(before)).toBe(true);
  expect(pair.link.sessions).toBe(1);
  await pair.write(2 * MIB, randomBytes(5000));
  await pair.untilInStep();
  pair.expectIdentical(image);
});

test('captured bytes sent again while no primary is connected are refused and change nothing', async () => {
  const { pair, recording, lines, image } = await recorded();
  await pair.stopPrimary();
  await pair.until('gone', () => pair.mirror!.status().exports[0]!.primary === undefined);
  const before = readFileSync(image);
  const socket = net.connect(pair.mirrorPort, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.resume();
  // At the same pace, too: each piece as it was once sent.
  for (const piece of recording.toTarget) {
    if (socket.destroyed) break;
    socket.write(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  if (!socket.closed) await once(socket, 'close');
  await pair.until('refused', () => lines.some(({ message }) => message.startsWith('connection refused')));
  expect(readFileSync(image).equals(before)).toBe(true);
  expect(pair.mirror!.status().exports[0]!.primary).toBeUndefined();
});
