/** What the disk holds, sent once more: how a periodic verification repairs. */
import { expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { MIB } from '../../../src/base/units.ts';
import { FrameType } from '../../../src/link/frame.ts';
import { Agreement, ASYNC } from '../../../src/primary/agreement.ts';
import { ClientLoad } from '../../../src/primary/client-load.ts';
import { Ledger } from '../../../src/primary/ledger.ts';
import { ReplicatingVolume } from '../../../src/primary/replicating-volume.ts';
import type { WindowEntry } from '../../../src/primary/window.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { RangeLock } from '../../../src/volume/range-lock.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { turns } from '../../support/memory-world.ts';
import { replicaParts } from './replica-parts.ts';

const SIZE = 4 * MIB;

async function replicating() {
  const disk = new MemoryDisk(SIZE);
  const { world, map, sequences, replica } = await replicaParts({ size: SIZE, windowSize: MIB, inOrder: true });
  const ledger = new Ledger([replica], 0, true, () => Promise.resolve(), { map, sequences });
  const local = { volume: new DiskVolume(disk), disk, lock: new RangeLock() };
  const agreement = new Agreement(world.clock, silentLog, ASYNC, () => ledger.sequence);
  return {
    disk,
    map,
    replica,
    ledger,
    local,
    volume: new ReplicatingVolume(local, ledger, agreement, new ClientLoad(world.clock)),
  };
}

/** The operations in the stream, as [type, sequence, offset, length]. */
function streamed(entries: readonly WindowEntry[]): number[][] {
  return entries
    .filter(({ remark }) => !remark)
    .map(({ type, sequence, offset, length }) => [type, sequence, offset, length]);
}

it('enters the stream as operations of their own, zeroes as zeroes, with the region marked before', async () => {
  const { disk, map, replica, volume } = await replicating();
  await disk.write(Buffer.alloc(4096, 3), MIB + 4096);
  expect(map.isSet(0, 1)).toBe(false);
  expect(await volume.restate(MIB, 8192)).toBe(2);
  expect(map.isSet(0, 1)).toBe(true);
  const entries = replica.window.unrecorded();
  expect(streamed(entries)).toEqual([
    [FrameType.ZERO, 1, MIB, 4096],
    [FrameType.WRITE, 2, MIB + 4096, 4096],
  ]);
  expect(Buffer.from(entries.at(-1)!.data!).equals(Buffer.alloc(4096, 3))).toBe(true);
});

it('waits for a write under way, and sends what that has left', async () => {
  const { disk, replica, volume } = await replicating();
  let release: () => void = () => undefined;
  disk.hook = (call) =>
    call === 'write'
      ? new Promise((resolve) => {
          release = resolve;
        })
      : undefined;
  const write = volume.write(0, Buffer.alloc(4096, 1), { fua: false });
  await turns(3);
  const restated = volume.restate(0, 4096);
  await turns(3);
  expect(replica.window.unrecorded()).toEqual([]);
  release();
  await write;
  expect(await restated).toBe(2);
  const contents = replica.window.unrecorded().map(({ data }) => data![0]);
  expect(contents).toEqual([1, 1]);
});

it('sends nothing of what cannot be read, and nothing once the primary is stopping', async () => {
  const { disk, replica, ledger, local, volume } = await replicating();
  disk.hook = (call) => {
    if (call === 'read') throw new Failure('io-error', 'bad block');
  };
  await expect(volume.restate(0, 4096)).rejects.toMatchObject({ code: 'io-error' });
  disk.hook = undefined;
  ledger.close();
  await expect(volume.restate(0, 4096)).rejects.toMatchObject({ code: 'shutting-down' });
  expect(streamed(replica.window.unrecorded())).toEqual([]);
  expect(local.lock.isFree(0, SIZE)).toBe(true);
});
