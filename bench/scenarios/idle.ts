/**
 * What nothing costs. CPU of a primary and its mirror that are in step, while a client is connected and asks for nothing;
 * and how long it takes from the start of `serve` on a large disk, with no data, until a client has shaken hands.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { nodeNetwork } from '../../dist/io/node-network.js';
import { connectNbd, type NbdClient } from '../../dist/nbd/client.js';
import { runChild } from '../common/children.ts';
import { EXPORT_NAME, startPrimary } from '../common/nbdtwin.ts';
import { type Sample, sampleOf } from '../common/statistics.ts';
import { formatTable } from '../common/table.ts';
import { preciseCpuSecondsOf } from '../common/usage.ts';
import type { Claim, Outcome, Scenario } from './scenario.ts';
import { makeDisk, Twin } from './twin.ts';

interface Parameters {
  readonly idleMs: number;
  readonly startRounds: number;
  readonly diskSize: number;
  readonly largeDiskSize: number;
}

const FULL: Parameters = { idleMs: 30_000, startRounds: 20, diskSize: 2 ** 30, largeDiskSize: 2 ** 42 };
const QUICK: Parameters = { ...FULL, idleMs: 10_000, startRounds: 5 };

/** Of one CPU. */
const IDLE_SHARE_MAX = 0.002;
const READY_MAX_MS = 1000;

const IN_STEP_TIMEOUT_MS = 5 * 60_000;
/** Before it counts as idle: about ten seconds after its last work V8 collects its garbage once. */
const CALM_MS = 20_000;
const HANDSHAKE_RETRY_MS = 2;
const HANDSHAKE_TIMEOUT_MS = 60_000;

export const idle: Scenario = {
  name: 'idle',
  text: 'a pair that has nothing to do, and how soon a large disk is served',
  programs: [],
  run: (folder, quick, say) => run(folder, quick ? QUICK : FULL, say),
};

interface Idle {
  /** Of one CPU. */
  readonly share: number;
  /** CPU of the time before, in which it comes to rest. */
  readonly calmCpuMs: number;
}

interface IdlePair {
  readonly primary: Idle;
  readonly mirror: Idle;
}

async function run(folder: string, parameters: Parameters, say: (text: string) => void): Promise<Outcome> {
  const pair = await measureIdle(join(folder, 'idle'), parameters);
  say(`idle: primary ${percent(pair.primary.share)}, mirror ${percent(pair.mirror.share)}`);
  const starts = await measureStarts(join(folder, 'start'), parameters, say);
  return {
    parameters,
    figures: { pair, ...starts },
    claims: claimsOf(pair, starts),
    text: textOf(parameters, pair, starts),
  };
}

async function measureIdle(folder: string, { diskSize, idleMs }: Parameters): Promise<IdlePair> {
  await mkdir(folder);
  await makeDisk(folder, diskSize);
  const twin = await Twin.open(folder);
  await twin.startPrimary();
  await twin.inStep(IN_STEP_TIMEOUT_MS);
  const client = await connect(twin.primary.socket);
  const used = (): Promise<number[]> =>
    Promise.all([twin.primary, twin.mirror].map(({ child }) => preciseCpuSecondsOf([child.pid])));
  const atFirst = await used();
  if (atFirst.includes(0)) throw new Error('this kernel does not count the time of threads (/proc/PID/schedstat)');
  await sleep(CALM_MS);
  const before = await used();
  const startMs = performance.now();
  await sleep(idleMs);
  const after = await used();
  const seconds = (performance.now() - startMs) / 1000;
  await client.close();
  await twin.stop();
  const [primary, mirror] = after.map((cpu, index) => ({
    share: (cpu - before[index]!) / seconds,
    calmCpuMs: (before[index]! - atFirst[index]!) * 1000,
  }));
  return { primary: primary!, mirror: mirror! };
}

const KINDS = ['node -e 0, to its end', 'serve', 'serve, mirror known', 'serve, mirror known, after kill -9'] as const;

interface Starts {
  readonly readyMs: Readonly<Record<(typeof KINDS)[number], Sample>>;
  /** Of the large disk and a mirror that has never seen it: from the start of `serve` until both are in step. */
  readonly firstContactMs: number;
}

