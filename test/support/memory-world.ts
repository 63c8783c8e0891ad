import { createHash } from 'node:crypto';
import { Failure } from '../../src/base/failure.ts';
import type { Address, ByteStream, Listener, Network } from '../../src/io/network.ts';
import { NO_POINTS } from '../../src/io/points.ts';
import type { Random } from '../../src/io/random.ts';
import type { World } from '../../src/io/world.ts';
import { inlineScanPool } from './inline-scan-pool.ts';
import { ManualClock } from './manual-clock.ts';
import { MemoryFiles } from './memory-files.ts';
import { MemoryNetwork, MemoryStream } from './memory-network.ts';

/** Bytes that look random and are the same in every run. */
export function repeatableRandom(): Random {
  let count = 0;
  const next = (): Buffer => {
    count += 1;
    return createHash('sha256').update(String(count)).digest();
  };
  return {
    bytes: (size) => Buffer.concat(Array.from({ length: Math.ceil(size / 32) }, next)).subarray(0, size),
    uniform: () => next().readUInt32LE(0) / 2 ** 32,
  };
}

/** The link inside the process: what connects has proved the identity that the test says. */
class MemoryLinkNetwork extends MemoryNetwork implements Network {
  identity = 'nbdtwin';
  /** Listening ends of the links so far. */
  readonly links: MemoryStream[] = [];
  /** Hands a link that was made to the listener; a test may hold it. */
  deliver: (accept: () => void) => void = (accept) => {
    setImmediate(accept);
  };
  #onLink: ((stream: ByteStream) => void) | undefined;

  override async listenLink(
    address?: Address,
    _tls?: unknown,
    onStream?: (stream: ByteStream) => void,
  ): Promise<Listener> {
    this.#onLink = onStream;
    return {
      address: address ?? { kind: 'unix', path: 'memory' },
      close: async () => {
        this.#onLink = undefined;
      },
    };
  }

  override async connectLink(): Promise<MemoryStream> {
    const onLink = this.#onLink;
    if (onLink === undefined) throw new Failure('peer-unreachable', 'nobody listens');
    const [server, client] = MemoryStream.pair();
    server.identity = this.identity;
    server.encrypted = true;
    this.links.push(server);
    this.deliver(() => onLink(server));
    return client;
  }
}

export interface MemoryWorld extends World {
  readonly clock: ManualClock;
  readonly files: MemoryFiles;
  readonly network: MemoryLinkNetwork;
}

/** Everything outside the process, in memory; time moves when told to. */
export function memoryWorld(): MemoryWorld {
  return {
    clock: new ManualClock(),
    random: repeatableRandom(),
    files: new MemoryFiles(),
    network: new MemoryLinkNetwork(),
    scan: inlineScanPool(),
    points: NO_POINTS,
  };
}

/** Lets promises and the streams in memory go on. */
export async function turns(count = 20): Promise<void> {
  for (let index = 0; index < count; index += 1) await new Promise<void>((resolve) => setImmediate(resolve));
}
