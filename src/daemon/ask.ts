/** Asking running processes: what `nbdtwin status` and `nbdtwin verify` do. */
import process from 'node:process';
import { Failure } from '../base/failure.ts';
import { ask, type FoundProcess, findProcesses, findTarget } from '../control/client.ts';
import { systemClock } from '../io/clock.ts';
import { nodeNetwork } from '../io/node-network.ts';
import { runtimeDirectory } from '../io/runtime-directory.ts';
import type { RescanProgress, VerifyReport } from '../primary/status.ts';
import type { DaemonStatus } from './status.ts';

/**
 * The status of every process of this user, or of those that serve `target` (a disk, a mirror directory, an image or
 * the name of an export). Failures: `not-running` when there is none.
 */
export async function askStatus(target: string | undefined): Promise<DaemonStatus[]> {
  const processes = await find(target);
  const statuses = await Promise.all(
    // One that stops at this moment is left out.
    processes.map((found) => ask(nodeNetwork, systemClock, found.path, 'status').catch(() => undefined)),
  );
  return (statuses as (DaemonStatus | undefined)[]).filter((status) => status !== undefined);
}

/**
 * Compares the images of the primary that serves `target`, or of the only one there is. Failures: `not-running`,
 * `usage` when several could be meant, `not-ready`.
 */
export async function askVerify(
  target: string | undefined,
  onProgress: (progress: RescanProgress) => void,
): Promise<VerifyReport> {
  const primaries = (await find(target)).filter(({ description }) => description.role === 'primary');
  const [only, another] = primaries;
  if (only === undefined) {
    throw new Failure('not-running', 'only a mirror runs here; the comparison is started on the primary’s host');
  }
  if (another !== undefined) {
    const disks = primaries.map(({ description }) => description.targets[0]).join(', ');
    throw new Failure('usage', `several primaries run here, name the disk of one: ${disks}`);
  }
  const report = await ask(
    nodeNetwork,
    systemClock,
    only.path,
    'verify',
    (progress) => onProgress(progress as RescanProgress),
    undefined,
  );
  return report as VerifyReport;
}

async function find(target: string | undefined): Promise<FoundProcess[]> {
  const directory = runtimeDirectory(process.env);
  const all = await findProcesses(nodeNetwork, systemClock, directory);
  const found = target === undefined ? all : await findTarget(all, target);
  if (found.length > 0) return found;
  const what = target === undefined ? 'no nbdtwin process of this user' : `no nbdtwin process that serves ${target}`;
  throw new Failure('not-running', `${what} was found in ${directory}`);
}
