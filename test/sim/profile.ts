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
  /** From the beginning of one periodic verification to that of the next; undefined: there is none. It repairs. */
  readonly verifyEveryMs: number | undefined;
}

/** Seeds that verify, of each eight. Not drawn: to the others nothing changes, those that are known by heart among them. */
const VERIFYING_SEEDS: readonly number[] = [1, 6];

export function makeProfile(random: SeededRandom, seed: number): Profile {
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
  const profile: Profile = {
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
    verifyEveryMs: VERIFYING_SEEDS.includes(seed % 8) ? 500 + 100 * (seed % 30) : undefined,
  };
  const theme = random.pick(THEME_ODDS);
  return theme === undefined ? profile : { ...profile, ...THEMES[theme](random, profile) };
}

/** Lives about one thing, in which sequences that are rare elsewhere happen again and again. */
const THEMES = {
  /** The mirror is in step mostly, marks are cleared and set all the time, and the primary ends in the middle of it. */
  marks: (random: SeededRandom, { diskSize, connections, depth }: Profile): Partial<Profile> => {
    const length = 16 * KIB;
    return {
      hot: Array.from({ length: 8 }, () => ({ offset: 512 * random.below((diskSize - length) / 512), length })),
      writeSizeMax: 4 * KIB,
      thinkMs: (5 + random.below(40)) * connections * depth,
      flushShare: random.pick([0, 0, 0.02]),
      fuaShare: 0,
      regionSize: MIB,
      dirtyActive: random.pick([1, 1, 3]),
      mode: 'async',
      rate: 20_000,
      stagingLimit: undefined,
      diskAtOnce: random.pick([0, 0.5]),
      diskCallMs: random.pick([0.3, 2, 8]),
      intervals: frequent(
        random,
        ['primary-power', 'primary-killed'],
        ['client-pause', 'client-burst', 'link-reset'],
        3_000,
      ),
      pointCrashes: random.pick([0, 0, 0.02]),
      lateMisfortunes: true,
    };
  },
  /** The link does not carry what is written, mostly to the same places: spool and merged parts. */
  backlog: (random: SeededRandom, { connections, depth }: Profile): Partial<Profile> => {
    const writeSizeMax = random.pick([16 * KIB, 64 * KIB]);
    const rate = 300;
    return {
      writeSizeMax,
      rate,
      thinkMs: (connections * depth * writeSizeMax) / 2 / (random.pick([1.5, 3]) * rate),
      flushShare: random.pick([0, 0.02, 0.1]),
      windowSize: MIB,
      spoolSize: random.pick([2 * MIB, 4 * MIB, 64 * MIB]),
      stagingLimit: undefined,
      intervals: frequent(
        random,
        ['mirror-killed', 'mirror-power', 'link-reset', 'client-pause'],
        ['primary-stopped', 'slow-link', 'partition', 'mirror-stopped'],
        6_000,
      ),
      pointCrashes: random.pick([0, 0, 0.01]),
      lateMisfortunes: true,
    };
  },
  /** Every request that can wait for the mirror does, and either side ends often. */
  modes: (random: SeededRandom): Partial<Profile> => ({
    flushShare: random.pick([0.1, 0.3]),
    fuaShare: random.pick([0.02, 0.2]),
    mode: random.pick(['flush', 'sync']),
    onMirrorLoss: random.pick(['continue', 'stall', 'stall', 'fail']),
    stagingLimit: undefined,
    intervals: frequent(
      random,
      ['mirror-power', 'mirror-killed', 'link-reset'],
      ['primary-power', 'both-power', 'slow-link', 'slow-mirror-disk', 'partition'],
      4_000,
    ),
    lateMisfortunes: true,
  }),
} as const;

/** Of ten seeds. In this order the known ones (seeds.ts) are what they were before there were themes. */
const THEME_ODDS = [
  'marks',
  'marks',
  undefined,
  'backlog',
  'backlog',
  'modes',
  undefined,
  'modes',
  undefined,
  undefined,
] as const;

/** Most of the one, some of the other, and nothing else. */
function frequent(
  random: SeededRandom,
  most: readonly Misfortune[],
  some: readonly Misfortune[],
  meanMs: number,
): Map<Misfortune, number> {
  const intervals = new Map<Misfortune, number>();
  for (const misfortune of most) if (random.chance(0.7)) intervals.set(misfortune, meanMs * (0.3 + random.uniform()));
  for (const misfortune of some)
    if (random.chance(0.3)) intervals.set(misfortune, meanMs * (0.5 + 2 * random.uniform()));
  return intervals;
}
