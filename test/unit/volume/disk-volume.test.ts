import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { ALLOCATION_CONTEXT } from '../../../src/volume/volume.ts';
import { MemoryDisk, type MemoryDiskOptions } from '../../support/memory-disk.ts';
import { describeVolumeConformance } from '../../support/volume-conformance.ts';

const KIB = 1024;
const DATA = 0;
const HOLE = 3;

function open(size = 64 * KIB, options: MemoryDiskOptions & { readOnly?: boolean } = {}) {
  const disk = new MemoryDisk(size, options);
  return { disk, volume: new DiskVolume(disk, { readOnly: options.readOnly ?? false }) };
}

const noFua = { fua: false };
const fua = { fua: true };

describeVolumeConformance('DiskVolume on a disk that answers at once', {
  make: async (size) => {
    const { volume } = open(size);
    return { volume, close: () => volume.close() };
  },
});

describeVolumeConformance('DiskVolume on a disk that answers later and cannot punch', {
  make: async (size) => {
    const { disk, volume } = open(size, { canPunch: false });
    disk.hook = () => Promise.resolve();
    return { volume, close: () => volume.close() };
  },
});

describe('DiskVolume', () => {
  it('answers without a promise where the disk does', async () => {
    const { volume } = open();
    expect(volume.write(0, Buffer.alloc(512, 1), noFua)).toBeUndefined();
    expect(volume.read(Buffer.alloc(512), 0)).toBeUndefined();
    expect(volume.zero(0, 512, { fua: false, fast: false, allocate: false })).toBeUndefined();
    expect(volume.trim(0, 4096, noFua)).toBe(true);
  });

  it('leaves a write that is not flushed to the mercy of a power loss, and makes it durable with a flush', async () => {
    const { disk, volume } = open();
    await volume.write(0, Buffer.alloc(512, 1), noFua);
    expect(disk.durableContent()[0]).toBe(0);
    await volume.flush();
    expect(disk.durableContent()[0]).toBe(1);
  });

  it.each([
    ['write', (volume: DiskVolume) => volume.write(0, Buffer.alloc(4096, 9), fua)],
    ['zero', (volume: DiskVolume) => volume.zero(0, 4096, { fua: true, fast: false, allocate: false })],
    ['trim', (volume: DiskVolume) => volume.trim(0, 4096, fua)],
  ] as const)('%s with FUA is durable when it is answered', async (_, mutate) => {
    const { disk, volume } = open();
    await volume.write(0, Buffer.alloc(8192, 5), fua);
    await mutate(volume);
    expect(disk.durableContent().equals(disk.content())).toBe(true);
    expect(disk.content()[0]).not.toBe(5);
  });

  it('begins the sync of a FUA write after the write has finished, however late that is', async () => {
    const { disk, volume } = open();
    const calls: string[] = [];
    disk.hook = async (call) => {
      await new Promise((resolve) => setImmediate(resolve));
      calls.push(call);
    };
    await volume.write(0, Buffer.alloc(512, 1), fua);
    expect(calls).toEqual(['write', 'sync']);
    expect(disk.durableContent()[0]).toBe(1);
  });

  it('fails every flush and FUA after one failed sync, and still reads and writes', async () => {
    const { disk, volume } = open();
    disk.hook = (call) => {
      if (call === 'sync') throw new Failure('io-error', 'injected');
    };
    await expect(volume.flush()).rejects.toMatchObject({ code: 'io-error' });
    disk.hook = undefined;
    const syncs = disk.counts.sync;
    await expect(volume.flush()).rejects.toMatchObject({ code: 'io-error' });
    await expect(async () => volume.write(0, Buffer.alloc(512, 7), fua)).rejects.toMatchObject({ code: 'io-error' });
    await expect(async () => volume.trim(0, 4096, fua)).rejects.toMatchObject({ code: 'io-error' });
    expect(disk.counts.sync).toBe(syncs);
    expect(disk.content()[0]).toBe(0);
    await volume.write(0, Buffer.alloc(512, 7), noFua);
    expect(disk.content()[0]).toBe(7);
  });

  it('fails a flush whose own sync succeeded while another one failed', async () => {
    const { disk, volume } = open();
    let failFirst: (error: Error) => void = () => {};
    let finishSecond: () => void = () => {};
    disk.hook = (call) => {
      if (call !== 'sync') return;
      return disk.counts.sync === 1
        ? new Promise((_, reject) => {
            failFirst = reject;
          })
        : new Promise((resolve) => {
            finishSecond = resolve;
          });
    };
    const first = volume.flush();
    const second = volume.flush();
    failFirst(new Failure('io-error', 'injected'));
    await expect(first).rejects.toMatchObject({ code: 'io-error' });
    finishSecond();
    await expect(second).rejects.toMatchObject({ code: 'io-error' });
  });

  it('refuses every mutation of a read-only volume and answers its flush', async () => {
    const { disk, volume } = open(64 * KIB, { readOnly: true });
    expect(() => volume.write(0, Buffer.alloc(512), noFua)).toThrow(/read-only/);
    expect(() => volume.zero(0, 512, { fua: false, fast: false, allocate: false })).toThrow(/read-only/);
    expect(() => volume.trim(0, 512, noFua)).toThrow(/read-only/);
    await volume.flush();
    expect(disk.counts).toMatchObject({ write: 0, zero: 0, punch: 0, sync: 0 });
  });

  it('refuses a fast zero that would have to write, and leaves the range unchanged', async () => {
    const { disk, volume } = open();
    await volume.write(0, Buffer.alloc(8192, 5), noFua);
    expect(() => volume.zero(1, 4096, { fua: false, fast: true, allocate: false })).toThrow(Failure);
    expect(() => volume.zero(0, 4096, { fua: false, fast: true, allocate: true })).toThrow(/write zeroes/);
    expect(disk.content().subarray(0, 8192).equals(Buffer.alloc(8192, 5))).toBe(true);
    await volume.zero(0, 4096, { fua: false, fast: true, allocate: false });
    expect(disk.content().subarray(0, 4096).equals(Buffer.alloc(4096))).toBe(true);
  });

  it('allocates with zero when asked, and makes a hole otherwise', async () => {
    const { volume } = open(16 * KIB);
    await volume.write(0, Buffer.alloc(16 * KIB, 1), noFua);
    await volume.zero(0, 4 * KIB, { fua: false, fast: false, allocate: true });
    await volume.zero(8 * KIB, 4 * KIB, { fua: false, fast: false, allocate: false });
    expect(volume.extents(ALLOCATION_CONTEXT, 0, 16 * KIB, 10)).toEqual([
      { length: 8 * KIB, flags: DATA },
      { length: 4 * KIB, flags: HOLE },
      { length: 4 * KIB, flags: DATA },
    ]);
  });

  it('cuts extents at the range and at the count', async () => {
    const { volume } = open(64 * KIB);
    for (let page = 1; page < 16; page += 2) await volume.write(page * 4096, Buffer.alloc(4096, 1), noFua);
    expect(volume.extents(ALLOCATION_CONTEXT, 100, 8000, 10)).toEqual([
      { length: 3996, flags: HOLE },
      { length: 4004, flags: DATA },
    ]);
    expect(volume.extents(ALLOCATION_CONTEXT, 0, 64 * KIB, 3)).toHaveLength(3);
  });

  it('says that a trim changed nothing where the disk cannot punch, without a sync', async () => {
    const { disk, volume } = open(64 * KIB, { canPunch: false });
    await volume.write(0, Buffer.alloc(4096, 3), noFua);
    expect(await volume.trim(0, 4096, fua)).toBe(false);
    expect(disk.content()[0]).toBe(3);
    expect(disk.counts.sync).toBe(0);
  });

  it('passes on the failure of a write with its code', async () => {
    const { disk, volume } = open();
    disk.hook = () => Promise.reject(new Failure('no-space', 'injected'));
    await expect(volume.write(0, Buffer.alloc(512), noFua)).rejects.toMatchObject({ code: 'no-space' });
  });
});
