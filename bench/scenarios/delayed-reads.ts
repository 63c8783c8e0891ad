/**
 * A volume whose reads take about 1 ms each, however many are under way: a disk across a network, say. What a server gets
 * from it is how many reads it has under way at a time. Every read goes to the volume: nothing of it is ever in
 * the page cache (delayed-file-process.ts).
 */
import { spawnSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Child, runChild, startChild } from '../common/children.ts';
import { EXPORT_NAME } from '../common/nbdtwin.ts';
import { type Sample, sampleOf } from '../common/statistics.ts';
import { whole } from '../common/table.ts';
import { cpuSecondsOf, memoryOf } from '../common/usage.ts';
import { parseFio, runFio, type Workload, workloadNamed } from '../system/fio.ts';
import { formatResults, type Observation, type Result, summarise } from '../system/report.ts';
import { NBDKIT, SERVERS, type Server } from '../system/servers.ts';
import { ioOf } from './process-io.ts';
import type { Claim, Outcome, Scenario } from './scenario.ts';

interface Parameters {
  readonly rounds: number;
  readonly delayMs: number;
  readonly diskSize: number;
  readonly warmUpMs: number;
  readonly runMs: number;
}

const FULL: Parameters = { rounds: 9, delayMs: 1, diskSize: 16 * 2 ** 30, warmUpMs: 1000, runMs: 5000 };
const QUICK: Parameters = { ...FULL, rounds: 3, warmUpMs: 500, runMs: 2000 };

const RATIO_MIN = 0.9;
const LOAD: Workload = workloadNamed('read-4k');

export const delayedReads: Scenario = {
  name: 'delayed-reads',
  text: '4 KiB random reads from a volume that takes 1 ms for each',
  programs: ['fio', 'nbdkit', 'qemu-nbd'],
  run: (folder, quick, say) => run(folder, quick ? QUICK : FULL, say),
};

const VOLUME_PROGRAM = join(dirname(fileURLToPath(import.meta.url)), 'delayed-file-process.js');

async function run(folder: string, parameters: Parameters, say: (text: string) => void): Promise<Outcome> {
  const { rounds, delayMs, diskSize, warmUpMs, runMs } = parameters;
  if (process.getuid!() !== 0) throw new Error('delayed-reads mounts a file by FUSE, which needs root');
  const file = join(folder, `${EXPORT_NAME}.img`);
  await writeFile(file, '');
  // However this ends: a mount without its process would be in the way of whoever removes the folder.
  const unmount = (): void => void spawnSync('umount', ['-l', file], { stdio: 'ignore' });
  process.once('exit', unmount);
  const volume = await startChild(
    process.execPath,
    [VOLUME_PROGRAM, file, String(diskSize), String(delayMs)],
    { logPath: join(folder, 'volume.log') },
    (lines) => lines.includes('ready'),
  );

  const servers: { name: string; server: Server; folder: string }[] = [];
  for (const [index, { name, start }] of SERVERS.entries()) {
    const own = join(folder, String(index));
    await mkdir(own);
    servers.push({ name, server: await start(file, own), folder: own });
  }
  const observations: Observation[] = [];
  const direct: number[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    direct.push(await readDirectly(file, join(folder, 'direct.json'), runMs));
    say(`round ${round}, without a server: ${Math.round(direct.at(-1)!)} IOPS`);
    const first = (round - 1) % servers.length;
    for (const { name, server, folder: own } of [...servers.slice(first), ...servers.slice(0, first)]) {
      const cpuBefore = await cpuSecondsOf(server.pids);
      const givenBefore = (await ioOf(volume.pid)).written;
      const outputPath = join(own, 'fio.json');
      const options = { uris: [server.uri], size: diskSize, warmUpMs, runMs, outputPath, seed: round };
      const measurement = await runFio(LOAD, options);
      await assertFromVolume(volume, givenBefore, (measurement.bytesPerSecond * runMs) / 1000, name);
      const operations = (measurement.iops * (warmUpMs + runMs)) / 1000;
      observations.push({
        round,
        workload: LOAD.name,
        server: name,
        measurement,
        cpuSeconds: (((await cpuSecondsOf(server.pids)) - cpuBefore) * 100_000) / operations,
        memory: await memoryOf(server.pids),
        mirror: undefined,
      });
      say(`round ${round}, ${name}: ${Math.round(measurement.iops)} IOPS`);
    }
  }
  for (const { server } of servers) await server.stop();
  await volume.stop();
  process.off('exit', unmount);

  const results = summarise(observations, [NBDKIT.name]);
  const directIops = sampleOf(direct);
  return {
    parameters,
    figures: { baseline: NBDKIT.name, directIops, results, observations },
    claims: claimsOf(results),
    text: textOf(parameters, directIops, results),
  };
}

/** The volume must have given every byte that the client got. */
async function assertFromVolume(volume: Child, before: number, expected: number, server: string): Promise<void> {
  const given = (await ioOf(volume.pid)).written - before;
  if (given < expected * 0.98)
    throw new Error(`${server}: ${expected} bytes were read, ${given} of them from the volume`);
}

/** IOPS of as many threads as the load has requests under way, on the file itself: what the volume can do. */
async function readDirectly(file: string, outputPath: string, runMs: number): Promise<number> {
  await runChild('fio', [
    '--name=direct',
    '--ioengine=psync',
    `--filename=${file}`,
    '--rw=randread',
    '--readonly',
    '--norandommap',
    `--bs=${LOAD.blockSize}`,
    `--numjobs=${LOAD.depth}`,
    '--thread',
    '--group_reporting',
    '--time_based',
    `--runtime=${runMs}ms`,
    '--output-format=json',
    `--output=${outputPath}`,
  ]);
  return parseFio(await readFile(outputPath, 'utf8'), LOAD).iops;
}

function claimsOf(results: readonly Result[]): Claim[] {
  const { ratio } = results.find(({ server }) => server === 'nbdtwin')!;
  const text = `nbdtwin has at least ${RATIO_MIN} of the IOPS of ${NBDKIT.name} (${ratio.median.toFixed(2)})`;
  return [{ text, held: ratio.median >= RATIO_MIN }];
}

function textOf(parameters: Parameters, directIops: Sample, results: readonly Result[]): string {
  const { rounds, delayMs, diskSize, warmUpMs, runMs } = parameters;
  return [
    `volume of ${diskSize / 2 ** 30} GiB, each read delayed by ${delayMs} ms, never from the page cache; ${rounds} rounds, ${runMs} ms ` +
      `each after ${warmUpMs} ms of warm-up; ratio: IOPS over those of ${NBDKIT.name} in the same round, median\n` +
      `without a server, ${LOAD.depth} threads: ${whole(directIops.median)} IOPS [${whole(directIops.min)}, ${whole(directIops.max)}]`,
    formatResults(results, [LOAD], rounds),
  ].join('\n\n');
}
