/**
 * What the dirty map costs a client that writes 4 KiB at random. One block in each region of a large sparse disk is
 * written before each load; every write of the load goes to one of them, so that no file has to grow.
 *
 * - hot: few regions, which all stay marked: a write costs a bit test.
 * - cold: so many regions that nearly every write finds its region unmarked and waits until it is marked durably.
 * - The same writes as cold with so large an active set that all regions stay marked: what is left of the cost when the
 *   map is taken out of it.
 *
 * The baseline is nbdtwin without a mirror, which has no map.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { nodeNetwork } from '../../dist/io/node-network.js';
import { connectNbd } from '../../dist/nbd/client.js';
import { runChild } from '../common/children.ts';
import { EXPORT_NAME } from '../common/nbdtwin.ts';
import { cpuSecondsOf, memoryOf } from '../common/usage.ts';
import { runFio, type Workload } from '../system/fio.ts';
import { formatResults, type Observation, summarise } from '../system/report.ts';
import { type Server, type ServerKind, startNbdtwin, startNbdtwinWithMirror } from '../system/servers.ts';
import type { Outcome, Scenario } from './scenario.ts';
import { makeDisk } from './twin.ts';

interface Parameters {
  readonly rounds: number;
  readonly regionCount: number;
  readonly hotRegionCount: number;
  readonly warmUpMs: number;
  readonly runMs: number;
}

const FULL: Parameters = { rounds: 3, regionCount: 2 ** 17, hotRegionCount: 2048, warmUpMs: 2000, runMs: 8000 };
const QUICK: Parameters = { rounds: 1, regionCount: 2 ** 15, hotRegionCount: 512, warmUpMs: 1000, runMs: 3000 };

/** As nbdtwin chooses it for a disk of up to 1 TiB. */
const REGION_SIZE = 2 ** 20;
const BLOCK_SIZE = 4096;
/** What --dirty-active takes at most. */
const ACTIVE_MAX = 2 ** 20;
const SWEEP_IN_FLIGHT = 64;

const BASELINE = 'no mirror';

const CONTESTANTS: readonly ServerKind[] = [
  { name: BASELINE, start: startNbdtwin },
  { name: 'mirror, --dirty-active 4096', start: (disk, folder) => startNbdtwinWithMirror(disk, folder, []) },
  {
    name: 'mirror, all regions marked',
    start: (disk, folder) => startNbdtwinWithMirror(disk, folder, ['--dirty-active', String(ACTIVE_MAX)]),
  },
];

export const dirtyMap: Scenario = {
  name: 'dirty-map',
  text: '4 KiB random writes to regions that are marked, and to regions that are not',
  programs: ['fio'],
  run: (folder, quick, say) => run(folder, quick ? QUICK : FULL, say),
};

interface Load extends Workload {
  readonly regionCount: number;
}

function loadsOf({ regionCount, hotRegionCount }: Parameters): Load[] {
  const load = (name: string, depth: number, count: number): Load => ({
    name: `${name}-${depth}`,
    text: `${name}: 4 KiB random write, depth ${depth}, one block in each of ${count} regions of 1 MiB`,
    pattern: 'randwrite',
    blockSize: BLOCK_SIZE,
    depth,
    flushEach: false,
    alignment: REGION_SIZE,
    reach: count * REGION_SIZE,
    regionCount: count,
  });
  const depths = [32, 1];
  return [
    ...depths.map((depth) => load('hot', depth, hotRegionCount)),
    ...depths.map((depth) => load('cold', depth, regionCount)),
  ];
}

async function run(folder: string, parameters: Parameters, say: (text: string) => void): Promise<Outcome> {
  const loads = loadsOf(parameters);
  const observations: Observation[] = [];
  for (let round = 1; round <= parameters.rounds; round += 1) {
    const first = (round - 1) % CONTESTANTS.length;
    const order = [...CONTESTANTS.slice(first), ...CONTESTANTS.slice(0, first)];
    observations.push(...(await runRound(round, order, join(folder, `round-${round}`), parameters, loads, say)));
  }
  const results = summarise(observations, [BASELINE]);
  return {
    parameters,
    figures: { baseline: BASELINE, results, observations },
    claims: [],
    text: [
      `${parameters.rounds} rounds, ${parameters.runMs} ms each after ${parameters.warmUpMs} ms of warm-up; disk of ` +
        `${(parameters.regionCount * REGION_SIZE) / 2 ** 30} GiB, sparse; ratio: IOPS over those without a mirror in the same round`,
      formatResults(results, loads, parameters.rounds),
    ].join('\n\n'),
  };
}

/** All servers on disks of their own; under each load they take turns. */
async function runRound(
  round: number,
  contestants: readonly ServerKind[],
  roundFolder: string,
  parameters: Parameters,
  loads: readonly Load[],
  say: (text: string) => void,
): Promise<Observation[]> {
  await mkdir(roundFolder);
  const started: { name: string; server: Server; folder: string }[] = [];
  for (const [index, kind] of contestants.entries()) {
    const folder = join(roundFolder, String(index));
    await mkdir(folder);
    const disk = await makeDisk(folder, parameters.regionCount * REGION_SIZE);
    const server = await kind.start(disk, folder);
    started.push({ name: kind.name, server, folder });
  }
  const observations: Observation[] = [];
  for (const load of loads) {
    for (const { name, server, folder } of started) {
      // Each region once, so that those which may stay marked are: chance would leave some out for long.
      await writeEachRegion(server, load.regionCount);
      await server.settle();
      // What earlier loads left in the page cache is written out first, not during this one.
      await runChild('sync', ['--file-system', folder]);
      const cpuBefore = await cpuSecondsOf(server.pids);
      const measurement = await runFio(load, {
        uris: [server.uri],
        size: parameters.regionCount * REGION_SIZE,
        warmUpMs: parameters.warmUpMs,
        runMs: parameters.runMs,
        outputPath: join(folder, `${load.name}.json`),
        seed: round,
      });
      const mirror = await server.settle();
      const operations = (measurement.iops * (parameters.warmUpMs + parameters.runMs)) / 1000;
      observations.push({
        round,
        workload: load.name,
        server: name,
        measurement,
        cpuSeconds: (((await cpuSecondsOf(server.pids)) - cpuBefore) * 100_000) / operations,
        memory: await memoryOf(server.pids),
        mirror,
      });
      say(`round ${round}, ${load.name}, ${name}: ${Math.round(measurement.iops)} IOPS`);
    }
  }
  for (const { server } of started) await server.stop();
  await rm(roundFolder, { recursive: true });
  return observations;
}

async function writeEachRegion(server: Server, count: number): Promise<void> {
  const address = { kind: 'unix', path: server.socket } as const;
  const client = await connectNbd({ network: nodeNetwork, address, exportName: EXPORT_NAME });
  const block = Buffer.alloc(BLOCK_SIZE, 0x5a);
  let next = 0;
  const writeOn = async (): Promise<void> => {
    while (next < count) {
      const region = next;
      next += 1;
      await client.write(region * REGION_SIZE, block);
    }
  };
  await Promise.all(Array.from({ length: SWEEP_IN_FLIGHT }, writeOn));
  await client.close();
}
