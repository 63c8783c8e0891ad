/**
 * Rescans of a pair on one machine, beside what they are measured by: cmp and rsync on the same files, the speed of the
 * disk, and what the TLS of the link carries.
 */
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { nodeNetwork } from '../../dist/io/node-network.js';
import { connectNbd } from '../../dist/nbd/client.js';
import { dropCache } from '../common/disk.ts';
import { EXPORT_NAME } from '../common/nbdtwin.ts';
import { sampleOf } from '../common/statistics.ts';
import { formatTable } from '../common/table.ts';
import { changeBlocks, changeRuns } from './changes.ts';
import { fillDisk } from './fill-disk.ts';
import { type LoadedRescan, rescanUnderLoad } from './rescan-load.ts';
import { cmpSeconds, copySeconds, readBothSeconds, runRsync, tlsRate } from './rescan-peers.ts';
import { type RescanCost, RescanTwin } from './rescan-twin.ts';
import type { Claim, Outcome, Scenario } from './scenario.ts';
import { makeDisk } from './twin.ts';

interface Parameters {
  readonly rounds: number;
  readonly diskSize: number;
  readonly sparseSize: number;
  readonly outageSize: number;
  readonly loadedSize: number;
  readonly loadDepths: readonly number[];
}

const FULL: Parameters = {
  rounds: 3,
  diskSize: 4 * 2 ** 30,
  sparseSize: 2 ** 40,
  outageSize: 64 * 2 ** 20,
  loadedSize: 2 ** 30,
  loadDepths: [1, 16],
};
const QUICK: Parameters = { ...FULL, rounds: 1, diskSize: 2 ** 30, sparseSize: 2 ** 38, outageSize: 16 * 2 ** 20 };

const BLOCKS_CHANGED = 0.01;
const RUNS_CHANGED = 0.1;
const RUN_SIZE = 4 * 2 ** 20;
/** Staging has no room: what is new goes straight into the image. */
const STRAIGHT = ['--staging-limit', '1M', '--staging-overflow', 'continue'];

export const rescan: Scenario = {
  name: 'rescan',
  text: 'rescans beside cmp, rsync, the disk and the link',
  programs: ['rsync', 'fio'],
  run: (folder, quick, say) => run(folder, quick ? QUICK : FULL, say),
};

const CASES = {
  seeding: 'first seeding of an empty mirror',
  warm: 'nothing changed, in the page cache',
  verify: 'nothing changed, verify instead',
  cold: 'nothing changed, nothing in the page cache',
  blocks: '1 % of the 4 KiB blocks changed at random',
  runs: '10 % changed in runs of 4 MiB',
  straight: 'the same without staging',
  outage: 'after an outage',
  sparse: 'nothing changed, sparse',
} as const;
type Case = keyof typeof CASES;

/** One rescan and what it is measured by, in the same round. */
interface Observation {
  readonly round: number;
  readonly of: Case;
  readonly cost: RescanCost;
  /** Bytes that had been changed. */
  readonly changedSize: number;
  /** Seconds by which it is judged, and what they are. */
  readonly measure: { readonly name: string; readonly seconds: number; readonly wireSize?: number };
}

interface Figures {
  readonly observations: Observation[];
  readonly loads: (LoadedRescan & { readonly round: number })[];
}

async function run(folder: string, parameters: Parameters, say: (text: string) => void): Promise<Outcome> {
  const figures: Figures = { observations: [], loads: [] };
  for (let round = 1; round <= parameters.rounds; round += 1) {
    const own = join(folder, `round-${round}`);
    await mkdir(own);
    const observe = (observation: Omit<Observation, 'round'>): void => {
      figures.observations.push({ round, ...observation });
      const { of, cost, measure } = observation;
      say(
        `round ${round}, ${CASES[of]}: ${cost.seconds.toFixed(2)} s (${measure.name} ${measure.seconds.toFixed(2)} s), ` +
          `${megabytes(cost.shippedSize)} MB shipped, ${megabytes(cost.wireSize)} MB on the wire, CPU ${cost.primaryCpuSeconds.toFixed(2)} s and ${cost.mirrorCpuSeconds.toFixed(2)} s`,
      );
    };
    const observeLoad = (load: LoadedRescan): void => {
      figures.loads.push({ round, ...load });
      say(`round ${round}, under load of depth ${load.depth}: ${loadText(load)}`);
    };
    const rates = await runFilled(own, round, parameters, observe, say);
    await runLoaded(join(own, 'loaded'), parameters, observeLoad);
    await runSparse(join(own, 'sparse'), parameters, rates, observe);
    await rm(own, { recursive: true });
  }
  return { parameters, figures, claims: claimsOf(figures, parameters), text: textOf(figures, parameters) };
}

