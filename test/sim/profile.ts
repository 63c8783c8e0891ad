/**
 * What kind of life a seed leads: how busy the clients are, how good disks and network, and which misfortunes happen how
 * often. Each seed leaves many misfortunes out and makes others frequent: runs in which everything happens at once all
 * look alike, and rare sequences would stay rare.
 */
import type { Mode, OnMirrorLoss } from '../../src/base/mode.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import type { SeededRandom } from './random.ts';

const MISFORTUNES = [
  'primary-killed',
  'primary-power',
  'primary-stopped',
  'mirror-killed',
  'mirror-power',
  'mirror-stopped',
  'both-power',
  'link-reset',
  'link-silent',
  'partition',
  'slow-link',
  'slow-mirror-disk',
  'slow-primary-disk',
  'mirror-disk-fault',
  'primary-disk-fault',
  'mirror-full',
  'mirror-restored',
  'primary-restored',
  'client-burst',
  'client-pause',
] as const;

export type Misfortune = (typeof MISFORTUNES)[number];

export interface Profile {
  readonly diskSize: number;
  readonly connections: number;
  /** Requests in flight per connection. */
  readonly depth: number;
  readonly thinkMs: number;
  /** Odds of the kinds of requests; the rest are writes. */
  readonly flushShare: number;
  readonly fuaShare: number;
  readonly zeroShare: number;
  readonly trimShare: number;
  readonly readShare: number;
  readonly writeSizeMax: number;
  /** Small areas where nearly everything happens. */
  readonly hot: readonly { readonly offset: number; readonly length: number }[];
  readonly windowSize: number;
  readonly spoolSize: number;
  readonly regionSize: number;
  readonly dirtyActive: number;
  /** Bytes of staging that the mirror may use; undefined: what it likes. */
  readonly stagingLimit: number | undefined;
  readonly stagingOverflow: 'keep' | 'continue';
  readonly mode: Mode;
  readonly onMirrorLoss: OnMirrorLoss;
  /** Bytes of the disk that hold something before the first start. */
  readonly initialSize: number;
  readonly latencyMs: number;
  readonly rate: number;
  readonly diskAtOnce: number;
  readonly diskCallMs: number;
  readonly diskSyncMs: number;
  /** Mean time between two of a kind, ms. Missing: never. */
  readonly intervals: Map<Misfortune, number>;
  /** Odds of a crash at each named point that is reached. */
  readonly pointCrashes: number;
  readonly rekeyIntervalMs: number;
  /** Misfortunes begin only when the mirror is in step for the first time. */
  readonly lateMisfortunes: boolean;
}

export function makeProfile(random: SeededRandom): Profile {
  const diskSize = 4 * MIB * (1 + random.below(3)) + (random.chance(0.3) ? 512 * random.below(1000) : 0);
  const hot = Array.from({ length: 2 + random.below(4) }, () => {
    const length = 4 * KIB * (1 + random.below(24));
    return { offset: 512 * random.below(Math.floor((diskSize - length) / 512)), length };
  });
  const connections = 1 + random.below(3);
  const depth = 1 + random.below(6);
  const writeSizeMax = random.pick([512, 4 * KIB, 16 * KIB, 64 * KIB]);
  const rate = random.pick([300, 2_000, 20_000]);
  // Mostly the link carries more than the clients write; sometimes not.
  const load = random.pick([0.02, 0.1, 0.1, 0.5, 1.2]);
  const thinkMs = Math.max(2, (connections * depth * writeSizeMax) / 2 / (load * rate));
  const intervals = new Map<Misfortune, number>();
  const calm = random.chance(0.1);
  for (const misfortune of MISFORTUNES) {
    const wanted = random.chance(0.4);
    const intervalMs = 400 * 30 ** random.uniform();
    if (wanted && !calm) intervals.set(misfortune, intervalMs);
  }
  return {
    diskSize,
    connections,
    depth,
    thinkMs,
    flushShare: random.pick([0, 0.02, 0.1, 0.3]),
    fuaShare: random.pick([0, 0.02, 0.2]),
    zeroShare: random.pick([0, 0.05, 0.2]),
    trimShare: random.pick([0, 0.05, 0.2]),
    readShare: random.pick([0.02, 0.2]),
    writeSizeMax,
    hot,
    windowSize: random.pick([1, 1, 2]) * MIB,
    spoolSize: random.pick([0, 256 * KIB, 2 * MIB, 64 * MIB]),
    regionSize: random.pick([1, 1, 2]) * MIB,
    dirtyActive: random.pick([1, 3, 16, 4096]),
    stagingLimit: random.pick([undefined, undefined, undefined, 64 * KIB, 512 * KIB]),
    stagingOverflow: random.pick(['keep', 'continue']),
    mode: random.pick(['async', 'async', 'flush', 'sync']),
    onMirrorLoss: random.pick(['continue', 'stall', 'fail']),
    initialSize: random.pick([0, 64 * KIB, MIB]),
    latencyMs: random.pick([0.1, 0.5, 3, 15]),
    rate,
    diskAtOnce: random.pick([0, 0.5, 0.9, 0.99]),
    diskCallMs: random.pick([0.05, 0.3, 2]),
    diskSyncMs: random.pick([0.3, 2, 10]),
    intervals,
    pointCrashes: random.pick([0, 0, 0.01, 0.1]),
    rekeyIntervalMs: random.chance(0.3) ? 1500 : 3_600_000,
    lateMisfortunes: random.chance(0.7),
  };
}
