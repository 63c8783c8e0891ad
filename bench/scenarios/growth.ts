/**
 * What it costs that something grows, while the work stays the same: 4 KiB random writes in `async` within a hot set of
 * the same size. Larger disks; more connections; more exports, each with a primary of its own, with one mirror.
 *
 * CPU is taken from the middle of each load, and so are the operations that it went into: connecting, and what starting and
 * ending a load costs otherwise, is left out. Every fleet has had load before, lest code that has not been compiled yet is
 * what is measured.
 *
 * Requests that come together are read, sent and answered together, so that CPU for each falls with the depth on one connection. That
 * is no matter of size; hence more exports are compared with one export at the depth that each of them has.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { runChild } from '../common/children.ts';
import { type Sample, sampleOf } from '../common/statistics.ts';
import { formatTable, whole } from '../common/table.ts';
import { memoryOf, preciseCpuSecondsOf } from '../common/usage.ts';
import { runFio, type Workload } from '../system/fio.ts';
import type { MirrorReport } from '../system/servers.ts';
import { Fleet, type FleetOptions } from './fleet.ts';
import type { Claim, Outcome, Scenario } from './scenario.ts';

const GIB = 2 ** 30;
const MB = 1e6;

interface Parameters {
  readonly rounds: number;
  /** Of all disks of a fleet together. */
  readonly hotSize: number;
  readonly largestDiskSize: number;
  readonly exportCounts: readonly number[];
  /** Of each fleet before the first round; four times as long where there are several primaries to share the load. */
  readonly trainingMs: number;
  readonly warmUpMs: number;
  readonly runMs: number;
}

const FULL: Parameters = {
  rounds: 5,
  hotSize: 512 * 2 ** 20,
  largestDiskSize: 4096 * GIB,
  exportCounts: [10, 50],
  trainingMs: 15_000,
  warmUpMs: 1500,
  runMs: 3000,
};
const QUICK: Parameters = {
  rounds: 2,
  hotSize: 128 * 2 ** 20,
  largestDiskSize: 1024 * GIB,
  exportCounts: [10],
  trainingMs: 3000,
  warmUpMs: 700,
  runMs: 1000,
};
/** What a load goes on for after the figures were taken, so that it is at its height until then. */
const AFTERWARDS_MS = 300;

/** A row of a table: a load on a fleet. Rows with the same fleet share one. */
interface Case {
  readonly name: string;
  readonly fleet: Omit<FleetOptions, 'dataSize'>;
  /** On each export. */
  readonly connections: number;
  readonly depth: number;
  /** Name of the row whose cost this one is measured by; itself for the first of its kind. */
  readonly baseline: string;
}

interface Dimension {
  readonly name: string;
  readonly text: string;
  readonly cases: readonly Case[];
  /** CPU for each operation over that of the baseline, at most. */
  readonly cpuMax: number;
}

const sizeCase = (name: string, diskSize: number): Case => ({
  name,
  fleet: { count: 1, diskSize },
  connections: 1,
  depth: 64,
  baseline: '1 GiB',
});
const connectionCase = (connections: number): Case => ({
  name: `${connections} x depth ${64 / connections}`,
  fleet: { count: 1, diskSize: GIB },
  connections,
  depth: 64 / connections,
  baseline: '1 x depth 64',
});
/** Of 64 requests in all. */
const depthOf = (exports: number): number => Math.floor(64 / exports);
const exportCase = (count: number, depth: number): Case => ({
  name: `${count} x depth ${depth}`,
  fleet: { count, diskSize: GIB },
  connections: 1,
  depth,
  baseline: `1 x depth ${depth}`,
});

const dimensionsOf = ({ largestDiskSize, exportCounts }: Parameters): Dimension[] => [
  {
    name: 'size',
    text: 'size of the disk, one connection of depth 64',
    cases: [
      sizeCase('1 GiB', GIB),
      sizeCase('64 GiB', 64 * GIB),
      sizeCase(`${largestDiskSize / 2 ** 40} TiB`, largestDiskSize),
    ],
    cpuMax: 1.3,
  },
  {
    name: 'connections',
    text: 'connections to one export of 1 GiB, 64 requests under way in all',
    cases: [connectionCase(1), connectionCase(16), connectionCase(64)],
    cpuMax: 2,
  },
  {
    name: 'exports',
    text: 'exports of 1 GiB, about 64 requests under way in all: one mirror, one primary for each export',
    cases: [
      exportCase(1, 64),
      ...exportCounts.flatMap((count) => [exportCase(1, depthOf(count)), exportCase(count, depthOf(count))]),
    ],
    cpuMax: 1.5,
  },
];

