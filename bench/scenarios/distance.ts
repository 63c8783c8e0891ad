/**
 * The same pair next door and far away: a proxy between primary and mirror delays each direction, by nothing in one and
 * by 10 ms in the other. What a client of `async` gets must not depend on it; in `flush` and `sync` a request that is
 * answered when the mirror has it costs one round trip, no more, and requests on their way together share it.
 */
import { mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runChild, startChild } from '../common/children.ts';
import { cachePieceByPiece, writeDisk } from '../common/disk.ts';
import { EXPORT_NAME } from '../common/nbdtwin.ts';
import { cpuSecondsOf, memoryOf } from '../common/usage.ts';
import { runFio, type Workload, type WorkloadName, workloadNamed } from '../system/fio.ts';
import { formatResults, type Observation, type Result, summarise } from '../system/report.ts';
import { type LinkProcess, type Server, startNbdtwinWithMirror } from '../system/servers.ts';
import type { Claim, Outcome, Scenario } from './scenario.ts';

interface Parameters {
  readonly rounds: number;
  readonly delayMs: number;
  readonly diskSize: number;
  readonly warmUpMs: number;
  readonly runMs: number;
}

const FULL: Parameters = { rounds: 5, delayMs: 10, diskSize: 512 * 2 ** 20, warmUpMs: 1000, runMs: 3000 };
const QUICK: Parameters = { rounds: 3, delayMs: 10, diskSize: 64 * 2 ** 20, warmUpMs: 500, runMs: 1000 };

const LOADS: Readonly<Record<string, readonly WorkloadName[]>> = {
  async: ['write-4k', 'write-4k-1'],
  flush: ['commit-4k'],
  sync: ['write-4k-1', 'write-4k'],
};

const NEAR = 'no delay';
/** With a pause as long as the round trip after each request: processes that slept that long take longer to answer. */
const PACED = 'no delay, as seldom';
const FAR = 'far away';

/** IOPS in async, far away over near. */
const ASYNC_MIN = 0.9;
/** Beyond the round trip and what it takes near: the timers of the proxy, twice, and the scheduler. */
const EXCESS_MAX_MS = 3;
/** Of the IOPS that follow from depth and time of one request. */
const PIPELINED_MIN = 0.8;

export const distance: Scenario = {
  name: 'distance',
  text: 'a link with a round trip of 20 ms beside one without',
  programs: ['fio'],
  run: (folder, quick, say) => run(folder, quick ? QUICK : FULL, say),
};

const LINK_PROGRAM = join(dirname(fileURLToPath(import.meta.url)), 'delaying-link-process.js');

async function openLink(mirrorPort: number, folder: string, delayMs: number): Promise<LinkProcess> {
  let port: number | undefined;
  const child = await startChild(
    process.execPath,
    [LINK_PROGRAM, String(mirrorPort), String(delayMs)],
    { logPath: join(folder, 'link.log') },
    (lines) => {
      const found = /^port (\d+)$/.exec(lines[0] ?? '')?.[1];
      port = found === undefined ? undefined : Number(found);
      return port !== undefined;
    },
  );
  return { port: port!, stop: () => child.stop() };
}

async function run(folder: string, parameters: Parameters, say: (text: string) => void): Promise<Outcome> {
  const observations: Record<string, Observation[]> = {};
  for (let round = 1; round <= parameters.rounds; round += 1) {
    for (const mode of Object.keys(LOADS)) {
      const found = await runRound(round, mode, join(folder, `${mode}-${round}`), parameters, say);
      observations[mode] = [...(observations[mode] ?? []), ...found];
    }
  }
  const results = Object.fromEntries(
    Object.entries(observations).map(([mode, all]) => [mode, summarise(all, [NEAR])] as const),
  );
  const { rounds, delayMs, diskSize, warmUpMs, runMs } = parameters;
  const tables = Object.entries(results).map(
    ([mode, all]) => `# Mode ${mode}\n\n${formatResults(all, LOADS[mode]!.map(workloadNamed), rounds)}`,
  );
  return {
    parameters,
    figures: { baseline: NEAR, results, observations },
    claims: claimsOf(results, delayMs),
    text: [
      `${FAR}: ${delayMs} ms in each direction; both through a proxy; disk of ${diskSize / 2 ** 20} MiB; ${rounds} rounds, ` +
        `${runMs} ms each after ${warmUpMs} ms of warm-up; ratio: IOPS over those with ${NEAR} in the same round, median`,
      ...tables,
    ].join('\n\n'),
  };
}

interface Pair {
  readonly name: string;
  readonly server: Server;
  readonly folder: string;
}