interface Rates {
  /** Seconds of the rescan of the full disk in which nothing had changed. */
  readonly warmSeconds: number;
}

/** A disk full of data. */
async function runFilled(
  folder: string,
  round: number,
  { diskSize, outageSize }: Parameters,
  observe: (observation: Omit<Observation, 'round'>) => void,
  say: (text: string) => void,
): Promise<Rates> {
  const disk = await makeDisk(folder, diskSize);
  await fillDisk(disk, diskSize, diskSize);
  const twin = await RescanTwin.make(folder, disk);
  const carried = await tlsRate(twin.secret, folder, diskSize);
  await twin.startMirror();
  const seeded = await twin.rescan([]);
  const copied = await copySeconds(disk, join(folder, 'copy.img'));
  // What goes over the link has to be written, too.
  const link = { name: 'TLS of the link', seconds: diskSize / carried };
  const file = { name: 'dd to a new file', seconds: copied };
  say(`round ${round}: ${link.name} ${link.seconds.toFixed(2)} s, ${file.name} ${file.seconds.toFixed(2)} s`);
  const slower = link.seconds > file.seconds ? link : file;
  observe({ of: 'seeding', cost: seeded, changedSize: diskSize, measure: slower });

  const warm = await twin.rescan();
  const cmp = { name: 'cmp', seconds: await cmpSeconds(disk, twin.image) };
  observe({ of: 'warm', cost: warm, changedSize: 0, measure: cmp });
  observe({ of: 'verify', cost: await twin.verify(), changedSize: 0, measure: cmp });

  // Before and after: the rate of a disk is not always the same.
  const readBefore = await readBothSeconds(disk, twin.image);
  await dropCache(disk);
  await dropCache(twin.image);
  const cold = await twin.rescan();
  const readAfter = await readBothSeconds(disk, twin.image);
  const reading = { name: 'reading both', seconds: (readBefore + readAfter) / 2 };
  observe({ of: 'cold', cost: cold, changedSize: 0, measure: reading });

  // rsync brings this copy to where the disk is, as the rescan does the image.
  const copy = join(folder, 'copy.img');
  await copyFile(disk, copy);
  const changed = async (of: Case, change: () => Promise<number>): Promise<void> => {
    const changedSize = await change();
    const { seconds, wireSize } = await runRsync(disk, copy, folder);
    const cost = await twin.rescan();
    await cmpSeconds(disk, twin.image);
    observe({ of, cost, changedSize, measure: { name: 'rsync', seconds, wireSize } });
  };
  await changed('blocks', () => changeBlocks(disk, diskSize, BLOCKS_CHANGED, round));
  await changed('runs', () => changeRuns(disk, diskSize, RUNS_CHANGED, RUN_SIZE));
  await twin.stopMirror();
  await twin.startMirror(STRAIGHT);
  await changed('straight', () => changeRuns(disk, diskSize, RUNS_CHANGED, RUN_SIZE));
  await rm(copy);
  await twin.stopMirror();
  await twin.startMirror();

  const seeding = { name: 'seeding as much', seconds: (seeded.seconds * outageSize) / diskSize };
  observe({ of: 'outage', cost: await outage(twin, diskSize, outageSize), changedSize: outageSize, measure: seeding });
  await cmpSeconds(disk, twin.image);
  await twin.stop();
  await rm(disk);
  await rm(twin.image);
  return { warmSeconds: warm.seconds };
}

/** The mirror is away while a client writes `size` bytes in pieces of 1 MiB, for which the primary keeps nothing but marks. */
async function outage(twin: RescanTwin, diskSize: number, size: number): Promise<RescanCost> {
  const pieceSize = 2 ** 20;
  await twin.startPrimary(['--spool-size', '0', '--window', '1M']);
  await twin.inStep();
  await twin.stopMirror();
  const client = await connectNbd({
    network: nodeNetwork,
    address: { kind: 'unix', path: twin.primary.socket },
    exportName: EXPORT_NAME,
  });
  const count = size / pieceSize;
  for (let index = 0; index < count; index += 1) {
    await client.write(
      Math.floor(diskSize / count / pieceSize) * pieceSize * index,
      Buffer.alloc(pieceSize, index + 1),
    );
  }
  await client.close();
  const before = await twin.used();
  await twin.startMirror();
  const cost = await twin.costSince(before);
  await twin.stopPrimary();
  return cost;
}