interface Observation {
  readonly dimension: string;
  readonly case: string;
  readonly round: number;
  readonly iops: number;
  /** Seconds for 100,000 operations, each of what it has done in that time itself: the mirror may be behind. */
  readonly primaryCpu: number;
  readonly mirrorCpu: number;
  /** Bytes, of all primaries together. */
  readonly primaryMemory: number;
  readonly mirrorMemory: number;
  readonly mirror: MirrorReport;
}

export const growth: Scenario = {
  name: 'growth',
  text: 'what larger disks, more connections and more exports cost',
  programs: ['fio'],
  run: (folder, quick, say) => run(folder, quick ? QUICK : FULL, say),
};

async function run(folder: string, parameters: Parameters, say: (text: string) => void): Promise<Outcome> {
  const observations: Observation[] = [];
  const { rounds, hotSize } = parameters;
  // The fleets of a dimension run side by side, so that their loads can take turns.
  const dimensions = dimensionsOf(parameters);
  for (const { name, cases } of dimensions) {
    const home = join(folder, name);
    await mkdir(home);
    const fleets = new Map<string, Fleet>();
    for (const each of cases) {
      const { fleet: options } = each;
      const key = keyOf(options);
      if (fleets.has(key)) continue;
      say(`${name}: ${options.count} of ${options.diskSize / GIB} GiB`);
      const own = join(home, key);
      await mkdir(own);
      const startMs = performance.now();
      const fleet = await Fleet.start(own, { ...options, dataSize: dataSizeOf(options, hotSize) });
      say(`${name}: ${key} in step after ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
      fleets.set(key, fleet);
      const trainingMs = parameters.trainingMs * (options.count > 1 ? 4 : 1);
      await observe(name, each, fleet, 0, home, { ...parameters, runMs: trainingMs });
    }
    for (let round = 1; round <= rounds; round += 1) {
      const first = (round - 1) % cases.length;
      for (const each of [...cases.slice(first), ...cases.slice(0, first)]) {
        const observed = await observe(name, each, fleets.get(keyOf(each.fleet))!, round, home, parameters);
        observations.push(observed);
        say(
          `round ${round}, ${name}, ${each.name}: ${Math.round(observed.iops)} IOPS, CPU s per 100k ` +
            `${observed.primaryCpu.toFixed(2)} and ${observed.mirrorCpu.toFixed(2)}`,
        );
      }
    }
    await Promise.all([...fleets.values()].map((fleet) => fleet.stop()));
    await rm(home, { recursive: true });
  }
  const results = dimensions.map((dimension) => ({ dimension, rows: rowsOf(dimension, observations) }));
  return {
    parameters,
    figures: { results, observations },
    claims: results.flatMap(({ dimension, rows }) => claimsOf(dimension, rows)),
    text: textOf(parameters, results),
  };
}

function keyOf({ count, diskSize }: Case['fleet']): string {
  return `${count}-${diskSize / GIB}`;
}

/** Whole MiB, as many in all as the hot set has. */
function dataSizeOf({ count }: Case['fleet'], hotSize: number): number {
  return Math.ceil(hotSize / count / 2 ** 20) * 2 ** 20;
}

async function observe(
  dimension: string,
  { name, fleet: options, connections, depth }: Case,
  fleet: Fleet,
  round: number,
  folder: string,
  { hotSize, warmUpMs, runMs }: Parameters,
): Promise<Observation> {
  await runChild('sync', ['--file-system', folder]);
  const load: Workload = {
    name: `${dimension}-${name}`,
    text: name,
    pattern: 'randwrite',
    blockSize: 4096,
    depth,
    connections,
    flushEach: false,
  };
  const { primaryPids, mirror, uris } = fleet;
  const mirrorPids = [mirror.child.pid];
  const running = runFio(load, {
    uris,
    size: dataSizeOf(options, hotSize),
    warmUpMs,
    runMs: runMs + AFTERWARDS_MS,
    outputPath: join(folder, 'fio.json'),
    seed: round,
  });
  await sleep(warmUpMs);
  // To ask costs something too: it comes before and after what is counted.
  const before = await fleet.operations();
  const primaryBefore = await preciseCpuSecondsOf(primaryPids);
  const mirrorBefore = await preciseCpuSecondsOf(mirrorPids);
  await Promise.race([sleep(runMs), running]);
  const primaryAfter = await preciseCpuSecondsOf(primaryPids);
  const mirrorAfter = await preciseCpuSecondsOf(mirrorPids);
  const after = await fleet.operations();
  const { iops } = await running;
  const settled = await fleet.settle();
  return {
    dimension,
    case: name,
    round,
    iops,
    primaryCpu: ((primaryAfter - primaryBefore) * 100_000) / (after.done - before.done),
    mirrorCpu: ((mirrorAfter - mirrorBefore) * 100_000) / (after.applied - before.applied),
    primaryMemory: await memoryOf(primaryPids),
    mirrorMemory: await memoryOf(mirrorPids),
    mirror: settled,
  };
}

interface Row {
  readonly case: Case;
  readonly iops: Sample;
  readonly primaryCpu: Sample;
  readonly mirrorCpu: Sample;
  /** CPU of both for each operation over that of the baseline in the same round. */
  readonly cpuRatio: Sample;
  readonly primaryMemory: Sample;
  readonly mirrorMemory: Sample;
  readonly keptUp: number;
  readonly rounds: number;
}

function rowsOf({ name, cases }: Dimension, observations: readonly Observation[]): Row[] {
  const of = (caseName: string): Observation[] =>
    observations.filter((each) => each.dimension === name && each.case === caseName);
  return cases.map((each) => {
    const own = of(each.name);
    const peers = of(each.baseline);
    const sample = (figure: (observed: Observation) => number): Sample => sampleOf(own.map(figure));
    const cpuOf = ({ primaryCpu, mirrorCpu }: Observation): number => primaryCpu + mirrorCpu;
    return {
      case: each,
      iops: sample(({ iops }) => iops),
      primaryCpu: sample(({ primaryCpu }) => primaryCpu),
      mirrorCpu: sample(({ mirrorCpu }) => mirrorCpu),
      cpuRatio: sample((observed) => cpuOf(observed) / cpuOf(peers.find(({ round }) => round === observed.round)!)),
      primaryMemory: sample(({ primaryMemory }) => primaryMemory / each.fleet.count),
      mirrorMemory: sample(({ mirrorMemory }) => mirrorMemory),
      keptUp: own.filter(({ mirror }) => mirror.keptUp).length,
      rounds: own.length,
    };
  });
}

/** What a primary, or the mirror for each export, may have more than that of the baseline: as much as a window. */
const MEMORY_MAX = 64 * MB;

function claimsOf({ name, cases, cpuMax }: Dimension, rows: readonly Row[]): Claim[] {
  return rows.flatMap((row) => {
    const { case: each } = row;
    // Of each dimension what has grown most from its baseline.
    if (each.baseline === each.name || cases.some((other) => other !== each && grewFurther(other, each))) return [];
    const baseline = rows.find((other) => other.case.name === each.baseline)!;
    const against = `${name}, ${each.name} against ${each.baseline}`;
    const cpu = row.cpuRatio.median;
    const units = Math.max(1, each.fleet.count - baseline.case.fleet.count);
    const memory = (who: string, more: number): Claim => ({
      text: `${against}: ${who} has at most ${whole(MEMORY_MAX / MB)} MB more (${whole(more / MB)})`,
      held: more <= MEMORY_MAX,
    });
    return [
      { text: `${against}: CPU for each operation at most ${cpuMax} times (${cpu.toFixed(2)})`, held: cpu <= cpuMax },
      memory('a primary', row.primaryMemory.median - baseline.primaryMemory.median),
      memory(
        units > 1 ? 'the mirror, for each export beyond the first,' : 'the mirror',
        (row.mirrorMemory.median - baseline.mirrorMemory.median) / units,
      ),
    ];
  });
}

function grewFurther(other: Case, each: Case): boolean {
  return (
    other.baseline === each.baseline &&
    (other.fleet.diskSize > each.fleet.diskSize || other.connections > each.connections)
  );
}

const HEADINGS = [
  '',
  'IOPS, median',
  '[min, max]',
  'CPU s/100k: primary',
  'mirror',
  'both, ratio',
  '[min, max]',
  'to',
  'memory MB: a primary',
  'mirror',
  'mirror, each export',
  'mirror kept up',
];

function textOf(parameters: Parameters, results: readonly { dimension: Dimension; rows: readonly Row[] }[]): string {
  const { rounds, hotSize, warmUpMs, runMs } = parameters;
  const head =
    `mode async, 4 KiB random write within ${hotSize / 2 ** 20} MiB in all; ${rounds} rounds, ${runMs} ms each after ` +
    `${warmUpMs} ms of warm-up; medians; ratio: CPU for each operation over that of the row named, in the same round`;
  const tables = results.map(({ dimension, rows }) => {
    const cells = rows.map((row) => [
      row.case.name,
      whole(row.iops.median),
      `[${whole(row.iops.min)}, ${whole(row.iops.max)}]`,
      row.primaryCpu.median.toFixed(2),
      row.mirrorCpu.median.toFixed(2),
      row.cpuRatio.median.toFixed(2),
      `[${row.cpuRatio.min.toFixed(2)}, ${row.cpuRatio.max.toFixed(2)}]`,
      row.case.baseline,
      whole(row.primaryMemory.median / MB),
      whole(row.mirrorMemory.median / MB),
      whole(row.mirrorMemory.median / MB / row.case.fleet.count),
      `${row.keptUp} of ${row.rounds}`,
    ]);
    return `# By ${dimension.text}\n\n${formatTable([HEADINGS, ...cells], [0, 7])}`;
  });
  return [head, ...tables].join('\n\n');
}
