/** What all scenarios have in common: they run, and report figures and whether what is claimed has held. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Machine } from '../common/machine.ts';

/** A statement about the product that a run can refute. */
export interface Claim {
  readonly text: string;
  readonly held: boolean;
}

export interface Outcome {
  /** How it was run. */
  readonly parameters: object;
  /** Everything measured, ready for JSON. */
  readonly figures: object;
  readonly claims: readonly Claim[];
  /** For people. */
  readonly text: string;
}

export interface Scenario {
  readonly name: string;
  readonly text: string;
  /** Programs whose version matters. */
  readonly programs: readonly string[];
  /** Everything that it writes goes to `folder`, which exists and is empty. `say` tells how far it is. */
  run(folder: string, quick: boolean, say: (text: string) => void): Promise<Outcome>;
}

export interface ScenarioReport extends Omit<Outcome, 'text'> {
  readonly version: 1;
  readonly scenario: string;
  readonly quick: boolean;
  readonly machine: Machine;
}

export function claimLines(claims: readonly Claim[]): string[] {
  return claims.map(({ text, held }) => `${held ? 'held     ' : 'NOT HELD '} ${text}`);
}

/** Asks again and again, every 20 ms, until the answer is not undefined; fails, with `what`, after `timeoutMs`. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  answer: () => T | undefined | Promise<T | undefined>,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await answer();
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs / 1000} s`);
    await sleep(20);
  }
}
