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

/** What matters of an image and its staged run for a BEGIN. */
interface BeginImage {
  readonly disk: { readonly size: number };
  readonly run: HeldRun | undefined;
}

type HeldRun = Pick<StagedRun, 'resumable' | 'id' | 'size' | 'applied' | 'staged'>;

/** The staged run that a primary with a disk of that size is offered, and no other: all that was staged is durable. */
export function offered<Run extends HeldRun>(run: Run | undefined, size: number): Run | undefined {
  return run?.resumable === true && run.applied === run.staged && run.size === size ? run : undefined;
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
  const named = isNamed(image.run, begin);
  const goesOn = named && goesOnWith(image.run, begin, hello.size);
  // Who names a run relies on what is in it: it must not be begun empty.
  if (named && !goesOn) return 'a staged run that the mirror does not hold so';
  const followed = isFollowed(relate(hello, position, position.resumeAfter));
  if (begin.kind === BeginKind.RESCAN) {
    const behind = followed && begin.sequence < position.resumeAfter;
    return behind ? 'a rescan behind the position of the image' : undefined;
  }
  const there = begin.sequence === position.resumeAfter || goesOn;
  if (!followed || !position.consistent || !there || image.disk.size !== hello.size)
    return 'a catch-up from a position that the image does not have';
  if (begin.kind === BeginKind.CATCH_UP && !position.exact && begin.sentMax > begin.sequence)
    return 'operations that may be in the image already have to come as a staged run';
  return undefined;
}

/** True when a session names that run, to go on with it. */
export function isNamed<Run extends HeldRun>(run: Run | undefined, begin: Begin): run is Run {
  return isStaged(begin.kind) && run?.id.equals(begin.stagingId) === true;
}

/**
 * True when a session may go on with the run that it names, as it is durably. A rescan may go on from a later place of the
 * stream: what the stream leaves out then is still to be compared.
 */
export function goesOnWith(run: HeldRun | undefined, begin: Begin, size: number): boolean {
  const held = offered(run, size);
  if (held === undefined) return false;
  return begin.kind === BeginKind.RESCAN ? begin.sequence >= held.staged : begin.sequence === held.staged;
}
