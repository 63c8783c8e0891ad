import { randomBytes } from 'node:crypto';
import { isFailure } from '../../src/base/failure.ts';
import { KIB } from '../../src/base/units.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';

export interface NoiseOptions {
  readonly socket: string;
  /** The bytes of the disk that are written over and over. */
  readonly offset: number;
  readonly size: number;
  readonly connections: number;
  /** Requests in flight on each connection. */
  readonly depth: number;
  /** A pause after each batch of `depth` requests. */
  readonly pauseMs: number;
}

/**
 * Clients that write, zero, trim and flush at random places that overlap, several requests in flight on each of several
 * connections, until they are stopped or the server goes away. What they leave behind is for a comparison of the images
 * to judge.
 */
export class Noise {
  readonly #options: NoiseOptions;
  readonly #running: Promise<void>[] = [];
  #stopped = false;
  #mutations = 0;

  private constructor(options: NoiseOptions) {
    this.#options = options;
  }

  static async start(options: NoiseOptions): Promise<Noise> {
    const noise = new Noise(options);
    for (let index = 0; index < options.connections; index += 1) {
      const client = await connectNbd({
        network: nodeNetwork,
        address: { kind: 'unix', path: options.socket },
        exportName: '',
      });
      noise.#running.push(noise.#run(client));
    }
    return noise;
  }

  /** Requests answered so far, other than flushes. */
  get mutations(): number {
    return this.#mutations;
  }

  /** Waits for what is in flight; does nothing when the server has gone away. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#running);
  }

  async #run(client: NbdClient): Promise<void> {
    try {
      while (!this.#stopped) {
        await Promise.all(Array.from({ length: this.#options.depth }, () => this.#request(client)));
        await new Promise((resolve) => setTimeout(resolve, this.#options.pauseMs));
      }
      await client.close();
    } catch (error) {
      if (!isFailure(error, 'connection-lost') && !isFailure(error, 'shutting-down')) throw error;
    }
  }

  async #request(client: NbdClient): Promise<void> {
    const { offset: start, size } = this.#options;
    const length = 1 + random(random(8) === 0 ? Math.min(size, 256 * KIB) : 8 * KIB);
    const offset = start + random(size - length + 1);
    const kind = random(128);
    if (kind === 0) {
      await client.flush();
      return;
    }
    if (kind <= 4) await client.trim(offset, length);
    else if (kind <= 8) await client.zero(offset, length, { allocate: random(2) === 0 });
    else await client.write(offset, randomBytes(length), { fua: kind === 9 });
    this.#mutations += 1;
  }
}

/** From 0 to `limit` - 1. */
function random(limit: number): number {
  return Math.floor(Math.random() * limit);
}
