/** What an image has to know of the session that writes to it. */
import { type Lineage, relate } from '../link/lineage.ts';
import { type Begin, BeginKind, type Hello } from '../link/messages.ts';
import { type ImagePosition, isFollowed } from './session-start.ts';

/** What an image becomes whose content is that primary's. */
export interface Descent extends Lineage {
  readonly generation: Buffer;
}

/** In buffers of its own. */
function descentOf(hello: Hello): Descent {
  return {
    generation: Buffer.from(hello.generation),
    run: Buffer.from(hello.run),
    parentRun: Buffer.from(hello.parentRun),
    parentSequence: hello.parentSequence,
  };
}

export interface SessionFacts {
  readonly descent: Descent;
  /** The positions of the image are in a run that is not the primary's, until something is complete. */
  foreign: boolean;
  /** Operations up to here may be in the image already: a staged run must not end before. */
  sentMax: number;
  /** It compares everything that was not compared before: the version of its map counts at the end, even a lower one. */
  comparing: boolean;
  /** The highest version of its map that the primary has told. */
  mapVersion: number;
}

/** `position`: the image's as that primary sees it. */
export function factsOf(hello: Hello, begin: Begin, position: ImagePosition): SessionFacts {
  const inexact = begin.kind === BeginKind.CATCH_UP_STAGED && !position.exact;
  return {
    descent: descentOf(hello),
    foreign: !isFollowed(relate(hello, position, position.resumeAfter)),
    sentMax: inexact ? begin.sentMax : 0,
    comparing: begin.kind === BeginKind.RESCAN || begin.kind === BeginKind.SEEDING,
    mapVersion: hello.mapVersion,
  };
}

/** The image is the primary's content at a position of its run. */
export function completed(session: SessionFacts): void {
  session.foreign = false;
  session.sentMax = 0;
  session.comparing = false;
}
