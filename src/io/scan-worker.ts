/** Entry of a scan thread: answers one task after the other. */
import { setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { digestBy } from './digest.ts';
import { openOpensslGmac } from './openssl-gmac.ts';
import { type ScanTask, scanPieces } from './scan-piece.ts';
import { SLOW_DIGESTS } from './scan-pool.ts';

/** Clients come first when processors are short. On Linux this concerns the calling thread alone. */
const NICENESS = 5;

const port = parentPort;
assert(port !== null, 'scan-worker runs as a thread');
const fast = openOpensslGmac();
if (fast === undefined) port.postMessage(SLOW_DIGESTS);
else digestBy(fast);
try {
  setPriority(0, NICENESS);
} catch {
  // Some containers forbid it; then all are equal.
}
port.on('message', (task: ScanTask) => {
  const reply = scanPieces(task);
  const { zero, digests } = reply.result;
  port.postMessage(reply, [zero.buffer as ArrayBuffer, digests.buffer as ArrayBuffer]);
});
