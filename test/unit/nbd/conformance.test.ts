import type { NbdClient } from '../../../src/nbd/client.ts';
import {
  ALLOCATION_CONTEXT,
  type Extent,
  type Volume,
  type WriteOptions,
  type ZeroOptions,
} from '../../../src/volume/volume.ts';
import { serveInMemory } from '../../support/nbd-in-memory.ts';
import { describeOrderingConformance, describeVolumeConformance } from '../../support/volume-conformance.ts';

/** A volume at the other end of an NBD connection: whatever holds for volumes must hold through the wire. */
class RemoteVolume implements Volume {
  readonly readOnly = false;
  readonly contexts = [ALLOCATION_CONTEXT];
  readonly #client: NbdClient;

  constructor(client: NbdClient) {
    this.#client = client;
  }

  get size(): number {
    return this.#client.size;
  }

  async read(target: Buffer, offset: number): Promise<void> {
    (await this.#client.read(offset, target.length)).copy(target);
  }

  write(offset: number, data: Uint8Array, options: WriteOptions): Promise<void> {
    return this.#client.write(offset, data, options);
  }

  zero(offset: number, length: number, options: ZeroOptions): Promise<void> {
    return this.#client.zero(offset, length, options);
  }

  /** NBD does not tell whether a trim did anything; the disk in memory punches whole pages. */
  async trim(offset: number, length: number, options: WriteOptions): Promise<boolean> {
    await this.#client.trim(offset, length, options);
    return offset % 4096 === 0 && length % 4096 === 0;
  }

  flush(): Promise<void> {
    return this.#client.flush();
  }

  cache(offset: number, length: number): void {
    void this.#client.cache(offset, length);
  }

  async extents(context: string, offset: number, length: number, countMax: number): Promise<Extent[]> {
    const extents = (await this.#client.blockStatus(offset, length, { one: countMax === 1 })).get(context)!;
    return extents.slice(0, countMax);
  }

  close(): Promise<void> {
    return this.#client.close();
  }
}

for (const mode of ['structured', 'extended'] as const) {
  const options = {
    runs: 30,
    make: async (size: number) => {
      const served = await serveInMemory({ size });
      let calls = 0;
      served.disk.tearDelayed = true;
      served.disk.hook = () => {
        calls += 1;
        return calls % 2 === 0 ? Promise.resolve() : undefined;
      };
      const client = await served.connect({ mode, contexts: [ALLOCATION_CONTEXT] });
      return { volume: new RemoteVolume(client), close: () => client.close() };
    },
  };
  describeVolumeConformance(`a volume over NBD with ${mode} replies`, options);
  describeOrderingConformance(`a volume over NBD with ${mode} replies`, options);
}
