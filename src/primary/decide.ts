/**
 * What a session has to do, from what the mirror says of itself and what is kept here: go on in order, go on with a
 * staged run, or compare. Pure: `decide` reads, opening.ts acts.
 */
import { NO_ID } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import type { Lineage } from '../link/lineage.ts';
import type { Welcome } from '../link/messages.ts';
import type { ClearedPosition } from '../store/dirty-map.ts';
import type { Replica } from './replica.ts';

export interface Own extends Lineage {
  /** Runs that this disk went through before, newest first, as far as they are remembered. */
  readonly earlierRuns: readonly Buffer[];
  readonly generation: Buffer;
  readonly size: number;
  /** --rescan: compare everything, once, and let the mirror follow whatever it holds. */
  readonly rescanAll: boolean;
}

export type Decision =
  /**
   * Everything after the mirror's position is kept and nothing is marked. `staged`: later operations may be in the
   * image already, so what follows is one staged run.
   */
  | { readonly kind: 'catch-up'; readonly after: number; readonly staged: boolean }
  /** The mirror still holds the staged run that the last session began. */
  | { readonly kind: 'resume-staged'; readonly after: number }
  /**
   * Compare: everything, the regions of the dirty map, or those that this process knows to differ. `resumeAfter`: the
   * stream goes on in order there, since what follows is kept; undefined: it begins anew.
   */
  | {
      readonly kind: 'compare';
      readonly scope: 'everything' | 'map' | 'marks';
      readonly resumeAfter: number | undefined;
    };

const EVERYTHING: Decision = { kind: 'compare', scope: 'everything', resumeAfter: undefined };

/** A position in one of the runs that this disk went through. */
interface Place {
  readonly run: Buffer;
  readonly sequence: number;
  /** The sequence counts in this run, or in the parent that it goes on from. */
  readonly inOwnOrder: boolean;
}

/** Failures: `primary-older`, `generation-newer`. */
export function decide(own: Own, welcome: Welcome, replica: Replica): Decision {
  if (welcome.fresh) return EVERYTHING;
  if (!welcome.generation.equals(own.generation)) {
    throw new Failure('generation-newer', 'the mirror belongs to another generation of this volume');
  }
  if (mayResumeStaged(welcome, replica)) return { kind: 'resume-staged', after: welcome.stagedSequence };
  if (own.rescanAll) return EVERYTHING;
  const place = placeOf(own, welcome);
  if (place === undefined) return EVERYTHING;
  if (place.inOwnOrder && place.sequence > replica.sequence) {
    throw new Failure(
      'primary-older',
      `the mirror is at operation ${place.sequence} of what this primary knows only up to ${replica.sequence}`,
    );
  }
  if (welcome.mapVersion > replica.regions.versionTold) {
    throw new Failure(
      'primary-older',
      `the mirror has seen version ${welcome.mapVersion} of the dirty map, this primary only ${replica.regions.versionTold}`,
    );
  }
  if (welcome.size !== own.size || !replica.regions.replicaId.equals(welcome.replicaId)) return EVERYTHING;
  // What another start of this disk has left in the image beyond the common trunk, nobody here knows.
  const known = welcome.exact || ours(own, welcome.run);
  if (!known) return EVERYTHING;
  const covered = place.inOwnOrder && replica.marks.coverFrom(place.sequence, welcome.checkpoint);
  const resumable = covered && replica.keeping && replica.holdsAfter(place.sequence);
  if (resumable && replica.inOrder && welcome.consistent) {
    return { kind: 'catch-up', after: place.sequence, staged: !welcome.exact };
  }
  const resumeAfter = resumable ? place.sequence : undefined;
  if (covered) return { kind: 'compare', scope: 'marks', resumeAfter };
  if (covers(own, replica.regions.cleared, place, welcome.checkpoint))
    return { kind: 'compare', scope: 'map', resumeAfter };
  return EVERYTHING;
}

/**
 * True when the mirror holds the staged run of the last session, and durably all that we rely on. A rescan may go on in
 * it even when order has been given up since: what was given up is marked.
 */
function mayResumeStaged(welcome: Welcome, replica: Replica): boolean {
  const { stagedRun, backlog, keeping } = replica;
  if (!stagedRun.isHeld(welcome.stagingId, welcome.stagedCheckpoint)) return false;
  if (welcome.stagedSequence > replica.sequence) return false;
  if (stagedRun.kind === 'rescan') return true;
  if (stagedRun.kind === 'merged' && !backlog.transfer?.stagingId.equals(welcome.stagingId)) return false;
  return keeping && replica.holdsAfter(welcome.stagedSequence);
}

/**
 * Where the mirror stands in the history of this disk; undefined when it holds nothing. One that follows a run which is
 * none of this disk's is refused: the disk was put back to an older copy of itself, or it is a clone, and to make the
 * mirror like it is for a human to say. (So it is where the mirror was away for so many starts that its run is
 * forgotten: better asked once too often than the only newer copy overwritten.)
 */
function placeOf(own: Own, welcome: Welcome): Place | undefined {
  const sequence = welcome.resumeAfter;
  if (welcome.run.equals(NO_ID)) return undefined;
  if (welcome.run.equals(own.run)) return { run: own.run, sequence, inOwnOrder: true };
  let run = welcome.run;
  if (!ours(own, run)) {
    // A start that ended before its first operation has left no trace here.
    if (!ours(own, welcome.parentRun) || sequence > welcome.parentSequence) {
      throw new Failure('primary-older', 'the mirror follows a run of this volume that this primary knows nothing of');
    }
    run = welcome.parentRun;
  }
  const inParent = run.equals(own.parentRun);
  if (inParent && sequence > own.parentSequence) {
    throw new Failure(
      'primary-older',
      `the mirror is at operation ${sequence} of what this primary knows only up to ${own.parentSequence}`,
    );
  }
  return { run, sequence, inOwnOrder: inParent };
}

function ours(own: Own, run: Buffer): boolean {
  return run.equals(own.run) || own.earlierRuns.some((earlier) => earlier.equals(run));
}

/** True when the dirty map holds every difference to an image at that place: nothing was cleared at a later one. */
function covers(own: Own, cleared: ClearedPosition | undefined, place: Place, checkpoint: number): boolean {
  if (cleared === undefined) return true;
  const runs = [own.run, ...own.earlierRuns];
  const clearedAge = runs.findIndex((run) => run.equals(cleared.run));
  const placeAge = runs.findIndex((run) => run.equals(place.run));
  if (clearedAge < 0 || placeAge < 0) return false;
  if (clearedAge === placeAge) return place.sequence >= cleared.sequence && checkpoint >= cleared.checkpoint;
  // A later run goes on from where the earlier one was cleared.
  return placeAge < clearedAge;
}
