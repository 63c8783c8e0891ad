/** What a former process has left of an image, and what of it can be believed. */
import { dirname } from 'node:path';
import { ID_SIZE } from '../base/bytes.ts';
import { isFailure } from '../base/failure.ts';
import { Staging } from '../store/staging.ts';
import type { ImageParts } from './image-state.ts';
import { fileOf, type ImageFile, liesOver, strangenessOf, strayCommit } from './open-image.ts';
import { StagedRun } from './staged-run.ts';
import { NO_POSITION, stagingDirectory } from './staging-room.ts';

export interface Findings {
  /** The staged run that lies over the image: committed, or to be gone on with. */
  readonly run: StagedRun | undefined;
  /** Why the position meant nothing; the image is distrusted then. */
  readonly strangeness: string | undefined;
  readonly file: ImageFile;
}

/**
 * Everything that cannot be believed is dropped, durably, and told aloud. `mayBeCopy`: the image may be another file
 * than the state was written for, and is the one from now on. Failures: of the disk.
 */
export async function findOut(parts: ImageParts, mayBeCopy: boolean): Promise<Findings> {
  const { disk, state, log } = parts;
  const identity = await disk.identity();
  const run = await openRun(parts);
  const committed = run?.committed === true;
  const file = fileOf(state.now, identity, committed);
  const strangeness = strangenessOf(state.now, identity, committed, mayBeCopy) ?? (run && strayCommit(state.now, run));
  if (strangeness !== undefined) {
    log.warn({ image: disk.path }, `${strangeness}: everything will be compared`);
    await distrust(parts, run);
    return { run: undefined, strangeness, file };
  }
  await adopt(parts, file, identity.inode);
  if (run === undefined || committed || liesOver(state.now, run)) return { run, strangeness, file };
  // It lies over another position than the image has.
  await run.remove();
  return { run: undefined, strangeness, file };
}

/** The state is that of this file from now on, durably. */
async function adopt({ disk, state, positions, world }: ImageParts, file: ImageFile, inode: string): Promise<void> {
  let identity = { ...state.now.identity, inode };
  if (file !== 'same') {
    // Whoever has copied it has hardly synced it, and the state says that it is durable. Its time is its own.
    identity = await disk.durableIdentity();
    await world.files.syncDirectory(dirname(disk.path));
  }
  if (file === 'copy-retimed') {
    // Somebody may have written to it since: its primary is to take it for an image that it never saw, and to compare
    // all of it.
    positions.doubted();
    await state.patch({ identity, clean: false, replicaId: world.random.bytes(ID_SIZE) });
  } else if (state.now.identity.inode !== inode) await state.patch({ identity });
}

/** The position means nothing. First the staged run goes: it must never be copied into what is there now. */
export async function distrust(parts: ImageParts, run: StagedRun | undefined): Promise<void> {
  if (run !== undefined) await run.remove();
  parts.positions.forget();
  await parts.state.patch({
    ...NO_POSITION,
    consistent: false,
    clean: false,
    committing: false,
    identity: await parts.disk.identity(),
  });
}

async function openRun(parts: ImageParts): Promise<StagedRun | undefined> {
  try {
    return await StagedRun.open(parts);
  } catch (error) {
    if (!isFailure(error, 'state-corrupt')) throw error;
    // No byte of it is in the image before the state says so; where it says so, the image is distrusted.
    parts.log.error({ image: parts.disk.path, err: error }, 'the staged run cannot be read and is given up');
    await Staging.discard(parts.world.files, stagingDirectory(parts.disk.path));
    return undefined;
  }
}
