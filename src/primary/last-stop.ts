/**
 * What the last stop of this primary left, and how far it can be trusted; and the run that this start takes.
 *
 * | last stop                                        | run                    | dirty map | spool         |
 * | ------------------------------------------------ | ---------------------- | --------- | ------------- |
 * | clean, nobody wrote since                        | new, with that as parent | trusted | kept, if in order |
 * | clean, but the disk was changed since            | new                    | all set   | dropped       |
 * | not clean                                        | new                    | trusted   | dropped       |
 * | not clean, and another file stands in its place  | new                    | all set   | dropped       |
 * | a block device, which cannot tell of changes     | new                    | all set   | dropped       |
 * | none                                             | first                  | made, all set | none      |
 *
 * After a clean stop the state file goes on vouching for it until the new run is recorded: before the first mutation, the
 * first session, or the first operation that is read back from the spool.
 */
import { ID_SIZE, NO_ID } from '../base/bytes.ts';
import type { Log } from '../base/log.ts';
import type { Disk } from '../io/disk.ts';
import type { World } from '../io/world.ts';
import type { Lineage } from '../link/lineage.ts';
import { sameIdentity } from '../store/identity.ts';
import { PRIMARY_STATE, type PrimaryState, primaryStatePath, runsUpTo } from '../store/primary-state.ts';
import { createStateFile, openStateFile, type StateFile } from '../store/state-file.ts';

export interface LastStop {
  readonly file: StateFile<PrimaryState>;
  readonly lineage: Lineage;
  /** Newest first. */
  readonly earlierRuns: readonly Buffer[];
  /** Sequence of the last operation; those of this start go on from there. */
  readonly sequence: number;
  /** The last checkpoint number handed out. */
  readonly checkpoint: number;
  /** What is handed on in order is for a mirror that has at least that checkpoint. */
  readonly clearedCheckpoint: number;
  /** The dirty map holds everything that a mirror may lack. */
  readonly mapTrusted: boolean;
  /** The sequence after which the spool holds everything; undefined when nothing is handed on in order. */
  readonly spoolBase: number | undefined;
}

/** Failures: `state-corrupt`, `state-unwritable`, those of the disk. */
export async function openLastStop(world: World, log: Log, disk: Disk, stateDirectory: string): Promise<LastStop> {
  const path = primaryStatePath(stateDirectory);
  const identity = await disk.identity();
  const file = await openStateFile(world.files, PRIMARY_STATE, path);
  if (file === undefined) {
    const state: PrimaryState = {
      volumeId: world.random.bytes(ID_SIZE),
      generation: world.random.bytes(ID_SIZE),
      run: world.random.bytes(ID_SIZE),
      earlierRuns: [],
      sequence: 0,
      checkpoint: 0,
      clean: false,
      mapValid: false,
      inOrder: false,
      spoolBase: 0,
      clearedCheckpoint: 0,
      mapVersionTold: 0,
      identity,
    };
    return firstOf(await createStateFile(world.files, PRIMARY_STATE, path, state), false);
  }
  const before = file.state;
  const unchanged = disk.kind === 'file' && sameIdentity(before.identity, identity);
  if (before.clean && unchanged) {
    return {
      file,
      lineage: { run: world.random.bytes(ID_SIZE), parentRun: before.run, parentSequence: before.sequence },
      earlierRuns: runsUpTo(before),
      sequence: before.sequence,
      checkpoint: before.checkpoint,
      clearedCheckpoint: before.clearedCheckpoint,
      mapTrusted: before.mapValid,
      spoolBase: before.inOrder ? before.spoolBase : undefined,
    };
  }
  const inPlace = disk.kind === 'file' && before.identity.inode === identity.inode;
  const mapTrusted = before.mapValid && !before.clean && inPlace;
  tell(log, disk, before, mapTrusted);
  await disk.sync();
  // A process that died may have left pages in the cache that a failed sync had lost. One that stopped cleanly has not, and
  // whoever changed the disk afterwards was told by a sync of their own: what is cached stays, a rescan reads all of it.
  if (!before.clean) await disk.dropCache();
  const state: PrimaryState = {
    ...before,
    identity,
    run: world.random.bytes(ID_SIZE),
    earlierRuns: runsUpTo(before),
    sequence: 0,
    clean: false,
    mapValid: mapTrusted,
    inOrder: false,
    spoolBase: 0,
    clearedCheckpoint: 0,
  };
  await file.write(state);
  world.points.reached('primary-run-recorded');
  return firstOf(file, mapTrusted);
}

/** A run that begins with nothing handed on in order. */
function firstOf(file: StateFile<PrimaryState>, mapTrusted: boolean): LastStop {
  return {
    file,
    lineage: { run: file.state.run, parentRun: NO_ID, parentSequence: 0 },
    earlierRuns: file.state.earlierRuns,
    sequence: 0,
    checkpoint: file.state.checkpoint,
    clearedCheckpoint: 0,
    mapTrusted,
    spoolBase: undefined,
  };
}

function tell(log: Log, disk: Disk, before: PrimaryState, mapTrusted: boolean): void {
  const fields = { disk: disk.path };
  if (disk.kind === 'block-device') {
    log.info(fields, 'a block device may have changed unseen: everything will be compared');
  } else if (mapTrusted) {
    log.info(fields, 'the last stop was not clean: what was being written then will be compared');
  } else if (!before.mapValid) {
    log.warn(fields, 'writes were not marked, or the dirty map could not be written: everything will be compared');
  } else {
    log.warn(fields, 'the disk was changed while it was not being served: everything will be compared');
  }
}
