/**
 * Random writers and random faults for a while; whatever happened, the images are identical in the end. The seed of a
 * run stands in the name of what fails; SOAK_SEED repeats its faults (not its timing), SOAK_SECONDS makes it longer.
 */
import { randomInt } from 'node:crypto';
import { expect, onTestFailed, test } from 'vitest';
import { isFailure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { Pair, writeRandomly } from '../../support/pair.ts';

const seed = Number(process.env['SOAK_SEED'] ?? randomInt(2 ** 31));
const seconds = Number(process.env['SOAK_SECONDS'] ?? 30);

/** From 0 to `limit` - 1, always the same for the same seed. */
function generator(from: number): (limit: number) => number {
  let state = from >>> 0;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** What can happen to a pair; each leaves it able to go on. */
function faultsOf(pair: Pair, random: (limit: number) => number): Record<string, () => Promise<void>> {
  return {
    async drop() {
      pair.proxy.drop();
    },
    async cut() {
      pair.proxy.cut();
      await sleep(random(600));
      pair.proxy.restore();
    },
    async stall() {
      pair.proxy.stall();
      await sleep(random(800));
      pair.proxy.restore();
    },
    async 'long stall'() {
      pair.proxy.stall();
      await sleep(2_500);
      pair.proxy.drop();
      pair.proxy.restore();
    },
    async slow() {
      pair.proxy.rate = (128 + random(2048)) * KIB;
      await sleep(random(800));
      pair.proxy.rate = undefined;
    },
    async 'mirror restart'() {
      await pair.stopMirror();
      await sleep(random(400));
      await pair.startMirror();
    },
    async 'primary restart'() {
      await pair.stopPrimary(random(3) * 200);
      await sleep(random(100));
      await pair.startPrimary();
    },
    async 'both restart'() {
      await Promise.all([pair.stopMirror(), pair.stopPrimary(100)]);
      await pair.startPrimary();
      await pair.startMirror();
    },
    async verify() {
      // Not always ready, not always left in peace; but never a difference.
      try {
        expect((await pair.primary!.verify(() => undefined)).ranges).toEqual([]);
      } catch (error) {
        if (!isFailure(error)) throw error;
      }
    },
    async quiet() {
      await pair.untilInStep(30_000);
    },
  };
}

test(`random faults under random writes, seed ${seed}`, { timeout: (seconds + 90) * 1000 }, async () => {
  const random = generator(seed);
  // Without one, one that overruns, one that merges, one that holds much.
  const spoolSize = [0, 4, 24, 256][random(4)]! * MIB;
  const happened = [`spool of ${spoolSize}`];
  onTestFailed(() => console.error(`soak: SOAK_SEED=${seed}, faults: ${happened.join(', ')}`));
  const pair = await Pair.inStep({ size: 24 * MIB, primary: { windowSize: 3 * MIB, spoolSize } });
  const faults = faultsOf(pair, random);
  const names = Object.keys(faults);
  const endMs = Date.now() + seconds * 1000;
  let writes = 0;
  while (Date.now() < endMs) {
    const writers = Array.from({ length: 2 }, () => writeRandomly(pair, random(2 ** 31)));
    for (let round = 0; round < 6; round += 1) {
      const name = names[random(names.length)]!;
      happened.push(name);
      await sleep(random(300));
      if (name === 'quiet') break;
      await faults[name]!();
    }
    for (const writer of writers) writes += await writer.stop();
    await faults['quiet']!();
    // With nothing under way the two are compared whole, not by what the product says of them.
    pair.expectIdentical();
  }
  expect(writes).toBeGreaterThan(100);
});

test('four writers that overlap on the same 64 KiB, through breaks: the images are identical', async () => {
  const pair = await Pair.inStep({ primary: { windowSize: 2 * MIB } });
  const random = generator(seed + 1);
  const at = 5 * MIB;
  let stopped = false;
  let writes = 0;
  const writer = async (): Promise<void> => {
    while (!stopped) {
      // Several at a time from each writer, so that they wait for each other's ranges.
      const batch = Array.from({ length: 8 }, async () => {
        const length = 1 + random(random(3) === 0 ? 32 * KIB : 2048);
        const offset = at + random(64 * KIB - length);
        const { volume } = pair.primary!;
        const kind = random(16);
        if (kind === 0) await volume.trim(offset, length, { fua: false });
        else if (kind === 1) await volume.zero(offset, length, { fua: random(2) === 0, allocate: false, fast: false });
        else if (kind === 2) await volume.flush();
        else await volume.write(offset, Buffer.alloc(length, 1 + random(255)), { fua: kind === 3 });
        writes += 1;
      });
      await Promise.all(batch);
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const writers = Promise.all([writer(), writer(), writer(), writer()]);
  for (let round = 0; round < 12; round += 1) {
    await sleep(300);
    if (round % 3 === 0) pair.proxy.drop();
  }
  stopped = true;
  await writers;
  await pair.untilInStep();
  pair.expectIdentical();
  expect(writes).toBeGreaterThan(1000);
  expect((await pair.primary!.verify(() => undefined)).ranges).toEqual([]);
});
