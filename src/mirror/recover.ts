/**
 * Recovering an image: a committed staged run is copied into it, an uncommitted one is dropped, and its position is
 * told. Nothing else changes; the same primary may go on with it later.
 *
 * Beside a running mirror the process itself does it (MirrorExport.recover); here it is done without one, under the lock
 * of the image, so that no mirror can take it meanwhile.
 *
 * The image may be another file than the mirror wrote: a copy of it with its `.twin` folder, from a backup, say. Whoever
 * calls this vouches for the two belonging together, as they were at one instant; afterwards the state is that of this
 * file, and a mirror takes it up. What cannot be seen here is a copy that was made of a running mirror, of which the
 * parts are of different instants (docs/operations.md).
 */
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { World } from '../io/world.ts';
import { MIRROR_STATE, type MirrorState } from '../store/mirror-state.ts';
import { Staging, type StagingSummary } from '../store/staging.ts';
import { readStateFile } from '../store/state-file.ts';
import { MirrorImage } from './image.ts';
import { DEFAULT_STAGING } from './image-state.ts';
import { fileOf, type ImageFile, inconsistencyOf, statePath, strangenessOf, strayCommit } from './open-image.ts';
import { stagingDirectory } from './staging-room.ts';

/** What was, or with a dry run would be, done about a staged run. */
type StagingOutcome =
  | 'none'
  /** It was complete: it is in the image now. */
  | 'finished'
  /** It was not: the image is as it was before it. */
  | 'dropped'
  /** A running mirror keeps it for its primary; the image is as it was before it. */
  | 'kept';

/** Plain data, ready for JSON. Sizes are bytes, times ms. */
export interface RecoverReport {
  readonly image: string;
  readonly size: number;
  readonly replicaId: string;
  readonly volumeId: string;
  readonly generation: string;
  /** The position: every operation of that run up to the sequence is in the image. */
  readonly run: string;
  readonly sequence: number;
  readonly recordedAtMs: number;
  readonly ageMs: number;
  /** The image may be used: it is the primary's content at the position, or a legal crash state of it. */
  readonly consistent: boolean;
  /** Why not, where it may not. */
  readonly reason: string | undefined;
  /** Nothing beyond the position can be in it. False: as a disk after a power cut. */
  readonly exact: boolean;
  readonly mapVersion: number;
  /**
   * `copy`: this is another file than the mirror wrote. `copy-retimed`: besides, it has another time, so it may have
   * been changed since; its primary will compare everything.
   */
  readonly file: ImageFile;
  readonly staging: StagingOutcome;
  /** Nothing was changed. */
  readonly dryRun: boolean;
  /** Told by a running mirror: its primary, and what that had beyond the position when it was last heard. */
  readonly mirror:
    | {
        readonly primary: string | undefined;
        readonly lastMessageAgeMs: number | undefined;
        readonly lag: { readonly operations: number; readonly bytes: number } | undefined;
      }
    | undefined;
}

/**
 * Recovers the image at that path, which no mirror may have open. Failures: `image-unknown`, `image-missing`,
 * `disk-busy`, `state-corrupt`, and those of the disk; what is committed then still is. An image that may not be used is
 * no failure: see `consistent`.
 */
export async function recoverImage(world: World, log: Log, path: string, dryRun: boolean): Promise<RecoverReport> {
  const slash = path.lastIndexOf('/');
  if (!path.endsWith('.img') || slash < 0) throw unknown(path);
  const state = await readStateFile(world.files, MIRROR_STATE, statePath(path));
  if (state === undefined) throw unknown(path);
  if (dryRun) return lookAt(world, path);
  const directory = path.slice(0, slash);
  const name = path.slice(slash + 1, -'.img'.length);
  const image = await MirrorImage.open(world, log, directory, name, DEFAULT_STAGING, true);
  if (image === undefined) throw new Failure('image-missing', `${path} is gone, or was never filled`);
  try {
    const staging = await settleStaging(image);
    return reportOf(world, image, staging);
  } finally {
    await image.close();
  }
}

/** Finishes or drops what is staged. */
async function settleStaging(image: MirrorImage): Promise<StagingOutcome> {
  if (image.committing) {
    await image.finishCommit();
    return 'finished';
  }
  if (image.run === undefined) return 'none';
  await image.dropRun();
  return 'dropped';
}

/** The report of an image that is open. */
export function reportOf(
  world: World,
  image: MirrorImage,
  staging: StagingOutcome,
  more: Pick<RecoverReport, 'mirror' | 'dryRun'> = { mirror: undefined, dryRun: false },
): RecoverReport {
  return {
    ...describe(world, image.disk.path, image.disk.size, image.state),
    sequence: image.recorded,
    consistent: image.consistent,
    reason: image.reason,
    exact: image.consistent && image.exact && image.applied === image.recorded,
    file: image.file,
    staging,
    ...more,
  };
}

/** What `recover` would find and do. Nothing is changed, the lock is held meanwhile. */
async function lookAt(world: World, path: string): Promise<RecoverReport> {
  const disk = await world.files.openDisk(path, { readOnly: true, lock: 'exclusive' });
  try {
    const state = await readStateFile(world.files, MIRROR_STATE, statePath(path));
    if (state === undefined) throw unknown(path);
    const found = await lookAtStaging(world, path);
    const committed = found?.committed;
    const identity = await disk.identity();
    const file = fileOf(state, identity, committed !== undefined);
    const strangeness =
      strangenessOf(state, identity, committed !== undefined, true) ??
      (found && strayCommit(state, { ...found, committed: committed !== undefined }));
    const after = afterCopy(state, found);
    const consistent = strangeness === undefined && after.consistent;
    const outcome = committed === undefined ? 'dropped' : 'finished';
    return {
      ...describe(world, path, disk.size, after),
      sequence: after.recorded,
      consistent,
      reason: strangeness ?? (consistent ? undefined : inconsistencyOf(after)),
      exact: consistent && file !== 'copy-retimed' && (state.clean || committed !== undefined),
      file,
      staging: found === undefined ? 'none' : outcome,
      dryRun: true,
      mirror: undefined,
    };
  } finally {
    await disk.close();
  }
}

/** What cannot be read would be dropped. */
async function lookAtStaging(world: World, path: string): Promise<StagingSummary | undefined> {
  try {
    return await Staging.look(world.files, stagingDirectory(path));
  } catch (error) {
    if (isFailure(error, 'state-corrupt')) return undefined;
    throw error;
  }
}

/** The state once what is committed has been copied. */
function afterCopy(state: MirrorState, found: StagingSummary | undefined): MirrorState {
  if (found?.committed === undefined || found.id.equals(state.copiedId)) return state;
  const { sequence, committedAtMs, ...position } = found.committed;
  return { ...state, ...position, recorded: sequence, recordedAtMs: committedAtMs, consistent: true, seeded: true };
}

function describe(world: World, image: string, size: number, state: MirrorState) {
  const { recordedAtMs } = state;
  return {
    image,
    size,
    replicaId: state.replicaId.toString('hex'),
    volumeId: state.volumeId.toString('hex'),
    generation: state.generation.toString('hex'),
    run: state.run.toString('hex'),
    recordedAtMs,
    ageMs: Math.max(0, world.clock.wallMs() - recordedAtMs),
    mapVersion: state.mapVersion,
  };
}

function unknown(path: string): Failure {
  return new Failure('image-unknown', `${path} is no image of an nbdtwin mirror: there is no state beside it`);
}
