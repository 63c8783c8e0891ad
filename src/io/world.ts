/** Everything outside the process, gathered: what a composition root hands down and the simulator replaces. */
import type { Clock } from './clock.ts';
import type { FileSystem } from './disk.ts';
import type { Network } from './network.ts';
import type { Points } from './points.ts';
import type { Random } from './random.ts';
import type { ScanPool } from './scan-pool.ts';

export interface World {
  readonly clock: Clock;
  readonly random: Random;
  readonly files: FileSystem;
  readonly network: Network;
  readonly scan: ScanPool;
  readonly points: Points;
}
