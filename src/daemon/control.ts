/** The control socket of a running process. */
import process from 'node:process';
import { isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { type ControlServer, startControlServer } from '../control/server.ts';
import { runtimeDirectory } from '../io/runtime-directory.ts';
import type { World } from '../io/world.ts';
import type { RescanProgress } from '../primary/status.ts';
import type { Running } from './running.ts';
import type { DaemonStatus } from './status.ts';
import { VERSION } from './version.ts';

/**
 * Listens for `nbdtwin status`, `verify`, `rescan-rate` and `recover`. Undefined where there is no usable runtime directory: the disk is
 * worth more than its status, so this is only said.
 */
export async function openControl(world: World, log: Log, running: Running): Promise<ControlServer | undefined> {
  try {
    return await startControlServer(world.network, world.clock, log, runtimeDirectory(process.env), {
      describe: () => {
        const status = running.status();
        return { role: status.role, pid: process.pid, version: VERSION, targets: targetsOf(status) };
      },
      status: () => running.status(),
      verify: (onProgress: (progress: RescanProgress) => void) => running.verify(onProgress),
      setRescanRate(bytesPerSecond) {
        running.setRescanRate(bytesPerSecond);
        return {};
      },
      recover: (image, dryRun) => running.recover(image, dryRun),
    });
  } catch (error) {
    if (!isFailure(error)) throw error;
    log.warn({ err: error }, 'no control socket: `nbdtwin status` will not find this process');
    return undefined;
  }
}

function targetsOf(status: DaemonStatus): string[] {
  if (status.role === 'primary') return [status.disk, status.export.name];
  return [status.directory, ...status.exports.flatMap((entry) => [entry.name, entry.image])];
}
