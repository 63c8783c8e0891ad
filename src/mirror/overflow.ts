/**
 * A staged run without room that goes on without the net, where the operator wants that: what is staged is copied into
 * the image, and the rest of the run goes straight to it. The image says durably, before the first byte, that it is at no
 * position and not consistent; only the end of the run makes it so again.
 *
 * The copy may find no room either: then the run ends, its files are removed, and with them goes what it has taken. The
 * next one begins without the net, since there is nothing left to keep, and needs no more than the image itself does.
 */
import type { Staging } from '../store/staging.ts';
import { yielding } from './commit.ts';
import type { ImageParts } from './image-state.ts';
import type { Descent } from './session-facts.ts';
import { NO_POSITION } from './staging-room.ts';

/** What the image becomes when the run is complete, but for the position. */
export interface StagedOutcome extends Descent {
  /** Version of the primary's dirty map, asked for at the commit. */
  readonly mapVersion: () => number;
}

/** The image says, durably, that it is nothing until the run is complete, and is as large as the disk. */
export async function leaveNet({ disk, state, log }: ImageParts, size: number, reason: unknown): Promise<void> {
  log.error(
    { image: disk.path, err: reason },
    'no room for a staged run: going on without, the image is not consistent until this is complete',
  );
  await state.patch({ consistent: false, clean: false, ...NO_POSITION });
  if (disk.size < size) await disk.resize(size);
}

/** After `leaveNet`: on return everything that is staged is in the image, durably; the files are needed no more. */
export async function copyStaged({ disk, positions, world }: ImageParts, staging: Staging): Promise<void> {
  await staging.overlay.copyInto(disk, yielding(world.clock));
  await disk.sync().catch((error: unknown) => {
    positions.cacheSuspected();
    throw error;
  });
}

/** The run is complete: the image is consistent, and exactly at `sequence`, durably. */
export async function completeThrough(
  parts: ImageParts,
  outcome: StagedOutcome,
  checkpoint: number,
  sequence: number,
): Promise<void> {
  const { disk, state, positions, log } = parts;
  const { generation, run, parentRun, parentSequence, mapVersion } = outcome;
  await disk.sync();
  await parts.checkInPlace();
  await state.patchPosition(
    { run, parentRun, parentSequence, recorded: sequence, checkpoint },
    { generation, mapVersion: mapVersion(), consistent: true, seeded: true, clean: false },
  );
  positions.moveTo(sequence);
  log.warn({ image: disk.path }, 'the image is consistent again');
}
