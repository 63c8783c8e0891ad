/**
 * What a session has to do, from what the mirror says of itself and what is kept here: go on in order, or compare.
 * Pure: `decide` reads, `MirrorLink` acts.
 */
import { NO_ID } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import { type Lineage, relate } from '../link/lineage.ts';
import type { Welcome } from '../link/messages.ts';
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
  /** Everything after the mirror's position is in the window and nothing is marked. */
  | { readonly kind: 'catch-up'; readonly after: number }
  /**
   * Compare. `markAll`: everything, otherwise what is marked. `resumeAfter`: the stream goes on in order there, since the
   * window has what follows; undefined: it begins anew.
   */
  | { readonly kind: 'compare'; readonly markAll: boolean; readonly resumeAfter: number | undefined };

/** Failures: `primary-older`, `generation-newer`. */
export function decide(own: Own, welcome: Welcome, replica: Replica): Decision {
  if (welcome.fresh) return { kind: 'compare', markAll: true, resumeAfter: undefined };
  if (!welcome.generation.equals(own.generation)) {
    throw new Failure('generation-newer', 'the mirror belongs to another generation of this volume');
  }
  if (own.rescanAll) return { kind: 'compare', markAll: true, resumeAfter: undefined };
  const position = welcome.resumeAfter;
  const relation = relate(own, welcome, position);
  if (relation === 'mirror-ahead' || (relation === 'same-run' && position > replica.sequence)) {
    const known = relation === 'same-run' ? replica.sequence : own.parentSequence;
    throw new Failure(
      'primary-older',
      `the mirror is at operation ${position} of what this primary knows only up to ${known}`,
    );
  }
  if (relation === 'unrelated' && followsAnother(own, welcome, position)) {
    throw new Failure('primary-older', 'the mirror follows a run of this volume that this primary knows nothing of');
  }
  if (relation === 'unrelated' || welcome.size !== own.size) {
    return { kind: 'compare', markAll: true, resumeAfter: undefined };
  }
  // The marks of a rescan that another run left half done died with it.
  if (relation === 'handed-on' && !welcome.consistent) {
    return { kind: 'compare', markAll: true, resumeAfter: undefined };
  }
  if (!replica.marks.coverFrom(position, welcome.checkpoint)) {
    return { kind: 'compare', markAll: true, resumeAfter: undefined };
  }
  const resumable = replica.keeping && position >= replica.window.baseSequence;
  if (resumable && replica.marks.count === 0 && welcome.consistent) return { kind: 'catch-up', after: position };
  // Also where a half-done rescan of this run left the image inconsistent: what it had still to do is marked.
  return { kind: 'compare', markAll: false, resumeAfter: resumable ? position : undefined };
}

/**
 * True when the mirror is in a run that is none of this disk's: the disk was put back to an older copy of itself, or it
 * is a clone. To make the mirror like it then is for a human to say. (So it is where the mirror was away for so many
 * starts that its run is forgotten: better asked once too often than the only newer copy overwritten.)
 */
function followsAnother(own: Own, mirror: Lineage, position: number): boolean {
  if (mirror.run.equals(NO_ID)) return false;
  const isOurs = (run: Buffer): boolean => own.earlierRuns.some((earlier) => earlier.equals(run));
  // A start that ended before its first operation has left no trace here.
  const untouched = isOurs(mirror.parentRun) && position <= mirror.parentSequence;
  return !isOurs(mirror.run) && !untouched;
}
