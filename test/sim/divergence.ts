/**
 * No silent divergence (G4): what differs between the two disks after a crash is marked in what the crash left of the
 * dirty map, or the primary would compare everything or refuse to begin.
 *
 * Judged on copies of both sides, taken at one instant: the mirror's as it offers itself after `recover`, the primary's as
 * its next start finds it. The decision is the product's own.
 */
import { NO_ID } from '../../src/base/bytes.ts';
import { isFailure } from '../../src/base/failure.ts';
import { silentLog } from '../../src/base/log.ts';
import type { World } from '../../src/io/world.ts';
import { VERSION_MAX, VERSION_MIN, type Welcome } from '../../src/link/messages.ts';
import { MirrorImage } from '../../src/mirror/image.ts';
import { Backlog } from '../../src/primary/backlog.ts';
import { decide, type Own } from '../../src/primary/decide.ts';
import { openLastStop } from '../../src/primary/last-stop.ts';
import { MirrorRegions } from '../../src/primary/mirror-regions.ts';
import { RegionSequences } from '../../src/primary/region-sequences.ts';
import { Replica } from '../../src/primary/replica.ts';
import { DirtyMap, dirtyMapPath } from '../../src/store/dirty-map.ts';
import { type Content, PAGE_SIZE } from './content.ts';
import type { Medium } from './medium.ts';
import { IMAGE_PATH, MIRROR_DIRECTORY } from './mirror-side.ts';
import { DISK_PATH, EXPORT_NAME, STATE_DIRECTORY } from './primary-side.ts';
import type { Profile } from './profile.ts';
import { inSideWorld } from './side-world.ts';

const PLANE = 0;

/** What a crash of the primary leaves on both sides; nobody else uses the media. */
export interface CrashedPair {
  readonly primary: Medium;
  readonly mirror: Medium;
  readonly how: string;
}

export interface Divergence {
  /** `marked`: the marks count; otherwise why they need not. */
  readonly outcome: 'marked' | 'everything' | 'refused' | 'no-start' | 'no-image';
  /** Pages that differ. */
  readonly differing: number;
  /** Of those, the ones in regions that are not marked: none may be. */
  readonly unmarked: readonly number[];
}

/** What differs, and whether the primary would find it. Changes both media. */
export async function divergenceOf({ primary, mirror }: CrashedPair, profile: Profile): Promise<Divergence> {
  mirror.capacity = Number.POSITIVE_INFINITY;
  primary.capacity = Number.POSITIVE_INFINITY;
  const none = (outcome: Divergence['outcome']): Divergence => ({ outcome, differing: 0, unmarked: [] });
  const start = await inSideWorld(primary, (world) => startOf(world, primary, profile));
  if (start === undefined) return none('no-start');
  const welcome = await inSideWorld(mirror, (world) => welcomeOf(world, start));
  const image = mirror.file(IMAGE_PATH)?.cache;
  if (welcome === undefined || image === undefined) return none('no-image');
  const reason = reasonWithoutMarks(start, welcome);
  if (reason !== undefined) return none(reason);
  const { map } = start;
  const differing = image.differences(start.disk);
  const unmarked = differing.filter((page) => !map.isSet(PLANE, Math.floor((page * PAGE_SIZE) / map.regionSize)));
  return { outcome: 'marked', differing: differing.length, unmarked };
}

/** Why nothing depends on the marks; undefined when something does, after a clean stop too. */
function reasonWithoutMarks({ own, replica }: Start, welcome: Welcome): 'everything' | 'refused' | undefined {
  try {
    const decision = decide(own, welcome, replica);
    return decision.kind === 'compare' && decision.scope === 'everything' ? 'everything' : undefined;
  } catch (error) {
    if (isFailure(error, 'primary-older') || isFailure(error, 'generation-newer')) return 'refused';
    throw error;
  }
}

interface Start {
  readonly own: Own;
  readonly volumeId: Buffer;
  readonly map: DirtyMap;
  readonly replica: Replica;
  readonly disk: Content;
}

/** What the primary would start with, as open-primary.ts does it; undefined when it could not start. */
async function startOf(world: World, medium: Medium, profile: Profile): Promise<Start | undefined> {
  try {
    const disk = await world.files.openDisk(DISK_PATH, { lock: 'exclusive' });
    await world.files.makeDirectory(STATE_DIRECTORY);
    const stop = await openLastStop(world, silentLog, disk, STATE_DIRECTORY);
    const map = await DirtyMap.open(world.files, dirtyMapPath(STATE_DIRECTORY), {
      size: disk.size,
      trusted: stop.mapTrusted,
      versionTold: stop.file.state.mapVersionTold,
      invalidate: () => Promise.resolve(),
      regionSize: profile.regionSize,
    });
    const kept =
      stop.spoolBase === undefined
        ? undefined
        : { run: stop.lineage.parentRun, base: stop.spoolBase, sequence: stop.sequence };
    const { windowSize, spoolSize } = profile;
    const settings = { diskSize: disk.size, windowSize, spoolSize, spoolDirectory: `${STATE_DIRECTORY}/spool` };
    const base = kept?.base ?? stop.sequence;
    const { backlog, restored } = await Backlog.open(world, silentLog, settings, base, kept);
    const sequences = new RegionSequences(map.size, map.regionSize, stop.sequence);
    const replica = new Replica(world.clock, new MirrorRegions(map, PLANE, sequences), backlog, {
      sequence: stop.sequence,
      checkpoint: stop.clearedCheckpoint,
      inOrder: kept !== undefined && restored && map.found === 'kept',
    });
    const { generation, volumeId } = stop.file.state;
    const { lineage, earlierRuns } = stop;
    return {
      own: { ...lineage, earlierRuns, generation, size: disk.size, rescanAll: false },
      volumeId,
      map,
      replica,
      disk: medium.file(DISK_PATH)!.cache,
    };
  } catch (error) {
    if (isFailure(error)) return undefined;
    throw error;
  }
}

/** What the mirror would say of its image; undefined when there is none. */
async function welcomeOf(world: World, { own, volumeId }: Start): Promise<Welcome | undefined> {
  try {
    const image = await MirrorImage.open(world, silentLog, MIRROR_DIRECTORY, EXPORT_NAME);
    if (image === undefined) return undefined;
    await image.finishCommit();
    if (image.run !== undefined) await image.dropRun();
    const { replicaId, generation, checkpoint, mapVersion, seeded } = image.state;
    const position = image.positionFor({
      ...own,
      versionMin: VERSION_MIN,
      versionMax: VERSION_MAX,
      mode: 'async',
      volumeId,
      windowSize: 0,
      mapVersion: 0,
      exportName: EXPORT_NAME,
    });
    return {
      ...position,
      version: VERSION_MAX,
      fresh: false,
      seeded,
      replicaId,
      generation,
      checkpoint,
      size: image.disk.size,
      mapVersion,
      stagingId: NO_ID,
      stagedSequence: 0,
      stagedCheckpoint: 0,
      stagingRoom: Number.MAX_SAFE_INTEGER,
    };
  } catch (error) {
    if (isFailure(error)) return undefined;
    throw error;
  }
}
