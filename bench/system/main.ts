/**
 * The system benchmark: fio against nbdtwin and its peers, all in one run, in two series (series.ts). In each round every server gets a fresh disk of the same size and contents; then, workload by workload, the
 * servers take turns under load while the others are idle, so that what else the machine does hits neighbours alike.
 * The order of the servers moves on by one from round to round.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { killAll, runChild } from '../common/children.ts';
import { cachePieceByPiece, dropCache, writeDisk } from '../common/disk.ts';
import { writeSection } from '../common/docs.ts';
import { describeMachine } from '../common/machine.ts';
import { cpuSecondsOf, memoryOf, pin } from '../common/usage.ts';
import { PINNED_CPU, runFio, type Workload, workloadNamed } from './fio.ts';
import {
  formatReport,
  type Observation,
  type Parameters,
  type Report,
  type SeriesReport,
  summarise,
} from './report.ts';
import { SERIES } from './series.ts';
import type { Server, ServerKind } from './servers.ts';

const USAGE = `npm run bench -- [options]

  --quick            a few minutes instead of about half an hour
  --json FILE        write every figure to FILE as JSON
  --docs             write the tables to docs/benchmarks.md, in place of those of the last run
  --directory DIR    where the disks go, up to 6 GiB (default: a temporary folder)
  --series NAME      only this series: ${SERIES.map(({ name }) => name).join(', ')}
  --only NAME        only workloads whose name starts with NAME
  --server NAME      only this server, may be given several times (the baseline always runs)
  --micro            the micro benchmarks instead

Scenarios that show whether what is claimed holds: npm run bench -- NAME (slow-link, distance, idle, growth ...)
`;

const FULL: Parameters = { rounds: 3, diskSize: 512 * 2 ** 20, trainingMs: 6000, warmUpMs: 800, runMs: 2000 };
const QUICK: Parameters = { rounds: 1, diskSize: 256 * 2 ** 20, trainingMs: 2000, warmUpMs: 300, runMs: 1000 };

interface Contestant {
  readonly kind: ServerKind;
  readonly server: Server;
  readonly folder: string;
}

async function startContestant(kind: ServerKind, folder: string, parameters: Parameters): Promise<Contestant> {
  const { diskSize, trainingMs } = parameters;
  await mkdir(folder);
  const disk = join(folder, 'bench.img');
  await writeDisk(disk, diskSize);
  const server = await kind.start(disk, folder);
  await server.settle();
  await train(server, folder, diskSize, trainingMs);
  for (const file of server.files) await cachePieceByPiece(file, diskSize);
  return { kind, server, folder };
}

/** A server serves for months: its first seconds, in which code is compiled and memory found, are not what is compared. */
async function train(server: Server, folder: string, size: number, runMs: number): Promise<void> {
  const load: Workload = { ...workloadNamed('write-4k'), pattern: 'mixed' };
  const outputPath = join(folder, 'training.json');
  await runFio(load, { uris: [server.uri], size, warmUpMs: 0, runMs, outputPath, seed: 0 });
  await server.settle();
}

async function runRound(
  round: number,
  servers: readonly ServerKind[],
  workloads: readonly Workload[],
  folder: string,
  parameters: Parameters,
): Promise<Observation[]> {
  await mkdir(folder);
  const contestants: Contestant[] = [];
  for (const [index, kind] of servers.entries())
    contestants.push(await startContestant(kind, join(folder, String(index)), parameters));
  const observations: Observation[] = [];
  for (const workload of workloads) {
    for (const contestant of contestants) {
      const { connectionsMax = Number.POSITIVE_INFINITY } = contestant.kind;
      if ((workload.connections ?? 1) > connectionsMax) continue;
      const observed = await observe(workload, contestant, round, parameters);
      observations.push(observed);
      progress(
        `round ${round}, ${workload.text}, ${observed.server}: ${Math.round(observed.measurement.iops)} IOPS, ` +
          `${observed.cpuSeconds.toFixed(2)} CPU s per 100k`,
      );
    }
  }
  for (const { server } of contestants) await server.stop();
  // Only after success: what is left in the folder explains a failure.
  await rm(folder, { recursive: true });
  return observations;
}

