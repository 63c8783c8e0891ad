/**
 * Opening and making the files of an image: `DIR/NAME.img`, and `DIR/NAME.img.twin/` with its state and its staging.
 * Whoever holds the lock of the image alone reads and writes its state.
 */
import { NO_ID } from '../base/bytes.ts';
import { Failure, isFailure } from '../base/failure.ts';
import type { Disk, DiskIdentity } from '../io/disk.ts';
import type { World } from '../io/world.ts';
import type { Hello } from '../link/messages.ts';
import { sameInode } from '../store/identity.ts';
import { MIRROR_STATE, MIRROR_STATE_NAME, type MirrorState } from '../store/mirror-state.ts';
import { createStateFile, openStateFile, readStateFile, type StateFile } from '../store/state-file.ts';

export function imagePath(directory: string, name: string): string {
  return `${directory}/${name}.img`;
}

export function statePath(path: string): string {
  return `${path}.twin/${MIRROR_STATE_NAME}`;
}

export interface ImageFiles {
  readonly disk: Disk;
  readonly file: StateFile<MirrorState>;
}

/**
 * Opens what is there; undefined when there is nothing, or only the beginning of a making that was cut short.
 * Failures: `image-foreign` for an image without state, `image-missing` for the reverse, `state-corrupt`, `disk-busy`,
 * and those of the disk.
 */
export async function openImageFiles(world: World, path: string): Promise<ImageFiles | undefined> {
  const { files } = world;
  const state = await readStateFile(files, MIRROR_STATE, statePath(path));
  if ((await files.exists(path)) === undefined) {
    // The power went while it was being created: there was never anything in it.
    if (state === undefined || !state.seeded) return undefined;
    throw new Failure('image-missing', `${path} is gone while its state in ${path}.twin is there`);
  }
  if (state === undefined) {
    throw new Failure('image-foreign', `${path} exists but was not made by this mirror (no state beside it)`);
  }
  let disk: Disk;
  try {
    disk = await files.openDisk(path, { lock: 'exclusive' });
  } catch (error) {
    if (!isFailure(error, 'disk-empty') || state.seeded) throw error;
    // The power went between making the file and giving it its size.
    await files.remove(path);
    return undefined;
  }
  try {
    // Read again now that nobody else can write it.
    const file = await openStateFile(files, MIRROR_STATE, statePath(path));
    if (file === undefined) throw new Failure('image-foreign', `the state of ${path} is gone`);
    return { disk, file };
  } catch (error) {
    await disk.close();
    throw error;
  }
}

/** Makes the image, all holes, and its state: not consistent, at no position. Durable on return. */
export async function createImageFiles(
  world: World,
  path: string,
  hello: Hello,
  replicaId: Buffer,
): Promise<ImageFiles> {
  await world.files.makeDirectory(`${path}.twin`);
  // The state comes first: an image without state would be taken for somebody else's.
  const file = await createStateFile(world.files, MIRROR_STATE, statePath(path), {
    replicaId: Buffer.from(replicaId),
    volumeId: Buffer.from(hello.volumeId),
    generation: Buffer.from(hello.generation),
    run: NO_ID,
    parentRun: NO_ID,
    parentSequence: 0,
    recorded: 0,
    checkpoint: 0,
    consistent: false,
    clean: false,
    seeded: false,
    committing: false,
    recordedAtMs: world.clock.wallMs(),
    identity: { inode: '', size: hello.size, modifiedNs: 0n },
    mapVersion: 0,
    copiedId: NO_ID,
  });
  let disk: Disk | undefined;
  try {
    disk = await world.files.openDisk(path, { lock: 'exclusive', createSize: hello.size });
    await disk.sync();
    await world.files.syncDirectory(path.slice(0, path.lastIndexOf('/')));
    await file.write({ ...file.state, identity: await disk.identity() });
    world.points.reached('mirror-image-created');
    return { disk, file };
  } catch (error) {
    // The next attempt opens both again: it must find the image unlocked.
    await disk?.close();
    await file.close();
    throw error;
  }
}

/** False when the image or its state was deleted, moved or replaced under our hands: what we write goes nowhere. */
export async function isInPlace(world: World, disk: Disk): Promise<boolean> {
  const [inode, state, identity] = await Promise.all([
    world.files.inodeOf(disk.path),
    world.files.exists(statePath(disk.path)),
    disk.identity(),
  ]);
  return inode === identity.inode && state === 'file';
}

/**
 * What an image is that was found beside its state: the file that the state was written for; another one, such as a copy
 * of both; or another one of another time, where that should be the same: a copy that was made without its times, or
 * was changed since. Which it is nobody can tell.
 */
export type ImageFile = 'same' | 'copy' | 'copy-retimed';

export function fileOf(state: MirrorState, identity: DiskIdentity, committed: boolean): ImageFile {
  const known = state.identity;
  if (known.inode === '' || sameInode(known.inode, identity.inode)) return 'same';
  if (!isStill(state, committed) || known.modifiedNs === identity.modifiedNs) return 'copy';
  // Many archives keep whole seconds only.
  const isCutOff = identity.modifiedNs === known.modifiedNs - (known.modifiedNs % NS_PER_SECOND);
  return isCutOff ? 'copy' : 'copy-retimed';
}

const NS_PER_SECOND = 1_000_000_000n;

/** True when size and time are those of the state, if nobody has changed the image. */
function isStill(state: MirrorState, committed: boolean): boolean {
  // The copy of a committed run may have begun, and is done again.
  return state.clean && !committed;
}

/**
 * Why an image that is opened is not what its state says of it; undefined when it is. `mayBeCopy`: somebody vouches for
 * another file than the state was written for.
 */
export function strangenessOf(
  state: MirrorState,
  identity: DiskIdentity,
  committed: boolean,
  mayBeCopy: boolean,
): string | undefined {
  const { size, modifiedNs } = state.identity;
  const file = fileOf(state, identity, committed);
  if (file !== 'same' && !mayBeCopy) return 'the image is another file than it was';
  // It never shrinks: the rest is missing, as of a copy that was cut short.
  if (identity.size < size) return `the image has ${identity.size} bytes, and had ${size}`;
  if (state.committing && !committed)
    return 'the image was being brought up to date, and what it needs for that is gone';
  if (!isStill(state, committed)) return undefined;
  const isTouched = file === 'same' && identity.modifiedNs !== modifiedNs;
  return isTouched || identity.size !== size ? 'the image was changed while no mirror was running' : undefined;
}

/** Why an image whose state says that it is not consistent is not. */
export function inconsistencyOf(state: MirrorState): string {
  if (!state.seeded) return 'it was never filled completely';
  return 'it was being brought up to date without a net, or was changed by others, and has not been compared since';
}

/** What matters of a staged run found beside an image. */
interface FoundRun {
  readonly id: Buffer;
  readonly base: { readonly run: Buffer; readonly sequence: number };
  readonly committed: boolean;
}

/** True when a staged run lies over the image as its state says that it is. */
export function liesOver(state: MirrorState, { base }: Pick<FoundRun, 'base'>): boolean {
  return base.run.equals(state.run) && base.sequence === state.recorded;
}

/** Why a committed run cannot be copied; undefined when it can, or has been, or when it is not committed. */
export function strayCommit(state: MirrorState, run: FoundRun): string | undefined {
  if (!run.committed || liesOver(state, run) || run.id.equals(state.copiedId)) return undefined;
  return 'the staged run beside the image belongs to another state of it';
}
