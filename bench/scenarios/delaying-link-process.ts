/** A delaying link as a process of its own, so that it takes no time from whoever makes the load: PORT DELAY_MS. */
import { openDelayingLink } from './delaying-link.ts';

const [targetPort, delayMs] = process.argv.slice(2).map(Number);
if (targetPort === undefined || delayMs === undefined) throw new Error('usage: PORT DELAY_MS');
const link = await openDelayingLink(targetPort, { delayMs });
process.stdout.write(`port ${link.port}\n`);
