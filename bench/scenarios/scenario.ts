/** What all scenarios have in common: they run, and report figures and whether what is claimed has held. */
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
