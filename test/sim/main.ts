/** The command: which seeds are lived, for how long, and what is told of them. See docs/testing.md. */
import process from 'node:process';
import { parseArgs } from 'node:util';
import type { PointName } from '../../src/io/points.ts';
import { type Checks, NO_CHECKS } from './oracle.ts';
import { Finding, type Outcome, Simulation } from './simulation.ts';

const STEPS = 20_000;

/** Runs the command; resolves with the exit status. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      seed: { type: 'string' },
      steps: { type: 'string' },
      count: { type: 'string' },
      minutes: { type: 'string' },
      trace: { type: 'boolean' },
      quiet: { type: 'boolean' },
      /** Misfortunes that are left out, with commas between. */
      without: { type: 'string' },
      /** Goes on after a seed that fails. */
      all: { type: 'boolean' },
    },
  });
  const first = Number(values.seed ?? Math.floor(Date.now() / 1000));
  const steps = Number(values.steps ?? STEPS);
  const untilMs = values.minutes === undefined ? undefined : Date.now() + Number(values.minutes) * 60_000;
  const count = Number(values.count ?? (untilMs === undefined ? 1 : Number.POSITIVE_INFINITY));
  const without = values.without?.split(',') ?? [];
  const totals = new Totals();
  let failed = 0;
  for (let index = 0; index < count && (untilMs === undefined || Date.now() < untilMs); index += 1) {
    const seed = first + index;
    try {
      const print = values.trace === true ? (line: string) => process.stdout.write(`${line}\n`) : undefined;
      const outcome = await new Simulation({ seed, steps, without, ...(print && { print }) }).run();
      totals.add(outcome);
      if (values.quiet !== true) process.stdout.write(`${lineOf(outcome)}\n`);
    } catch (error) {
      if (!(error instanceof Finding)) throw error;
      failed += 1;
      if (values.all === true) {
        process.stdout.write(`seed ${seed} FAILED: ${error.what}\n`);
        continue;
      }
      process.stdout.write(`${error.message}\n`);
      process.stdout.write(`found after ${index + 1} seeds: ${error.what}\n`);
      totals.print();
      return 1;
    }
  }
  totals.print();
  return failed === 0 ? 0 : 1;
}

function lineOf(outcome: Outcome): string {
  const { checks } = outcome;
  const states = [...outcome.states].join(' ');
  return (
    `seed ${outcome.seed}: ${outcome.steps} steps, ${(outcome.virtualMs / 1000).toFixed(1)} s, ${outcome.crashes} ends, ` +
    `${outcome.sessions} connections, ${outcome.requests} requests, ${checks.consistent}/${checks.crashStates} crash states judged, ` +
    `${checks.exact} exact, ${checks.live} live, ${states}, ${outcome.hash}`
  );
}

/** By guarantee, see docs/guarantees.md. */
function checksText(checks: Checks): string {
  return (
    `G1: ${checks.live} live images; G2, G3: ${checks.consistent} of ${checks.crashStates} crash states, ${checks.exact} exact; ` +
    `G4: ${checks.marked} pairs against their marks, ${checks.differing} of them differ, ${checks.unmarkedFine} need no marks; ` +
    `G5: ${checks.promised} images with something promised; G8: ${checks.bounds} looks`
  );
}

class Totals {
  readonly #startMs = Date.now();
  readonly #points = new Map<PointName, number>();
  #seeds = 0;
  #steps = 0;
  #crashes = 0;
  #requests = 0;
  readonly #checks = { ...NO_CHECKS };

  add(outcome: Outcome): void {
    this.#seeds += 1;
    this.#steps += outcome.steps;
    this.#crashes += outcome.crashes;
    this.#requests += outcome.requests;
    for (const name of Object.keys(NO_CHECKS) as (keyof Checks)[]) this.#checks[name] += outcome.checks[name];
    for (const [point, count] of outcome.points) this.#points.set(point, (this.#points.get(point) ?? 0) + count);
  }

  print(): void {
    const seconds = (Date.now() - this.#startMs) / 1000;
    const rate = Math.round(this.#steps / seconds);
    process.stdout.write(
      `${this.#seeds} seeds, ${this.#steps} steps in ${seconds.toFixed(1)} s (${rate}/s), ${this.#crashes} ends of a side, ` +
        `${this.#requests} requests\n`,
    );
    process.stdout.write(`${checksText(this.#checks)}\n`);
    const points = [...this.#points].map(([point, count]) => `${point} ${count}`);
    if (points.length > 0) process.stdout.write(`points: ${points.join(', ')}\n`);
  }
}
