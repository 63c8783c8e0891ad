/** What is compared, what is streamed, and where an interrupted comparison goes on. */
import { randomBytes } from 'node:crypto';
import { copyFileSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import { Pair } from '../../support/pair.ts';
import { Gate, hookScans, hookStaging, LeapingClock, overlaps } from '../../support/pair-hooks.ts';

/** Longer than the time between the checkpoints of a rescan. */
const CHECKPOINT_DUE_MS = 6_000;

/** The link is cut and the window overruns: regions 0, 2, 4 ... 20 are marked. */
async function markEverySecondRegion(pair: Pair): Promise<void> {
  pair.proxy.cut();
  await pair.until('the session is over', () => pair.link.state !== 'streaming');
  for (let region = 0; region <= 20; region += 2) await pair.write(region * MIB + 512 * KIB, randomBytes(4096));
  await pair.write(0, randomBytes(MIB));
  expect(pair.link.markedSize).toBe(11 * MIB);
}

test('a write that reaches into a region still to be compared takes later ones inside it along, in order', async () => {
  const pair = await Pair.make({ size: 64 * MIB, primary: { windowSize: MIB, spoolSize: 0 } });
  const border = 20 * MIB;
  const late = new Gate();
  // In a rescan it is not the image that is written, but what is staged beside it, at the same offsets.
  hookStaging(pair, pair.imagePath, (call, offset) =>
    call === 'write' && offset === border - 4096 ? late.passed : undefined,
  );
  await pair.startMirror();
  await pair.startPrimary();
  // Both sides hold data in that region, so that its blocks are compared one by one.
  await pair.write(border + 256 * KIB, randomBytes(4096));
  await pair.untilInStep();
  await markEverySecondRegion(pair);
  const compared = new Gate();
  let asked = 0;
  let askedAtBorder = 0;
  hookScans(pair, pair.imagePath, async (request) => {
    asked += 1;
    await compared.passed;
    if (overlaps(request, border, 4096)) askedAtBorder += 1;
  });
  pair.proxy.restore();
  await pair.until('the first batch is under way', () => asked >= 1);
  // The first is streamed, since it also lies where nothing is compared. It reaches the mirror's disk only after the
  // digests of both sides have been read there, when both still hold zeroes.
  await pair.write(border - 4096, randomBytes(8192));
  expect(await pair.primary!.volume.trim(border, 4096, { fua: false })).toBe(true);
  compared.open();
  await pair.until('all has been looked at', () => pair.link.rescan?.comparedSize === 11 * MIB);
  expect(askedAtBorder).toBeGreaterThan(0);
  late.open();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toMatchObject({ scope: 'marked', pass: 1 });
});

test('a write to a region still to be compared is left to the comparison and takes no room in the window', async () => {
  const pair = await Pair.inStep({ size: 64 * MIB, primary: { windowSize: MIB, spoolSize: 0 } });
  await markEverySecondRegion(pair);
  const compared = new Gate();
  let asked = 0;
  hookScans(pair, pair.imagePath, async () => {
    asked += 1;
    await compared.passed;
  });
  pair.proxy.restore();
  await pair.until('the first batch is under way', () => asked >= 1);
  const used = pair.link.window.used;
  await pair.write(20 * MIB + 4096, randomBytes(MIB / 2));
  // Not more: the PASS may have been let go meanwhile.
  expect(pair.link.window.used).toBeLessThanOrEqual(used);
  compared.open();
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a rescan of marks that is cut short before its first checkpoint is one of marks the next time', async () => {
  const pair = await Pair.inStep({ size: 64 * MIB, primary: { windowSize: MIB, spoolSize: 0 } });
  await markEverySecondRegion(pair);
  const compared = new Gate();
  let asked = 0;
  hookScans(pair, pair.imagePath, async () => {
    asked += 1;
    await compared.passed;
  });
  pair.proxy.restore();
  await pair.until('the first batch is under way', () => asked >= 1);
  pair.proxy.drop();
  compared.open();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toMatchObject({ scope: 'marked', scopeSize: 11 * MIB });
});

/** A pair of this size, not started, whose scans on one side wait from `from` on, when told so. */
async function pairOfBatches(
  size: number,
  side: 'diskPath' | 'imagePath',
): Promise<{
  pair: Pair;
  clock: LeapingClock;
  /** They wait from there on; the gate opens them. */
  holdFrom(offset: number): { readonly gate: Gate; readonly waiting: () => number };
}> {
  const clock = new LeapingClock();
  const pair = await Pair.make({ size, primaryWorld: { clock } });
  let from = Number.POSITIVE_INFINITY;
  let gate = new Gate();
  let waiting = 0;
  hookScans(pair, pair[side], async (request) => {
    if (request.offset < from) return;
    waiting += 1;
    await gate.passed;
  });
  return {
    pair,
    clock,
    holdFrom(offset) {
      from = offset;
      gate = new Gate();
      waiting = 0;
      return { gate, waiting: () => waiting };
    },
  };
}

/** A little data in each batch of a comparison: what is all hole is settled by a single question. */
async function writeSparsely(pair: Pair): Promise<void> {
  for (let offset = 0; offset < pair.size; offset += 16 * MIB) await pair.write(offset + 5, randomBytes(4096));
}

test('--rescan that is cut short goes on where it was, not from the start', async () => {
  const { pair, clock, holdFrom } = await pairOfBatches(256 * MIB, 'diskPath');
  await pair.startMirror();
  await pair.startPrimary();
  await writeSparsely(pair);
  await pair.untilInStep();
  await pair.stopPrimary();
  const first = holdFrom(0);
  await pair.startPrimary({ rescanAll: true });
  await pair.until('the rescan runs', () => first.waiting() > 0 && pair.link.rescan !== undefined);
  expect(pair.link.rescan!.scope).toBe('everything');
  clock.leap(CHECKPOINT_DUE_MS);
  const second = holdFrom(128 * MIB);
  first.gate.open();
  await pair.until('a checkpoint is durable', () => pair.link.markedSize < pair.size && second.waiting() > 0);
  const marked = pair.link.markedSize;
  pair.proxy.drop();
  second.gate.open();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toMatchObject({ scope: 'marked', scopeSize: marked });
});

test('a seeding that is cut short behind a write that was left to it goes on at its checkpoint', async () => {
  const { pair, clock, holdFrom } = await pairOfBatches(256 * MIB, 'imagePath');
  await pair.startPrimary();
  await writeSparsely(pair);
  const first = holdFrom(0);
  await pair.startMirror();
  await pair.until('the seeding runs', () => first.waiting() > 0 && pair.link.rescan !== undefined);
  const late = randomBytes(4096);
  await pair.write(pair.size - 4096, late);
  expect(pair.link.window.used).toBeLessThan(4096);
  clock.leap(CHECKPOINT_DUE_MS);
  const second = holdFrom(128 * MIB);
  first.gate.open();
  await pair.until('a checkpoint is durable', () => pair.link.markedSize < pair.size && second.waiting() > 0);
  const marked = pair.link.markedSize;
  pair.proxy.drop();
  second.gate.open();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(readFileSync(pair.imagePath).subarray(pair.size - 4096)).toEqual(late);
  expect(pair.link.lastRescan).toMatchObject({ scope: 'marked', scopeSize: marked });
});

test('writes as large as the whole window are streamed, and a burst of them ends in step', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB } });
  const seeded = pair.link.lastRescan;
  for (let index = 0; index < 5; index += 1) {
    await pair.write(index * MIB, randomBytes(MIB));
    await pair.untilInStep();
  }
  expect([pair.link.sessions, pair.link.lastRescan]).toEqual([1, seeded]);
  for (let index = 0; index < 40; index += 1) await pair.write((index % 14) * MIB + 77, randomBytes(MIB));
  await pair.untilInStep();
  pair.expectIdentical();
});

