/** Disks that cannot be read, that lose what they said they had, or that nobody can vouch for. */
import { randomBytes } from 'node:crypto';
import { readFileSync, symlinkSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import type { Range } from '../../../src/rescan/source.ts';
import { inlineScanPool } from '../../support/inline-scan-pool.ts';
import type { MemoryDisk } from '../../support/memory-disk.ts';
import { MemoryFiles } from '../../support/memory-files.ts';
import { Pair } from '../../support/pair.ts';
import { Gate, hookDisk, hookScans, LeapingClock, overlaps } from '../../support/pair-hooks.ts';
import { needPrograms } from '../../support/peers.ts';
import { runProgram } from '../../support/run-program.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const EIO = new Failure('io-error', 'EIO: made by the test');

/** A pair that has not started, whose disk is full of data and cannot be read in these ranges. */
async function pairWithBadBlocks(size: number, bad: readonly (readonly [offset: number, length: number])[]) {
  const clock = new LeapingClock();
  const pair = await Pair.make({ size, primaryWorld: { clock } });
  writeFileSync(pair.diskPath, randomBytes(size));
  const state = { bad, held: Number.POSITIVE_INFINITY, waiting: 0, gate: new Gate() };
  const read = async (range: Range): Promise<void> => {
    if (range.offset >= state.held) {
      state.waiting += 1;
      await state.gate.passed;
    }
    if (state.bad.some(([offset, length]) => overlaps(range, offset, length))) throw EIO;
  };
  hookScans(pair, pair.diskPath, read);
  hookDisk(pair, pair.diskPath, (call, offset, length) => (call === 'read' ? read({ offset, length }) : undefined));
  return { pair, clock, state };
}

test('scan threads that die never make a seeding complete, however often', async () => {
  const pair = await Pair.make({ size: 4 * MIB });
  writeFileSync(pair.diskPath, randomBytes(pair.size));
  let dying = true;
  // A seeding looks at the mirror alone before it sends.
  hookScans(pair, pair.imagePath, () => {
    if (dying) throw new Failure('scan-failed', 'a scan thread died: made by the test');
  });
  await pair.startMirror();
  await pair.startPrimary();
  await pair.until('several attempts', () => pair.link.sessions >= 4 && pair.link.problem?.code === 'scan-failed');
  expect([pair.link.markedSize, pair.link.unreadableSize, pair.link.lastRescan]).toEqual([pair.size, 0, undefined]);
  expect(pair.mirror!.status().exports[0]).toMatchObject({ consistent: false });
  dying = false;
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a single bad block does not keep a mirror from existing, and is shown', async () => {
  const { pair } = await pairWithBadBlocks(16 * MIB, [[5 * MIB + 8192, 512]]);
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilInStep();
  expect(pair.link.unreadableSize).toBe(MIB);
  const disk = readFileSync(pair.diskPath);
  const image = readFileSync(pair.imagePath);
  const differing = Array.from({ length: pair.size / 4096 }, (_, block) => block * 4096).filter(
    (at) => disk.compare(image, at, at + 4096, at, at + 4096) !== 0,
  );
  expect(differing).toEqual([5 * MIB + 8192]);
});

test('a disk of which more than one percent cannot be read is not taken for compared', async () => {
  const { pair, state } = await pairWithBadBlocks(32 * MIB, [[20 * MIB, 400 * KIB]]);
  await pair.startMirror();
  await pair.startPrimary();
  await pair.until('refused', () => pair.link.state === 'refused' && pair.link.sessions >= 2);
  expect(pair.link.problem?.code).toBe('io-error');
  expect(pair.mirror!.status().exports[0]!.consistent).toBe(false);
  state.bad = [];
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.unreadableSize).toBe(0);
});

test('nor does a break in the middle make it so: what could not be read is looked at again', async () => {
  const { pair, clock, state } = await pairWithBadBlocks(68 * MIB, [
    [5 * MIB, 400 * KIB],
    [66 * MIB, 400 * KIB],
  ]);
  state.held = 0;
  await pair.startMirror();
  await pair.startPrimary();
  await pair.until('the seeding runs', () => state.waiting > 0 && pair.link.rescan !== undefined);
  clock.leap(6_000);
  const first = state.gate;
  Object.assign(state, { held: 64 * MIB, waiting: 0, gate: new Gate() });
  first.open();
  await pair.until('a checkpoint is durable', () => pair.link.markedSize < pair.size && state.waiting > 0);
  pair.proxy.drop();
  state.gate.open();
  await pair.until('refused', () => pair.link.state === 'refused');
  expect(pair.link.problem?.code).toBe('io-error');
  expect(pair.mirror!.status().exports[0]!.consistent).toBe(false);
  state.bad = [];
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.unreadableSize).toBe(0);
});

test('a range that could not be read back after a failed write is compared after a clean stop', async () => {
  const pair = await Pair.make();
  let bad = true;
  hookDisk(pair, pair.diskPath, (call, offset, length) => {
    // Half of the write has reached the disk.
    if (bad && call !== 'sync' && offset < 4 * MIB + 8192 && offset + length > 4 * MIB) throw EIO;
  });
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilInStep();
  await expect(pair.write(4 * MIB, randomBytes(8192))).rejects.toMatchObject({ code: 'io-error' });
  const file = await open(pair.diskPath, 'r+');
  await file.write(randomBytes(4096), 0, 4096, 4 * MIB);
  await file.close();
  await pair.until('shown', () => pair.link.unreadableSize === MIB);
  await pair.untilInStep();
  await pair.stopPrimary();
  bad = false;
  await pair.startPrimary();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan?.pass).toBe(1);
});

