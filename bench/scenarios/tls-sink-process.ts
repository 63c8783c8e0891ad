/** Takes what comes over the link's TLS and drops it: SECRET_FILE. */
import { readFile } from 'node:fs/promises';
import { nodeNetwork } from '../../dist/io/node-network.js';
import { parseSecretFile } from '../../dist/secure/secret-file.js';

const [secretFile] = process.argv.slice(2);
if (secretFile === undefined) throw new Error('usage: SECRET_FILE');
const listener = await nodeNetwork.listenLink(
  { kind: 'tcp', host: '127.0.0.1', port: 0 },
  { keys: await parseSecretFile(await readFile(secretFile, 'utf8')) },
  (stream) =>
    stream.receive({
      data: () => undefined,
      drain: () => undefined,
      end: () => stream.end(),
      close: () => undefined,
    }),
  (peerName, reason) => {
    throw new Error(`${peerName}: ${reason.message}`);
  },
);
if (listener.address.kind !== 'tcp') throw new Error('listens on no port');
process.stdout.write(`port ${listener.address.port}\n`);
