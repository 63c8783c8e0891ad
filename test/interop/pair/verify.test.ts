/** Verify, and the extents that no mirror has yet: what a primary says about its mirror, held against the truth. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import { FrameType } from '../../../src/link/frame.ts';
import { EXTENT_UNREPLICATED, type Extent, UNREPLICATED_CONTEXT } from '../../../src/volume/volume.ts';
import { Pair, writeRandomly } from '../../support/pair.ts';
import { FakeMirror } from '../../support/raw-link.ts';

const none = (): void => undefined;

async function scribble(path: string, offset: number, data: Buffer): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(data, 0, data.length, offset);
  await file.close();
}

/** Ranges that are not replicated, as [offset, length]. */
async function unreplicated(pair: Pair): Promise<[number, number][]> {
  const { volume } = pair.primary!;
  const ranges: [number, number][] = [];
  const extents: Extent[] = await volume.extents(UNREPLICATED_CONTEXT, 0, volume.size, 10_000);
  let at = 0;
  for (const { length, flags } of extents) {
    if ((flags & EXTENT_UNREPLICATED) !== 0) ranges.push([at, length]);
    at += length;
  }
  expect(at).toBe(volume.size);
  return ranges;
}

test('a verify of identical images finds nothing, again and again, while clients write', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: 64 * MIB } });
  const writer = writeRandomly(pair, 11);
  let shown = 0;
  for (let round = 0; round < 4; round += 1) {
    const report = await pair.primary!.verify((progress) => {
      shown = progress.comparedSize;
    });
    expect(report).toMatchObject({ comparedSize: pair.size, differingSize: 0, ranges: [], truncated: false });
    expect(shown).toBe(pair.size);
  }
  expect(await writer.stop()).toBeGreaterThan(50);
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a mirror image altered behind its back: verify names exactly those blocks, and a rescan of everything mends them', async () => {
  const pair = await Pair.inStep();
  for (let index = 0; index < 8; index += 1) await pair.write(2 * index * MIB, randomBytes(MIB));
  await pair.untilInStep();
  await scribble(pair.imagePath, 2 * MIB + 5000, Buffer.from('altered'));
  await scribble(pair.imagePath, 9 * MIB + 4095, Buffer.from('xy'));
  const { ranges, differingSize } = await pair.primary!.verify(none);
  expect(ranges).toEqual([
    { offset: 2 * MIB + 4096, length: 4096 },
    { offset: 9 * MIB, length: 8192 },
  ]);
  expect(differingSize).toBe(12_288);
  expect(pair.link.state).toBe('streaming');
  await pair.stopPrimary();
  await pair.startPrimary({ rescanAll: true });
  await pair.untilInStep();
  pair.expectIdentical();
  // Of the data one block was sent; the other range is in a part of the disk that holds nothing, which costs nothing.
  expect(pair.link.lastRescan).toMatchObject({ scope: 'everything', shippedSize: 4096 });
  expect((await pair.primary!.verify(none)).ranges).toEqual([]);
});

test('verify finds a difference in the last, short block of a disk of odd size', async () => {
  const pair = await Pair.inStep({ size: 3 * MIB + 4096 + 512 });
  await pair.write(pair.size - 700, randomBytes(700));
  await pair.untilInStep();
  await scribble(pair.imagePath, pair.size - 1, Buffer.from([readFileSync(pair.imagePath).at(-1)! ^ 1]));
  expect((await pair.primary!.verify(none)).ranges).toEqual([{ offset: pair.size - 512, length: 512 }]);
});

test('a verify is refused before the first contact, while a rescan runs, while another one runs, and offline', async () => {
  const pair = await Pair.make({ size: 64 * MIB, primary: { rescanRate: 24 * MIB } });
  await pair.startPrimary();
  const refused = (): Promise<void> => expect(pair.primary!.verify(none)).rejects.toMatchObject({ code: 'not-ready' });
  await refused();
  for (let index = 0; index < 64; index += 1) await pair.write(index * MIB, randomBytes(4096));
  await pair.startMirror();
  await pair.until('seeding', () => pair.link.state === 'seeding');
  await refused();
  await pair.untilInStep();
  const first = pair.primary!.verify(none);
  await refused();
  expect((await first).ranges).toEqual([]);
  pair.proxy.cut();
  await pair.until('offline', () => pair.link.state === 'offline' || pair.link.state === 'connecting');
  await refused();
});

