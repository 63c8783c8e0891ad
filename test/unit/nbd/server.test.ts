import { describe, expect, it } from 'vitest';
import { silentLog } from '../../../src/base/log.ts';
import { startNbdServer } from '../../../src/nbd/server.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import type { Extent } from '../../../src/volume/volume.ts';
import { ALLOCATION_CONTEXT, UNREPLICATED_CONTEXT } from '../../../src/volume/volume.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { MemoryNetwork } from '../../support/memory-network.ts';
import { serveInMemory } from '../../support/nbd-in-memory.ts';

function exportOf(name: string, isDefault: boolean, volume = new DiskVolume(new MemoryDisk(8192))) {
  return { name, description: '', volume, isDefault };
}

/** Like a replicating layer: a second context, and both answers come later. */
class TwoContexts extends DiskVolume {
  override readonly contexts = [ALLOCATION_CONTEXT, UNREPLICATED_CONTEXT];

  override extents(context: string, offset: number, length: number, countMax: number): Extent[] {
    if (context === ALLOCATION_CONTEXT) return super.extents(context, offset, length, countMax);
    return [{ length: Math.min(length, 512), flags: 1 }];
  }
}

describe('startNbdServer', () => {
  it('serves several exports by their names, and one of them by the empty name', async () => {
    const [first, second] = [new MemoryDisk(8192), new MemoryDisk(16_384)];
    const { connect } = await serveInMemory({
      exports: [exportOf('a/b', false, new DiskVolume(first)), exportOf('c', true, new DiskVolume(second))],
    });
    await (await connect({ exportName: 'a/b' })).write(0, Buffer.alloc(512, 1));
    await (await connect({ exportName: '' })).write(0, Buffer.alloc(512, 2));
    expect([first.content()[0], second.content()[0]]).toEqual([1, 2]);
    await expect(connect({ exportName: 'b' })).rejects.toMatchObject({ code: 'peer-foreign' });
  });

  it.each([
    ['two exports of one name', [exportOf('a', false), exportOf('a', false)]],
    ['two default exports', [exportOf('a', true), exportOf('b', true)]],
    ['an empty name beside a default export', [exportOf('', false), exportOf('b', true)]],
  ])('refuses %s', async (_, exports) => {
    await expect(serveInMemory({ exports })).rejects.toMatchObject({ code: 'config-invalid' });
  });

  it('leaves nothing listening when one listener fails', async () => {
    const network = new MemoryNetwork();
    const [free, taken] = [{ kind: 'unix', path: 'free' } as const, { kind: 'unix', path: 'taken' } as const];
    await network.listen(taken, () => {});
    const starting = startNbdServer({
      network,
      clock: new ManualClock(),
      log: silentLog,
      exports: [exportOf('a', true)],
      listeners: [free, taken],
      tls: 'off',
    });
    await expect(starting).rejects.toMatchObject({ code: 'address-in-use' });
    await expect(network.connect(free)).rejects.toMatchObject({ code: 'peer-unreachable' });
  });

  it('answers every selected context with a chunk of its own, or only those that the request names', async () => {
    const volume = new TwoContexts(new MemoryDisk(8192));
    const { connect } = await serveInMemory({ exports: [exportOf('disk', true, volume)] });
    const contexts = [UNREPLICATED_CONTEXT, ALLOCATION_CONTEXT];
    const client = await connect({ mode: 'extended', contexts });
    const both = await client.blockStatus(0, 8192);
    expect(both.get(ALLOCATION_CONTEXT)).toMatchObject([{ length: 8192, flags: 3 }]);
    expect(both.get(UNREPLICATED_CONTEXT)).toMatchObject([{ length: 512, flags: 1 }]);
    const [id] = [...client.agreed.contexts].find(([, name]) => name === UNREPLICATED_CONTEXT)!;
    const one = await client.blockStatus(0, 8192, { contextIds: [id] });
    expect([...one.keys()]).toEqual([UNREPLICATED_CONTEXT]);
  });

  it('tells of its connections', async () => {
    const { connect, server } = await serveInMemory();
    const client = await connect();
    await client.write(0, Buffer.alloc(1000));
    expect(server.connections()).toMatchObject([
      { peer: 'memory-client', phase: 'transmission', exportName: 'disk', encrypted: false, requestsInFlight: 0 },
    ]);
    expect(server.connections()[0]!.bytesRead).toBeGreaterThan(1000);
  });
});
