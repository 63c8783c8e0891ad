/**
 * A mirror that comes back to many exports at once, all of which need a rescan: how long it takes until all are in step when
 * it takes two at a time, against one after the other; and what clients feel of it, who write a little all the while.
 *
 * All disks are marked everywhere while the mirror is away: one block in each MiB is rewritten, which is more than the window
 * takes. A gate in the link holds all primaries that try to connect, and lets them through together once the mirror is
 * there. Time is counted from then until the last rescan is complete.
 */
import { randomFillSync } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { nodeNetwork } from '../../dist/io/node-network.js';
import { connectNbd } from '../../dist/nbd/client.js';
import { type Sample, sampleOf } from '../common/statistics.ts';
import { formatTable, whole } from '../common/table.ts';
import { until } from '../common/until.ts';
import { compareSparse } from './compare-sparse.ts';
import { Fleet } from './fleet.ts';
import { Gate } from './gate.ts';
import { LightClients } from './light-clients.ts';
import type { Claim, Outcome, Scenario } from './scenario.ts';

const MIB = 2 ** 20;

interface Parameters {
  readonly exports: number;
  /** Of each, all of it data. */
  readonly diskSize: number;
  readonly rounds: number;
  /** Between two writes of a client. */
  readonly intervalMs: number;
  /** In step, with the clients' load and nothing else: what theirs is compared with. */
  readonly quietMs: number;
}

const FULL: Parameters = { exports: 30, diskSize: 256 * MIB, rounds: 5, intervalMs: 100, quietMs: 10_000 };
const QUICK: Parameters = { exports: 30, diskSize: 32 * MIB, rounds: 2, intervalMs: 100, quietMs: 3_000 };

/** `--rescans-max` of the mirror: what is looked at, and one after the other. */
const TOGETHER = 2;
const ALONE = 1;
/** All together may take this much of what one after the other takes. */
const TIME_RATIO_MAX = 1.1;
/** A client is delayed when its p99 is this much above what it is without any rescan. */
const DELAY_MAX_MS = 10;

const STEP_TIMEOUT_MS = 10 * 60_000;
const POLL_MS = 20;
const BLOCK_SIZE = 8192;
/** Of each disk, while the mirror is away: more than the window, so that order is given up. */
const WINDOW_SIZE = MIB;
const MARKING_SIZE = 2 * WINDOW_SIZE;

