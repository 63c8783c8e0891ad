/** What a run found, as data and as a table for people. */

import { type Machine, machineText } from '../common/machine.ts';
import { type Sample, sampleOf } from '../common/statistics.ts';
import { formatTable, whole } from '../common/table.ts';
import type { Measurement, Workload } from './fio.ts';
import type { MirrorReport } from './servers.ts';

export interface Parameters {
  readonly rounds: number;
  readonly diskSize: number;
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
  /** IOPS over those of the baseline in the same round. */
  readonly ratio: Sample;
  /** Rounds in which the mirror kept up, and how long it took to catch up after the load; only where there is one. */
  readonly mirror?: { readonly keptUp: number; readonly settleMs: Sample };
}

export interface Report {
  readonly version: 1;
  readonly machine: Machine;
  readonly parameters: Parameters;
  readonly baseline: string;
  readonly results: readonly Result[];
}

/** One measurement with its place. */
export interface Observation {
  readonly round: number;
  readonly workload: string;
  readonly server: string;
  readonly measurement: Measurement;
  readonly mirror: MirrorReport | undefined;
}

/** Sums up: a result for each pair of workload and server that was observed. The baseline must have been observed. */
export function summarise(observations: readonly Observation[], baseline: string): Result[] {
  const groups = new Map<string, Observation[]>();
  for (const observation of observations) {
    const key = JSON.stringify([observation.workload, observation.server]);
    groups.set(key, [...(groups.get(key) ?? []), observation]);
  }
  const ratioOf = ({ round, workload, measurement }: Observation) => {
    const group = groups.get(JSON.stringify([workload, baseline]));
    const reference = group?.find((observation) => observation.round === round);
    if (reference === undefined) throw new Error(`${baseline} was not measured under ${workload} in round ${round}`);
    return measurement.iops / reference.measurement.iops;
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
      ...(mirrors.length > 0 && {
        mirror: {
          keptUp: mirrors.filter(({ keptUp }) => keptUp).length,
          settleMs: sampleOf(mirrors.map(({ settleMs }) => settleMs)),
        },
      }),
    };
  });
}

const HEADINGS = ['', 'IOPS, median', '[min, max]', 'MB/s', 'p50 us', 'p99 us', 'ratio', '[min, max]', 'mirror'];

/** The tables, one for each workload. */
export function formatReport(report: Report, workloads: readonly Workload[]): string {
  const { machine, parameters } = report;
  const head = [
    machineText(machine),
    `${parameters.rounds} rounds, disk of ${parameters.diskSize / 2 ** 20} MiB, ${parameters.runMs} ms each after ` +
      `${parameters.warmUpMs} ms of warm-up; load and servers share the machine`,
    `ratio: IOPS over those of ${report.baseline} in the same round, median`,
  ];
  return `${head.join('\n')}\n\n${formatResults(report.results, workloads, parameters.rounds)}`;
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
    result.mirror === undefined ? '' : mirrorText(result.mirror, rounds),
  ];
}

function mirrorText(mirror: NonNullable<Result['mirror']>, rounds: number): string {
  const after = `in step ${whole(mirror.settleMs.median)} ms after`;
  return mirror.keptUp === rounds ? after : `fell behind in ${rounds - mirror.keptUp} of ${rounds} rounds, ${after}`;
}
