/** What clients get while a rescan runs: one load from before it until some seconds after it, looked at every 100 ms. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EXPORT_NAME } from '../common/nbdtwin.ts';
import { until } from '../common/until.ts';
import type { RescanTwin } from './rescan-twin.ts';

const LOG_INTERVAL_MS = 100;
/** Load after the rescan that is the measure of the load during it. */
const AFTER_MS = 6_000;
/** Left out on either side of the end of the rescan. */
const EDGE_MS = 500;
const TIMEOUT_MS = 10 * 60_000;

export interface LoadedRescan {
  readonly depth: number;
  /** Of the rescan; undefined: it did not end. */
  readonly seconds: number | undefined;
  readonly passes: number;
  readonly duringIops: number;
  readonly afterIops: number;
}

/**
 * Rescans everything under 4 KiB random writes over the whole disk, `depth` at a time. The mirror runs, the primary does
 * not, before and after.
 */
export async function rescanUnderLoad(twin: RescanTwin, size: number, depth: number): Promise<LoadedRescan> {
  const prefix = join(twin.folder, `load-${depth}`);
  await twin.startPrimary(['--rescan']);
  const uri = `nbd+unix:///${EXPORT_NAME}?socket=${twin.primary.socket}`;
  const fio = spawn(
    'fio',
    [
      '--name=load',
      '--ioengine=nbd',
      `--uri=${uri}`,
      '--rw=randwrite',
      '--bs=4096',
      `--iodepth=${depth}`,
      `--size=${size}`,
      '--norandommap',
      '--time_based',
      `--runtime=${TIMEOUT_MS}ms`,
      `--write_iops_log=${prefix}`,
      `--log_avg_msec=${LOG_INTERVAL_MS}`,
      '--log_unix_epoch=1',
      `--output=${prefix}.txt`,
    ],
    { stdio: 'ignore' },
  );
  const ended = once(fio, 'exit');
  let seconds: number | undefined;
  let passes = 0;
  const startMs = Date.now();
  let endMs = startMs + TIMEOUT_MS;
  try {
    const status = await until('the rescan does not end', TIMEOUT_MS, async () => {
      const now = await twin.linkStatus();
      if (fio.exitCode !== null) throw new Error(`fio ended early; see ${prefix}.txt`);
      return now.lastRescan === undefined ? undefined : now;
    });
    endMs = Date.now();
    seconds = status.lastRescan!.elapsedMs / 1000;
    passes = status.lastRescan!.pass;
    await sleep(AFTER_MS);
  } finally {
    fio.kill('SIGINT');
    await ended;
  }
  const samples = await iopsSamples(`${prefix}_iops.1.log`);
  await twin.inStep();
  await twin.stopPrimary();
  const between = (fromMs: number, toMs: number): number => {
    const inside = samples.filter(({ atMs }) => atMs >= fromMs && atMs <= toMs);
    return inside.length === 0 ? 0 : inside.reduce((sum, { iops }) => sum + iops, 0) / inside.length;
  };
  return {
    depth,
    seconds,
    passes,
    duringIops: between(startMs + EDGE_MS, endMs - LOG_INTERVAL_MS),
    afterIops: between(endMs + EDGE_MS, endMs + AFTER_MS),
  };
}

async function iopsSamples(path: string): Promise<{ atMs: number; iops: number }[]> {
  const text = await readFile(path, 'utf8');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.split(',').map(Number))
    .map(([atMs, iops]) => ({ atMs: atMs!, iops: iops! }));
}
