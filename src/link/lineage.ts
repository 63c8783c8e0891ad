/**
 * How a primary's run and a mirror's position belong together. Pure; both ends decide by it.
 *
 * Every start of a primary takes a new run. A start after a clean stop also names its *parent*: the run and the last
 * sequence of that stop; its own sequences go on from there. A mirror that stands there, or before it, is on the common
 * trunk, and may follow the new run in order if what it lacks is still in the spool. One that stands further has seen
 * operations that this primary does not know: its disk was put back to an older copy, or it is a clone.
 */
import { NO_ID } from '../base/bytes.ts';

/** A run and where it comes from. Without a clean stop before it: parentRun NO_ID, parentSequence 0. */
export interface Lineage {
  readonly run: Buffer;
  readonly parentRun: Buffer;
  readonly parentSequence: number;
}

export type Relation =
  /** The position is in the primary's own run. */
  | 'same-run'
  /** The position is in the parent run, at or before the place where the primary's run began. */
  | 'handed-on'
  /** The mirror has gone on from there without this primary. */
  | 'mirror-ahead'
  /** Neither: nothing follows from these two alone. */
  | 'unrelated';

/** Relates a mirror at `sequence` of the run in `mirror` to a primary. */
export function relate(primary: Lineage, mirror: Lineage, sequence: number): Relation {
  if (mirror.run.equals(NO_ID)) return 'unrelated';
  if (mirror.run.equals(primary.run)) return 'same-run';
  if (primary.parentRun.equals(NO_ID)) return 'unrelated';
  const inParent = mirror.run.equals(primary.parentRun);
  const sibling = mirror.parentRun.equals(primary.parentRun) && mirror.parentSequence === primary.parentSequence;
  if (!inParent && !sibling) return 'unrelated';
  return sequence > primary.parentSequence ? 'mirror-ahead' : 'handed-on';
}
