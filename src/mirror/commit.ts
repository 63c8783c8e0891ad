/**
 * Copies a committed staged run into the image: as one atomic step, since who finds it half done copies again.
 *
 * The state says durably `committing` before the first byte, and the new position with the staged run's id after the
 * last one is durable. A run whose id the state names already has been copied; it is only removed. Every failure leaves
 * the committed run where it is.
 */
import { assert } from '../base/assert.ts';
import { isFailure, messageOf } from '../base/failure.ts';
import type { Clock } from '../io/clock.ts';
import type { Staging } from '../store/staging.ts';
import type { ImageParts } from './image-state.ts';
import { directoryOf } from './staging-room.ts';

/** Lets others run between two steps of work that never waits for a disk: nothing while it is early. */
export function yielding(clock: Clock): () => Promise<void> | undefined {
  let startedMs = clock.nowMs();
  return () => {
    if (clock.nowMs() - startedMs < TURN_MS) return undefined;
    return clock.sleep(0).then(() => {
      startedMs = clock.nowMs();
    });
  };
}

/** How long such work may hold the event loop at a time. */
const TURN_MS = 2;
/** Of the free space. */
const CLEARING_SHARE_MAX = 1 / 8;

/** Durable on return, but for the files of the run, which stay. The image is exactly at the record's position. */
export async function copyCommitted(parts: ImageParts, staging: Staging): Promise<void> {
  const { disk, state, positions, world } = parts;
  const record = staging.committed;
  assert(record !== undefined, 'only a committed run is copied');
  if (!state.now.copiedId.equals(staging.id)) {
    await state.patch({ committing: true, clean: false });
    world.points.reached('mirror-copy-begun');
    if (disk.size < staging.size) await disk.resize(staging.size);
    await staging.overlay.copyInto(disk, yielding(world.clock));
    await disk.sync().catch((error: unknown) => {
      positions.cacheSuspected();
      throw error;
    });
    world.points.reached('mirror-copy-synced');
    await parts.checkInPlace();
    const { sequence, committedAtMs, ...position } = record;
    await state.patch({
      ...position,
      recorded: sequence,
      recordedAtMs: committedAtMs,
      consistent: true,
      seeded: true,
      committing: false,
      clean: false,
      copiedId: staging.id,
    });
    parts.commits.count += 1;
    parts.commits.lastMs = world.clock.nowMs();
    world.points.reached('mirror-copy-recorded');
  }
  positions.moveTo(record.sequence);
}

/**
 * A run that has been copied is gone on return, durably. Its space is given back meanwhile (see ImageParts.clearing), unless
 * that is much of what is free: whoever writes next, to this image or beside another, must not find it missing.
 */
export async function forgetCopied({ clearing, disk, log, world }: ImageParts, staging: Staging): Promise<void> {
  const { dataSize } = staging.overlay;
  const { cleared } = await staging.forget();
  const noted = clearing.during(
    cleared.catch((error: unknown) => {
      log.warn({ image: disk.path, err: error }, `what is left of a staged run cannot be removed: ${messageOf(error)}`);
    }),
  );
  const freeSize = await world.files.freeSize(directoryOf(disk.path)).catch((error: unknown) => {
    if (!isFailure(error)) throw error;
    return 0;
  });
  if (dataSize > freeSize * CLEARING_SHARE_MAX) await noted;
  world.points.reached('mirror-staging-removed');
}