interface Latency {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

interface Observation {
  readonly round: number;
  readonly rescansMax: number;
  /** From the opening of the gate until all rescans were complete. */
  readonly totalMs: number;
  /** As the mirror's status told it, at most. */
  readonly runningMax: number;
  readonly waitingMax: number;
  /** Milliseconds from when a write was due until it was answered: while all was quiet before, and during the rescans. */
  readonly quiet: Latency;
  readonly during: Latency;
}

export const admission: Scenario = {
  name: 'admission',
  text: 'thirty exports need a rescan when their mirror comes back',
  programs: ['fio'],
  run: (folder, quick, say) => run(folder, quick ? QUICK : FULL, say),
};

async function run(folder: string, parameters: Parameters, say: (text: string) => void): Promise<Outcome> {
  const { exports, diskSize, rounds } = parameters;
  const gate = await Gate.make();
  const fleet = await Fleet.start(folder, {
    count: exports,
    diskSize,
    dataSize: diskSize,
    serveFlags: ['--window', String(WINDOW_SIZE), '--spool-size', '0'],
    portOf: (mirrorPort) => {
      gate.openTo(mirrorPort);
      return gate.port;
    },
  });
  say(`${exports} exports of ${diskSize / MIB} MiB are in step`);
  // Lest code that has not been compiled yet is what is measured.
  await observe(fleet, gate, TOGETHER, 0, parameters);
  const observations: Observation[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    const order = round % 2 === 1 ? [ALONE, TOGETHER] : [TOGETHER, ALONE];
    for (const rescansMax of order) {
      const observed = await observe(fleet, gate, rescansMax, round, parameters);
      observations.push(observed);
      say(
        `round ${round}, --rescans-max ${rescansMax}: ${(observed.totalMs / 1000).toFixed(1)} s; p99 of clients ` +
          `${observed.during.p99.toFixed(1)} ms, ${observed.quiet.p99.toFixed(1)} ms before`,
      );
    }
  }
  await fleet.stop();
  await gate.close();
  let equal = 0;
  for (const { disk, image } of fleet.members) {
    if ((await compareSparse(disk, image)).differingChunks === 0) equal += 1;
  }
  const results = resultsOf(observations);
  return {
    parameters,
    figures: { results, equal, observations },
    claims: claimsOf(results, observations, parameters, equal),
    text: textOf(parameters, results),
  };
}

async function observe(
  fleet: Fleet,
  gate: Gate,
  rescansMax: number,
  round: number,
  { exports, diskSize, intervalMs, quietMs }: Parameters,
): Promise<Observation> {
  const places = fleet.members.map(({ name, primary }) => ({ socket: primary.socket, exportName: name }));
  const clients = await LightClients.start(places, intervalMs);
  const quietFromMs = performance.now();
  await sleep(quietMs);
  const quietUntilMs = performance.now();

  gate.shut();
  await fleet.restartMirror(['--rescans-max', String(rescansMax)], () => markAll(fleet, diskSize));
  await until('not all primaries try to connect', STEP_TIMEOUT_MS, async () =>
    (await linkStates(fleet)).every((state) => state === 'connecting') ? true : undefined,
  );
  const openMs = performance.now();
  gate.openTo(fleet.mirror.port);
  let runningMax = 0;
  let waitingMax = 0;
  for (;;) {
    const { rescans, exports: images } = await fleet.mirror.status();
    runningMax = Math.max(runningMax, rescans.running);
    waitingMax = Math.max(waitingMax, rescans.waiting);
    // Each was opened by this process of the mirror, so it has committed nothing but its rescan.
    if (rescans.running === 0 && images.filter(({ commits }) => commits > 0).length === exports) break;
    if (performance.now() - openMs > STEP_TIMEOUT_MS) throw new Error('the rescans do not come to an end');
    await sleep(POLL_MS);
  }
  const doneMs = performance.now();
  await clients.stop();
  await fleet.settle();
  return {
    round,
    rescansMax,
    totalMs: doneMs - openMs,
    runningMax,
    waitingMax,
    quiet: latencyOf(clients.lateness(quietFromMs, quietUntilMs)),
    during: latencyOf(clients.lateness(openMs, doneMs)),
  };
}

async function linkStates(fleet: Fleet): Promise<string[]> {
  return Promise.all(fleet.members.map(async ({ primary }) => (await primary.status()).replication!.mirrors[0]!.state));
}

/** Rewrites something in each MiB of each disk. On return all of it is marked: order is given up. */
async function markAll(fleet: Fleet, diskSize: number): Promise<void> {
  for (const { primary, name } of fleet.members) {
    const address = { kind: 'unix', path: primary.socket } as const;
    const client = await connectNbd({ network: nodeNetwork, address, exportName: name });
    const writes: Promise<void>[] = [];
    for (let block = 0; writes.length * BLOCK_SIZE < MARKING_SIZE; block += 1) {
      for (let at = 0; at < diskSize; at += MIB) {
        writes.push(client.write(at + block * BLOCK_SIZE, randomFillSync(Buffer.allocUnsafe(BLOCK_SIZE))));
      }
    }
    await Promise.all(writes);
    await client.close();
  }
  await until('the backlog has not overrun', STEP_TIMEOUT_MS, async () => {
    const marked = await Promise.all(
      fleet.members.map(async ({ primary }) => (await primary.status()).replication!.mirrors[0]!.markedSize),
    );
    return marked.every((size) => size === diskSize) ? true : undefined;
  });
}

function latencyOf(sorted: readonly number[]): Latency {
  if (sorted.length === 0) throw new Error('no client has written anything');
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!;
  return { p50: at(0.5), p99: at(0.99), max: at(1) };
}

interface Result {
  readonly rescansMax: number;
  readonly totalMs: Sample;
  /** Over one after the other, in the same round. */
  readonly ratio: Sample;
  readonly quietP99: Sample;
  readonly duringP50: Sample;
  readonly duringP99: Sample;
  readonly duringMax: Sample;
}

function resultsOf(observations: readonly Observation[]): Result[] {
  const of = (rescansMax: number): Observation[] => observations.filter((each) => each.rescansMax === rescansMax);
  return [ALONE, TOGETHER].map((rescansMax) => {
    const own = of(rescansMax);
    const sample = (figure: (observed: Observation) => number): Sample => sampleOf(own.map(figure));
    return {
      rescansMax,
      totalMs: sample(({ totalMs }) => totalMs),
      ratio: sample(({ totalMs, round }) => totalMs / of(ALONE).find((each) => each.round === round)!.totalMs),
      quietP99: sample(({ quiet }) => quiet.p99),
      duringP50: sample(({ during }) => during.p50),
      duringP99: sample(({ during }) => during.p99),
      duringMax: sample(({ during }) => during.max),
    };
  });
}

function claimsOf(
  results: readonly Result[],
  observations: readonly Observation[],
  { exports }: Parameters,
  equal: number,
): Claim[] {
  const { ratio, quietP99, duringP99 } = results.find(({ rescansMax }) => rescansMax === TOGETHER)!;
  const delay = duringP99.median - quietP99.median;
  const runningMax = Math.max(
    ...observations.filter(({ rescansMax }) => rescansMax === TOGETHER).map((each) => each.runningMax),
  );
  return [
    {
      text: `two at a time take at most ${TIME_RATIO_MAX} of one after the other (${ratio.median.toFixed(2)})`,
      held: ratio.median <= TIME_RATIO_MAX,
    },
    {
      text: `never more than --rescans-max run (${runningMax} of ${TOGETHER})`,
      held: observations.every((each) => each.runningMax <= each.rescansMax),
    },
    {
      text: `no client is delayed: p99 at most ${DELAY_MAX_MS} ms above what it is without rescans (${delay.toFixed(1)} ms)`,
      held: delay <= DELAY_MAX_MS,
    },
    { text: `all images are equal to their disks (${equal} of ${exports})`, held: equal === exports },
  ];
}

const HEADINGS = [
  '--rescans-max',
  's, median',
  '[min, max]',
  'of one by one',
  '[min, max]',
  'clients, ms: p99 before',
  'p50 during',
  'p99 during',
  '[min, max]',
  'longest',
];

function textOf({ exports, diskSize, rounds, intervalMs }: Parameters, results: readonly Result[]): string {
  const range = ({ min, max }: Sample, digits: number): string => `[${min.toFixed(digits)}, ${max.toFixed(digits)}]`;
  const seconds = ({ median, min, max }: Sample): string[] => [
    (median / 1000).toFixed(1),
    range({ median, min: min / 1000, max: max / 1000 }, 1),
  ];
  const rows = results.map((result) => [
    String(result.rescansMax),
    ...seconds(result.totalMs),
    result.ratio.median.toFixed(2),
    range(result.ratio, 2),
    result.quietP99.median.toFixed(1),
    result.duringP50.median.toFixed(1),
    result.duringP99.median.toFixed(1),
    range(result.duringP99, 1),
    whole(result.duringMax.max),
  ]);
  return [
    `${exports} exports of ${diskSize / MIB} MiB, all marked; each client writes 4 KiB every ${intervalMs} ms; ${rounds} rounds; ` +
      `time from the mirror’s return until the last rescan is complete; ratio within a round`,
    '',
    formatTable([HEADINGS, ...rows], [0]),
  ].join('\n');
}
