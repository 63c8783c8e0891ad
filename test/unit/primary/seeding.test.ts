/** A rescan between a primary and a mirror in memory, where time stands still unless it is moved. */
import { expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import { openMirror } from '../../../src/mirror/open-mirror.ts';
import { openPrimary } from '../../../src/primary/open-primary.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { memoryLog } from '../../support/memory-log.ts';
import { memoryWorld, turns } from '../../support/memory-world.ts';

const ADDRESS = { kind: 'tcp', host: 'mirror', port: 10810 } as const;

it('a seeding ships all around a block that cannot be read', async () => {
  const world = memoryWorld();
  const { log } = memoryLog();
  const content = Buffer.alloc(2 * MIB, 5);
  const bad = 10 * 4096;
  await world.files.makeDirectory('/mirrors');
  world.files.put('/disk.img', content);
  const tls = { keys: [] };
  const mirror = await openMirror(world, log, { directory: '/mirrors', listen: ADDRESS, tls });
  const disk = await world.files.openDisk('/disk.img', { lock: 'exclusive' });
  world.files.file('/disk.img').disk.hook = (call, offset, length) => {
    if (call === 'read' && offset < bad + 4096 && offset + length > bad) throw new Failure('io-error', 'bad block');
  };
  const primary = await openPrimary(world, log, {
    volume: new DiskVolume(disk),
    disk,
    stateDirectory: '/disk.img.twin',
    exportName: 'disk',
    mirror: ADDRESS,
    tls,
    windowSize: MIB,
    rescanRate: undefined,
    rekeySize: 2 ** 40,
    rekeyIntervalMs: 2 ** 30,
    rescanAll: false,
  });
  const until = async (done: () => boolean): Promise<void> => {
    for (let round = 0; round < 5_000 && !done(); round += 1) {
      await turns(3);
      world.clock.advance(20);
    }
    if (!done()) throw new Error(`not in time: ${JSON.stringify(primary.status())}`);
  };
  const finish = async (work: Promise<void>): Promise<void> => {
    let settled = false;
    void work.finally(() => {
      settled = true;
    });
    await until(() => settled);
  };
  await until(() => primary.status().mirrors[0]!.state === 'streaming');
  const image = Buffer.alloc(content.length);
  await world.files.file('/mirrors/disk.img').disk.read(image, 0);
  content.fill(0, bad, bad + 4096);
  expect(image.equals(content)).toBe(true);
  expect(primary.status().mirrors[0]!.unreadableSize).toBe(MIB);
  await finish(primary.close(1000));
  await finish(mirror.close());
});
