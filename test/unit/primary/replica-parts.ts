/** A replica with its real parts, in memory. */
import { silentLog } from '../../../src/base/log.ts';
import { Backlog } from '../../../src/primary/backlog.ts';
import { MirrorRegions } from '../../../src/primary/mirror-regions.ts';
import { RegionSequences } from '../../../src/primary/region-sequences.ts';
import { Replica } from '../../../src/primary/replica.ts';
import { DirtyMap } from '../../../src/store/dirty-map.ts';
import { type MemoryWorld, memoryWorld } from '../../support/memory-world.ts';

export const RUN = Buffer.alloc(16, 2);
export const REPLICA_ID = Buffer.alloc(16, 3);

export interface ReplicaOptions {
  readonly size: number;
  /** Bytes of window; there is no spool unless `spoolSize` says so. */
  readonly windowSize: number;
  readonly spoolSize?: number;
  readonly regionSize?: number;
  readonly sequence?: number;
  readonly checkpoint?: number;
  /** A clean stop vouched that the mirror had everything; nothing is set in the map then. */
  readonly inOrder: boolean;
  /** What makes it durable that the dirty map tells nothing any more. */
  readonly invalidate?: () => Promise<void>;
}

export interface ReplicaParts {
  readonly world: MemoryWorld;
  readonly map: DirtyMap;
  readonly sequences: RegionSequences;
  readonly replica: Replica;
  /** As the ledger does: the region is set before, and known to be written after. */
  write(offset: number, length: number, barrier?: boolean, data?: Uint8Array, type?: 16 | 17): void;
}

/** Everything is set in the map, unless `inOrder`; it is about REPLICA_ID. */
export async function replicaParts(options: ReplicaOptions): Promise<ReplicaParts> {
  const { size, windowSize, spoolSize = 0, sequence = 0, checkpoint = 0, inOrder } = options;
  const world = memoryWorld();
  const { regionSize } = options;
  const map = await DirtyMap.open(world.files, '/state/dirty', {
    size,
    trusted: false,
    invalidate: options.invalidate ?? (() => Promise.reject(new Error('not needed'))),
    ...(regionSize === undefined ? {} : { regionSize }),
  });
  await map.assignReplica(0, REPLICA_ID);
  if (inOrder) {
    const all = Array.from({ length: map.regionCount }, (_, region) => region);
    await map.clear(0, all, { run: RUN, sequence, checkpoint });
  }
  const sequences = new RegionSequences(size, map.regionSize, sequence);
  const settings = { diskSize: size, windowSize, spoolSize, spoolDirectory: '/state/spool' };
  const { backlog } = await Backlog.open(world, silentLog, settings, sequence, undefined);
  const replica = new Replica(world.clock, new MirrorRegions(map, 0, sequences), backlog, {
    sequence,
    checkpoint,
    inOrder,
  });
  return {
    world,
    map,
    sequences,
    replica,
    write(offset, length, barrier = false, data = Uint8Array.of(1), type = 16) {
      void map.set(offset, length);
      const next = replica.sequence + 1;
      sequences.note(offset, length, next);
      replica.append(type, next, offset, length, type === 17 ? undefined : data);
      if (barrier) replica.barrier();
    },
  };
}
