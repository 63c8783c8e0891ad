import { onTestFinished } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { systemClock } from '../../src/io/clock.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { startNbdServer } from '../../src/nbd/server.ts';
import type { Volume } from '../../src/volume/volume.ts';

/**
 * Serves a volume of the test over a unix socket, as the default export, from this very process: no call that waits
 * for the disk may then block it, such as reading a file of a file system on it. Ends with the test.
 */
export async function serveVolume(volume: Volume, path: string): Promise<{ readonly uri: string }> {
  const server = await startNbdServer({
    network: nodeNetwork,
    clock: systemClock,
    log: silentLog,
    exports: [{ name: 'disk', description: '', volume, isDefault: true }],
    listeners: [{ kind: 'unix', path }],
    tls: 'off',
  });
  onTestFinished(() => server.close(0));
  return { uri: `nbd+unix:///?socket=${path}` };
}
