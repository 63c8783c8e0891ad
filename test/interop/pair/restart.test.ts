import { randomBytes } from 'node:crypto';
import { copyFileSync, cpSync, rmSync, truncateSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { Pair, writeRandomly } from '../../support/pair.ts';

/** Writes behind everybody's back. */
async function scribble(path: string, offset: number, data: Buffer): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(data, 0, data.length, offset);
  await file.close();
}

test('a clean stop hands on where it was: the next start streams without a rescan', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  const { run } = pair.primary!.status();
  await pair.stopPrimary();
  await pair.startPrimary();
  await pair.write(2 * MIB, randomBytes(5000));
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.primary!.status().run).not.toBe(run);
  expect(pair.primary!.status().sequence).toBe(2);
  expect(pair.link.lastRescan).toBeUndefined();
});

test('both sides stop cleanly and start in either order', async () => {
  const pair = await Pair.inStep();
  for (const first of ['primary', 'mirror'] as const) {
    await pair.write(4 * MIB, randomBytes(70_000));
    await pair.stopPrimary();
    await pair.stopMirror();
    if (first === 'primary') {
      await pair.startPrimary();
      await pair.write(5 * MIB, randomBytes(70_000));
      await pair.startMirror();
    } else {
      await pair.startMirror();
      await pair.startPrimary();
    }
    await pair.untilInStep();
    pair.expectIdentical();
    expect(pair.link.lastRescan).toBeUndefined();
  }
});

test('a mirror that restarts while writes go on catches up without a rescan', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: 256 * MIB } });
  const writer = writeRandomly(pair, 5);
  for (let round = 0; round < 3; round += 1) {
    await pair.stopMirror();
    await new Promise((resolve) => setTimeout(resolve, 100));
    await pair.startMirror();
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  await writer.stop();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan?.scope).toBe('everything');
});

test('a primary that stops while the mirror is away hands on what that lacks: the next start goes on in order', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB } });
  await pair.stopMirror();
  // In the window, in the spool, and a flush between.
  for (let index = 0; index < 8; index += 1) {
    await pair.write(index * MIB, randomBytes(300_000));
    if (index === 5) await pair.primary!.volume.flush();
  }
  const { sequence } = pair.primary!.status();
  await pair.stopPrimary(50);
  await pair.startPrimary();
  expect(pair.link.markedSize).toBe(0);
  await pair.write(9 * MIB, randomBytes(300_000));
  expect(pair.primary!.status().sequence).toBe(sequence + 1);
  await pair.startMirror();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toBeUndefined();
});

test('a primary whose drain does not end in time hands on what the mirror lacks: the next start goes on in order', async () => {
  const pair = await Pair.inStep({ size: 64 * MIB, primary: { windowSize: 8 * MIB, spoolSize: 64 * MIB } });
  // Slow from the next session on.
  pair.proxy.rate = 500_000;
  const { sessions } = pair.link;
  pair.proxy.drop();
  await pair.until('streaming again', () => pair.link.sessions > sessions && pair.link.state === 'streaming');
  for (let index = 0; index < 6; index += 1) await pair.write((10 + index) * MIB, randomBytes(MIB));
  const { sequence } = pair.primary!.status();
  await pair.stopPrimary(300);
  pair.proxy.rate = undefined;
  await pair.startPrimary();
  expect(pair.link.markedSize).toBe(0);
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.primary!.status().sequence).toBe(sequence);
  expect(pair.link.lastRescan).toBeUndefined();
});

test('a primary that stops twice while the mirror is away compares what is marked, and no more', async () => {
  const pair = await Pair.inStep({ size: 32 * MIB, primary: { windowSize: MIB, dirtyActive: 4 } });
  await pair.stopMirror();
  for (let index = 0; index < 8; index += 1) await pair.write(index * MIB, randomBytes(300_000));
  for (let stops = 0; stops < 2; stops += 1) {
    await pair.stopPrimary(50);
    await pair.startPrimary();
  }
  await pair.startMirror();
  await pair.untilInStep();
  pair.expectIdentical();
  // Of the runs before its own it knows only where the last one ended.
  expect(pair.link.lastRescan).toMatchObject({ scope: 'marked', pass: 1 });
});

