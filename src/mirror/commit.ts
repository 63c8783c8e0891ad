/**
 * Copies a committed staged run into the image: as one atomic step, since who finds it half done copies again.
 *
 * The state says durably `committing` before the first byte, and the new position with the staged run's id after the
 * last one is durable. A run whose id the state names already has been copied; it is only removed. Every failure leaves
 * the committed run where it is.
 */
import { assert } from '../base/assert.ts';
import type { Clock } from '../io/clock.ts';
import type { Staging } from '../store/staging.ts';
import type { ImageParts } from './image-state.ts';

/** Lets others run between two steps of work that never waits for a disk. */
export function yielding(clock: Clock): () => Promise<void> {
  let startedMs = clock.nowMs();
  return async () => {
    if (clock.nowMs() - startedMs < TURN_MS) return;
    await clock.sleep(0);
    startedMs = clock.nowMs();
  };
}

/** How long such work may hold the event loop at a time. */
const TURN_MS = 2;

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
