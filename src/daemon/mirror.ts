/** `nbdtwin mirror`, put together. */

import process from 'node:process';
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { formatAddress } from '../io/network.ts';
import type { NodeWorld } from '../io/node-world.ts';
import { realPath } from '../io/real-path.ts';
import { openMirror } from '../mirror/open-mirror.ts';
import { loadSecret } from '../secure/load-secret.ts';
import type { MirrorConfig } from './config.ts';
import type { Running } from './running.ts';
import type { MirrorDaemonStatus } from './status.ts';
import { VERSION } from './version.ts';

/** Starts receiving. Resolves once primaries can connect. Failures: of the secret, the directory and the address. */
export async function startMirror(world: NodeWorld, log: Log, config: MirrorConfig): Promise<Running> {
  const keys = await loadSecret(world.secrets, config.secret);
  if ((await world.files.exists(config.directory)) !== 'directory') {
    throw new Failure('directory-missing', `${config.directory} is not a directory`);
  }
  const directory = (await realPath(config.directory)) ?? config.directory;
  const mirror = await openMirror(world, log, {
    directory,
    listen: config.listen,
    tls: { keys },
    staging: config.staging,
    rescansMax: config.rescansMax,
  });
  const startedMs = world.clock.nowMs();
  return {
    readyLine: `nbdtwin mirror: ready ${formatAddress(mirror.address)}, directory ${directory}`,
    status: (): MirrorDaemonStatus => ({
      pid: process.pid,
      version: VERSION,
      uptimeMs: world.clock.nowMs() - startedMs,
      ...mirror.status(),
    }),
    setRescanRate: () => {
      throw new Failure('usage', 'how fast a rescan reads is up to the primary: run `nbdtwin rescan-rate` on its host');
    },
    verify: async () => {
      throw new Failure('usage', 'a mirror cannot compare by itself: run `nbdtwin verify` on the primary’s host');
    },
    recover: (image, dryRun) => mirror.recover(image, dryRun),
    stop: () => mirror.close(),
  };
}