/** A smaller disk full of data, rescanned while clients write everywhere. */
async function runLoaded(
  folder: string,
  { loadedSize, loadDepths }: Parameters,
  observe: (load: LoadedRescan) => void,
): Promise<void> {
  await mkdir(folder);
  const disk = await makeDisk(folder, loadedSize);
  await fillDisk(disk, loadedSize, loadedSize);
  const twin = await RescanTwin.make(folder, disk);
  await twin.startMirror();
  await twin.rescan([]);
  for (const depth of loadDepths) observe(await rescanUnderLoad(twin, loadedSize, depth));
  await cmpSeconds(disk, twin.image);
  await twin.stop();
  await rm(folder, { recursive: true });
}

/** As much data as above on a disk many times as large. */
async function runSparse(
  folder: string,
  { diskSize, sparseSize }: Parameters,
  { warmSeconds }: Rates,
  observe: (observation: Omit<Observation, 'round'>) => void,
): Promise<void> {
  await mkdir(folder);
  const disk = await makeDisk(folder, sparseSize);
  await fillDisk(disk, sparseSize, diskSize);
  const twin = await RescanTwin.make(folder, disk);
  await twin.startMirror();
  await twin.rescan([]);
  const measure = { name: 'a full disk with as much', seconds: warmSeconds };
  observe({ of: 'sparse', cost: await twin.rescan(), changedSize: 0, measure });
  await twin.stop();
}

/** Most, or least, of time over that of the measure, bytes on the wire over those changed, or seconds more. */
function claimsOf({ observations, loads }: Figures, { diskSize }: Parameters): Claim[] {
  const of = (name: Case): Observation[] => observations.filter((each) => each.of === name);
  const ratio = (name: Case): number =>
    sampleOf(of(name).map(({ cost, measure }) => cost.seconds / measure.seconds)).median;
  const most = (name: Case, limit: number): Claim => {
    const found = ratio(name);
    const { measure } = of(name)[0]!;
    return {
      text: `${CASES[name]}: at most ${limit} times ${measure.name} (${found.toFixed(2)})`,
      held: found <= limit,
    };
  };
  const faster = (name: Case, times: number): Claim => {
    const found = 1 / ratio(name);
    return {
      text: `${CASES[name]}: at least ${times} times as fast as rsync (${found.toFixed(1)})`,
      held: found >= times,
    };
  };
  const wire = (name: Case, limit: number): Claim => {
    const found = sampleOf(of(name).map(({ cost, changedSize }) => cost.wireSize / changedSize)).median;
    return {
      text: `${CASES[name]}: on the wire at most ${limit} times what had changed (${found.toFixed(3)})`,
      held: found <= limit,
    };
  };
  const more = (name: Case, seconds: number): Claim => {
    const found = sampleOf(of(name).map(({ cost, measure }) => cost.seconds - measure.seconds)).median;
    const { measure } = of(name)[0]!;
    return {
      text: `${CASES[name]}: at most ${seconds} s more than ${measure.name} (${found.toFixed(2)})`,
      held: found <= seconds,
    };
  };
  const quietWire = sampleOf(of('warm').map(({ cost }) => (cost.wireSize / diskSize) * 100)).median;
  const staged = sampleOf(
    of('runs').map(
      ({ cost, round }) => cost.seconds / of('straight').find((each) => each.round === round)!.cost.seconds,
    ),
  ).median;
  const linkShare = 1 / ratio('seeding');
  return [
    most('warm', 1.1),
    most('verify', 1.1),
    {
      text: `${CASES.warm}: on the wire at most 0.01 % of the disk (${quietWire.toFixed(4)} %)`,
      held: quietWire <= 0.01,
    },
    most('cold', 1.1),
    faster('blocks', 6),
    wire('blocks', 1.3),
    faster('runs', 3),
    wire('runs', 1.05),
    more('sparse', 1),
    more('outage', 0.25),
    {
      text: `${CASES.seeding}: at least 0.8 of the slower of TLS alone and dd to a new file (${linkShare.toFixed(2)})`,
      held: linkShare >= 0.8,
    },
    {
      text: `${CASES.runs}: at most 1.5 times as long as ${CASES.straight} (${staged.toFixed(2)})`,
      held: staged <= 1.5,
    },
    ...loadsByDepth(loads).map(([depth, own]): Claim => {
      const kept = sampleOf(own.map(({ duringIops, afterIops }) => duringIops / afterIops)).median;
      const ended = own.every(({ seconds }) => seconds !== undefined);
      return {
        text: `under 4 KiB random writes of depth ${depth}: the rescan ends, and clients keep 0.8 of their throughput (${kept.toFixed(2)})`,
        held: ended && kept >= 0.8,
      };
    }),
  ];
}

