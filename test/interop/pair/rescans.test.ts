/** Rescans that wait for each other, and rescans that are interrupted. */
import { randomBytes } from 'node:crypto';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { open as openFile } from 'node:fs/promises';
import { expect, onTestFinished, test } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { memoryLog } from '../../support/memory-log.ts';
import { Pair } from '../../support/pair.ts';

test('with one rescan at a time the others are told their places, and all get their turn, in order', async () => {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log, size: 64 * MIB, mirror: { rescansMax: 1 }, primary: { exportName: 'first' } });
  for (let at = 0; at < pair.size; at += 8 * MIB) await fill(pair.diskPath, at);
  await pair.startMirror();
  await pair.startPrimary({ rescanRate: 48 * MIB });
  await pair.until('the first rescans', () => pair.link.state === 'seeding');

  const others = [];
  for (const name of ['second', 'third']) {
    const path = `${pair.folder}/${name}.img`;
    writeFileSync(path, randomBytes(2 * MIB));
    const other = await pair.openOther(path, { exportName: name });
    onTestFinished(() => other.close(0));
    others.push({ name, path, other, link: () => other.status().mirrors[0]! });
    await pair.until(`${name} waits`, () => other.status().mirrors[0]!.state === 'queued');
  }
  // Who waits is served all the same.
  for (const { other } of others) await other.volume.write(4096, randomBytes(5000), { fua: true });

  await pair.untilInStep();
  for (const { name, link, other } of others) {
    await pair.until(name, () => link().state === 'streaming' && link().recorded === other.status().sequence);
  }
  // The first one still streams: its place was free as soon as its rescan was complete.
  expect(pair.link.sessions).toBe(1);
  const places = lines.flatMap(({ fields }) => ('place' in fields ? [fields.place] : []));
  expect(places).toEqual([1, 2, 1]);
  const begun = lines.flatMap(({ message, fields }) =>
    message === 'a seeding begins' && 'export' in fields ? [fields.export] : [],
  );
  expect(begun).toEqual(['first', 'second', 'third']);
  pair.expectIdentical(`${pair.mirrorFolder}/first.img`);
  for (const { name, path } of others) pair.expectIdentical(`${pair.mirrorFolder}/${name}.img`, path);
});

test('one that waits and leaves makes room: the next ones move up', async () => {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log, size: 64 * MIB, mirror: { rescansMax: 1 }, primary: { exportName: 'first' } });
  for (let at = 0; at < pair.size; at += 8 * MIB) await fill(pair.diskPath, at);
  await pair.startMirror();
  await pair.startPrimary({ rescanRate: 32 * MIB });
  await pair.until('the first rescans', () => pair.link.state === 'seeding');
  const open = async (name: string) => {
    const path = `${pair.folder}/${name}.img`;
    writeFileSync(path, '');
    truncateSync(path, MIB);
    const other = await pair.openOther(path, { exportName: name });
    await pair.until(`${name} waits`, () => other.status().mirrors[0]!.state === 'queued');
    return other;
  };
  const second = await open('second');
  const third = await open('third');
  onTestFinished(() => third.close(0));
  await second.close(0);
  await pair.until(
    'moved up',
    () => lines.filter(({ fields }) => 'place' in fields && fields.place === 1).length === 2,
  );
  // The one that rescans leaves, too.
  await pair.stopPrimary(0);
  await pair.until('third', () => third.status().mirrors[0]!.state === 'streaming');
  pair.expectIdentical(`${pair.mirrorFolder}/third.img`, `${pair.folder}/third.img`);
});

test('a mirror that stops in the middle of a seeding: only what is still marked is compared again', async () => {
  const size = 256 * MIB;
  const { log, lines } = memoryLog();
  // Of every 4 MiB one has data, and counts for the rate.
  const pair = await Pair.make({ log, size, primary: { rescanRate: 8 * MIB, windowSize: 16 * MIB } });
  for (let at = 0; at < size; at += 4 * MIB) await fill(pair.diskPath, at);
  await pair.startMirror();
  await pair.startPrimary();
  await pair.until('a checkpoint', () => pair.link.state === 'seeding' && pair.link.markedSize < size);
  const marked = pair.link.markedSize;
  expect(marked).toBeGreaterThan(0);
  await pair.stopMirror();
  // Behind what the first session has done, and where the second one will have to come by anyway.
  await pair.write(4096, randomBytes(5000));
  await pair.write(size - MIB, randomBytes(5000));
  await pair.startMirror();
  expect(pair.mirror!.status().exports[0]).toMatchObject({ consistent: false });
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.lastRescan).toMatchObject({ scope: 'marked' });
  expect(pair.link.lastRescan!.scopeSize).toBeLessThanOrEqual(marked + 2 * MIB);
  expect(lines.filter(({ message }) => message === 'connected: seeding')).toHaveLength(2);
});

test.each(['stops', 'loses its primary'])(
  'a mirror that %s in the middle of a rescan: it goes on where it was, and until its end the image is what it was',
  async (how) => {
    const size = 256 * MIB;
    const { log, lines } = memoryLog();
    const pair = await Pair.inStep({ log, size, primary: { rescanRate: 32 * MIB, spoolSize: 0 } });
    for (let at = 0; at < size; at += 4 * MIB) await pair.write(at, randomBytes(5000));
    await pair.untilInStep();
    const before = readFileSync(pair.imagePath);
    pair.proxy.cut();
    for (let at = 0; at < size; at += MIB) await pair.write(at, randomBytes(70_000));
    const marked = pair.link.markedSize;
    expect(marked).toBe(size);
    pair.proxy.restore();
    await pair.until('a checkpoint', () => pair.link.state === 'rescan' && pair.link.markedSize < marked);
    const left = pair.link.markedSize;
    expect(left).toBeGreaterThan(0);
    if (how === 'stops') await pair.stopMirror();
    else pair.proxy.cut();
    expect(readFileSync(pair.imagePath).equals(before)).toBe(true);
    // Behind what the first session has done, and where the second one will have to come by anyway.
    await pair.write(4096, randomBytes(5000));
    await pair.write(size - MIB, randomBytes(5000));
    if (how === 'stops') await pair.startMirror();
    else pair.proxy.restore();
    expect(pair.mirror!.status().exports[0]).toMatchObject({ consistent: true });
    await pair.until('the rescan goes on', () => pair.link.rescan !== undefined);
    expect(readFileSync(pair.imagePath).equals(before)).toBe(true);
    await pair.untilInStep(40_000);
    pair.expectIdentical();
    expect(pair.link.lastRescan).toMatchObject({ scope: 'marked' });
    expect(pair.link.lastRescan!.scopeSize).toBeLessThanOrEqual(left + 2 * MIB);
    const begun = lines.flatMap(({ message }) => (/^connected: .*rescan/.test(message) ? [message] : []));
    expect(begun).toEqual(['connected: a rescan begins', 'connected: the rescan goes on']);
  },
);

async function fill(path: string, offset: number): Promise<void> {
  const file = await openFile(path, 'r+');
  await file.write(randomBytes(8192), 0, 8192, offset);
  await file.close();
}