/** Of a disk without a mirror, and of one whose mirror was in step when its primary was stopped, or killed. */
async function measureStarts(
  folder: string,
  { largeDiskSize, startRounds }: Parameters,
  say: (text: string) => void,
): Promise<Starts> {
  const alone = join(folder, 'alone');
  const paired = join(folder, 'paired');
  for (const each of [folder, alone, paired]) await mkdir(each);
  const disk = await makeDisk(alone, largeDiskSize);
  await makeDisk(paired, largeDiskSize);
  const twin = await Twin.open(paired);
  const firstMs = performance.now();
  await twin.startPrimary();
  await twin.inStep(IN_STEP_TIMEOUT_MS);
  const firstContactMs = performance.now() - firstMs;
  say(`first contact: ${(firstContactMs / 1000).toFixed(1)} s`);

  const times: Record<(typeof KINDS)[number], number[]> = {
    'node -e 0, to its end': [],
    serve: [],
    'serve, mirror known': [],
    'serve, mirror known, after kill -9': [],
  };
  const restarted = async (): Promise<number> => {
    const { readyMs } = await untilHandshake(join(paired, 'nbd.sock'), () => twin.startPrimary());
    await twin.inStep(IN_STEP_TIMEOUT_MS);
    return readyMs;
  };
  for (let round = 1; round <= startRounds; round += 1) {
    const startMs = performance.now();
    await runChild(process.execPath, ['-e', '0']);
    times['node -e 0, to its end'].push(performance.now() - startMs);

    const served = await untilHandshake(join(alone, 'nbd.sock'), () => startPrimary(disk, alone));
    times.serve.push(served.readyMs);
    await served.started.child.stop();

    await twin.primary.child.stop();
    times['serve, mirror known'].push(await restarted());
    await twin.primary.child.kill();
    times['serve, mirror known, after kill -9'].push(await restarted());
    say(`round ${round}: ${KINDS.map((kind) => `${kind} ${times[kind].at(-1)!.toFixed(0)} ms`).join(', ')}`);
  }
  await twin.stop();
  const readyMs = Object.fromEntries(KINDS.map((kind) => [kind, sampleOf(times[kind])])) as Starts['readyMs'];
  return { readyMs, firstContactMs };
}

/** From just before `start` until a client has shaken hands at `socket`. */
async function untilHandshake<T>(
  socket: string,
  start: () => Promise<T>,
): Promise<{ readonly started: T; readonly readyMs: number }> {
  const startMs = performance.now();
  const starting = start();
  const client = await handshake(socket, startMs + HANDSHAKE_TIMEOUT_MS);
  const readyMs = performance.now() - startMs;
  await client.close();
  return { started: await starting, readyMs };
}

/** Tries until it succeeds. */
async function handshake(socket: string, deadlineMs: number): Promise<NbdClient> {
  for (;;) {
    try {
      return await connect(socket);
    } catch (error) {
      if (performance.now() > deadlineMs) throw error;
      await sleep(HANDSHAKE_RETRY_MS);
    }
  }
}

function connect(socket: string): Promise<NbdClient> {
  return connectNbd({ network: nodeNetwork, address: { kind: 'unix', path: socket }, exportName: EXPORT_NAME });
}

function claimsOf(pair: IdlePair, { readyMs }: Starts): Claim[] {
  const calm = (name: string, { share }: Idle): Claim => ({
    text: `an idle ${name} uses less than ${percent(IDLE_SHARE_MAX)} of one CPU (${percent(share)})`,
    held: share < IDLE_SHARE_MAX,
  });
  const ready = KINDS.slice(1).map((kind) => {
    const { median } = readyMs[kind];
    return { text: `${kind}: ready within ${READY_MAX_MS} ms (${median.toFixed(0)} ms)`, held: median < READY_MAX_MS };
  });
  return [calm('primary', pair.primary), calm('mirror', pair.mirror), ...ready];
}

function textOf(parameters: Parameters, pair: IdlePair, { readyMs, firstContactMs }: Starts): string {
  const { idleMs, startRounds, diskSize, largeDiskSize } = parameters;
  const idleRow = (name: string, { share, calmCpuMs }: Idle): string[] => [name, percent(share), calmCpuMs.toFixed(0)];
  const readyRows = KINDS.map((kind) => {
    const { median, min, max } = readyMs[kind];
    return [kind, median.toFixed(0), `[${min.toFixed(0)}, ${max.toFixed(0)}]`];
  });
  return [
    `in step, one client connected, nothing asked for; disk of ${diskSize / 2 ** 30} GiB; ${idleMs / 1000} s, after ${CALM_MS / 1000} s to come to rest`,
    formatTable(
      [['', 'of one CPU', 'CPU ms to come to rest'], idleRow('primary', pair.primary), idleRow('mirror', pair.mirror)],
      [0],
    ),
    `from the start of the process to a handshake; disk of ${largeDiskSize / 2 ** 40} TiB without data; ${startRounds} rounds`,
    formatTable([['', 'ms, median', '[min, max]'], ...readyRows], [0]),
    `from the first start with a new mirror until it was in step: ${(firstContactMs / 1000).toFixed(1)} s`,
  ].join('\n\n');
}

function percent(share: number): string {
  return `${(share * 100).toFixed(3)} %`;
}
