/** Entry of a scan thread: answers one piece after the other. */
import { setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { errnoOf, messageOf } from '../base/failure.ts';
import { type ScanPiece, type ScanReply, scanPiece } from './scan-piece.ts';

/** Clients come first when processors are short. On Linux this concerns the calling thread alone. */
const NICENESS = 5;

const port = parentPort;
assert(port !== null, 'scan-worker runs as a thread');
try {
  setPriority(0, NICENESS);
} catch {
  // Some containers forbid it; then all are equal.
}
port.on('message', (piece: ScanPiece) => {
  let reply: ScanReply;
  const transfer: ArrayBuffer[] = [];
  try {
    const result = scanPiece(piece);
    reply = { id: piece.id, result };
    transfer.push(result.zero.buffer as ArrayBuffer, result.digests.buffer as ArrayBuffer);
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    reply = { id: piece.id, error: { code: errnoOf(error), message: messageOf(error) } };
  }
  port.postMessage(reply, transfer);
});
