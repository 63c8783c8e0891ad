/** What a run found, as data and as a table for people. */

import { type Machine, machineText } from '../common/machine.ts';
import { type Sample, sampleOf } from '../common/statistics.ts';
import { formatTable, whole } from '../common/table.ts';
import { type Measurement, type Workload, type WorkloadName, workloadNamed } from './fio.ts';
import type { Series, Target } from './series.ts';
import type { MirrorReport } from './servers.ts';

export interface Parameters {
  readonly rounds: number;
  readonly diskSize: number;
  /** Load on each server when it has started. */
  readonly trainingMs: number;
  readonly warmUpMs: number;
  readonly runMs: number;
}

/** One server under one workload, all rounds. */
export interface Result {
  readonly workload: string;
  readonly server: string;
  readonly iops: Sample;
  readonly bytesPerSecond: Sample;
  readonly p50Us: Sample;
  readonly p99Us: Sample;
  /** IOPS over those of the best of the baseline in the same round. */
  readonly ratio: Sample;
  /** CPU seconds of all its processes for 100,000 operations, until the mirror had them too. */
  readonly cpuSeconds: Sample;
  /** Bytes of memory of all its processes after the load. */
  readonly memory: Sample;
  /** Rounds in which the mirror kept up, and how long it took to catch up after the load; only where there is one. */
  readonly mirror?: { readonly keptUp: number; readonly settleMs: Sample };
}

export interface SeriesReport extends Pick<Series, 'name' | 'text' | 'baseline' | 'targets'> {
  readonly results: readonly Result[];
}

export interface Report {
  readonly version: 2;
  readonly machine: Machine;
  readonly parameters: Parameters;
  readonly series: readonly SeriesReport[];
}

/** One measurement with its place. */
export interface Observation {
  readonly round: number;
  readonly workload: string;
  readonly server: string;
  readonly measurement: Measurement;
  readonly cpuSeconds: number;
  readonly memory: number;
  readonly mirror: MirrorReport | undefined;
}

/** Sums up: a result for each pair of workload and server that was observed. The baseline must have been observed. */
export function summarise(observations: readonly Observation[], baseline: readonly string[]): Result[] {
  const groups = new Map<string, Observation[]>();
  for (const observation of observations) {
    const key = JSON.stringify([observation.workload, observation.server]);
    groups.set(key, [...(groups.get(key) ?? []), observation]);
  }
  const ratioOf = ({ round, workload, measurement }: Observation) => {
    const peers = observations.filter(
      (other) => other.round === round && other.workload === workload && baseline.includes(other.server),
    );
    if (peers.length === 0) throw new Error(`${baseline.join(', ')}: not measured under ${workload} in round ${round}`);
    return measurement.iops / Math.max(...peers.map((peer) => peer.measurement.iops));
  };
  return [...groups.values()].map((group): Result => {
    const { workload, server } = group[0]!;
    const sample = (figure: (measurement: Measurement) => number) =>
      sampleOf(group.map(({ measurement }) => figure(measurement)));
    const mirrors = group.flatMap(({ mirror }) => (mirror === undefined ? [] : [mirror]));
    return {
      workload,
      server,
      iops: sample(({ iops }) => iops),
      bytesPerSecond: sample(({ bytesPerSecond }) => bytesPerSecond),
      p50Us: sample(({ latencyUs }) => latencyUs.p50),
      p99Us: sample(({ latencyUs }) => latencyUs.p99),
      ratio: sampleOf(group.map(ratioOf)),
      cpuSeconds: sampleOf(group.map(({ cpuSeconds }) => cpuSeconds)),
      memory: sampleOf(group.map(({ memory }) => memory)),
      ...(mirrors.length > 0 && {
        mirror: {
          keptUp: mirrors.filter(({ keptUp }) => keptUp).length,
          settleMs: sampleOf(mirrors.map(({ settleMs }) => settleMs)),
        },
      }),
    };
  });
}

const HEADINGS = [
  '',
  'IOPS, median',
  '[min, max]',
  'MB/s',
  'p50 us',
  'p99 us',
  'ratio',
  '[min, max]',
  'CPU s/100k',
  'memory MB',
  'mirror',
];

/** For each series its tables, one for each workload, and what became of its targets. */
export function formatReport({ machine, parameters, series }: Report): string {
  const head = [
    machineText(machine),
    `${parameters.rounds} rounds, disk of ${parameters.diskSize / 2 ** 20} MiB, ${parameters.runMs} ms each after ` +
      `${parameters.warmUpMs} ms of warm-up; each server has had ${parameters.trainingMs} ms of load before; load and servers share the machine`,
  ];
  const parts = series.map(({ text, baseline, results, targets }) => {
    const best = baseline.length > 1 ? `the best of ${baseline.join(', ')}` : baseline[0];
    const workloads = [...new Set(results.map(({ workload }) => workload))] as WorkloadName[];
    return [
      `# ${text}`,
      `ratio: IOPS over those of ${best} in the same round, median`,
      formatResults(results, workloads.map(workloadNamed), parameters.rounds),
      formatTargets(targets, results),
    ].join('\n\n');
  });
  return `${head.join('\n')}\n\n${parts.join('\n\n')}`;
}

/** Each target that was measured: asked for, reached. */
function formatTargets(targets: readonly Target[], results: readonly Result[]): string {
  const rows = targets.flatMap(({ server, workload, ratio, against }) => {
    const resultOf = (name: string): Result | undefined =>
      results.find((each) => each.server === name && each.workload === workload);
    const result = resultOf(server);
    if (result === undefined) return [];
    const peer = against === undefined ? undefined : resultOf(against);
    const reached = peer === undefined ? result.ratio.median : result.iops.median / peer.iops.median;
    const name = against === undefined ? server : `${server}, against ${against}`;
    const verdict = reached >= ratio ? 'reached' : 'missed';
    return [[workloadNamed(workload).text, name, ratio.toFixed(1), reached.toFixed(2), verdict]];
  });
  return formatTable([['target', '', 'at least', 'ratio', ''], ...rows], [0, 1, 4]);
}

/** A table for each workload. */
export function formatResults(results: readonly Result[], workloads: readonly Workload[], rounds: number): string {
  const tables = workloads.map((workload) => {
    const rows = results.filter((result) => result.workload === workload.name).map(rowOf(rounds));
    return `${workload.text}\n${formatTable([HEADINGS, ...rows], [0, HEADINGS.length - 1])}`;
  });
  return tables.join('\n\n');
}

function rowOf(rounds: number): (result: Result) => string[] {
  return (result) => [
    result.server,
    whole(result.iops.median),
    `[${whole(result.iops.min)}, ${whole(result.iops.max)}]`,
    whole(result.bytesPerSecond.median / 1e6),
    whole(result.p50Us.median),
    whole(result.p99Us.median),
    result.ratio.median.toFixed(2),
    `[${result.ratio.min.toFixed(2)}, ${result.ratio.max.toFixed(2)}]`,
    result.cpuSeconds.median.toFixed(2),
    whole(result.memory.median / 1e6),
    result.mirror === undefined ? '' : mirrorText(result.mirror, rounds),
  ];
}

function mirrorText(mirror: NonNullable<Result['mirror']>, rounds: number): string {
  const after = `in step ${whole(mirror.settleMs.median)} ms after`;
  return mirror.keptUp === rounds ? after : `fell behind in ${rounds - mirror.keptUp} of ${rounds} rounds, ${after}`;
}
