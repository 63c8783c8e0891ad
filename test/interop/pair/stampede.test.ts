/** A mirror that comes back with many primaries: who is let in, who waits, and what becomes of what clients write meanwhile. */
import { randomBytes } from 'node:crypto';
import { truncateSync, writeFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import { nodeScanPool } from '../../../src/io/node-scan-pool.ts';
import type { ScanPool } from '../../../src/io/scan-pool.ts';
import type { Primary } from '../../../src/primary/primary.ts';
import type { MirrorLinkStatus } from '../../../src/primary/status.ts';
import { Pair } from '../../support/pair.ts';

const EXPORTS = 30;
const RESCANS_MAX = 2;
const SIZE = 8 * MIB;

/** A scan pool that can be held; `asked` is called at each question, before and after. */
class HeldScan implements ScanPool {
  readonly #pool = nodeScanPool();
  asked: () => void = () => undefined;
  #held: Promise<void> = Promise.resolve();
  release: () => void = () => undefined;

  hold(): void {
    this.#held = new Promise((resolve) => {
      this.release = resolve;
    });
  }

  async scan(...args: Parameters<ScanPool['scan']>): ReturnType<ScanPool['scan']> {
    this.asked();
    await this.#held;
    const result = await this.#pool.scan(...args);
    this.asked();
    return result;
  }

  close(): Promise<void> {
    return this.#pool.close();
  }
}

test('thirty exports that reconnect at once: two rescans run, the others wait in order and serve, and all end equal', async () => {
  const scan = new HeldScan();
  onTestFinished(() => scan.close());
  const options = { windowSize: MIB, spoolSize: 0 };
  const pair = await Pair.make({
    size: SIZE,
    mirrorWorld: { scan },
    mirror: { rescansMax: RESCANS_MAX },
    primary: options,
  });
  await pair.startMirror();
  const twins = await Promise.all(
    Array.from({ length: EXPORTS }, async (_, index) => {
      const name = `disk${index}`;
      const path = `${pair.folder}/${name}.img`;
      writeFileSync(path, randomBytes(MIB));
      truncateSync(path, SIZE);
      const primary = await pair.openOther(path, { exportName: name });
      onTestFinished(() => primary.close(0));
      return { path, image: `${pair.mirrorFolder}/${name}.img`, primary, link: () => primary.status().mirrors[0]! };
    }),
  );
  const all = (what: string, condition: (link: MirrorLinkStatus, primary: Primary) => boolean): Promise<void> =>
    pair.until(
      what,
      () => twins.every(({ link, primary }) => condition(link(), primary)),
      30_000,
      () => twins.map(({ link }) => `${link().state} ${link().markedSize}`).join(),
    );
  const inStep = (): Promise<void> =>
    all('in step', (link, primary) => link.state === 'streaming' && link.recorded === primary.status().sequence);
  await inStep();

  await pair.stopMirror();
  // Too much for the window: order is given up, a few regions are marked.
  for (const { primary } of twins) {
    for (let at = 0; at < 20; at += 1) {
      await primary.volume.write((at % 4) * 2 * MIB + (at >> 2) * 64 * KIB, randomBytes(64 * KIB), { fua: false });
    }
  }
  expect(twins.map(({ link }) => link().markedSize)).toEqual(twins.map(() => 4 * MIB));

  scan.hold();
  const mirror = await pair.startMirror();
  const running: number[] = [];
  scan.asked = () => {
    const { rescans, exports } = mirror.status();
    running.push(rescans.running, exports.filter(({ state }) => state === 'rescan').length);
  };
  await pair.until('all have asked', () => {
    const { running: admitted, waiting } = mirror.status().rescans;
    return (
      admitted + waiting === EXPORTS && twins.filter(({ link }) => link().state === 'rescan').length === RESCANS_MAX
    );
  });
  expect(mirror.status().rescans).toEqual({ limit: RESCANS_MAX, running: RESCANS_MAX, stuck: 0, waiting: 28 });
  const waiting = twins.filter(({ link }) => link().state === 'queued');
  await pair.until('all are told', () => waiting.every(({ link }) => link().queuePlace !== undefined));
  const places = Array.from({ length: EXPORTS - RESCANS_MAX }, (_, index) => index + 1);
  const sorted = (found: readonly (number | undefined)[]) => found.map(Number).sort((a, b) => a - b);
  expect(sorted(waiting.map(({ link }) => link().queuePlace))).toEqual(places);
  const queued = mirror.status().exports.filter(({ state }) => state === 'queued');
  expect(sorted(queued.map(({ queuePlace }) => queuePlace))).toEqual(places);

  // Clients of all of them are served, while they wait: into a region that was marked, and into one that was not.
  for (const { primary } of twins) {
    await primary.volume.write(2 * MIB + 4096, randomBytes(5000), { fua: true });
    await primary.volume.write(7 * MIB + 4096, randomBytes(5000), { fua: false });
    await primary.volume.flush();
  }
  expect(twins.filter(({ link }) => link().state === 'queued')).toEqual(waiting);
  expect(mirror.status().rescans).toMatchObject({ running: RESCANS_MAX, waiting: 28 });
  for (const { link } of waiting) expect(link().markedSize).toBe(5 * MIB);

  scan.release();
  await inStep();
  expect(Math.max(...running)).toBe(RESCANS_MAX);
  expect(mirror.status().rescans).toEqual({ limit: RESCANS_MAX, running: 0, stuck: 0, waiting: 0 });
  for (const { path, image, link } of twins) {
    pair.expectIdentical(image, path);
    // Nobody lost its marks: no one compares everything, and none was let in twice.
    expect(link().lastRescan).toMatchObject({ scope: 'marked' });
    expect(link().sessions).toBe(2);
  }
});
