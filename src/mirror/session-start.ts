/** With what a session may begin: the position of an image as its primary sees it, and what that allows. Pure. */
import { NO_ID } from '../base/bytes.ts';
import { type Lineage, type Relation, relate } from '../link/lineage.ts';
import { type Begin, BeginKind, type Hello, isStaged } from '../link/messages.ts';
import type { StagedRun } from './staged-run.ts';

/** What a session may assume of an image. */
export interface ImagePosition extends Lineage {
  /** The content is that of some position, or a legal crash state of it. */
  readonly consistent: boolean;
  /** Nothing beyond `resumeAfter` can be in it. An image that is not exact is at its recorded position. */
  readonly exact: boolean;
  readonly resumeAfter: number;
  readonly recorded: number;
}

/** What a mirror says that has no image yet. */
export const NOWHERE: ImagePosition = {
  consistent: false,
  exact: false,
  resumeAfter: 0,
  recorded: 0,
  run: NO_ID,
  parentRun: NO_ID,
  parentSequence: 0,
};

/** True when a position means something to that primary: its own run, or the one it was handed. */
export function isFollowed(relation: Relation): boolean {
  return relation === 'same-run' || relation === 'handed-on';
}

/**
 * The position as that primary may take it. Where operations may be in the image that it would never send (those of
 * another run that began at the same place), the image is at no position for it.
 */
export function positionSeenBy(hello: Hello, position: ImagePosition): ImagePosition {
  const { exact, consistent, run, resumeAfter } = position;
  if (exact || !consistent || run.equals(hello.parentRun)) return position;
  if (relate(hello, position, resumeAfter) !== 'handed-on') return position;
  return { ...NOWHERE, consistent };
}

/** What matters of an image for a BEGIN. */
interface BeginImage {
  readonly disk: { readonly size: number };
  readonly run: Pick<StagedRun, 'resumable' | 'id' | 'applied' | 'staged'> | undefined;
}

/** Why a session must not begin so: where the image is not, or destroying what it is. Undefined when it may. */
export function objectionTo(
  begin: Begin,
  hello: Hello,
  image: BeginImage | undefined,
  position: ImagePosition,
): string | undefined {
  if (begin.kind === BeginKind.SEEDING) {
    return position.consistent ? 'a seeding over an image that is consistent' : undefined;
  }
  if (image === undefined) return 'an image that is not there has to be seeded';
  const followed = isFollowed(relate(hello, position, position.resumeAfter));
  if (begin.kind === BeginKind.RESCAN) {
    const behind = followed && begin.sequence < position.resumeAfter;
    return behind ? 'a rescan behind the position of the image' : undefined;
  }
  const goesOn = isStaged(begin.kind) && image.run !== undefined && goesOnWith(image.run, begin);
  const there = begin.sequence === position.resumeAfter || goesOn;
  if (!followed || !position.consistent || !there || image.disk.size !== hello.size)
    return 'a catch-up from a position that the image does not have';
  if (begin.kind === BeginKind.CATCH_UP && !position.exact && begin.sentMax > begin.sequence)
    return 'operations that may be in the image already have to come as a staged run';
  return undefined;
}

/**
 * True when that is the run that a session wants to go on with, as it is durably. A rescan may go on from a later place
 * of the stream: what the stream leaves out then is still to be compared.
 */
export function goesOnWith(run: Pick<StagedRun, 'resumable' | 'id' | 'applied' | 'staged'>, begin: Begin): boolean {
  if (!run.resumable || !run.id.equals(begin.stagingId) || run.applied !== run.staged) return false;
  return begin.kind === BeginKind.RESCAN ? begin.sequence >= run.staged : begin.sequence === run.staged;
}
