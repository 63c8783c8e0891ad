/** A primary as its process opens and stops it, without a mirror, and what a power loss leaves of the stop. */
import { expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import { openPrimary } from '../../../src/primary/open-primary.ts';
import type { Primary } from '../../../src/primary/primary.ts';
import { PRIMARY_STATE } from '../../../src/store/primary-state.ts';
import { readStateFile } from '../../../src/store/state-file.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { type LogLine, memoryLog } from '../../support/memory-log.ts';
import { PRIMARY_OPTIONS, STATE_DIRECTORY } from '../../support/memory-pair.ts';
import { type MemoryWorld, memoryWorld } from '../../support/memory-world.ts';

const PATH = '/disk.img';

async function start(world: MemoryWorld): Promise<{ primary: Primary; lines: readonly LogLine[] }> {
  const disk = await world.files.openDisk(PATH, { lock: 'exclusive' });
  const { log, lines } = memoryLog();
  const primary = await openPrimary(world, log, {
    volume: new DiskVolume(disk),
    disk,
    ...PRIMARY_OPTIONS,
  });
  return { primary, lines };
}

/** A primary that has written something. */
async function written(): Promise<{ world: MemoryWorld; primary: Primary; lines: readonly LogLine[] }> {
  const world = memoryWorld();
  world.files.put(PATH, Buffer.alloc(4 * MIB));
  const { primary, lines } = await start(world);
  await primary.volume.write(0, Buffer.alloc(4096, 7), { fua: false });
  return { world, primary, lines };
}

function stateIn(world: MemoryWorld) {
  return readStateFile(world.files, PRIMARY_STATE, `${STATE_DIRECTORY}/primary`);
}

it('a clean stop is believed after a power loss: the time of the disk is on the medium before the state says it', async () => {
  const { world, primary } = await written();
  await primary.close(0);
  world.files.losePower();
  expect(await stateIn(world)).toMatchObject({ clean: true, sequence: 1 });
  const again = await start(world);
  expect(again.lines.filter(({ message }) => message.includes('compared'))).toEqual([]);
  await again.primary.close(0);
});

it('a stop whose last sync fails is not a clean one, and says so', async () => {
  const { world, primary, lines } = await written();
  const { disk } = world.files.file(PATH);
  let syncs = 0;
  disk.hook = (call) => {
    if (call !== 'sync') return undefined;
    syncs += 1;
    // The data is synced; what else the file has is not.
    return syncs === 2 ? Promise.reject(new Failure('io-error', 'injected')) : undefined;
  };
  await primary.close(0);
  expect(syncs).toBe(2);
  expect((await stateIn(world))!.clean).toBe(false);
  expect(lines.map(({ message }) => message)).toContainEqual(expect.stringContaining('could not be synced at the end'));
});
