/**
 * A link that is ten times slower than what clients rewrite in a hot set. Clients must not feel it; the mirror must get
 * no older than it was after some time, though the link never carries it all; and the mirror's image, taken at any moment
 * as a sudden death would leave it and recovered, must be an exact past state of the disk.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { formatDuration, formatSize } from '../../dist/base/units.js';
import { nodeNetwork } from '../../dist/io/node-network.js';
import { connectNbd } from '../../dist/nbd/client.js';
import { EXPORT_NAME } from '../common/nbdtwin.ts';
import { formatTable, whole } from '../common/table.ts';
import { type Course, courseOf, sharesOf } from './course.ts';
import { type JudgedImage, judgeMirror } from './mirror-image.ts';
import { type Lateness, PacedWriter } from './paced-writer.ts';
import { type Sample, Sampler } from './samples.ts';
import type { Claim, Outcome, Scenario } from './scenario.ts';
import { BLOCK_SIZE } from './stamped-blocks.ts';
import { makeDisk, Twin } from './twin.ts';
import { WriteHistory } from './write-history.ts';

interface Parameters {
  /** Bytes per second. */
  readonly linkRate: number;
  readonly writeRate: number;
  readonly hotSize: number;
  readonly windowSize: number;
  readonly spoolSize: number;
  readonly runMs: number;
  /** Between two images. */
  readonly imageIntervalMs: number;
}

/** 20 MB/s into 64 MiB over 2 MB/s: the hot set fits through the link every 34 s. */
const FULL: Parameters = {
  linkRate: 2_000_000,
  writeRate: 20_000_000,
  hotSize: 64 * 2 ** 20,
  windowSize: 16 * 2 ** 20,
  spoolSize: 256 * 2 ** 20,
  runMs: 5 * 60_000,
  imageIntervalMs: 10_000,
};

/** The same in proportion, but for the processor: everything happens five times as often. */
const QUICK: Parameters = {
  linkRate: 1_000_000,
  writeRate: 10_000_000,
  hotSize: 6 * 2 ** 20,
  windowSize: 2 * 2 ** 20,
  spoolSize: 24 * 2 ** 20,
  runMs: 60_000,
  imageIntervalMs: 4_000,
};

/** Beyond the hot set there is nothing. */
const IN_STEP_TIMEOUT_MS = 5 * 60_000;
/** Less than this share of the rate asked for means that clients were slowed. */
const ACHIEVED_MIN = 0.98;
/** The lag of the last quarter may be this much above that of the second and third: it saws, it does not grow. */
const GROWTH_MAX = 1.25;

interface Figures {
  /** Of the rate asked for. */
  readonly achieved: number;
  readonly latenessMs: Lateness;
  readonly writes: number;
  readonly answeredSize: number;
  /** On the link while clients wrote: both directions, TLS and all. */
  readonly linkSize: { readonly toMirror: number; readonly toPrimary: number };
  /** Age of the images that were taken. */
  readonly imageAgeMs: Course;
  /** As the primary's status tells it. */
  readonly lagBytes: Course;
  readonly lagMs: Course;
  /** Shares of the samples. */
  readonly states: Readonly<Record<string, number>>;
  readonly rungs: Readonly<Record<string, number>>;
  readonly mirrorStates: Readonly<Record<string, number>>;
  readonly consistentShare: number;
  /** Staged runs that the mirror has committed. */
  readonly commits: number;
  readonly spoolUsedMax: number;
  readonly stagedSizeMax: number;
  readonly sessions: number;
  /** How many were taken, were exact past states, and caught the mirror in the middle of copying a staged run. */
  readonly images: {
    readonly taken: number;
    readonly exact: number;
    readonly finished: number;
    readonly stoppedMsMax: number;
  };
  /** From the end of the load until the mirror had everything. */
  readonly settleMs: number;
  readonly samples: readonly Sample[];
  readonly judged: readonly JudgedImage[];
}

export const slowLink: Scenario = {
  name: 'slow-link',
  text: 'clients rewrite a hot set ten times as fast as the link carries it',
  programs: [],
  run: (folder, quick, say) => run(folder, quick ? QUICK : FULL, say),
};

