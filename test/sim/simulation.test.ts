/**
 * The simulator at work: that a seed replays exactly, the seeds that ever failed, and new ones for as long as
 * $NBDTWIN_SIM_SECONDS says (under CI a few seconds of the first ones). A failure prints how to see it again.
 */
import process from 'node:process';
import { describe, expect, it } from 'vitest';
import { KNOWN_SEEDS } from './seeds.ts';
import { Simulation } from './simulation.ts';

const CI_SECONDS = 5;
const STEPS = 15_000;

const seconds = Number(process.env['NBDTWIN_SIM_SECONDS'] ?? (process.env['CI'] === 'true' ? CI_SECONDS : 0));

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

describe.runIf(seconds > 0)('more seeds', () => {
  it(
    'find nothing',
    async () => {
      const untilMs = Date.now() + seconds * 1000;
      // Asked for, they are new each time; otherwise they are always the same.
      const first = process.env['NBDTWIN_SIM_SECONDS'] === undefined ? 1 : Math.floor(Date.now() / 1000);
      let steps = 0;
      for (let seed = first; Date.now() < untilMs; seed += 1) {
        const outcome = await new Simulation({ seed, steps: STEPS }).run();
        steps += outcome.steps;
      }
      expect(steps).toBeGreaterThan(0);
    },
    (seconds + 120) * 1000,
  );
});
