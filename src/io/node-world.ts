import process from 'node:process';
import type { SecretReader } from '../secure/load-secret.ts';
import { systemClock } from './clock.ts';
import { nodeFileSystem } from './node-file-system.ts';
import { nodeNetwork } from './node-network.ts';
import { nodeScanPool, type ScanPoolOptions } from './node-scan-pool.ts';
import { nodeSecretReader } from './node-secret-reader.ts';
import { pointsOf } from './points.ts';
import { systemRandom } from './random.ts';
import type { World } from './world.ts';

/** What a real process has beyond what the simulator needs. */
export interface NodeWorld extends World {
  readonly secrets: SecretReader;
}

/** The world of the operating system. Its scan pool is to be closed; the rest needs no end. */
export function nodeWorld(options: { readonly scan?: ScanPoolOptions } = {}): NodeWorld {
  return {
    clock: systemClock,
    random: systemRandom,
    files: nodeFileSystem,
    network: nodeNetwork,
    scan: nodeScanPool(options.scan),
    points: pointsOf(process.env['NBDTWIN_CRASH_AT']),
    secrets: nodeSecretReader,
  };
}
