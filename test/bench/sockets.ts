/** What the tests of proxies do with sockets. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type net from 'node:net';

/** Until the other side ends; our own direction stays open. */
export async function readAll(socket: net.Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => void chunks.push(chunk));
  await once(socket, 'end');
  return Buffer.concat(chunks);
}

export function digest(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