function loadsByDepth(loads: Figures['loads']): [depth: number, Figures['loads']][] {
  const depths = [...new Set(loads.map(({ depth }) => depth))];
  return depths.map((depth) => [depth, loads.filter((load) => load.depth === depth)]);
}

function textOf({ observations, loads }: Figures, parameters: Parameters): string {
  const { rounds, diskSize, sparseSize, outageSize, loadedSize } = parameters;
  const rows = (Object.keys(CASES) as Case[]).map((name) => {
    const own = observations.filter((each) => each.of === name);
    const median = (value: (observation: Observation) => number): number => sampleOf(own.map(value)).median;
    const seconds = sampleOf(own.map(({ cost }) => cost.seconds));
    const ratio = sampleOf(own.map(({ cost, measure }) => cost.seconds / measure.seconds));
    const scanned = (observation: Observation): number => observation.cost.scopeSize / 1e9;
    const { measure } = own[0]!;
    return [
      CASES[name],
      seconds.median.toFixed(2),
      range(seconds.min, seconds.max),
      `${measure.name} ${median((each) => each.measure.seconds).toFixed(2)}`,
      ratio.median.toFixed(2),
      range(ratio.min, ratio.max),
      megabytes(median(({ cost }) => cost.shippedSize)),
      megabytes(median(({ cost }) => cost.wireSize)),
      measure.wireSize === undefined ? '' : megabytes(median((each) => each.measure.wireSize!)),
      median((each) => each.cost.primaryCpuSeconds / scanned(each)).toFixed(2),
      median((each) => each.cost.mirrorCpuSeconds / scanned(each)).toFixed(2),
      megabytes(median(({ cost }) => cost.primaryMemory)),
      megabytes(median(({ cost }) => cost.mirrorMemory)),
    ];
  });
  const heads = ['', 's', '[min, max]', 'against', 'ratio', '[min, max]', 'shipped MB', 'wire MB', 'its wire MB'];
  const loadRows = loadsByDepth(loads).map(([depth, own]) => {
    const kept = sampleOf(own.map(({ duringIops, afterIops }) => duringIops / afterIops));
    return [
      String(depth),
      sampleOf(own.map(({ seconds }) => seconds ?? Number.POSITIVE_INFINITY)).median.toFixed(1),
      sampleOf(own.map(({ passes }) => passes)).median.toFixed(0),
      Math.round(sampleOf(own.map(({ duringIops }) => duringIops)).median).toLocaleString('en-GB'),
      Math.round(sampleOf(own.map(({ afterIops }) => afterIops)).median).toLocaleString('en-GB'),
      kept.median.toFixed(2),
      range(kept.min, kept.max),
    ];
  });
  return [
    `disk of ${diskSize / 2 ** 30} GiB full of data; sparse: ${sparseSize / 2 ** 30} GiB with as much data; an outage in which ` +
      `${outageSize / 2 ** 20} MiB are written; both ends on this machine, over TLS; ${rounds} rounds, medians; a seeding is measured by the slower of TLS alone and dd to a new file; CPU in seconds for each GB in scope, of the primary with its start`,
    formatTable([[...heads, 'CPU s/GB: primary', 'mirror', 'memory MB: primary', 'mirror'], ...rows], [0, 3]),
    `4 KiB random writes over all of a full disk of ${loadedSize / 2 ** 30} GiB, from the start of a rescan of everything until 6 s after its end`,
    formatTable(
      [['depth', 'rescan s', 'passes', 'IOPS during it', 'after it', 'ratio', '[min, max]'], ...loadRows],
      [],
    ),
  ].join('\n\n');
}

function loadText({ seconds, passes, duringIops, afterIops }: LoadedRescan): string {
  return `${seconds?.toFixed(1) ?? '?'} s in ${passes} passes, ${Math.round(duringIops)} IOPS during it, ${Math.round(afterIops)} after it`;
}

function range(min: number, max: number): string {
  return `[${min.toFixed(2)}, ${max.toFixed(2)}]`;
}

function megabytes(size: number): string {
  return (size / 1e6).toFixed(size < 1e7 ? 2 : 0);
}
