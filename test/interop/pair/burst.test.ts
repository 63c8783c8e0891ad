/** Writes that come while a session is being opened, or at the very end of a rescan. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect, test, vi } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import { Pair } from '../../support/pair.ts';

/** The mirror answers an opening once its image is synced: until `open` is called, it gets no further than that. */
async function heldMirror(pair: Pair): Promise<{ open(): void }> {
  let open = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  const { files } = pair.world;
  const openDisk = files.openDisk.bind(files);
  const spy = vi.spyOn(files, 'openDisk').mockImplementation(async (path, options) => {
    const disk = await openDisk(path, options);
    const sync = disk.sync.bind(disk);
    if (path === pair.imagePath) disk.sync = () => gate.then(sync);
    return disk;
  });
  await pair.startMirror();
  spy.mockRestore();
  return { open };
}

/** More than any window of these tests holds. */
async function burst(pair: Pair): Promise<void> {
  for (let offset = 0; offset < pair.size; offset += 2 * MIB) await pair.write(offset + 17, randomBytes(300 * KIB));
}

test('a burst that overruns the window while the mirror gets ready for a rescan is in the rescan', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB, spoolSize: 0 } });
  await pair.stopMirror();
  await burst(pair);
  // Order has been given up, whatever the link is trying at this moment.
  expect(pair.link.markedSize).toBeGreaterThan(0);
  const mirror = await heldMirror(pair);
  await pair.until('the rescan has been admitted', () => pair.link.state === 'rescan');
  await burst(pair);
  // Nothing of all this has touched the image: it is what it was before the mirror went away.
  expect(pair.mirror!.status().exports[0]).toMatchObject({ consistent: true });
  expect(readFileSync(pair.imagePath).every((byte) => byte === 0)).toBe(true);
  mirror.open();
  await pair.untilInStep();
  pair.expectIdentical();
  await pair.write(5, randomBytes(5000));
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a burst that overruns the window while the mirror gets ready to catch up leads to a rescan', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB, spoolSize: 0 } });
  await pair.write(5, randomBytes(5000));
  await pair.untilInStep();
  await pair.stopMirror();
  const mirror = await heldMirror(pair);
  await pair.until('it resumes', () => pair.link.state === 'catch-up');
  await burst(pair);
  expect(pair.link.state).toBe('behind');
  mirror.open();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan?.scope).toBe('marked');
});

test('a burst that overruns the window while the mirror gets ready to catch up waits in the spool, in order', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: MIB } });
  await pair.write(5, randomBytes(5000));
  await pair.untilInStep();
  const { lastRescan } = pair.link;
  await pair.stopMirror();
  const mirror = await heldMirror(pair);
  await pair.until('it resumes', () => pair.link.state === 'catch-up');
  await burst(pair);
  expect(pair.link).toMatchObject({ state: 'catch-up', markedSize: 0, spool: { rung: 'spool' } });
  mirror.open();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toEqual(lastRescan);
});

test('the last operations of a rescan count as applied though they were left to the comparison', async () => {
  const pair = await Pair.inStep({ size: 160 * MIB, primary: { windowSize: MIB, spoolSize: 0, rescanRate: 64 * MIB } });
  await pair.stopMirror();
  for (let offset = 0; offset < pair.size; offset += 8 * MIB) await pair.write(offset, randomBytes(64 * KIB));
  for (let offset = 0; offset < pair.size; offset += MIB) await pair.write(offset, randomBytes(5));
  await pair.startMirror();
  await pair.until('a rescan runs', () => pair.link.state === 'rescan' && pair.link.rescan !== undefined);
  const { sequence } = pair.primary!.status();
  await pair.write(pair.size - 100, randomBytes(100));
  expect(pair.link.window.used).toBeLessThan(MIB / 2);
  await pair.untilInStep();
  expect(pair.link.applied).toBe(sequence + 1);
  const { sessions } = pair.link;
  await pair.write(7, randomBytes(5000));
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.sessions).toBe(sessions);
});