async function observe(
  workload: Workload,
  { kind, server, folder }: Contestant,
  round: number,
  { diskSize, warmUpMs, runMs }: Parameters,
): Promise<Observation> {
  // What earlier loads left in the page cache is written out first, not during this one.
  await runChild('sync', ['--file-system', folder]);
  if (workload.cold === true) for (const file of server.files) await dropCache(file);
  if (workload.pinned === true) {
    await pin(server.pids[0]!, String(PINNED_CPU));
    for (const pid of server.pids.slice(1)) await pin(pid, OTHER_CPUS);
  }
  const cpuBefore = await cpuSecondsOf(server.pids);
  const outputPath = join(folder, `${workload.name}.json`);
  const measurement = await runFio(workload, {
    uris: [server.uri],
    size: diskSize,
    warmUpMs,
    runMs,
    outputPath,
    seed: round,
  });
  const mirror = await server.settle();
  const cpuSeconds = (await cpuSecondsOf(server.pids)) - cpuBefore;
  if (workload.pinned === true) for (const pid of server.pids) await pin(pid, ALL_CPUS);
  // Of the warm-up only the time is known, not the operations: they are taken to be as many.
  const operations =
    workload.cold === true ? diskSize / workload.blockSize : (measurement.iops * (warmUpMs + runMs)) / 1000;
  return {
    round,
    workload: workload.name,
    server: kind.name,
    measurement,
    cpuSeconds: (cpuSeconds * 100_000) / operations,
    memory: await memoryOf(server.pids),
    mirror,
  };
}

const ALL_CPUS = `0-${cpus().length - 1}`;
const OTHER_CPUS = cpus().length > 1 ? `${PINNED_CPU + 1}-${cpus().length - 1}` : ALL_CPUS;

function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      json: { type: 'string' },
      docs: { type: 'boolean', default: false },
      directory: { type: 'string', default: tmpdir() },
      series: { type: 'string' },
      only: { type: 'string', default: '' },
      server: { type: 'string', multiple: true },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return;
  }
  const chosen = SERIES.filter(({ name }) => values.series === undefined || name === values.series).flatMap(
    (series) => {
      const workloads = series.workloads.filter((name) => name.startsWith(values.only));
      return workloads.length === 0 ? [] : [{ ...series, workloads }];
    },
  );
  if (chosen.length === 0) throw new Error('no series has such a workload');
  const unknown = (values.server ?? []).filter((name) =>
    chosen.every(({ servers }) => servers.every((kind) => kind.name !== name)),
  );
  if (unknown.length > 0) throw new Error(`no such server: ${unknown.join(', ')}`);

  const folder = await mkdtemp(join(resolve(values.directory), 'nbdtwin-bench-'));
  const parameters = values.quick ? QUICK : FULL;
  const machine = await describeMachine(folder, ['fio', 'nbdkit', 'qemu-storage-daemon']);
  const reports: (SeriesReport & { readonly observations: readonly Observation[] })[] = [];
  try {
    for (const { name, text, baseline, targets, workloads, servers: all } of chosen) {
      const servers = all.filter(
        (kind) => baseline.includes(kind.name) || (values.server?.includes(kind.name) ?? true),
      );
      const observations: Observation[] = [];
      for (let round = 1; round <= parameters.rounds; round += 1) {
        const first = (round - 1) % servers.length;
        const order = [...servers.slice(first), ...servers.slice(0, first)];
        const roundFolder = join(folder, `${name}-${round}`);
        observations.push(...(await runRound(round, order, workloads.map(workloadNamed), roundFolder, parameters)));
      }
      reports.push({ name, text, baseline, targets, results: summarise(observations, baseline), observations });
    }
  } catch (error) {
    progress(`What the servers said is in ${folder}`);
    throw error;
  }
  await rm(folder, { recursive: true });

  const report: Report = { version: 2, machine, parameters, series: reports };
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(report, null, 2)}\n`);
  const formatted = formatReport(report);
  if (values.docs) await writeSection('system', formatted);
  process.stdout.write(`${formatted}\n`);
}

// However this ends, no server outlives it.
process.once('exit', killAll);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
await main();
