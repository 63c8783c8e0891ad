/** Room for staged runs: where they lie, what they may take, and what says that there is no more. */
import { NO_ID } from '../base/bytes.ts';
import { Failure, isFailure } from '../base/failure.ts';
import { Staging } from '../store/staging.ts';
import type { StagedPosition } from '../store/staging-log.ts';
import type { ImageParts } from './image-state.ts';
import { isNoSpace } from './mirror-failure.ts';

export function stagingDirectory(imagePath: string): string {
  return `${imagePath}.twin/staging`;
}

/**
 * Bytes that a staged run may take: the lower of the limit and the free space, less what a commit would need. Any number
 * where a run goes on without room.
 */
export async function stagingRoom(
  { world, disk, rules, clearing }: ImageParts,
  run: { readonly stagedSize: number; readonly wanted: number } | undefined,
): Promise<number> {
  if (rules.overflow === 'continue') return Number.MAX_SAFE_INTEGER;
  await clearing.idle();
  const free = await world.files.freeSize(directoryOf(disk.path));
  const room = Math.max(0, free + (run?.stagedSize ?? 0) - (run?.wanted ?? 0));
  return Math.min(room, rules.limit ?? room, Number.MAX_SAFE_INTEGER);
}

export function directoryOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/')) || '/';
}

/** What the state says of an image that is at no position. */
export const NO_POSITION = {
  run: NO_ID,
  parentRun: NO_ID,
  parentSequence: 0,
  recorded: 0,
  checkpoint: 0,
} as const;

/** Makes the files of an empty run over the image as it is recorded: durable on return, with its position. */
export async function makeStaging(
  parts: ImageParts,
  { id, base, size }: Pick<Staging, 'id' | 'base' | 'size'>,
  position: StagedPosition,
): Promise<Staging> {
  const { files } = parts.world;
  await parts.clearing.idle();
  // After a crash the run is known by the state that it lies over.
  await parts.state.ensure();
  // An id may come twice; the copy of the one before must not be taken for that of this one.
  if (parts.state.now.copiedId.equals(id)) await parts.state.patch({ copiedId: NO_ID });
  const directory = stagingDirectory(parts.disk.path);
  const staging = await Staging.create(files, directory, id, size, stagingLimit(parts, size), base);
  try {
    await staging.sync(position);
  } catch (error) {
    // What was made may stay: it is empty, over the image as it is, and removed by whoever begins the next.
    await staging.close();
    throw error;
  }
  parts.world.points.reached('mirror-staging-begun');
  return staging;
}

/** Bytes of staging that the operator allows for a disk of that size. */
export function stagingLimit(parts: ImageParts, size: number): number {
  return Math.min(parts.rules.limit ?? size, size);
}

/** True for every way in which a file system or a limit says that there is no more room. */
export function isFull(error: unknown): boolean {
  if (isFailure(error, 'staging-full') || isFailure(error, 'no-space')) return true;
  return isFailure(error, 'state-unwritable') && isNoSpace(error.cause);
}

export function fullFailure(error: unknown, what: string): Failure {
  const reason = error instanceof Error ? error.message : String(error);
  return new Failure('staging-full', `${what}: ${reason}`, { cause: error });
}

/** Bytes of an overlay that lie where the disk has no space yet. */
export function missingIn(disk: ImageParts['disk'], overlay: Staging['overlay']): number {
  let size = 0;
  for (const range of overlay.ranges()) {
    if (range.zero) continue;
    const end = range.offset + range.length;
    for (let at = range.offset; at < end; ) {
      const hole = Math.min(end, disk.seekHole(at));
      const data = Math.min(end, disk.seekData(hole));
      size += data - hole;
      at = Math.max(data, hole, at + 1);
    }
  }
  return size;
}
