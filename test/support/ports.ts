import { createServer, type Server } from 'node:net';
import { onTestFinished } from 'vitest';

/** A TCP port of this machine that is taken until the test ends. */
export async function takenPort(): Promise<number> {
  const server = await listen();
  onTestFinished(() => void server.close());
  return portOf(server);
}

/**
 * A TCP port that was free a moment ago, for processes that must come back where they were. Where that is not needed,
 * listen on port 0 instead: nobody else can then be quicker.
 */
export async function freePort(): Promise<number> {
  const server = await listen();
  const port = portOf(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function listen(): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(server));
  });
}

function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('not a TCP server');
  return address.port;
}
