/**
 * What a session has to do, from what the mirror says of itself and what is kept here: go on in order, or compare.
 * Pure: `decide` reads, `MirrorLink` acts.
 */
import { Failure } from '../base/failure.ts';
import { type Lineage, relate } from '../link/lineage.ts';
import type { Welcome } from '../link/messages.ts';
import type { Replica } from './replica.ts';

export interface Own extends Lineage {
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
  if (relation === 'unrelated' || welcome.size !== own.size) {
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
