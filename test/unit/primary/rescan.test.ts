import { expect, it, onTestFinished } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import type { Address } from '../../../src/io/network.ts';
import type { Mirror } from '../../../src/mirror/mirror.ts';
import { openMirror } from '../../../src/mirror/open-mirror.ts';
import { openPrimary } from '../../../src/primary/open-primary.ts';
import type { Primary } from '../../../src/primary/primary.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import type { WriteOptions } from '../../../src/volume/volume.ts';
import { memoryLog } from '../../support/memory-log.ts';
import { memoryWorld, turns } from '../../support/memory-world.ts';

const ADDRESS: Address = { kind: 'tcp', host: 'mirror', port: 10810 };
const SIZE = 4 * MIB;

/** Writes take effect at once, and are answered when `answer` says so. */
class SlowAnswers extends DiskVolume {
  answer: Promise<void> | undefined;

  override write(offset: number, data: Uint8Array, options: WriteOptions): void | Promise<void> {
    const written = super.write(offset, data, options);
    const { answer } = this;
    return answer === undefined ? written : Promise.resolve(written).then(() => answer);
  }
}

it('a rescan does not complete while a write is under way that it may have read', async () => {
  const world = memoryWorld();
  const { log } = memoryLog();
  const advance = async (rounds: number): Promise<void> => {
    for (let round = 0; round < rounds; round += 1) {
      await turns(3);
      world.clock.advance(20);
    }
  };
  const finish = async <T>(work: Promise<T>): Promise<T> => {
    let done = false;
    void work.finally(() => {
      done = true;
    });
    while (!done) await advance(1);
    return work;
  };
  const startMirror = (): Promise<Mirror> =>
    openMirror(world, log, { directory: '/mirrors', listen: ADDRESS, tls: { keys: [] } });
  const startPrimary = async (rescanAll: boolean): Promise<{ primary: Primary; volume: SlowAnswers }> => {
    const disk = await world.files.openDisk('/disk.img', { lock: 'exclusive' });
    const volume = new SlowAnswers(disk);
    const primary = await openPrimary(world, log, {
      volume,
      disk,
      stateDirectory: '/disk.img.twin',
      exportName: 'disk',
      mirror: ADDRESS,
      tls: { keys: [] },
      windowSize: MIB,
      rescanRate: undefined,
      rekeySize: 2 ** 40,
      rekeyIntervalMs: 2 ** 30,
      rescanAll,
    });
    return { primary, volume };
  };
  const stateOf = ({ primary }: { primary: Primary }): string => primary.status().mirrors[0]!.state;
  const image = (): Buffer => world.files.file('/mirrors/disk.img').disk.content();
  const block = (fill: number): Buffer => Buffer.alloc(4096, fill);

  await world.files.makeDirectory('/mirrors');
  world.files.put('/disk.img', Buffer.alloc(SIZE, 1));
  let mirror = await startMirror();
  let pair = await startPrimary(false);
  while (stateOf(pair) !== 'streaming') await advance(1);
  await finish(pair.primary.close(1000));
  await finish(mirror.close());

  pair = await startPrimary(true);
  onTestFinished(() => finish(pair.primary.close(1000)));
  await finish(Promise.resolve(pair.primary.volume.write(0, block(2), { fua: false })));
  // From here on the disk holds again what the mirror has, so that digests are equal. The write has no sequence yet.
  let answer = (): void => undefined;
  pair.volume.answer = new Promise((resolve) => {
    answer = resolve;
  });
  const writing = Promise.resolve(pair.primary.volume.write(0, block(1), { fua: false }));
  mirror = await startMirror();
  onTestFinished(() => finish(mirror.close()));
  while (stateOf(pair) !== 'rescan') await advance(1);
  await advance(500);
  const { rescan } = pair.primary.status().mirrors[0]!;
  expect(rescan).toMatchObject({ comparedSize: SIZE });
  expect(stateOf(pair)).toBe('rescan');

  answer();
  await finish(writing);
  while (stateOf(pair) !== 'streaming') await advance(1);
  await advance(20);
  expect(pair.primary.status().mirrors[0]!.applied).toBe(2);
  expect(image().equals(Buffer.alloc(SIZE, 1))).toBe(true);
});