test('the mirror takes the next rescan once one is complete, though that session goes on streaming', async () => {
  const pair = await Pair.inStep({ mirror: { rescansMax: 1 } });
  const other = `${pair.folder}/other.img`;
  copyFileSync(pair.diskPath, other);
  const second = await pair.openOther(other, { exportName: 'other' });
  await pair.until('the other is in step', () => second.status().mirrors[0]!.state === 'streaming');
  expect([pair.link.state, pair.link.sessions]).toEqual(['streaming', 1]);
  await second.close(0);
});

test('a stop does not wait for a rescan that rests for hours', { timeout: 30_000 }, async () => {
  const pair = await Pair.make({ size: 64 * MIB, primary: { rescanRate: 1 } });
  await pair.startPrimary();
  await writeSparsely(pair);
  await pair.startMirror();
  await pair.until('the first batch is compared', () => (pair.link.rescan?.comparedSize ?? 0) > 0);
  await pair.stopPrimary();
  expect(pair.mirror!.status().exports[0]!.consistent).toBe(false);
});

test('holes cost nothing of --rescan-rate', { timeout: 30_000 }, async () => {
  // At this rate the bytes of the disk would take longer than the test may; those with data take no time.
  const pair = await Pair.make({ size: 1024 * MIB, primary: { rescanRate: MIB } });
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilInStep();
  expect(pair.link.lastRescan).toMatchObject({ comparedSize: pair.size, shippedSize: 0 });
});