async function run(folder: string, parameters: Parameters, say: (text: string) => void): Promise<Outcome> {
  const { linkRate, writeRate, hotSize, windowSize, spoolSize, runMs } = parameters;
  await makeDisk(folder, hotSize);
  const twin = await Twin.open(folder, {
    linkRate,
    serveFlags: ['--window', String(windowSize), '--spool-size', String(spoolSize)],
  });
  await twin.startPrimary();
  await twin.inStep(IN_STEP_TIMEOUT_MS);

  const client = await connectNbd({
    network: nodeNetwork,
    address: { kind: 'unix', path: twin.primary.socket },
    exportName: EXPORT_NAME,
  });
  const history = new WriteHistory();
  const writer = new PacedWriter(client, { rate: writeRate, blockCount: hotSize / BLOCK_SIZE, seed: 1 }, history);
  const before = twin.link!.carried;
  const commitsBefore = await commitsOf(twin);
  const sampler = new Sampler(twin, writer);
  const startMs = performance.now();
  writer.start();
  const judged: JudgedImage[] = [];
  while (performance.now() - startMs < runMs) {
    await sleep(parameters.imageIntervalMs);
    writer.check();
    sampler.check();
    const image = await judgeMirror(twin.mirror, folder, history, hotSize / BLOCK_SIZE);
    judged.push(image);
    say(imageLine(image, startMs, sampler.samples.at(-1)));
    if (image.problem !== undefined) break;
  }
  await writer.stop();
  const after = twin.link!.carried;
  await sampler.stop();
  const commitsAfter = await commitsOf(twin);
  await client.close();
  const stoppedMs = performance.now();
  const { sessions } = await twin.inStep(IN_STEP_TIMEOUT_MS);
  const settleMs = performance.now() - stoppedMs;
  // In step: the image must be the disk as it is now.
  if (judged.every(({ problem }) => problem === undefined)) {
    judged.push(await judgeMirror(twin.mirror, folder, history, hotSize / BLOCK_SIZE));
  }
  await twin.stop();

  const { samples } = sampler;
  const figures: Figures = {
    achieved: writer.achieved,
    latenessMs: writer.lateness,
    writes: history.answeredCount,
    answeredSize: history.answeredSize,
    linkSize: { toMirror: after.toTarget - before.toTarget, toPrimary: after.toClient - before.toClient },
    imageAgeMs: courseOf(judged.slice(0, -1).map((image) => ({ atMs: image.takenMs - startMs, value: image.ageMs }))),
    lagBytes: courseOf(samples.map(({ atMs, lagBytes }) => ({ atMs, value: lagBytes }))),
    lagMs: courseOf(samples.map(({ atMs, lagMs }) => ({ atMs, value: lagMs }))),
    states: sharesOf(samples.map(({ state }) => state)),
    rungs: sharesOf(samples.map(({ rung }) => rung)),
    mirrorStates: sharesOf(samples.map(({ mirrorState }) => mirrorState)),
    consistentShare: samples.filter(({ consistent }) => consistent).length / samples.length,
    commits: commitsAfter - commitsBefore,
    spoolUsedMax: Math.max(...samples.map(({ spoolUsed }) => spoolUsed)),
    stagedSizeMax: Math.max(...samples.map(({ stagedSize }) => stagedSize)),
    sessions,
    images: {
      taken: judged.length,
      exact: judged.filter(({ problem }) => problem === undefined).length,
      finished: judged.filter(({ staging }) => staging === 'finished').length,
      stoppedMsMax: Math.max(...judged.map((image) => image.stoppedMs)),
    },
    settleMs,
    samples,
    judged,
  };
  return { parameters, figures, claims: claimsOf(figures), text: textOf(parameters, figures) };
}

/** Of the mirror since it was started. */
async function commitsOf({ mirror }: Twin): Promise<number> {
  return (await mirror.status()).exports[0]!.commits;
}

function claimsOf(figures: Figures): Claim[] {
  const { images, achieved, imageAgeMs, lagBytes, states } = figures;
  const bounded = (course: Course): boolean => course.end <= course.middle * GROWTH_MAX;
  return [
    {
      text: `every image that was taken is an exact past state (${images.exact} of ${images.taken})`,
      held: images.exact === images.taken,
    },
    {
      text: `the age of the image does not grow (at most ${formatDuration(imageAgeMs.middle)} in the middle of the run, ${formatDuration(imageAgeMs.end)} at its end)`,
      held: bounded(imageAgeMs),
    },
    {
      text: `the lag in bytes does not grow (at most ${megabytes(lagBytes.middle)} in the middle of the run, ${megabytes(lagBytes.end)} at its end)`,
      held: bounded(lagBytes),
    },
    {
      text: `order is never given up (${percentages(states)} of the time)`,
      held: ['behind', 'queued', 'rescan', 'seeding'].every((state) => !(state in states)),
    },
    {
      text: `clients are not slowed (${(achieved * 100).toFixed(1)} % of the rate asked for)`,
      held: achieved >= ACHIEVED_MIN,
    },
  ];
}

