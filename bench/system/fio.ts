/** The load: what fio is asked to do, and what is read from its answer. */
import { readFile } from 'node:fs/promises';
import { runChild } from '../common/children.ts';

export interface Workload {
  readonly name: string;
  readonly text: string;
  readonly pattern: 'randwrite' | 'randread' | 'write';
  readonly blockSize: number;
  readonly depth: number;
  /** A flush after each write. */
  readonly flushEach: boolean;
  /** Random places are multiples of this many bytes; of the block size unless given. */
  readonly alignment?: number;
  /** Only the first bytes of the disk are used; all of it unless given. */
  readonly reach?: number;
}

export const WORKLOADS: readonly Workload[] = [
  {
    name: 'write-4k',
    text: '4 KiB random write, depth 32',
    pattern: 'randwrite',
    blockSize: 4096,
    depth: 32,
    flushEach: false,
  },
  {
    name: 'read-4k',
    text: '4 KiB random read, depth 32',
    pattern: 'randread',
    blockSize: 4096,
    depth: 32,
    flushEach: false,
  },
  {
    name: 'write-64k',
    text: '64 KiB random write, depth 16',
    pattern: 'randwrite',
    blockSize: 65536,
    depth: 16,
    flushEach: false,
  },
  {
    name: 'write-1m',
    text: '1 MiB sequential write, depth 8',
    pattern: 'write',
    blockSize: 1 << 20,
    depth: 8,
    flushEach: false,
  },
  {
    name: 'commit-4k',
    text: '4 KiB random write and flush, depth 1',
    pattern: 'randwrite',
    blockSize: 4096,
    depth: 1,
    flushEach: true,
  },
];

/** One run of one workload against one server. */
export interface Measurement {
  readonly iops: number;
  readonly bytesPerSecond: number;
  /** Completion of the request, or of the flush where each write is flushed; microseconds. */
  readonly latencyUs: { readonly p50: number; readonly p99: number };
}

export interface FioOptions {
  readonly uri: string;
  readonly size: number;
  /** Load that is not counted, then load that is. */
  readonly warmUpMs: number;
  readonly runMs: number;
  /** fio leaves its answer here. */
  readonly outputPath: string;
  /** Where the blocks fall; the same for all servers of a round. */
  readonly seed: number;
}

/** Runs a workload. Fails when fio reports an error. */
export async function runFio(workload: Workload, options: FioOptions): Promise<Measurement> {
  await runChild('fio', fioArguments(workload, options));
  return parseFio(await readFile(options.outputPath, 'utf8'), workload);
}

function fioArguments(workload: Workload, options: FioOptions): string[] {
  return [
    '--name=bench',
    '--ioengine=nbd',
    `--uri=${options.uri}`,
    `--rw=${workload.pattern}`,
    `--bs=${workload.blockSize}`,
    `--iodepth=${workload.depth}`,
    `--size=${workload.reach ?? options.size}`,
    '--norandommap',
    ...(workload.alignment === undefined ? [] : [`--blockalign=${workload.alignment}`]),
    `--randseed=${options.seed}`,
    '--time_based',
    `--ramp_time=${options.warmUpMs}ms`,
    `--runtime=${options.runMs}ms`,
    ...(workload.flushEach ? ['--fsync=1'] : []),
    '--output-format=json',
    `--output=${options.outputPath}`,
  ];
}

interface FioDirection {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}

interface FioAnswer {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: FioDirection;
    readonly write: FioDirection;
    readonly sync: { readonly lat_ns: { readonly percentile?: Readonly<Record<string, number>> } };
  }[];
}

/** Reads fio's JSON, which notes about the connection may precede. */
export function parseFio(text: string, workload: Workload): Measurement {
  const answer: FioAnswer = JSON.parse(text.slice(Math.max(0, text.indexOf('{'))));
  const job = answer.jobs[0];
  if (job === undefined || job.error !== 0) throw new Error(`fio: ${workload.name} failed (${job?.error})`);
  const direction = workload.pattern === 'randread' ? job.read : job.write;
  const percentile = workload.flushEach ? job.sync.lat_ns.percentile : direction.clat_ns.percentile;
  if (direction.iops === 0 || percentile === undefined) throw new Error(`fio: ${workload.name} finished no request`);
  return {
    iops: direction.iops,
    bytesPerSecond: direction.bw_bytes,
    latencyUs: { p50: percentile['50.000000']! / 1000, p99: percentile['99.000000']! / 1000 },
  };
}
