import { silentLog } from '../../src/base/log.ts';
import { MIB } from '../../src/base/units.ts';
import { Backlog } from '../../src/primary/backlog.ts';
import { MirrorRegions } from '../../src/primary/mirror-regions.ts';
import { RegionSequences } from '../../src/primary/region-sequences.ts';
import { Replica } from '../../src/primary/replica.ts';
import type { ReplicaStart } from '../../src/primary/replica-events.ts';
import { DirtyMap } from '../../src/store/dirty-map.ts';
import type { MemoryWorld } from './memory-world.ts';

/** What a primary keeps for a mirror, in step unless told otherwise: a new dirty map in memory, a window, no spool. */
export async function memoryReplica(
  world: MemoryWorld,
  size: number,
  options: Partial<ReplicaStart> & { readonly windowSize?: number } = {},
): Promise<{ replica: Replica; map: DirtyMap; sequences: RegionSequences }> {
  const start = { sequence: 0, checkpoint: 0, inOrder: true, ...options };
  await world.files.makeDirectory('/state');
  const map = await DirtyMap.open(world.files, '/state/dirty', {
    size,
    trusted: true,
    invalidate: () => Promise.reject(new Error('the map in memory does not fail')),
    changed: () => undefined,
    points: world.points,
  });
  const sequences = new RegionSequences(map.size, map.regionSize, start.sequence);
  const settings = {
    diskSize: size,
    windowSize: options.windowSize ?? 64 * MIB,
    spoolSize: 0,
    spoolDirectory: '/state/spool',
  };
  const backlog = new Backlog(world, silentLog, settings, start.sequence);
  return { replica: new Replica(world.clock, new MirrorRegions(map, 0, sequences), backlog, start), map, sequences };
}
