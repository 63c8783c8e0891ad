/**
 * Images of a running mirror as a sudden death would leave them: the process is stopped in the middle of whatever it
 * does, its files are copied, and it goes on. `nbdtwin recover` then makes of the copy what it makes after a crash.
 *
 * That is the death of the process, not a loss of power: the page cache is copied along.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RecoverReport } from '../../dist/mirror/recover.js';
import { runChild } from '../common/children.ts';
import { EXPORT_NAME, type Mirror, recoverImage } from '../common/nbdtwin.ts';
import { writesInImage } from './stamped-blocks.ts';
import type { Judgement, WriteHistory } from './write-history.ts';

/** An image that was taken and judged. */
export interface JudgedImage extends Judgement {
  /** When it was taken, and for how long the mirror stood still for it. */
  readonly takenMs: number;
  readonly stoppedMs: number;
  /** A committed staged run was being copied into it, an uncommitted one was open, or neither. */
  readonly staging: RecoverReport['staging'];
}

/** Takes an image, recovers it in `folder`, judges its first `blockCount` blocks, and removes it. */
export async function judgeMirror(
  mirror: Mirror,
  folder: string,
  history: WriteHistory,
  blockCount: number,
): Promise<JudgedImage> {
  const copies = join(folder, 'images');
  await mkdir(copies);
  const { takenMs, stoppedMs } = await copyStopped(mirror, copies);
  const image = join(copies, `${EXPORT_NAME}.img`);
  const { consistent, reason, staging } = await recoverImage(image, copies);
  const judged = history.judge(await writesInImage(image, blockCount), takenMs);
  const judgement = consistent ? judged : { ...judged, problem: `not usable: ${reason}` };
  // What is left explains a failure.
  if (judgement.problem === undefined) await rm(copies, { recursive: true });
  return { ...judgement, takenMs, stoppedMs, staging };
}

async function copyStopped(mirror: Mirror, to: string): Promise<{ takenMs: number; stoppedMs: number }> {
  const { pid } = mirror.child;
  process.kill(pid, 'SIGSTOP');
  try {
    await untilStopped(pid);
    const takenMs = performance.now();
    const names = [`${EXPORT_NAME}.img`, `${EXPORT_NAME}.img.twin`];
    await runChild('cp', ['-a', '--sparse=always', ...names.map((name) => join(mirror.directory, name)), to]);
    return { takenMs, stoppedMs: performance.now() - takenMs };
  } finally {
    process.kill(pid, 'SIGCONT');
  }
}

/** Every thread has left the kernel: no write is half done. */
async function untilStopped(pid: number): Promise<void> {
  for (;;) {
    const threads = await readdir(`/proc/${pid}/task`);
    const states = await Promise.all(
      threads.map(
        async (thread) => (await readFile(`/proc/${pid}/task/${thread}/stat`, 'utf8')).split(') ').at(-1)?.[0],
      ),
    );
    if (states.every((state) => state === 'T')) return;
    await sleep(1);
  }
}
