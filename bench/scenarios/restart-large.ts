/**
 * A primary of a large sparse disk that is killed in the middle of heavy traffic. It must be back in streaming after it
 * has compared the regions that were marked when it died, and nothing else; the images must then be the same. At the end
 * the whole disk is compared, by `--rescan` and by reading both files, to show what the marks have saved and that they
 * were enough.
 */
import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatDuration, formatSize } from '../../dist/base/units.js';
import { nodeNetwork } from '../../dist/io/node-network.js';
import { connectNbd } from '../../dist/nbd/client.js';
import type { MirrorLinkStatus } from '../../dist/primary/status.js';
import { EXPORT_NAME } from '../common/nbdtwin.ts';
import { formatTable, whole } from '../common/table.ts';
import { Chance } from './chance.ts';
import { type Comparison, compareSparse } from './compare-sparse.ts';
import { fillDisk } from './fill-disk.ts';
import { ioOf } from './process-io.ts';
import { ScatteredWriter } from './scattered-writer.ts';
import type { Claim, Outcome, Scenario } from './scenario.ts';
import { makeDisk, Twin } from './twin.ts';

interface Parameters {
  readonly diskSize: number;
  /** Data that is there before, in pieces of 1 MiB spread over the disk. */
  readonly dataSize: number;
  /** Regions under load, spread over the disk. */
  readonly regionCount: number;
  readonly loadMs: number;
}

const FULL: Parameters = { diskSize: 64 * 2 ** 30, dataSize: 8 * 2 ** 30, regionCount: 2000, loadMs: 15_000 };
const QUICK: Parameters = { diskSize: 64 * 2 ** 30, dataSize: 1 * 2 ** 30, regionCount: 500, loadMs: 3_000 };

/** What a process reads besides the disk: its program, libraries, the link. */
const PROGRAM_SIZE_MAX = 64 * 2 ** 20;
const IN_STEP_TIMEOUT_MS = 10 * 60_000;

/** A start of the primary, until the mirror was in step. */
interface Start {
  /** From the start of the process until clients could connect, and until the mirror streamed with nothing missing. */
  readonly readyMs: number;
  readonly inStepMs: number;
  readonly rescan: MirrorLinkStatus['lastRescan'];
  /** Bytes read meanwhile, by all read calls, sockets and program files included. */
  readonly primaryRead: number;
  readonly mirrorRead: number;
  /** On the link, before TLS. */
  readonly wireSent: number;
}

interface Figures {
  readonly regionSize: number;
  /** Bytes allocated for the disk when the primary died. */
  readonly allocatedSize: number;
  readonly seedingMs: number;
  readonly writes: number;
  readonly touchedRegions: number;
  /** What the dead primary had last said. */
  readonly lagAtKill: MirrorLinkStatus['lag'];
  /** Regions that the dirty map then had. */
  readonly setAtKill: number;
  readonly afterKill: Start;
  /** With `--rescan`, after a clean stop: everything compared. */
  readonly everything: Start;
  readonly comparison: Comparison;
}

export const restartLarge: Scenario = {
  name: 'restart-large',
  text: 'a primary of a 64 GiB disk is killed under load and started again',
  programs: [],
  run: (folder, quick, say) => run(folder, quick ? QUICK : FULL, say),
};

async function run(folder: string, parameters: Parameters, say: (text: string) => void): Promise<Outcome> {
  const { diskSize, dataSize, regionCount, loadMs } = parameters;
  const disk = await makeDisk(folder, diskSize);
  await fillDisk(disk, diskSize, dataSize);
  say(`the disk has ${formatSize(dataSize)} of data in ${formatSize(diskSize)}`);
  const twin = await Twin.open(folder);
  const seedingStartMs = performance.now();
  await twin.startPrimary();
  const { regionSize } = await twin.inStep(IN_STEP_TIMEOUT_MS);
  const seedingMs = performance.now() - seedingStartMs;
  // The seeding leaves as many regions marked as may stay so. A clean stop clears them: what is marked then is what the
  // load has touched.
  await twin.primary.child.stop();
  await twin.startPrimary();
  await twin.inStep(IN_STEP_TIMEOUT_MS);
  say(`seeded in ${formatDuration(seedingMs)}`);

  const client = await connectNbd({
    network: nodeNetwork,
    address: { kind: 'unix', path: twin.primary.socket },
    exportName: EXPORT_NAME,
  });
  const writer = new ScatteredWriter(client, spread(diskSize / regionSize, regionCount), regionSize, 1);
  const load = writer.run();
  await sleep(loadMs);
  const { lag: lagAtKill, map } = await twin.linkStatus();
  await twin.primary.child.kill();
  await load;
  const allocatedSize = (await stat(disk)).blocks * 512;
  say(`killed after ${whole(writer.answered)} writes to ${whole(writer.touchedCount)} regions`);

  const afterKill = await start(twin, []);
  say(`in step ${formatDuration(afterKill.inStepMs)} after the start`);
  await twin.primary.child.stop();
  const everything = await start(twin, ['--rescan']);
  say(`the whole disk compared in ${formatDuration(everything.inStepMs)}`);
  await twin.stop();
  const comparison = await compareSparse(disk, twin.image);

  const figures: Figures = {
    regionSize,
    allocatedSize,
    seedingMs,
    writes: writer.answered,
    touchedRegions: writer.touchedCount,
    lagAtKill,
    setAtKill: map.set,
    afterKill,
    everything,
    comparison,
  };
  return { parameters, figures, claims: claimsOf(figures), text: textOf(parameters, figures) };
}

