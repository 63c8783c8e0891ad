import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import { nodeFileSystem as files } from '../../../src/io/node-file-system.ts';
import { openNodeDisk } from '../../../src/io/node-open-disk.ts';
import { needPrograms } from '../../support/peers.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { faultCalls, systemError } from './fault-calls.ts';

/** A loop device over a file of this size, detached after the test. */
function newDevice(size: number, ...flags: string[]): { device: string; backing: string } {
  const backing = join(temporaryFolder(), 'backing');
  fs.writeFileSync(backing, '');
  fs.truncateSync(backing, size);
  const device = execFileSync('losetup', ['--find', '--show', ...flags, backing], { encoding: 'utf8' }).trim();
  onTestFinished(() => void execFileSync('losetup', ['--detach', device]));
  return { device, backing };
}

needPrograms(
  'a block device',
  'loop-device',
  'losetup',
)(() => {
  it('has the size that the kernel says, in bytes', async () => {
    const { device } = newDevice(8 * MIB + 512);
    const disk = await files.openDisk(device, { lock: 'exclusive' });
    expect([disk.kind, disk.size]).toEqual(['block-device', 8 * MIB + 512]);
    expect(await disk.identity()).toMatchObject({ size: 8 * MIB + 512, modifiedNs: 0n });
    await expect(disk.resize(MIB)).rejects.toMatchObject({ code: 'not-supported' });
    await disk.reserve(0, MIB);
    await disk.close();
  });

  it('makes any range zero: the middle by the device, unaligned ends by writing', async () => {
    const { device, backing } = newDevice(8 * MIB);
    const disk = await files.openDisk(device, { lock: 'exclusive' });
    const model = Buffer.alloc(8 * MIB, 7);
    await disk.write(model, 0);
    await disk.sync();
    for (const [offset, length, allocate] of [
      [1, 100, false],
      [1000, 3 * MIB + 77, false],
      [4 * MIB + 511, 2, true],
      [5 * MIB, 4096, false],
      [5 * MIB + 513, MIB, true],
      [8 * MIB - 1, 1, false],
    ] as const) {
      await disk.zero(offset, length, allocate);
      model.fill(0, offset, offset + length);
    }
    const target = Buffer.alloc(8 * MIB);
    await disk.read(target, 0);
    expect(target.equals(model)).toBe(true);
    await disk.sync();
    await disk.close();
    expect(fs.readFileSync(backing).equals(model)).toBe(true);
  });

  it('punches whole sectors, which gives space back, and leaves others alone', async () => {
    const { device, backing } = newDevice(8 * MIB);
    const disk = await files.openDisk(device, { lock: 'exclusive' });
    await disk.write(Buffer.alloc(8 * MIB, 7), 0);
    await disk.sync();
    expect(await disk.punch(100, 4096)).toBe(false);
    expect(await disk.punch(512, 700)).toBe(false);
    const target = Buffer.alloc(8 * MIB);
    await disk.read(target, 0);
    expect(target.equals(Buffer.alloc(8 * MIB, 7))).toBe(true);
    expect(await disk.punch(512, 4 * MIB)).toBe(true);
    await disk.read(target, 0);
    expect(target.equals(Buffer.alloc(8 * MIB, 7).fill(0, 512, 512 + 4 * MIB))).toBe(true);
    await disk.sync();
    expect(fs.statSync(backing).blocks * 512).toBeLessThan(5 * MIB);
    await disk.close();
  });

  it('says which zeroing is fast: aligned to its sectors, where the device can', async () => {
    const { device } = newDevice(8 * MIB);
    const disk = await files.openDisk(device, { lock: 'exclusive' });
    await disk.zero(0, 4096, false);
    expect([disk.zeroIsFast(0, 4096, false), disk.zeroIsFast(512, 512, false)]).toEqual([true, true]);
    expect([disk.zeroIsFast(1, 4096, false), disk.zeroIsFast(0, 100, false)]).toEqual([false, false]);
    await disk.close();
  });

  it('heeds sectors of 4096 bytes', async () => {
    const { device } = newDevice(8 * MIB, '--sector-size', '4096');
    const disk = await files.openDisk(device, { lock: 'exclusive' });
    await disk.write(Buffer.alloc(MIB, 7), 0);
    expect(await disk.punch(512, 4096)).toBe(false);
    expect(await disk.punch(4096, 4096)).toBe(true);
    await disk.zero(512, 1024, false);
    const target = Buffer.alloc(MIB);
    await disk.read(target, 0);
    expect(target.equals(Buffer.alloc(MIB, 7).fill(0, 512, 1536).fill(0, 4096, 8192))).toBe(true);
    await disk.close();
  });

  it('writes zeroes on a device that has no command for it', async () => {
    const { device } = newDevice(8 * MIB);
    const refuse = (): never => {
      throw systemError('EINVAL');
    };
    const calls = faultCalls({ fallocate: refuse, fallocateNow: refuse });
    const disk = await openNodeDisk(device, { lock: 'exclusive' }, calls);
    await disk.write(Buffer.alloc(8 * MIB, 7), 0);
    expect(await disk.punch(0, 4096)).toBe(false);
    await disk.zero(0, 4 * MIB, false);
    const target = Buffer.alloc(8 * MIB);
    await disk.read(target, 0);
    expect(target.equals(Buffer.alloc(8 * MIB, 7).fill(0, 0, 4 * MIB))).toBe(true);
    await disk.close();
  });

  it('keeps others off: a second server, and whoever claims the device', async () => {
    const { device } = newDevice(MIB);
    const disk = await files.openDisk(device, { lock: 'exclusive' });
    await expect(files.openDisk(device, { lock: 'exclusive' })).rejects.toMatchObject({ code: 'disk-busy' });
    await expect(files.openDisk(device, { lock: 'shared', readOnly: true })).rejects.toMatchObject({
      code: 'disk-busy',
    });
    expect(() => fs.openSync(device, fs.constants.O_RDWR | fs.constants.O_EXCL)).toThrow(/EBUSY/);
    await disk.close();
    await (await files.openDisk(device, { lock: 'exclusive' })).close();
  });

  it('is refused for writing when it is read-only', async () => {
    const { device } = newDevice(MIB, '--read-only');
    await expect(files.openDisk(device, { lock: 'exclusive' })).rejects.toMatchObject({ code: 'disk-read-only' });
    const disk = await files.openDisk(device, { readOnly: true, lock: 'shared' });
    expect(disk.size).toBe(MIB);
    await disk.close();
  });
});
