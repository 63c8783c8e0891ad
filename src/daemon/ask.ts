/** Asking running processes: what `nbdtwin status`, `nbdtwin verify` and `nbdtwin rescan-rate` do. */
import process from 'node:process';
import { Failure, isFailure } from '../base/failure.ts';
import {
  ask,
  findProcesses,
  findTarget,
  PROMPT_ANSWER_MS,
  type Processes,
  type SilentProcess,
  silentProcess,
} from '../control/client.ts';
import { systemClock } from '../io/clock.ts';
import { nodeNetwork } from '../io/node-network.ts';
import { runtimeDirectory } from '../io/runtime-directory.ts';
import type { RescanProgress, VerifyReport } from '../primary/status.ts';
import type { DaemonStatus } from './status.ts';

export interface Statuses {
  readonly answered: readonly DaemonStatus[];
  /** Processes that do not answer. */
  readonly silent: readonly SilentProcess[];
}

/**
 * The status of every process of this user, or of those that serve `target` (a disk, a mirror directory, an image or
 * the name of an export). Silent processes are told of, with a target only when no other process serves it: nobody
 * knows what they serve. Failures: `not-running` when there is none.
 */
export async function askStatus(target: string | undefined): Promise<Statuses> {
  const { answering, silent } = await find(target);
  const asked = await Promise.all(answering.map(({ path }) => askOne(path)));
  return {
    answered: asked.filter((one): one is DaemonStatus => one !== undefined && 'version' in one),
    silent: [...silent, ...asked.filter((one) => one !== undefined && 'problem' in one)],
  };
}

/** Undefined for a process that stops at this moment. */
async function askOne(path: string): Promise<DaemonStatus | SilentProcess | undefined> {
  try {
    return (await ask(nodeNetwork, systemClock, path, 'status', undefined, PROMPT_ANSWER_MS)) as DaemonStatus;
  } catch (error) {
    return isFailure(error, 'peer-timeout') ? silentProcess(path, error) : undefined;
  }
}

/**
 * Compares the images of the primary that serves `target`, or of the only one there is. Failures: `not-running`,
 * `usage` when several could be meant, `no-primary`, `not-answering`,
 * `not-ready`.
 */
export async function askVerify(
  target: string | undefined,
  onProgress: (progress: RescanProgress) => void,
): Promise<VerifyReport> {
  const report = await ask(
    nodeNetwork,
    systemClock,
    await findPrimary(target),
    'verify',
    (progress) => onProgress(progress as RescanProgress),
    undefined,
  );
  return report as VerifyReport;
}

/**
 * Changes how fast a rescan of the primary that serves `target`, or of the only one there is, may read; undefined: as fast
 * as clients allow. Failures: as `askVerify`.
 */
export async function askRescanRate(target: string | undefined, bytesPerSecond: number | undefined): Promise<void> {
  const request = { command: 'rescan-rate', bytesPerSecond: bytesPerSecond ?? null } as const;
  await ask(nodeNetwork, systemClock, await findPrimary(target), request, undefined, PROMPT_ANSWER_MS);
}

/** The control socket of that primary, or of the only one. */
async function findPrimary(target: string | undefined): Promise<string> {
  const { answering, silent } = await find(target);
  const primaries = answering.filter(({ description }) => description.role === 'primary');
  const [only, another] = primaries;
  if (only === undefined) {
    const stuck = silent.find(({ role }) => role === 'primary');
    if (stuck !== undefined) throw stuck.problem;
    throw new Failure('no-primary', 'only a mirror runs here');
  }
  if (another !== undefined) {
    const disks = primaries.map(({ description }) => description.targets[0]).join(', ');
    throw new Failure('usage', `several primaries run here, name the disk of one: ${disks}`);
  }
  return only.path;
}

async function find(target: string | undefined): Promise<Processes> {
  const directory = runtimeDirectory(process.env);
  const all = await findProcesses(nodeNetwork, systemClock, directory);
  if (target !== undefined) {
    const answering = await findTarget(all.answering, target);
    if (answering.length > 0) return { answering, silent: [] };
  }
  const answering = target === undefined ? all.answering : [];
  if (answering.length + all.silent.length > 0) return { answering, silent: all.silent };
  const what = target === undefined ? 'no nbdtwin process of this user' : `no nbdtwin process that serves ${target}`;
  throw new Failure('not-running', `${what} was found in ${directory}`);
}
