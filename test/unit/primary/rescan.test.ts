import { expect, it } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import type { WriteOptions } from '../../../src/volume/volume.ts';
import { MemoryPair } from '../../support/memory-pair.ts';

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
  const pair = await new MemoryPair().with(Buffer.alloc(SIZE, 1));
  const write = async (fill: number): Promise<void> =>
    pair.primary.volume.write(0, Buffer.alloc(4096, fill), { fua: false });
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilStreaming();
  await pair.stopPrimary();
  await pair.stopMirror();

  const volume = await pair.startPrimary({ rescanAll: true }, (disk) => new SlowAnswers(disk));
  await pair.finish(write(2));
  // From here on the disk holds again what the mirror has, so that digests are equal. The write has no sequence yet.
  let answer = (): void => undefined;
  volume.answer = new Promise((resolve) => {
    answer = resolve;
  });
  const writing = write(1);
  await pair.startMirror();
  await pair.until('the rescan runs', () => pair.link.state === 'rescan');
  await pair.pass(10_000);
  expect(pair.link).toMatchObject({ state: 'rescan', rescan: { comparedSize: SIZE } });

  answer();
  await pair.finish(writing);
  await pair.until('both writes are applied', () => pair.link.state === 'streaming' && pair.link.applied === 2);
  expect(pair.image.content().equals(Buffer.alloc(SIZE, 1))).toBe(true);
});
