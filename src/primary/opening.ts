/**
 * The opening of a session, from HELLO to the mirror's first ACK: what both hold is compared (decide.ts), and from the
 * last line of `begin` on, operations enter the stream of the new session.
 */
import { ID_SIZE, NO_ID } from '../base/bytes.ts';
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Mode } from '../base/mode.ts';
import { formatSize } from '../base/units.ts';
import type { Random } from '../io/random.ts';
import type { Channel } from '../link/channel.ts';
import { FrameType } from '../link/frame.ts';
import {
  BeginKind,
  type BeginKindCode,
  decodeAck,
  decodeRefused,
  decodeWelcome,
  encodeBegin,
  encodeHello,
  type Positions,
  VERSION_MAX,
  VERSION_MIN,
  type Welcome,
} from '../link/messages.ts';
import { admission } from './admission.ts';
import { decide, type Own } from './decide.ts';
import type { Ledger } from './ledger.ts';
import type { Replica } from './replica.ts';
import type { RescanProgress } from './status.ts';
import type { SessionEvent } from './transitions.ts';

const OPENING_TIMEOUT_MS = 30_000;
/** No map gets there by counting; one that a mirror claims to have seen must leave room for counting on. */
const MAP_VERSION_MAX = 2 ** 52;

/** What a HELLO tells besides what `Own` knows. */
export interface Introduction {
  readonly exportName: string;
  readonly volumeId: Buffer;
  readonly windowSize: number;
  readonly mode: Mode;
}

export interface OpeningParts {
  readonly channel: Channel;
  readonly log: Log;
  readonly random: Random;
  readonly replica: Replica;
  readonly ledger: Ledger;
  readonly introduction: Introduction;
  readonly own: Own;
  /** Bytes that a staged run is known to need: with less room on the mirror it is not tried again. */
  readonly stagingNeeded: number;
  /** What follows is a staged run: the mirror does not count, whatever the state is called. */
  staging(): void;
  /** The place in the mirror's queue of rescans, from 1. */
  placed(place: number): void;
  moved(event: Extract<SessionEvent, 'resumed' | 'scope-needed' | 'seeding-admitted' | 'rescan-admitted'>): void;
}

export interface Opened {
  readonly first: Positions;
  readonly replicaId: string;
  readonly begun: Begun;
  /** What the mirror had room for when this began. */
  readonly stagingRoom: number;
}

/** What the session begins with, before it streams only. */
export type Begun =
  | {
      readonly kind: 'catch-up';
      readonly staged: boolean;
      /** The staged run is a merged part, of which the mirror holds that checkpoint. */
      readonly mergedCheckpoint: number | undefined;
    }
  | { readonly kind: 'compare'; readonly staged: boolean; readonly scope: RescanProgress['scope'] };

/** Failures: the mirror's refusal, those of `decide`, `staging-full`, `frame-invalid`, the end of the channel. */
export async function open(parts: OpeningParts): Promise<Opened> {
  const { channel, replica, own, introduction } = parts;
  channel.send([
    encodeHello({
      versionMin: VERSION_MIN,
      versionMax: VERSION_MAX,
      ...introduction,
      generation: own.generation,
      run: own.run,
      parentRun: own.parentRun,
      parentSequence: own.parentSequence,
      size: own.size,
      mapVersion: replica.regions.version,
    }),
  ]);
  const welcome = decodeWelcome(await channel.take(OPENING_TIMEOUT_MS));
  if (welcome.mapVersion > MAP_VERSION_MAX) throw new Failure('frame-invalid', 'a dirty map of an impossible version');
  if (welcome.replicaId.equals(NO_ID)) throw new Failure('frame-invalid', 'a mirror without an id');
  const begun = await begin(parts, welcome);
  const ready = await channel.take(OPENING_TIMEOUT_MS);
  if (ready.type === FrameType.REFUSED) throw decodeRefused(ready);
  const first = decodeAck(ready);
  return { first, begun, replicaId: welcome.replicaId.toString('hex'), stagingRoom: welcome.stagingRoom };
}

