/**
 * A disk whose history is kept: between its clients, which may be ours or a file system, and a server of ours. It is a
 * volume, so that it can be served again.
 *
 * It passes on each operation as it is, over several connections by turns, but lets no two on the same bytes be under way
 * at once: which of them came last could not be known otherwise. A trim of anything but whole blocks, which a server need
 * not carry out, is not passed on.
 */
import { isFailure } from '../../src/base/failure.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { RangeLock } from '../../src/volume/range-lock.ts';
import {
  ALLOCATION_CONTEXT,
  type Extent,
  type Volume,
  type WriteOptions,
  type ZeroOptions,
} from '../../src/volume/volume.ts';
import type { Flush, History, Mutation } from './history.ts';

/** A regular file on ext4 gives back space in these units. */
const BLOCK_SIZE = 4096;

export class Recorder implements Volume {
  readonly readOnly = false;
  readonly contexts = [ALLOCATION_CONTEXT];
  readonly history: History;
  readonly #clients: readonly NbdClient[];
  readonly #lock = new RangeLock();
  #turn = 0;

  private constructor(clients: readonly NbdClient[], history: History) {
    this.#clients = clients;
    this.history = history;
  }

  static async connect(socket: string, history: History, connections = 1): Promise<Recorder> {
    const address = { kind: 'unix', path: socket } as const;
    const clients: NbdClient[] = [];
    for (let index = 0; index < connections; index += 1) {
      clients.push(await connectNbd({ network: nodeNetwork, address, exportName: '' }));
    }
    return new Recorder(clients, history);
  }

  get size(): number {
    return this.history.base.length;
  }

  async read(target: Buffer, offset: number): Promise<void> {
    (await this.#client().read(offset, target.length)).copy(target);
  }

  write(offset: number, data: Uint8Array, options: WriteOptions = { fua: false }): Promise<void> {
    return this.#mutate(offset, data.length, async (client) => {
      const mutation = this.history.beginWrite(offset, data, options.fua);
      await client.write(offset, data, options);
      return mutation;
    });
  }

  zero(offset: number, length: number, options: Partial<ZeroOptions> = {}): Promise<void> {
    return this.#mutate(offset, length, async (client) => {
      const mutation = this.history.beginZero(offset, length, options.fua ?? false);
      await client.zero(offset, length, { ...options, fast: false });
      return mutation;
    });
  }

  async trim(offset: number, length: number, options: WriteOptions = { fua: false }): Promise<boolean> {
    if (offset % BLOCK_SIZE !== 0 || length % BLOCK_SIZE !== 0) return false;
    await this.#mutate(offset, length, async (client) => {
      const mutation = this.history.beginZero(offset, length, options.fua);
      await client.trim(offset, length, options);
      return mutation;
    });
    return true;
  }

  async flush(): Promise<void> {
    const flush = this.history.beginFlush();
    await this.#client().flush();
    this.history.answer(flush);
  }

  cache(): void {}

  extents(_context: string, _offset: number, length: number): Extent[] {
    return [{ length, flags: 0 }];
  }

  /** Says goodbye, or does nothing where the server has gone. */
  async close(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close()));
  }

  async #mutate(offset: number, length: number, run: (client: NbdClient) => Promise<Mutation | Flush>): Promise<void> {
    const hold = this.#lock.acquire(offset, length);
    await hold.ready;
    try {
      this.history.answer(await run(this.#client()));
    } finally {
      this.#lock.release(hold);
    }
  }

  #client(): NbdClient {
    this.#turn = (this.#turn + 1) % this.#clients.length;
    return this.#clients[this.#turn]!;
  }
}

/** True for the failure of a request whose server has died or is stopping. */
export function isServerGone(error: unknown): boolean {
  return isFailure(error, 'connection-lost') || isFailure(error, 'shutting-down');
}
