/**
 * The simulator at work: that a seed replays exactly, the seeds that ever failed, and new ones: under CI about three
 * minutes of them, others for each state of the product's source and the same for the same state; or for as long as
 * $NBDTWIN_SIM_SECONDS says, new each time. A failure prints how to see it again.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { describe, expect, it } from 'vitest';
import { KNOWN_SEEDS } from './seeds.ts';
import { Simulation } from './simulation.ts';

const CI_SEEDS = 200;
const STEPS = 15_000;

const seconds = Number(process.env['NBDTWIN_SIM_SECONDS'] ?? 0);

/** The first of the seeds that belong to the product as it is now. */
function seedOfSource(): number {
  const source = join(import.meta.dirname, '../../src');
  const names = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
  const hash = createHash('sha256');
  for (const name of names.sort()) hash.update(readFileSync(join(source, name)));
  return hash.digest().readUInt32LE() >>> 1;
}

describe('a seed', () => {
  it('replays exactly: the same seed twice is the same story, another is another', async () => {
    const [first, again, other] = [
      await new Simulation({ seed: 8, steps: 4_000 }).run(),
      await new Simulation({ seed: 8, steps: 4_000 }).run(),
      await new Simulation({ seed: 9, steps: 4_000 }).run(),
    ];
    expect(again.hash).toBe(first.hash);
    expect(again.virtualMs).toBe(first.virtualMs);
    expect(other.hash).not.toBe(first.hash);
  });

  it('tells nothing of what is printed or checked: a trace changes no event', async () => {
    const lines: string[] = [];
    const silent = await new Simulation({ seed: 10, steps: 3_000 }).run();
    const told = await new Simulation({ seed: 10, steps: 3_000, print: (line) => lines.push(line) }).run();
    expect(told.hash).toBe(silent.hash);
    expect(lines.length).toBeGreaterThan(100);
  });

  it.each(KNOWN_SEEDS)('$seed stays mended: $note', async ({ seed, steps }) => {
    const outcome = await new Simulation({ seed, steps }).run();
    expect(outcome.steps).toBeGreaterThanOrEqual(steps);
  });
});

/** Lives seeds one after the other and resolves with their steps. */
async function live(first: number, more: (seed: number) => boolean): Promise<number> {
  let steps = 0;
  for (let seed = first; more(seed); seed += 1) steps += (await new Simulation({ seed, steps: STEPS }).run()).steps;
  return steps;
}

if (seconds > 0) {
  describe('seeds that nobody has lived before', () => {
    it('find nothing', { timeout: (seconds + 120) * 1000 }, async () => {
      const untilMs = Date.now() + seconds * 1000;
      expect(await live(Math.floor(Date.now() / 1000), () => Date.now() < untilMs)).toBeGreaterThan(0);
    });
  });
} else if (process.env['CI'] === 'true') {
  describe('the seeds of this source', () => {
    it.each([seedOfSource()])('find nothing, from %d on', { timeout: 900_000 }, async (first) => {
      expect(await live(first, (seed) => seed < first + CI_SEEDS)).toBeGreaterThan(0);
    });
  });
}