/** Decides and acts: from its last `send` on, operations enter the stream of the session. */
async function begin(parts: OpeningParts, welcome: Welcome): Promise<Begun> {
  const { replica, ledger, log, own } = parts;
  // Before anything that a clean stop has handed on is used up: it must not vouch for it again.
  await ledger.start();
  decide(own, welcome, replica);
  // Made to follow all the same, by --rescan. Telling raises our version, perhaps to the one that it has seen: were we to die
  // before everything is marked, the next start would take this map for the one that the mirror knows.
  if (welcome.mapVersion > replica.regions.versionTold) await markEverything(replica, welcome);
  // Only now, when the mirror is not to be refused. What it is told from here on is durably known to be told.
  await replica.regions.beginTelling();
  const decision = decide(own, welcome, replica);
  if (decision.kind === 'catch-up') {
    if (replica.backlog.hasParts) checkRoom(parts, welcome);
    if (decision.staged) parts.staging();
    parts.moved('resumed');
    replica.beginCatchUp(decision.after, decision.staged ? parts.random.bytes(ID_SIZE) : undefined);
    send(parts, decision.staged ? BeginKind.CATCH_UP_STAGED : BeginKind.CATCH_UP, decision.after);
    log.info({ after: decision.after, staged: decision.staged }, 'connected: the stream goes on');
    return { kind: 'catch-up', staged: decision.staged, mergedCheckpoint: undefined };
  }
  const { kind } = replica.stagedRun;
  if (decision.kind === 'resume-staged' && kind !== 'rescan') {
    parts.staging();
    parts.moved('resumed');
    send(parts, BeginKind.CATCH_UP_STAGED, replica.resumeStaged(decision.after));
    log.info({ after: decision.after }, 'connected: the staged run goes on');
    const merged = kind === 'merged' ? welcome.stagedCheckpoint : undefined;
    return { kind: 'catch-up', staged: true, mergedCheckpoint: merged };
  }
  const seeding = !welcome.seeded;
  if (!seeding) checkRoom(parts, welcome);
  parts.moved('scope-needed');
  await admission(parts.channel, log, (place) => parts.placed(place));
  const { after, resumed } = await beginComparison(parts, welcome, seeding);
  const scope = replica.marks.count === replica.marks.regionCount ? 'everything' : 'marked';
  parts.moved(seeding ? 'seeding-admitted' : 'rescan-admitted');
  send(parts, seeding ? BeginKind.SEEDING : BeginKind.RESCAN, after);
  const how = seeding ? 'seeding' : resumed ? 'the rescan goes on' : 'a rescan begins';
  log.info({ scope, marked: replica.marks.markedSize }, `connected: ${how}`);
  return { kind: 'compare', staged: !seeding, scope };
}

/** Marks what is to be compared, durably where the dirty map does not hold it yet. Returns what the stream follows. */
async function beginComparison(
  parts: OpeningParts,
  welcome: Welcome,
  seeding: boolean,
): Promise<{ after: number; resumed: boolean }> {
  const { replica, random, own } = parts;
  // While this primary waited for its turn much may have happened: decided again, and acted upon in the same turn.
  const decision = decide(own, welcome, replica);
  if (decision.kind === 'resume-staged') return { after: replica.resumeStaged(decision.after), resumed: true };
  const scope = decision.kind === 'compare' ? decision.scope : 'marks';
  if (scope === 'everything') await markEverything(replica, welcome);
  // A mirror that is ahead, which --rescan makes follow all the same, is at no place of ours.
  const ahead = welcome.resumeAfter > replica.sequence;
  const inOwnOrder = !ahead && (welcome.run.equals(own.run) || welcome.run.equals(own.parentRun));
  const after = replica.beginCompare(
    scope,
    inOwnOrder ? welcome.resumeAfter : undefined,
    inOwnOrder ? welcome.checkpoint : 0,
    decision.kind === 'compare' ? decision.resumeAfter : decision.after,
    seeding ? undefined : random.bytes(ID_SIZE),
  );
  return { after, resumed: false };
}

/** On return the map is durably about this replica, all of it marked, and newer than any that the mirror has seen. */
async function markEverything(replica: Replica, welcome: Welcome): Promise<void> {
  // In memory first, so that nothing is taken for clean meanwhile.
  replica.marks.markAll();
  await replica.regions.begin(welcome.replicaId, welcome.mapVersion);
}

function send(parts: OpeningParts, kind: BeginKindCode, sequence: number): void {
  const { channel, replica } = parts;
  const stagingId = kind === BeginKind.RESCAN || kind === BeginKind.CATCH_UP_STAGED ? replica.stagedRun.id : NO_ID;
  channel.send([encodeBegin({ kind, sequence, sentMax: replica.sentMax, stagingId })]);
}

/** Failure: `staging-full`. */
function checkRoom({ stagingNeeded, replica }: OpeningParts, welcome: Welcome): void {
  if (welcome.stagingRoom >= stagingNeeded) return;
  const most = Math.max(stagingNeeded, replica.marks.markedSize, replica.backlog.status.spooledSize);
  throw new Failure(
    'staging-full',
    `what is to be staged needs at least ${formatSize(stagingNeeded)} of staging on the mirror, at most ${formatSize(most)}; there is room for ${formatSize(welcome.stagingRoom)}`,
  );
}
