/** What replication needs of the local side: the volume under the replicating layer, its disk, and the range lock. */
import { payloadPool } from '../base/payload-pool.ts';
import type { Disk } from '../io/disk.ts';
import type { RangeLock } from '../volume/range-lock.ts';
import type { Volume } from '../volume/volume.ts';

export interface LocalDisk {
  readonly volume: Volume;
  readonly disk: Disk;
  /** Held by a mutation until it stands in the stream, and by a rescan's second read likewise. */
  readonly lock: RangeLock;
}

/** Reads a range while nothing can change it, and calls `use` before letting go; the buffer is of the pool, and is `use`’s. */
export async function readLocked(
  local: LocalDisk,
  offset: number,
  length: number,
  use: (data: Buffer) => void,
): Promise<void> {
  const hold = local.lock.acquire(offset, length);
  if (hold.ready !== undefined) await hold.ready;
  try {
    const data = payloadPool.take(length);
    const pending = local.volume.read(data, offset);
    if (pending !== undefined) await pending;
    use(data);
  } finally {
    local.lock.release(hold);
  }
}