/** Starts the primary and waits until its mirror is in step. */
async function start(twin: Twin, flags: readonly string[]): Promise<Start> {
  const { pid } = twin.mirror.child;
  const mirrorBefore = await ioOf(pid);
  const startMs = performance.now();
  await twin.startPrimary(flags);
  const readyMs = performance.now() - startMs;
  const { lastRescan, wireSent } = await twin.inStep(IN_STEP_TIMEOUT_MS);
  return {
    readyMs,
    inStepMs: performance.now() - startMs,
    rescan: lastRescan,
    primaryRead: (await ioOf(twin.primary.child.pid)).called,
    mirrorRead: (await ioOf(pid)).called - mirrorBefore.called,
    wireSent,
  };
}

/** So many of the first `total` numbers, at random, each once. */
function spread(total: number, count: number): number[] {
  const chance = new Chance(7);
  const chosen = new Set<number>();
  while (chosen.size < count) chosen.add(chance.below(total));
  return [...chosen];
}

function claimsOf(figures: Figures): Claim[] {
  const { afterKill, everything, comparison, touchedRegions, regionSize } = figures;
  const compared = afterKill.rescan?.comparedSize ?? 0;
  const touched = touchedRegions * regionSize;
  return [
    {
      text: `after the kill only marked regions were compared (${formatSize(compared)} of ${formatSize(touched)} in regions that had been written)`,
      held: afterKill.rescan?.scope === 'marked' && compared <= touched,
    },
    {
      text: `neither side read more than that and ${formatSize(PROGRAM_SIZE_MAX)} for the program and sockets (${formatSize(afterKill.primaryRead)}, ${formatSize(afterKill.mirrorRead)})`,
      held: Math.max(afterKill.primaryRead, afterKill.mirrorRead) <= compared + PROGRAM_SIZE_MAX,
    },
    {
      text: `a comparison of everything then finds nothing left to repair (${whole(shipped(everything))} bytes)`,
      held: everything.rescan?.scope === 'everything' && shipped(everything) === 0,
    },
    {
      text: `both files hold the same bytes (${formatSize(comparison.comparedSize)} of data, ${comparison.differingChunks} chunks differ)`,
      held: comparison.differingChunks === 0 && comparison.comparedSize > 0,
    },
  ];
}

function shipped({ rescan }: Start): number {
  return rescan === undefined ? 0 : rescan.shippedSize + rescan.zeroedSize;
}

function textOf(parameters: Parameters, figures: Figures): string {
  const { diskSize, dataSize, regionCount, loadMs } = parameters;
  const { afterKill, everything, lagAtKill } = figures;
  const row = (name: string, started: Start): string[] => [
    name,
    formatDuration(started.readyMs),
    formatDuration(started.inStepMs),
    started.rescan?.scope ?? 'none',
    formatSize(started.rescan?.scopeSize ?? 0),
    formatSize(started.rescan?.comparedSize ?? 0),
    formatSize(shipped(started)),
    formatSize(started.wireSent),
    formatSize(started.primaryRead),
    formatSize(started.mirrorRead),
  ];
  return [
    `disk of ${formatSize(diskSize)} with ${formatSize(dataSize)} of data, regions of ${formatSize(figures.regionSize)}; ` +
      `random 4 KiB writes, depth 32, to ${whole(regionCount)} regions for ${loadMs / 1000} s, then kill -9 of the primary`,
    `seeded in ${formatDuration(figures.seedingMs)}; ${whole(figures.writes)} writes to ${whole(figures.touchedRegions)} regions; ` +
      `lag when it died: ${whole(lagAtKill.operations)} operations, ${formatSize(lagAtKill.bytes)}; ` +
      `${whole(figures.setAtKill)} regions marked, ${formatSize(figures.allocatedSize)} allocated`,
    '',
    formatTable([HEADINGS, row('after kill -9', afterKill), row('with --rescan', everything)], [0]),
    '',
    'read: all read calls of the process (/proc/PID/io, rchar), with sockets and the program itself',
  ].join('\n');
}

const HEADINGS = [
  'start',
  'ready',
  'in step',
  'scope',
  'marked',
  'compared',
  'repaired',
  'sent',
  'primary read',
  'mirror read',
];
