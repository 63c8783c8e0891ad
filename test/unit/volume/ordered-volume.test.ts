import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { OrderedVolume } from '../../../src/volume/ordered-volume.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import {
  type ConformanceOptions,
  describeOrderingConformance,
  describeVolumeConformance,
} from '../../support/volume-conformance.ts';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

const tearing: ConformanceOptions = {
  make: async (size) => {
    const disk = new MemoryDisk(size);
    let calls = 0;
    // A different delay for each call, so that they would overtake each other.
    disk.hook = (call) => {
      if (call === 'sync') return;
      calls += 1;
      return calls % 3 === 0 ? turn().then(turn) : turn();
    };
    disk.tearDelayed = true;
    const volume = new OrderedVolume(new DiskVolume(disk));
    return { volume, close: () => volume.close() };
  },
};

describeVolumeConformance('OrderedVolume over a disk that tears delayed writes', tearing);
describeOrderingConformance('OrderedVolume over a disk that tears delayed writes', tearing);

/** A disk whose calls wait until the test lets them go, in the order of their arrival. */
function gated(size: number) {
  const disk = new MemoryDisk(size);
  const waiting: { call: string; go: () => void; fail: (error: Error) => void }[] = [];
  disk.hook = (call) => new Promise((go, fail) => waiting.push({ call, go, fail }));
  return { disk, waiting, volume: new OrderedVolume(new DiskVolume(disk)) };
}

const noFua = { fua: false };

describe('OrderedVolume', () => {
  it('passes on an answer that came at once, without a promise', () => {
    const volume = new OrderedVolume(new DiskVolume(new MemoryDisk(8192)));
    expect(volume.write(0, Buffer.alloc(512), noFua)).toBeUndefined();
    expect(volume.trim(0, 4096, noFua)).toBe(true);
  });

  it('starts a write only when the earlier one that it overlaps has finished, and others at once', async () => {
    const { volume, waiting, disk } = gated(64 * 1024);
    const first = volume.write(0, Buffer.alloc(4096, 1), noFua);
    const second = volume.write(2048, Buffer.alloc(4096, 2), noFua);
    const apart = volume.write(32_768, Buffer.alloc(4096, 3), noFua);
    await turn();
    expect(waiting.map((entry) => entry.call)).toEqual(['write', 'write']);
    waiting[1]!.go();
    await apart;
    waiting[0]!.go();
    await first;
    await turn();
    expect(waiting).toHaveLength(3);
    waiting[2]!.go();
    await second;
    expect([disk.content()[0], disk.content()[2048], disk.content()[32_768]]).toEqual([1, 2, 3]);
  });

  it('frees the range of a FUA write while its sync is under way', async () => {
    const { volume, waiting } = gated(8192);
    const durable = volume.write(0, Buffer.alloc(4096, 1), { fua: true });
    waiting[0]!.go();
    await turn();
    expect(waiting.map((entry) => entry.call)).toEqual(['write', 'sync']);
    const next = volume.write(0, Buffer.alloc(4096, 2), noFua);
    await turn();
    expect(waiting.map((entry) => entry.call)).toEqual(['write', 'sync', 'write']);
    waiting[2]!.go();
    await next;
    waiting[1]!.go();
    await durable;
  });

  it('frees the range of a mutation that failed', async () => {
    const { volume, waiting } = gated(8192);
    const failing = volume.write(0, Buffer.alloc(4096, 1), noFua);
    const next = volume.write(0, Buffer.alloc(4096, 2), noFua);
    waiting[0]!.fail(new Failure('io-error', 'injected'));
    await expect(failing).rejects.toMatchObject({ code: 'io-error' });
    await turn();
    waiting[1]!.go();
    await next;
  });

  it('frees the range of a queued mutation that the volume below refuses at once', async () => {
    const { volume, waiting, disk } = gated(8192);
    const first = volume.write(0, Buffer.alloc(4096, 1), noFua);
    const refused = volume.zero(1, 100, { fua: false, fast: true, allocate: false });
    const last = volume.write(0, Buffer.alloc(4096, 2), noFua);
    waiting[0]!.go();
    await first;
    await expect(refused).rejects.toMatchObject({ code: 'not-supported' });
    await turn();
    waiting[1]!.go();
    await last;
    expect(disk.content()[1]).toBe(2);
  });

  it('does not flush for a trim with FUA that changed nothing', async () => {
    const disk = new MemoryDisk(8192, { canPunch: false });
    const volume = new OrderedVolume(new DiskVolume(disk));
    expect(await volume.trim(0, 4096, { fua: true })).toBe(false);
    expect(disk.counts.sync).toBe(0);
  });
});
