import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { GIB, KIB, MIB } from '../../../src/base/units.ts';
import { Pair, writeRandomly } from '../../support/pair.ts';

test('a new mirror is seeded and then streams', async () => {
  const pair = await Pair.inStep();
  await pair.write(4096, Buffer.from('hello'));
  await pair.untilInStep();
  pair.expectIdentical();
});

test('data written before the mirror was first met arrives by seeding', async () => {
  const pair = await Pair.make();
  await pair.startPrimary();
  await pair.write(3 * MIB + 17, randomBytes(100_000));
  await pair.startMirror();
  await pair.untilInStep();
  pair.expectIdentical();
});

test('writes, zeroes, trims and flushes of every shape arrive in order', async () => {
  const pair = await Pair.inStep();
  const writer = writeRandomly(pair);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  expect(await writer.stop()).toBeGreaterThan(50);
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a write longer than a frame of the opening arrives', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: 64 * MIB }, size: 64 * MIB });
  await pair.write(5, randomBytes(32 * MIB));
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a short break: the stream goes on where it was, without a rescan', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: 64 * MIB } });
  const writer = writeRandomly(pair, 2);
  for (let round = 0; round < 5; round += 1) {
    const { sessions } = pair.link;
    await new Promise((resolve) => setTimeout(resolve, 100));
    pair.proxy.drop();
    await pair.until('the next session', () => pair.link.sessions > sessions);
  }
  await writer.stop();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.sessions).toBeGreaterThan(3);
  expect(pair.link.lastRescan?.pass).toBe(1);
  expect(pair.link.lastRescan?.scope).toBe('everything');
});

test('a long break: what the window cannot hold waits in the spool, and the stream goes on where it was', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB } });
  pair.proxy.cut();
  for (let index = 0; index < 16; index += 1) await pair.write(index * MIB, randomBytes(512 * KIB));
  expect(pair.link).toMatchObject({ markedSize: 0, spool: { rung: 'spool' } });
  expect(pair.link.spool.used).toBeGreaterThan(6 * MIB);
  pair.proxy.restore();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan?.scope).toBe('everything');
  await pair.until('nothing waits in the spool', () => pair.link.spool.rung === 'window');
});

test('a long break without a spool: the window overruns and a rescan of what is marked follows', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB, spoolSize: 0 } });
  pair.proxy.cut();
  for (let index = 0; index < 8; index += 1) await pair.write(index * MIB, randomBytes(256 * KIB));
  expect(pair.link.markedSize).toBeGreaterThan(0);
  pair.proxy.restore();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan?.scope).toBe('marked');
});

test.each([
  ['breaks, overruns and rescans', 0],
  ['breaks, merged parts, overruns and rescans', 2 * MIB],
  ['breaks and the spool', GIB],
])(
  'clients write on through %s: the mirror is consistent all along, and the images end up identical',
  async (_what, spoolSize) => {
    const pair = await Pair.inStep({ primary: { windowSize: 2 * MIB, spoolSize } });
    const writer = writeRandomly(pair, 3);
    for (let round = 0; round < 12; round += 1) {
      await new Promise((resolve) => setTimeout(resolve, 30 + (round % 4) * 100));
      if (round % 3 === 2) {
        pair.proxy.cut();
        await new Promise((resolve) => setTimeout(resolve, 150));
        pair.proxy.restore();
      } else {
        pair.proxy.drop();
      }
      expect(pair.mirror!.status().exports[0]).toMatchObject({ consistent: true });
    }
    await writer.stop();
    await pair.untilInStep();
    pair.expectIdentical();
  },
);

test('a link slower than the writes never blocks a client, with a spool in which rewritten blocks count once', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB, spoolSize: 12 * MIB } });
  pair.proxy.rate = 512 * KIB;
  // 32 MiB of writes to 2 MiB of the disk.
  for (let index = 0; index < 128; index += 1) {
    await pair.write((index % 8) * 256 * KIB, randomBytes(256 * KIB));
    // As fast as the spool's disk: what clients write beyond that is a matter of another test.
    await pair.until('written', () => pair.link.spool.used < 8 * MIB);
  }
  expect(pair.link).toMatchObject({ markedSize: 0, spool: { rung: 'merged' } });
  expect(pair.link.lag.bytes).toBeLessThan(8 * MIB);
  pair.proxy.rate = undefined;
  await pair.untilInStep(40_000);
  pair.expectIdentical();
  expect(pair.link.lastRescan?.scope).toBe('everything');
});

test('a link slower than the writes never blocks a client, without a spool', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB, spoolSize: 0 } });
  pair.proxy.rate = 512 * KIB;
  for (let index = 0; index < 64; index += 1) await pair.write((index % 16) * MIB, randomBytes(256 * KIB));
  expect(['behind', 'offline', 'connecting', 'negotiating', 'queued', 'rescan']).toContain(pair.link.state);
  pair.proxy.rate = undefined;
  await pair.untilInStep(40_000);
  pair.expectIdentical();
});

test('the keys of the link are renewed under load, and nothing is lost', async () => {
  const pair = await Pair.inStep({ primary: { rekeyIntervalMs: 1, windowSize: 64 * MIB } });
  const writer = writeRandomly(pair, 4);
  await pair.until('three sessions', () => pair.link.sessions >= 3);
  await writer.stop();
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a mirror whose primary has died still tells what it lacked, as far as it knows', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: 64 * MIB } });
  pair.proxy.rate = 2 * MIB;
  for (let index = 0; index < 192; index += 1) await pair.write(index * 64 * KIB, randomBytes(64 * KIB));
  const lagOfMirror = () => pair.mirror!.status().exports[0]!.lag;
  await pair.until('the mirror knows that it lags', () => (lagOfMirror()?.operations ?? 0) > 32);
  pair.proxy.cut();
  await pair.until('the mirror has noticed', () => pair.mirror!.status().exports[0]!.primary === undefined);
  const status = pair.mirror!.status().exports[0]!;
  expect(status.consistent).toBe(true);
  expect(status.lag!.operations).toBeGreaterThan(0);
  expect(status.lag!.operations).toBeLessThanOrEqual(pair.primary!.status().sequence - status.applied);
  expect(status.lag!.bytes).toBeGreaterThan(0);
  expect(status.lastMessageAgeMs).toBeGreaterThanOrEqual(0);
  pair.proxy.rate = undefined;
  pair.proxy.restore();
  await pair.untilInStep();
  pair.expectIdentical();
});