/** A mirror in memory: its disk forgets what was never durable, as a platter does, when its cache is dropped. */
async function pairWithMirrorInMemory(windowSize: number) {
  const files = new MemoryFiles();
  const pair = await Pair.make({
    primary: { windowSize, spoolSize: 0 },
    mirrorWorld: { files, scan: inlineScanPool() },
  });
  await files.makeDirectory(pair.mirrorFolder);
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilInStep();
  return { pair, disk: () => files.file(pair.imagePath).disk };
}

/**
 * The next sync of the mirror's image fails, once the gate is open: what it should have made durable stays in the cache
 * and nowhere else.
 */
function failNextSync(disk: MemoryDisk): { readonly gate: Gate; readonly begun: () => boolean } {
  const gate = new Gate();
  let begun = false;
  disk.hook = (call) => {
    if (begun || call !== 'sync') return undefined;
    begun = true;
    return gate.passed.then(() => Promise.reject(EIO));
  };
  return { gate, begun: () => begun };
}

test('a rescan after a failed sync of the mirror does not take what is only in its cache for what it holds', async () => {
  const { pair, disk } = await pairWithMirrorInMemory(MIB);
  const failing = failNextSync(disk());
  failing.gate.open();
  await pair.write(5 * MIB, randomBytes(4096), true);
  await pair.until('the sync has failed', () => failing.begun() && pair.link.state === 'refused');
  for (let offset = 8 * MIB; offset < 11 * MIB; offset += MIB) await pair.write(offset, randomBytes(MIB / 2));
  await pair.untilInStep();
  expect(pair.link.lastRescan?.scope).toBe('marked');
  expect(disk().durableContent().equals(readFileSync(pair.diskPath))).toBe(true);
});

test('a sync of the mirror that fails at a barrier ends the session; the next one makes it good', async () => {
  const { pair, disk } = await pairWithMirrorInMemory(8 * MIB);
  const failing = failNextSync(disk());
  await pair.write(0, randomBytes(4096), true);
  await pair.write(MIB, randomBytes(4096));
  // The second waits behind the barrier when that fails.
  await pair.until('both are there', () => failing.begun() && pair.mirror!.status().exports[0]!.received === 2);
  failing.gate.open();
  await pair.until('the sync has failed', () => pair.link.problem?.code === 'mirror-io-error');
  await pair.untilInStep();
  expect(pair.link.sessions).toBe(2);
  // Nothing of the failed session is left to wait for.
  await pair.stopMirror();
  expect(disk().durableContent().equals(readFileSync(pair.diskPath))).toBe(true);
});

needPrograms(
  'a block device',
  'losetup',
  'loop-device',
)(() => {
  test('is compared whole after a clean stop: nothing tells whether somebody wrote to it', async () => {
    const folder = temporaryFolder();
    const file = join(folder, 'device');
    const size = 16 * MIB;
    writeFileSync(file, '');
    truncateSync(file, size);
    const device = (await runProgram('losetup', ['--find', '--show', file])).trim();
    onTestFinished(async () => void (await runProgram('losetup', ['--detach', device])));
    const pair = await Pair.make({ size });
    unlinkSync(pair.diskPath);
    symlinkSync(device, pair.diskPath);
    await pair.startMirror();
    await pair.startPrimary();
    await pair.write(MIB, randomBytes(5000));
    await pair.untilInStep();
    await pair.stopPrimary();
    const opened = await open(device, 'r+');
    await opened.write(randomBytes(4096), 0, 4096, 9 * MIB);
    await opened.sync();
    await opened.close();
    await pair.startPrimary();
    await pair.untilInStep();
    expect(pair.link.lastRescan).toMatchObject({ scope: 'everything', scopeSize: size });
    const image = readFileSync(pair.imagePath);
    expect(readFileSync(device).equals(image)).toBe(true);
  });
});

test('a verify that failed leaves nothing behind: another one runs in the same session', async () => {
  const pair = await Pair.make({ size: 40 * MIB });
  writeFileSync(pair.diskPath, randomBytes(pair.size));
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilInStep();
  let dying = true;
  // The mirror is asked before the scan fails here, and answers when nobody waits for it any more.
  hookScans(pair, pair.diskPath, (request) => {
    if (dying && request.offset + request.length > 32 * MIB) throw new Failure('scan-failed', 'made by the test');
  });
  const slow = new Gate();
  hookScans(pair, pair.imagePath, (request) => (request.offset + request.length > 32 * MIB ? slow.passed : undefined));
  await expect(pair.primary!.verify(() => undefined)).rejects.toMatchObject({ code: 'scan-failed' });
  dying = false;
  const second = pair.primary!.verify(() => undefined);
  slow.open();
  expect(await second).toMatchObject({ comparedSize: pair.size, differingSize: 0, ranges: [] });
  expect([pair.link.state, pair.link.sessions]).toEqual(['streaming', 1]);
});

test('what was applied is written down when the primary has gone, without waiting for its return', async () => {
  const pair = await Pair.inStep();
  for (let index = 0; index < 50; index += 1) await pair.write(index * 4096, randomBytes(4096));
  const image = () => pair.mirror!.status().exports[0]!;
  await pair.until('applied', () => image().applied === 50);
  pair.proxy.cut();
  await pair.until('recorded', () => image().recorded === 50);
  expect(image()).toMatchObject({ applied: 50, durable: 50, consistent: true });
});