const ROWS = 12;

function textOf(parameters: Parameters, figures: Figures): string {
  const { linkRate, writeRate, hotSize, windowSize, spoolSize, runMs } = parameters;
  const { samples, linkSize, latenessMs } = figures;
  const carried = linkSize.toMirror / figures.answeredSize;
  return [
    `link of ${megabytes(linkRate)}/s, ${megabytes(writeRate)}/s of writes of 4 to 64 KiB at random within ${formatSize(hotSize)}, ` +
      `flush every second, ${runMs / 1000} s; --window ${formatSize(windowSize)} --spool-size ${formatSize(spoolSize)}`,
    '',
    formatTable([HEADINGS, ...rowsOf(samples)], []),
    '',
    `clients   ${whole(figures.writes)} writes, ${megabytes(figures.answeredSize)}; answered ${latenessMs.p50.toFixed(1)} ms after they were due ` +
      `(p50), ${latenessMs.p99.toFixed(1)} ms (p99), ${latenessMs.max.toFixed(0)} ms (longest)`,
    `link      ${megabytes(linkSize.toMirror)} to the mirror (${(carried * 100).toFixed(0)} % of what was written), ` +
      `${megabytes(linkSize.toPrimary)} back; ${figures.sessions} sessions`,
    `mirror    ${figures.commits} staged runs committed; ${percentages(figures.mirrorStates)}; in step ${formatDuration(figures.settleMs)} after the load`,
    `images    ${figures.images.taken} taken, ${figures.images.exact} exact, ${figures.images.finished} in the middle of a commit; taking one held the mirror for at most ` +
      `${figures.images.stoppedMsMax.toFixed(0)} ms; oldest ${formatDuration(Math.max(...figures.judged.map(({ ageMs }) => ageMs)))}`,
    `backlog   ${percentages(figures.rungs)}; spool at most ${megabytes(figures.spoolUsedMax)}, staging at most ${megabytes(figures.stagedSizeMax)}`,
  ].join('\n');
}

const HEADINGS = [
  's',
  'written MB/s',
  'link MB/s',
  'state',
  'rung',
  'lag MB',
  'lag s',
  'spool MB',
  'staged MB',
  'mirror',
  'consistent',
];

/** One row for each twelfth of the time: rates over that time, the rest as it was at its end. */
function rowsOf(samples: readonly Sample[]): string[][] {
  const step = Math.max(1, Math.floor(samples.length / ROWS));
  const rows: string[][] = [];
  for (let index = step; index < samples.length; index += step) {
    const sample = samples[index]!;
    const previous = samples[index - step]!;
    const rate = (now: number, then: number): string => ((now - then) / 1e3 / (sample.atMs - previous.atMs)).toFixed(2);
    rows.push([
      whole(sample.atMs / 1000),
      rate(sample.answeredSize, previous.answeredSize),
      rate(sample.linkSize, previous.linkSize),
      sample.state,
      sample.rung,
      (sample.lagBytes / 1e6).toFixed(1),
      (sample.lagMs / 1000).toFixed(1),
      (sample.spoolUsed / 1e6).toFixed(1),
      (sample.stagedSize / 1e6).toFixed(1),
      sample.mirrorState,
      sample.consistent ? 'yes' : 'no',
    ]);
  }
  return rows;
}

function imageLine(image: JudgedImage, startMs: number, sample: Sample | undefined): string {
  const at = whole((image.takenMs - startMs) / 1000);
  const now = sample === undefined ? '' : `, ${sample.state}, lag ${megabytes(sample.lagBytes)}`;
  return `${at} s: the image is ${image.problem ?? `exact, ${formatDuration(image.ageMs)} old`}${now}`;
}

function megabytes(size: number): string {
  return `${(size / 1e6).toFixed(1)} MB`;
}

function percentages(shares: Readonly<Record<string, number>>): string {
  return Object.entries(shares)
    .map(([name, share]) => `${name} ${(share * 100).toFixed(0)} %`)
    .join(', ');
}
