/** Copies of a primary: disk and state put back to an older time, and clones. Two writers' data never mix. */
import { randomBytes } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { badDisk, Faults, faultyFiles } from '../../support/faulty-files.ts';
import { Pair } from '../../support/pair.ts';
import { Gate, hookScans, LeapingClock } from '../../support/pair-hooks.ts';

/** Disk, state and dirty map, without the time and number that the file system gave the copy. */
function copyPrimary(from: string, to: string): void {
  mkdirSync(`${to}.twin`, { recursive: true });
  copyFileSync(from, to);
  for (const name of ['primary', 'dirty']) copyFileSync(`${from}.twin/${name}`, `${to}.twin/${name}`);
}

/** In step, written to, cleanly stopped, and a copy of that beside it. */
async function stoppedWithCopy(pair: Pair): Promise<{ readonly copy: string }> {
  await pair.startMirror();
  await pair.startPrimary();
  // A little data in each batch of a comparison.
  for (let offset = MIB; offset < pair.size; offset += 16 * MIB) await pair.write(offset, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary();
  const copy = `${pair.folder}/copy.img`;
  copyPrimary(pair.diskPath, copy);
  await pair.vouchForDisk(copy);
  return { copy };
}

async function putBack(pair: Pair, copy: string): Promise<void> {
  copyPrimary(copy, pair.diskPath);
  await pair.vouchForDisk();
}

async function untilRefused(pair: Pair): Promise<void> {
  await pair.until('refused', () => pair.link.state === 'refused');
  expect(pair.link.problem?.code).toBe('primary-older');
}

test('a primary put back by more than one start is refused until --rescan', async () => {
  const pair = await Pair.make();
  const { copy } = await stoppedWithCopy(pair);
  for (let start = 0; start < 3; start += 1) {
    await pair.startPrimary();
    await pair.write((2 + start) * MIB, randomBytes(5000));
    await pair.untilInStep();
    await pair.stopPrimary();
  }
  const newest = readFileSync(pair.imagePath);
  await putBack(pair, copy);
  await pair.startPrimary();
  await pair.write(9 * MIB, randomBytes(5000));
  await untilRefused(pair);
  // And it stays so: another start is no better.
  await pair.stopPrimary();
  await pair.startPrimary();
  await untilRefused(pair);
  expect(readFileSync(pair.imagePath).equals(newest)).toBe(true);
  await pair.stopPrimary();
  await pair.startPrimary({ rescanAll: true });
  await pair.untilInStep();
  pair.expectIdentical();
});

test('so is a copy of a running primary, once the original was started again', async () => {
  const pair = await Pair.inStep();
  await pair.write(MIB, randomBytes(5000));
  const copy = `${pair.folder}/copy.img`;
  copyPrimary(pair.diskPath, copy);
  await pair.stopPrimary();
  await pair.startPrimary();
  await pair.write(2 * MIB, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary();
  const newest = readFileSync(pair.imagePath);
  copyPrimary(copy, pair.diskPath);
  await pair.startPrimary();
  await untilRefused(pair);
  expect(readFileSync(pair.imagePath).equals(newest)).toBe(true);
});

test('a running primary put back to an older copy of itself is refused, however much it has marked since', async () => {
  const pair = await Pair.inStep({ primary: { dirtyActive: 1 } });
  await pair.write(MIB, randomBytes(5000));
  await pair.untilInStep();
  const copy = `${pair.folder}/copy.img`;
  copyPrimary(pair.diskPath, copy);
  // What the copy does not know of: marked, told, written.
  for (let region = 2; region < 8; region += 1) await pair.write(region * MIB, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary(0);
  await pair.stopMirror();
  const newest = readFileSync(pair.imagePath);
  copyPrimary(copy, pair.diskPath);
  await pair.startMirror();
  for (let start = 0; start < 3; start += 1) {
    await pair.startPrimary();
    await untilRefused(pair);
    for (let region = 8; region < 15; region += 1) await pair.write(region * MIB + start, randomBytes(100));
    await untilRefused(pair);
    await pair.stopPrimary(0);
    expect(readFileSync(pair.imagePath).equals(newest)).toBe(true);
  }
  await pair.startPrimary({ rescanAll: true });
  await pair.untilInStep();
  await pair.stopPrimary();
  pair.expectIdentical();
  await pair.startPrimary();
  await pair.untilInStep();
});

test('a primary put back to before its dirty map could not be written any more is refused', async () => {
  const faults = new Faults();
  const pair = await Pair.inStep({ primaryWorld: { files: faultyFiles(faults, 'dirty') } });
  await pair.until('nothing marked', () => pair.link.map.set === 0);
  const copy = `${pair.folder}/copy.img`;
  copyPrimary(pair.diskPath, copy);
  faults.write = badDisk();
  // Without a mark: the copy's map does not know of it, and never will.
  await pair.write(3 * MIB, randomBytes(5000));
  await pair.untilInStep();
  expect(pair.link.map.valid).toBe(false);
  const newest = readFileSync(pair.imagePath);
  await pair.stopPrimary(0);
  faults.write = undefined;
  copyPrimary(copy, pair.diskPath);
  await pair.startPrimary();
  await untilRefused(pair);
  expect(readFileSync(pair.imagePath).equals(newest)).toBe(true);
  await pair.stopPrimary(0);
  await pair.startPrimary({ rescanAll: true });
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a primary that dies while its dirty map cannot be written compares everything, and is not refused', async () => {
  const faults = new Faults();
  const pair = await Pair.inStep({ primaryWorld: { files: faultyFiles(faults, 'dirty') } });
  await pair.until('nothing marked', () => pair.link.map.set === 0);
  faults.write = badDisk();
  await pair.write(3 * MIB, randomBytes(5000));
  await pair.untilInStep();
  // The link is lost, and the next session told of the version again.
  const { sessions } = pair.link;
  pair.proxy.drop();
  await pair.until('another session', () => pair.link.sessions > sessions);
  await pair.write(5 * MIB, randomBytes(5000));
  await pair.untilInStep();
  const copy = `${pair.folder}/copy.img`;
  copyPrimary(pair.diskPath, copy);
  await pair.stopPrimary(0);
  faults.write = undefined;
  copyPrimary(copy, pair.diskPath);
  await pair.startPrimary();
  await pair.untilInStep();
  expect(pair.link.lastRescan?.scope).toBe('everything');
  expect(pair.link.map.valid).toBe(true);
  pair.expectIdentical();
});

test('crashes and stops while the mirror is away are no reason to refuse', async () => {
  const pair = await Pair.make();
  await stoppedWithCopy(pair);
  await pair.stopMirror();
  for (let start = 0; start < 3; start += 1) {
    await pair.startPrimary();
    await pair.write((2 + start) * MIB, randomBytes(5000));
    await pair.stopPrimary(0);
  }
  copyFileSync(`${pair.diskPath}.twin/primary`, `${pair.folder}/state`);
  await pair.startPrimary();
  await pair.write(8 * MIB, randomBytes(5000));
  // The power goes: what the state said then is what the next start finds.
  copyFileSync(`${pair.diskPath}.twin/primary`, `${pair.folder}/state`);
  await pair.stopPrimary(0);
  copyFileSync(`${pair.folder}/state`, `${pair.diskPath}.twin/primary`);
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilInStep();
  pair.expectIdentical();
});

test('of two clones of a cleanly stopped primary the mirror follows the first that writes, never both', async () => {
  const pair = await Pair.make();
  const { copy } = await stoppedWithCopy(pair);
  await pair.startPrimary();
  await pair.write(2 * MIB, randomBytes(5000));
  await pair.untilInStep();
  const { run } = pair.mirror!.status().exports[0]!;
  // While the first is there.
  const clone = await pair.openOther(copy);
  const refused = (): string | undefined => clone.status().mirrors[0]!.problem?.code;
  await pair.until('busy', () => refused() === 'image-busy');
  // And when it has gone, also once the clone has written more than the first.
  await pair.stopPrimary();
  for (let index = 0; index < 9; index += 1)
    await clone.volume.write(4 * MIB + index * 8192, randomBytes(5000), { fua: false });
  await pair.until('older', () => refused() === 'primary-older');
  pair.expectIdentical();
  await clone.close(0);
  // The first goes on as if nothing had been.
  await pair.startPrimary();
  await pair.write(3 * MIB, randomBytes(5000));
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toBeUndefined();
  expect(pair.mirror!.status().exports[0]!.run).not.toBe(run);
});

test('once a clone was followed, by --rescan, the one it was made from is refused', async () => {
  const pair = await Pair.make();
  const { copy } = await stoppedWithCopy(pair);
  await pair.startPrimary();
  await pair.write(2 * MIB, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary();
  const clone = await pair.openOther(copy, { rescanAll: true });
  await clone.volume.write(4 * MIB, randomBytes(5000), { fua: false });
  await pair.until('in step', () => clone.status().mirrors[0]!.state === 'streaming');
  await clone.close(5000);
  pair.expectIdentical(pair.imagePath, copy);
  await pair.startPrimary();
  await untilRefused(pair);
  pair.expectIdentical(pair.imagePath, copy);
});

test('operations of one clone that the mirror lost count of in a crash are not taken for the other’s', async () => {
  const pair = await Pair.make();
  const { copy } = await stoppedWithCopy(pair);
  await pair.startPrimary();
  await pair.untilInStep();
  const adopted = readFileSync(`${pair.imagePath}.twin/mirror`);
  for (let index = 0; index < 5; index += 1) await pair.write(2 * MIB + index * 8192, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopPrimary();
  await pair.stopMirror();
  // As after a kill of the mirror before it wrote its position down.
  writeFileSync(`${pair.imagePath}.twin/mirror`, adopted);
  await putBack(pair, copy);
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan?.scope).toBe('everything');
});

test('a rescan that one start left half done is not complete because the next knows nothing of it', async () => {
  const size = 128 * MIB;
  const clock = new LeapingClock();
  const pair = await Pair.make({ size, primaryWorld: { clock } });
  const { copy } = await stoppedWithCopy(pair);
  // Something is wrong with the image, unnoticed; whoever suspects it says --rescan.
  const file = await open(pair.imagePath, 'r+');
  await file.write(randomBytes(4096), 0, 4096, 100 * MIB);
  await file.close();
  const last = new Gate();
  let waiting = false;
  hookScans(pair, pair.diskPath, async (request) => {
    if (request.offset < 96 * MIB) return;
    waiting = true;
    await last.passed;
  });
  const first = new Gate();
  hookScans(pair, pair.imagePath, () => first.passed);
  await pair.startPrimary({ rescanAll: true });
  await pair.until('the rescan runs', () => pair.link.rescan !== undefined);
  clock.leap(6_000);
  first.open();
  await pair.until('a checkpoint is durable', () => waiting && pair.link.markedSize < size);
  pair.proxy.cut();
  last.open();
  await pair.stopPrimary(0);
  await putBack(pair, copy);
  pair.proxy.restore();
  // What the rescan had marked is not in this older copy of the dirty map.
  await pair.startPrimary();
  await untilRefused(pair);
  await pair.stopPrimary(0);
  await pair.startPrimary({ rescanAll: true });
  await pair.untilInStep();
  pair.expectIdentical();
});