/** Two pairs of a mode; under each load they take turns. */
async function runRound(
  round: number,
  mode: string,
  folder: string,
  parameters: Parameters,
  say: (text: string) => void,
): Promise<Observation[]> {
  const { delayMs, diskSize, warmUpMs, runMs } = parameters;
  await mkdir(folder);
  const pairs: Pair[] = [];
  for (const [name, delay] of round % 2 === 1
    ? ([
        [NEAR, 0],
        [FAR, delayMs],
      ] as const)
    : ([
        [FAR, delayMs],
        [NEAR, 0],
      ] as const)) {
    const own = join(folder, name.replace(' ', '-'));
    await mkdir(own);
    const disk = join(own, `${EXPORT_NAME}.img`);
    await writeDisk(disk, diskSize);
    const server = await startNbdtwinWithMirror(disk, own, ['--mode', mode], (port) => openLink(port, own, delay));
    for (const file of server.files) await cachePieceByPiece(file, diskSize);
    pairs.push({ name, server, folder: own });
  }
  const observations: Observation[] = [];
  const observe = async (name: string, workload: Workload, { server, folder: own }: Pair): Promise<void> => {
    await runChild('sync', ['--file-system', own]);
    const cpuBefore = await cpuSecondsOf(server.pids);
    const outputPath = join(own, `${workload.name}.json`);
    const load = { uris: [server.uri], size: diskSize, warmUpMs, runMs, outputPath, seed: round };
    const measurement = await runFio(workload, load);
    const mirror = await server.settle();
    const operations = (measurement.iops * (warmUpMs + runMs)) / 1000;
    observations.push({
      round,
      workload: workload.name,
      server: name,
      measurement,
      cpuSeconds: (((await cpuSecondsOf(server.pids)) - cpuBefore) * 100_000) / operations,
      memory: await memoryOf(server.pids),
      mirror,
    });
    const { iops, latencyUs } = measurement;
    say(`round ${round}, ${mode}, ${workload.text}, ${name}: ${Math.round(iops)} IOPS, p50 ${latencyUs.p50} us`);
  };
  for (const workload of LOADS[mode]!.map(workloadNamed)) {
    for (const pair of pairs) {
      await observe(pair.name, workload, pair);
      const waits = mode !== 'async' && workload.depth === 1;
      if (pair.name === NEAR && waits) await observe(PACED, { ...workload, thinkTimeMs: 2 * delayMs }, pair);
    }
  }
  for (const { server } of pairs) await server.stop();
  await rm(folder, { recursive: true });
  return observations;
}

function claimsOf(results: Readonly<Record<string, readonly Result[]>>, delayMs: number): Claim[] {
  const roundTripMs = 2 * delayMs;
  const resultOf = (mode: string, workload: WorkloadName, server: string): Result => {
    const found = results[mode]?.find((each) => each.workload === workload && each.server === server);
    if (found === undefined) throw new Error(`${mode}, ${workload}, ${server}: not measured`);
    return found;
  };
  const p50Ms = (mode: string, workload: WorkloadName, server: string): number =>
    resultOf(mode, workload, server).p50Us.median / 1000;
  const sameSpeed = (workload: WorkloadName): Claim => {
    const { median } = resultOf('async', workload, FAR).ratio;
    const text = `async, ${workloadNamed(workload).text}: at least ${ASYNC_MIN} of the IOPS with ${NEAR} (${median.toFixed(2)})`;
    return { text, held: median >= ASYNC_MIN };
  };
  const oneRoundTrip = (mode: string, workload: WorkloadName, what: string): Claim => {
    const far = p50Ms(mode, workload, FAR);
    const most = roundTripMs + p50Ms(mode, workload, PACED) + EXCESS_MAX_MS;
    const text =
      `${mode}, ${workloadNamed(workload).text}: one round trip for each ${what} (p50 ${far.toFixed(1)} ms; at least ${roundTripMs} ms, ` +
      `and at most ${most.toFixed(1)} ms, which is that, the p50 with ${PACED}, and ${EXCESS_MAX_MS} ms)`;
    return { text, held: far >= roundTripMs && far <= most };
  };
  const pipelined = (workload: WorkloadName): Claim => {
    const { depth, text: name } = workloadNamed(workload);
    const least = (PIPELINED_MIN * depth * 1000) / (roundTripMs + p50Ms('sync', workload, NEAR));
    const iops = resultOf('sync', workload, FAR).iops.median;
    const text =
      `sync, ${name}: requests share the round trip (${Math.round(iops)} IOPS; at least ${Math.round(least)}, which is ` +
      `${PIPELINED_MIN} of the depth over ${roundTripMs} ms and the p50 with ${NEAR})`;
    return { text, held: iops >= least };
  };
  return [
    sameSpeed('write-4k'),
    sameSpeed('write-4k-1'),
    oneRoundTrip('flush', 'commit-4k', 'flush'),
    oneRoundTrip('sync', 'write-4k-1', 'write'),
    pipelined('write-4k'),
  ];
}