test('a primary without a spool that stops while the mirror is away compares what is marked at its next start', async () => {
  const pair = await Pair.inStep({ size: 64 * MIB, primary: { spoolSize: 0, dirtyActive: 4 } });
  await pair.stopMirror();
  await pair.write(7 * MIB, randomBytes(300_000));
  await pair.stopPrimary(50);
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toMatchObject({ scope: 'marked' });
  expect(pair.link.lastRescan!.scopeSize).toBeLessThanOrEqual(8 * MIB);
});

/** The primary stops, and what it had written down of itself is as it was before. */
async function dies(pair: Pair): Promise<void> {
  cpSync(`${pair.diskPath}.twin`, `${pair.folder}/as-the-power-went`, { recursive: true });
  await pair.stopPrimary(0);
  rmSync(`${pair.diskPath}.twin`, { recursive: true });
  cpSync(`${pair.folder}/as-the-power-went`, `${pair.diskPath}.twin`, { recursive: true });
}

test('a primary that dies compares what is marked at its next start, and no more', async () => {
  const pair = await Pair.inStep({ size: 64 * MIB, primary: { dirtyActive: 4 } });
  await pair.untilInStep();
  for (let index = 0; index < 8; index += 1) await pair.write(index * 7 * MIB, randomBytes(300_000));
  await pair.untilInStep();
  await pair.until('few marks', () => pair.link.map.set <= 6);
  await pair.write(50 * MIB, randomBytes(300_000));
  await dies(pair);
  await pair.startPrimary();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toMatchObject({ scope: 'marked' });
  expect(pair.link.lastRescan!.scopeSize).toBeLessThanOrEqual(8 * MIB);
});

test('a seeding leaves nothing marked that no client wrote, nor does a rescan', async () => {
  const pair = await Pair.inStep({ size: 64 * MIB });
  await pair.until('nothing marked', () => pair.link.map.set === 0);
  for (const region of [3, 40, 41]) await pair.write(region * MIB, randomBytes(5000));
  await pair.untilInStep();
  expect(pair.link.map.set).toBe(3);
  // Dies, and compares those; none of them is written again.
  await dies(pair);
  await pair.startPrimary();
  await pair.untilInStep();
  expect(pair.link.lastRescan).toMatchObject({ scope: 'marked', scopeSize: 3 * MIB });
  await pair.until('nothing marked', () => pair.link.map.set === 0);
});

test('a disk changed while it was not being served is compared whole', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  await pair.stopPrimary();
  await scribble(pair.diskPath, 9 * MIB + 3, Buffer.from('x'));
  await pair.startPrimary();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan?.scope).toBe('everything');
});

test('a mirror image changed while no mirror ran is compared whole', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopMirror();
  await scribble(pair.imagePath, 3 * MIB + 3, Buffer.from('x'));
  await pair.startMirror();
  await pair.until('a rescan', () => pair.link.lastRescan !== undefined && pair.link.sessions >= 2);
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a disk that grew is rescanned and the image grows with it', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  await pair.stopPrimary();
  truncateSync(pair.diskPath, pair.size + 3 * MIB + 512);
  await scribble(pair.diskPath, pair.size + MIB, randomBytes(4096));
  await pair.startPrimary();
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a mirror image larger than the disk is refused on both sides and not touched', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  await pair.stopPrimary();
  truncateSync(pair.diskPath, pair.size - MIB);
  await pair.startPrimary();
  await pair.until('refused', () => pair.link.state === 'refused');
  expect(pair.link.problem?.code).toBe('image-larger');
  expect(pair.mirror!.status().exports[0]!.problem?.code).toBe('image-larger');
  expect(pair.mirror!.status().exports[0]!.size).toBe(pair.size);
});

test('the image of another volume is refused and not touched', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  await pair.stopPrimary();
  rmSync(`${pair.diskPath}.twin`, { recursive: true });
  await pair.startPrimary();
  await pair.until('refused', () => pair.link.state === 'refused');
  expect(pair.link.problem?.code).toBe('image-foreign');
  await pair.write(MIB, randomBytes(5000));
  expect(() => pair.expectIdentical()).toThrow('differ');
});

test('an image without state is never overwritten', async () => {
  const pair = await Pair.make();
  copyFileSync(pair.diskPath, pair.imagePath);
  await scribble(pair.imagePath, 0, Buffer.from('precious'));
  await pair.startMirror();
  await pair.startPrimary();
  await pair.until('refused', () => pair.link.state === 'refused');
  expect(pair.link.problem?.code).toBe('image-foreign');
});

