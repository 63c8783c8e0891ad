/** `nbdtwin recover`: through the mirror that keeps the image where one runs, otherwise on the spot. */
import path from 'node:path';
import process from 'node:process';
import { isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { ask, findProcesses, findTarget, type Processes } from '../control/client.ts';
import { systemClock } from '../io/clock.ts';
import { nodeNetwork } from '../io/node-network.ts';
import { nodeWorld } from '../io/node-world.ts';
import { realPath } from '../io/real-path.ts';
import { runtimeDirectory } from '../io/runtime-directory.ts';
import { type RecoverReport, recoverImage } from '../mirror/recover.ts';

export type { RecoverReport };

/** Failures: those of `recoverImage`; `not-answering` when a mirror holds the image and does not answer. */
export async function recover(log: Log, image: string, dryRun: boolean): Promise<RecoverReport> {
  const target = (await realPath(image)) ?? path.resolve(image);
  const { answering, silent } = await processes();
  const [mirror] = (await findTarget(answering, target)).filter(({ description }) => description.role === 'mirror');
  if (mirror !== undefined) {
    const request = { command: 'recover', image: target, dryRun } as const;
    // As long as it takes: what was received has to be applied, and a staged run copied.
    return (await ask(nodeNetwork, systemClock, mirror.path, request, undefined, undefined)) as RecoverReport;
  }
  const world = nodeWorld();
  try {
    return await recoverImage(world, log, target, dryRun);
  } catch (error) {
    const stuck = silent.find(({ role }) => role === 'mirror');
    if (isFailure(error, 'disk-busy') && stuck !== undefined) throw stuck.problem;
    throw error;
  } finally {
    await world.scan.close();
  }
}

/** None where there is no usable runtime directory: the lock of the image tells whether a mirror has it. */
async function processes(): Promise<Processes> {
  try {
    return await findProcesses(nodeNetwork, systemClock, runtimeDirectory(process.env));
  } catch (error) {
    if (!isFailure(error, 'runtime-directory')) throw error;
    return { answering: [], silent: [] };
  }
}
