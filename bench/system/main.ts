/**
 * The system benchmark: fio against nbdtwin without and with a mirror, nbdkit's file plugin and qemu-nbd, all in one
 * run. In each round every server gets a fresh disk of the same size and contents; then, workload by workload, the
 * servers take turns under load while the others are idle, so that what else the machine does hits neighbours alike.
 * The order of the servers moves on by one from round to round.
 */
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { killAll, runChild } from '../common/children.ts';
import { describeMachine } from '../common/machine.ts';
import { runFio, WORKLOADS } from './fio.ts';
import { formatReport, type Observation, type Parameters, type Report, summarise } from './report.ts';
import { BASELINE, SERVERS, type Server, type ServerKind } from './servers.ts';

const USAGE = `npm run bench -- [options]

  --quick            about two minutes instead of about nine
  --json FILE        write every figure to FILE as JSON
  --directory DIR    where the disks go, up to 3 GiB (default: a temporary folder)
  --only NAME        only workloads whose name starts with NAME
  --server NAME      only this server, may be given several times (nbdkit, the baseline, always runs)
  --micro            the micro benchmarks instead

Scenarios that show whether what is claimed holds: npm run bench -- NAME (slow-link, restart-large, dirty-map)
`;

const FULL: Parameters = { rounds: 3, diskSize: 512 * 2 ** 20, warmUpMs: 1000, runMs: 5000 };
const QUICK: Parameters = { rounds: 3, diskSize: 256 * 2 ** 20, warmUpMs: 300, runMs: 1000 };

const CHUNK_SIZE = 1 << 20;

/** A disk without holes, so that all servers overwrite and none allocates. */
async function writeDisk(path: string, size: number): Promise<void> {
  const file = await open(path, 'w');
  try {
    const chunk = Buffer.allocUnsafe(CHUNK_SIZE);
    for (let index = 0; index < chunk.length; index += 4) chunk.writeUInt32LE((index * 2654435761) >>> 0, index);
    for (let offset = 0; offset < size; offset += chunk.length) {
      chunk.writeDoubleLE(offset, 0);
      await file.write(chunk, 0, chunk.length, offset);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

interface Plan {
  readonly folder: string;
  readonly parameters: Parameters;
  readonly workloads: typeof WORKLOADS;
}

interface Contestant {
  readonly kind: ServerKind;
  readonly server: Server;
  readonly folder: string;
}

async function startContestant(kind: ServerKind, roundFolder: string, diskSize: number): Promise<Contestant> {
  const folder = join(roundFolder, String(SERVERS.indexOf(kind)));
  await mkdir(folder);
  const disk = join(folder, 'bench.img');
  await writeDisk(disk, diskSize);
  return { kind, server: await kind.start(disk, folder), folder };
}

async function runRound(round: number, servers: readonly ServerKind[], plan: Plan): Promise<Observation[]> {
  const roundFolder = join(plan.folder, `round-${round}`);
  await mkdir(roundFolder);
  const contestants: Contestant[] = [];
  for (const kind of servers) contestants.push(await startContestant(kind, roundFolder, plan.parameters.diskSize));
  const observations: Observation[] = [];
  for (const workload of plan.workloads) {
    for (const { kind, server, folder } of contestants) {
      // What earlier loads left in the page cache is written out first, not during this one.
      await runChild('sync', ['--file-system', folder]);
      const measurement = await runFio(workload, {
        uri: server.uri,
        size: plan.parameters.diskSize,
        warmUpMs: plan.parameters.warmUpMs,
        runMs: plan.parameters.runMs,
        outputPath: join(folder, `${workload.name}.json`),
        seed: round,
      });
      const mirror = await server.settle();
      observations.push({ round, workload: workload.name, server: kind.name, measurement, mirror });
      progress(`round ${round}, ${workload.text}, ${kind.name}: ${Math.round(measurement.iops)} IOPS`);
    }
  }
  for (const { server } of contestants) await server.stop();
  // Only after success: what is left in the folder explains a failure.
  await rm(roundFolder, { recursive: true });
  return observations;
}

function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      json: { type: 'string' },
      directory: { type: 'string', default: tmpdir() },
      only: { type: 'string', default: '' },
      server: { type: 'string', multiple: true, default: SERVERS.map(({ name }) => name) },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return;
  }
  const workloads = WORKLOADS.filter(({ name }) => name.startsWith(values.only));
  if (workloads.length === 0) throw new Error(`no workload starts with ${values.only}`);

  const servers = SERVERS.filter(({ name }) => name === BASELINE || values.server.includes(name));
  const unknown = values.server.filter((name) => !SERVERS.some((kind) => kind.name === name));
  if (unknown.length > 0) throw new Error(`no such server: ${unknown.join(', ')}`);

  const folder = await mkdtemp(join(resolve(values.directory), 'nbdtwin-bench-'));
  const plan: Plan = { folder, parameters: values.quick ? QUICK : FULL, workloads };
  const machine = await describeMachine(folder, ['fio', 'nbdkit', 'qemu-nbd']);
  const observations: Observation[] = [];
  try {
    for (let round = 1; round <= plan.parameters.rounds; round += 1) {
      const first = (round - 1) % servers.length;
      observations.push(...(await runRound(round, [...servers.slice(first), ...servers.slice(0, first)], plan)));
    }
  } catch (error) {
    progress(`What the servers said is in ${folder}`);
    throw error;
  }
  await rm(folder, { recursive: true });

  const report: Report = {
    version: 1,
    machine,
    parameters: plan.parameters,
    baseline: BASELINE,
    results: summarise(observations, BASELINE),
  };
  if (values.json !== undefined)
    await writeFile(values.json, `${JSON.stringify({ ...report, observations }, null, 2)}\n`);
  process.stdout.write(`${formatReport(report, workloads)}\n`);
}

// However this ends, no server outlives it.
process.once('exit', killAll);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
await main();