test('a verify whose link is cut midway fails, and a later one works', async () => {
  const pair = await Pair.inStep({ size: 128 * MIB, primary: { rescanRate: 48 * MIB } });
  for (let index = 0; index < 128; index += 1) await pair.write(index * MIB, randomBytes(4096));
  await pair.untilInStep();
  let compared = 0;
  const cut = pair.primary!.verify((progress) => {
    compared = progress.comparedSize;
  });
  const outcome = cut.catch((error: unknown) => error);
  await pair.until('midway', () => compared > 0);
  pair.proxy.drop();
  expect(await outcome).toMatchObject({ code: 'connection-lost' });
  expect(compared).toBeLessThan(pair.size);
  await pair.untilInStep();
  pair.expectIdentical();
  await pair.stopPrimary();
  await pair.startPrimary({ rescanRate: undefined });
  await pair.untilInStep();
  expect(await pair.primary!.verify(none)).toMatchObject({ comparedSize: pair.size, ranges: [] });
});

test('a verify that a mirror never answers ends with the session', async () => {
  const pair = await Pair.make();
  let answers = true;
  const fake = await FakeMirror.listen(pair.key, ({ type }) => type === FrameType.DIGEST_REQUEST && !answers);
  await pair.startPrimary({ mirror: fake.address });
  await pair.untilInStep();
  answers = false;
  const asked = fake.seen.length;
  const outcome = pair.primary!.verify(none).catch((error: unknown) => error);
  await pair.until('asked', () => fake.seen.length > asked + 1);
  fake.peers[0]!.destroy();
  expect(await outcome).toMatchObject({ code: 'connection-lost' });
});

test('unreplicated: everything before the first contact, nothing once in step', async () => {
  const pair = await Pair.make();
  await pair.startPrimary();
  expect(await unreplicated(pair)).toEqual([[0, pair.size]]);
  await pair.write(5 * MIB, randomBytes(5000));
  await pair.startMirror();
  await pair.untilInStep();
  expect(await unreplicated(pair)).toEqual([]);
  await pair.write(6 * MIB, randomBytes(5000), true);
  await pair.primary!.volume.flush();
  await pair.untilInStep();
  expect(await unreplicated(pair)).toEqual([]);
});

test('unreplicated: exactly what was written while the link is cut, then nothing', async () => {
  const pair = await Pair.inStep();
  pair.proxy.cut();
  await pair.until('cut', () => pair.link.state !== 'streaming');
  const { volume } = pair.primary!;
  await pair.write(7, randomBytes(10));
  await pair.write(4096, randomBytes(512));
  await pair.write(4608, randomBytes(512));
  await pair.write(4700, randomBytes(4));
  await volume.zero(MIB, 3 * KIB, { fua: false, allocate: false, fast: false });
  await volume.trim(2 * MIB, 64 * KIB, { fua: false });
  await volume.flush();
  expect(await unreplicated(pair)).toEqual([
    [7, 10],
    [4096, 1024],
    [MIB, 3 * KIB],
    [2 * MIB, 64 * KIB],
  ]);
  // A question about a part is answered for that part.
  expect(await volume.extents(UNREPLICATED_CONTEXT, 4500, 1000, 10)).toEqual([
    { length: 620, flags: EXTENT_UNREPLICATED },
    { length: 380, flags: 0 },
  ]);
  expect(await volume.extents(UNREPLICATED_CONTEXT, 0, pair.size, 2)).toHaveLength(2);
  pair.proxy.restore();
  await pair.untilInStep();
  expect(await unreplicated(pair)).toEqual([]);
});

test('unreplicated: regions with an operation in the spool, until the mirror has recorded it', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB } });
  pair.proxy.cut();
  await pair.until('cut', () => pair.link.state !== 'streaming');
  for (let index = 0; index < 8; index += 1)
    await pair.write(3 * MIB + 100 + index * 300 * KIB, randomBytes(200 * KIB));
  await pair.write(11 * MIB, randomBytes(1));
  expect(pair.link.markedSize).toBe(0);
  expect(await unreplicated(pair)).toEqual([
    [3 * MIB, 3 * MIB],
    [11 * MIB, MIB],
  ]);
  pair.proxy.restore();
  await pair.untilInStep();
  expect(await unreplicated(pair)).toEqual([]);
  pair.expectIdentical();
});

test('unreplicated: the marked regions after the window overran', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB, spoolSize: 0 } });
  pair.proxy.cut();
  await pair.until('cut', () => pair.link.state !== 'streaming');
  for (let index = 0; index < 8; index += 1)
    await pair.write(3 * MIB + 100 + index * 300 * KIB, randomBytes(200 * KIB));
  await pair.write(11 * MIB, randomBytes(1));
  expect(await unreplicated(pair)).toEqual([
    [3 * MIB, 3 * MIB],
    [11 * MIB, MIB],
  ]);
  expect(pair.link.markedSize).toBe(4 * MIB);
  pair.proxy.restore();
  await pair.untilInStep();
  expect(await unreplicated(pair)).toEqual([]);
  expect(pair.link.lastRescan?.scope).toBe('marked');
  pair.expectIdentical();
});