test('a primary put back to an older copy of itself is refused until --rescan', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary();
  copyFileSync(pair.diskPath, `${pair.folder}/older.img`);
  copyFileSync(`${pair.diskPath}.twin/primary`, `${pair.folder}/older.state`);
  await pair.startPrimary();
  await pair.write(2 * MIB, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary();

  // A snapshot of the machine is restored: disk and state are those of the first clean stop, times included.
  copyFileSync(`${pair.folder}/older.img`, pair.diskPath);
  copyFileSync(`${pair.folder}/older.state`, `${pair.diskPath}.twin/primary`);
  await pair.vouchForDisk();

  await pair.startPrimary();
  await pair.until('refused', () => pair.link.state === 'refused');
  expect(pair.link.problem?.code).toBe('primary-older');
  await pair.stopPrimary();
  await pair.startPrimary({ rescanAll: true });
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a primary put back to an older copy that writes before it connects does not pass for the newer one', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary();
  copyFileSync(pair.diskPath, `${pair.folder}/older.img`);
  copyFileSync(`${pair.diskPath}.twin/primary`, `${pair.folder}/older.state`);
  await pair.startPrimary();
  for (let index = 0; index < 3; index += 1) await pair.write(2 * MIB + index * 8192, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary();

  copyFileSync(`${pair.folder}/older.img`, pair.diskPath);
  copyFileSync(`${pair.folder}/older.state`, `${pair.diskPath}.twin/primary`);
  await pair.vouchForDisk();
  pair.proxy.cut();
  await pair.startPrimary();
  for (let index = 0; index < 9; index += 1) await pair.write(5 * MIB + index * 8192, randomBytes(5000));
  pair.proxy.restore();
  await pair.until('refused', () => pair.link.state === 'refused');
  expect(pair.link.problem?.code).toBe('primary-older');
});

test('a start without a write and then a crash leave the next start where the clean stop was', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary();
  copyFileSync(`${pair.diskPath}.twin/primary`, `${pair.folder}/state`);
  await pair.startPrimary();
  await pair.untilInStep();
  await pair.stopPrimary(0);
  copyFileSync(`${pair.folder}/state`, `${pair.diskPath}.twin/primary`);
  await pair.startPrimary();
  await pair.write(2 * MIB, randomBytes(5000));
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toBeUndefined();
});

test('a primary that dies in the middle of a rescan does not take it for done', async () => {
  const pair = await Pair.inStep({ size: 160 * MIB });
  for (let at = 0; at < pair.size; at += 8 * MIB) await pair.write(at, randomBytes(4096));
  await pair.untilInStep();
  await pair.stopPrimary();
  await pair.stopMirror();
  await scribble(pair.imagePath, 150 * MIB, randomBytes(4096));
  await pair.startMirror();
  // A clean start, no write at all, a rescan because the image changed; the power goes while it runs.
  await pair.startPrimary({ rescanRate: 2 * MIB });
  await pair.until('a checkpoint is durable', () => pair.link.state === 'rescan' && pair.link.markedSize < pair.size);
  cpSync(`${pair.diskPath}.twin`, `${pair.folder}/as-the-power-went`, { recursive: true });
  await pair.stopPrimary(0);
  expect(() => pair.expectIdentical()).toThrow('differ');
  rmSync(`${pair.diskPath}.twin`, { recursive: true });
  cpSync(`${pair.folder}/as-the-power-went`, `${pair.diskPath}.twin`, { recursive: true });
  await pair.startPrimary();
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a second primary of the same volume is refused while the first one answers', async () => {
  const pair = await Pair.inStep();
  const { run } = pair.primary!.status();
  cpSync(`${pair.diskPath}.twin`, `${pair.folder}/clone.img.twin`, { recursive: true });
  copyFileSync(pair.diskPath, `${pair.folder}/clone.img`);
  const first = pair.primary!;
  const clone = await pair.openOther(`${pair.folder}/clone.img`);
  await pair.until('refused', () => clone.status().mirrors[0]!.state === 'refused');
  expect(clone.status().run).not.toBe(run);
  expect(clone.status().mirrors[0]!.problem?.code).toBe('image-busy');
  expect(first.status().mirrors[0]!.state).toBe('streaming');
  await clone.close(0);
});
