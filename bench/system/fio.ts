/** The load: what fio is asked to do, and what is read from its answer. */
import { readFile } from 'node:fs/promises';
import { runChild } from '../common/children.ts';

export interface Workload {
  readonly name: string;
  readonly text: string;
  /** `mixed`: as many reads as writes, at random. */
  readonly pattern: 'randwrite' | 'randread' | 'write' | 'read' | 'mixed';
  readonly blockSize: number;
  /** Requests in flight, on each connection. */
  readonly depth: number;
  /** A flush after each write. */
  readonly flushEach: boolean;
  /** Random places are multiples of this many bytes; of the block size unless given. */
  readonly alignment?: number;
  /** Only the first bytes of the disk are used; all of it unless given. */
  readonly reach?: number;
  /** 1 unless given. */
  readonly connections?: number;
  /** The client and the server that it talks to share one CPU; whatever else belongs to the server has the other. */
  readonly pinned?: boolean;
  /** The page cache does not have the disk; each block is read once. */
  readonly cold?: boolean;
  /** Between a request that was answered and the next; none unless given. */
  readonly thinkTimeMs?: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;

const write4k = { pattern: 'randwrite', blockSize: 4 * KIB, flushEach: false } as const;

/** One connection each, unless the text says otherwise. */
const WORKLOADS = {
  'write-4k': { ...write4k, text: '4 KiB random write, depth 32', depth: 32 },
  'read-4k': { ...write4k, text: '4 KiB random read, depth 32', pattern: 'randread', depth: 32 },
  'write-4k-1': { ...write4k, text: '4 KiB random write, depth 1', depth: 1 },
  'write-4k-1-pinned': { ...write4k, text: '4 KiB random write, depth 1, on one CPU', depth: 1, pinned: true },
  'write-64k': { ...write4k, text: '64 KiB random write, depth 16', blockSize: 64 * KIB, depth: 16 },
  'write-1m': { ...write4k, text: '1 MiB sequential write, depth 8', pattern: 'write', blockSize: MIB, depth: 8 },
  'read-1m': { ...write4k, text: '1 MiB sequential read, depth 8', pattern: 'read', blockSize: MIB, depth: 8 },
  'commit-4k': { ...write4k, text: '4 KiB random write and flush, depth 1', depth: 1, flushEach: true },
  'commit-4k-16': {
    ...write4k,
    text: '4 KiB random write and flush, 16 connections, depth 1',
    depth: 1,
    flushEach: true,
    connections: 16,
  },
  'read-4k-cold': {
    ...write4k,
    text: '4 KiB random read, depth 32, nothing in the page cache',
    pattern: 'randread',
    depth: 32,
    cold: true,
  },
  'mixed-4k-16': {
    ...write4k,
    text: '4 KiB mixed, 16 connections, depth 4',
    pattern: 'mixed',
    depth: 4,
    connections: 16,
  },
} satisfies Record<string, Omit<Workload, 'name'>>;

export type WorkloadName = keyof typeof WORKLOADS;

export function workloadNamed(name: WorkloadName): Workload {
  return { name, ...WORKLOADS[name] };
}

/** One run of one workload against one server. */
export interface Measurement {
  readonly iops: number;
  readonly bytesPerSecond: number;
  /** Completion of the request, or of the flush where each write is flushed; microseconds. */
  readonly latencyUs: { readonly p50: number; readonly p99: number };
}

export interface FioOptions {
  /** One or more exports, each of which gets all connections of the workload. */
  readonly uris: readonly string[];
  readonly size: number;
  /** Load that is not counted, then load that is. */
  readonly warmUpMs: number;
  readonly runMs: number;
  /** fio leaves its answer here. */
  readonly outputPath: string;
  /** Where the blocks fall; the same for all servers of a round. */
  readonly seed: number;
}

/** The CPU of a pinned workload. */
export const PINNED_CPU = 0;

/** Runs a workload. Fails when fio reports an error. */
export async function runFio(workload: Workload, options: FioOptions): Promise<Measurement> {
  const args = fioArguments(workload, options);
  if (workload.pinned === true) await runChild('taskset', ['-c', String(PINNED_CPU), 'fio', ...args]);
  else await runChild('fio', args);
  return parseFio(await readFile(options.outputPath, 'utf8'), workload);
}

function fioArguments(workload: Workload, options: FioOptions): string[] {
  const { connections = 1, cold = false } = workload;
  const { uris } = options;
  return [
    '--name=global',
    '--ioengine=nbd',
    `--rw=${workload.pattern === 'mixed' ? 'randrw' : workload.pattern}`,
    `--bs=${workload.blockSize}`,
    `--iodepth=${workload.depth}`,
    `--size=${workload.reach ?? options.size}`,
    ...(workload.alignment === undefined ? [] : [`--blockalign=${workload.alignment}`]),
    `--randseed=${options.seed}`,
    `--runtime=${options.runMs}ms`,
    // A cold disk gets warm while it is read: each block once, and nothing before.
    ...(cold ? [] : ['--norandommap', '--time_based', `--ramp_time=${options.warmUpMs}ms`]),
    ...(connections * uris.length > 1 ? [`--numjobs=${connections}`, '--group_reporting', '--thread'] : []),
    ...(workload.flushEach ? ['--fsync=1'] : []),
    ...(workload.thinkTimeMs === undefined ? [] : [`--thinktime=${workload.thinkTimeMs * 1000}`]),
    '--output-format=json',
    `--output=${options.outputPath}`,
    ...uris.flatMap((uri) => ['--name=bench', `--uri=${uri}`]),
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

/** Reads fio's JSON, which notes about the connection may precede. Of a mixed load the latency is that of the reads. */
export function parseFio(text: string, workload: Workload): Measurement {
  const answer: FioAnswer = JSON.parse(text.slice(Math.max(0, text.indexOf('{'))));
  const job = answer.jobs[0];
  if (job === undefined || job.error !== 0) throw new Error(`fio: ${workload.name} failed (${job?.error})`);
  const mixed = workload.pattern === 'mixed';
  const writes = workload.pattern === 'randwrite' || workload.pattern === 'write';
  const direction = writes ? job.write : job.read;
  const percentile = workload.flushEach ? job.sync.lat_ns.percentile : direction.clat_ns.percentile;
  if (direction.iops === 0 || percentile === undefined) throw new Error(`fio: ${workload.name} finished no request`);
  return {
    iops: mixed ? job.read.iops + job.write.iops : direction.iops,
    bytesPerSecond: mixed ? job.read.bw_bytes + job.write.bw_bytes : direction.bw_bytes,
    latencyUs: { p50: percentile['50.000000']! / 1000, p99: percentile['99.000000']! / 1000 },
  };
}
