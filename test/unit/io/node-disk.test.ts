import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import { nodeCalls } from '../../../src/io/node-calls.ts';
import type { NodeDisk } from '../../../src/io/node-disk.ts';
import { openNodeDisk } from '../../../src/io/node-open-disk.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { deferred, failNth, faultCalls, settle, systemError } from './fault-calls.ts';

function newPath(): string {
  return join(temporaryFolder(), 'disk');
}

function newDisk(size: number, calls = faultCalls()): Promise<NodeDisk> {
  return openNodeDisk(newPath(), { createSize: size }, calls);
}

async function readAll(disk: NodeDisk, offset = 0, length = disk.size): Promise<Buffer> {
  const target = Buffer.alloc(length, 0xee);
  await disk.read(target, offset);
  return target;
}

describe('reading and writing', () => {
  it('reads back what was written and zeroes elsewhere and past the end', async () => {
    const disk = await newDisk(100_000);
    const data = randomBytes(5000);
    await disk.write(data, 4093);
    expect(await readAll(disk, 4093, 5000)).toEqual(data);
    expect(await readAll(disk, 0, 4093)).toEqual(Buffer.alloc(4093));
    await disk.write(data, 95_000);
    expect(await readAll(disk, 94_990, 6000)).toEqual(Buffer.concat([Buffer.alloc(10), data, Buffer.alloc(990)]));
    expect(await readAll(disk, 200_000, 10)).toEqual(Buffer.alloc(10));
    await disk.close();
  });

  it('answers short calls without a promise', async () => {
    const disk = await newDisk(MIB);
    expect(disk.write(randomBytes(4096), 0)).toBeUndefined();
    expect(disk.read(Buffer.alloc(4096), 0)).toBeUndefined();
    await disk.close();
  });

  it('reads in the thread pool what the page cache does not hold', async () => {
    const calls = faultCalls();
    const disk = await newDisk(4 * MIB, calls);
    const data = randomBytes(4 * MIB);
    await disk.write(data, 0);
    await disk.sync();
    // The advice is a request: the kernel keeps pages that it is just busy with.
    for (let attempt = 0; attempt < 100 && calls.counts.read === 0; attempt += 1) {
      await nodeCalls.advise(disk.descriptor, 0, 0, 'no-need');
      for (let offset = 0; offset < data.length; offset += 64 * KIB) {
        expect((await readAll(disk, offset, 64 * KIB)).equals(data.subarray(offset, offset + 64 * KIB))).toBe(true);
      }
    }
    expect(calls.counts.read).toBeGreaterThan(0);
    await disk.close();
  });

  it('never waits for a cold read on the event loop, and completes a partly cached one', async () => {
    const calls = faultCalls({
      readCachedNow: (descriptor, target, offset) =>
        nodeCalls.readCachedNow(descriptor, target.subarray(0, 100), offset),
      read: (descriptor, target, offset) => nodeCalls.read(descriptor, target.subarray(0, 1000), offset),
    });
    const disk = await newDisk(MIB, calls);
    const data = randomBytes(5000);
    await disk.write(data, 10);
    expect(await readAll(disk, 10, 5000)).toEqual(data);
    expect(calls.counts).toMatchObject({ readCachedNow: 1, read: 5 });
    await disk.close();
  });

  it('does without cached reads where the file system has none, after one attempt', async () => {
    const calls = faultCalls({
      readCachedNow: () => {
        throw systemError('EOPNOTSUPP');
      },
    });
    const disk = await newDisk(MIB, calls);
    await disk.write(Buffer.from('abc'), 0);
    expect((await readAll(disk, 0, 3)).toString()).toBe('abc');
    expect((await readAll(disk, 0, 3)).toString()).toBe('abc');
    expect(calls.counts).toMatchObject({ readCachedNow: 1, read: 2 });
    await disk.close();
  });

  it('continues short writes until all is written, inline and in the pool', async () => {
    const calls = faultCalls({
      writeNow: (descriptor, data, offset) => nodeCalls.writeNow(descriptor, data.subarray(0, 1000), offset),
      write: (descriptor, data, offset) => nodeCalls.write(descriptor, data.subarray(0, 100_000), offset),
    });
    const disk = await newDisk(4 * MIB, calls);
    const short = randomBytes(4096);
    const long = randomBytes(MIB);
    await disk.write(short, 7);
    await disk.write(long, MIB + 1);
    expect(await readAll(disk, 7, short.length)).toEqual(short);
    expect((await readAll(disk, MIB + 1, long.length)).equals(long)).toBe(true);
    expect(calls.counts).toMatchObject({ writeNow: 5, write: 11 });
    await disk.close();
  });

  it('writes more than 256 KiB in the thread pool only', async () => {
    const calls = faultCalls();
    const disk = await newDisk(4 * MIB, calls);
    await disk.write(Buffer.alloc(256 * KIB + 1, 1), 0);
    expect(calls.counts).toMatchObject({ writeNow: 0, write: 1 });
    await disk.write(Buffer.alloc(256 * KIB, 1), 0);
    expect(calls.counts).toMatchObject({ writeNow: 1, write: 1 });
    await disk.close();
  });

  describe('whose writes become slow', () => {
    const data = Buffer.alloc(10, 1);

    /** A disk on which each inline write takes `write.ms`, and waits, or is only kept from its CPU. */
    async function slowingDisk() {
      let nowMs = 0;
      let waits = 7;
      const write = { ms: 0.5, waits: false, asked: 0 };
      const calls = faultCalls({
        nowMs: () => nowMs,
        waits: () => {
          write.asked += 1;
          return waits;
        },
        writeNow: (descriptor, bytes, offset) => {
          nowMs += write.ms;
          if (write.waits) waits += 1;
          return nodeCalls.writeNow(descriptor, bytes, offset);
        },
      });
      const disk = await newDisk(MIB, calls);
      const pass = (ms: number): void => {
        nowMs += ms;
        // In between the thread waits for its clients.
        waits += 1;
      };
      return { disk, calls, write, pass };
    }

    it('sends them to the thread pool for a while once one has waited over a millisecond after another slow one', async () => {
      const { disk, calls, write, pass } = await slowingDisk();
      await disk.write(data, 0);
      Object.assign(write, { ms: 5, waits: true });
      await disk.write(data, 0);
      await disk.write(data, 0);
      expect(calls.counts).toMatchObject({ writeNow: 3, write: 0 });
      await disk.write(data, 0);
      expect(calls.counts).toMatchObject({ writeNow: 3, write: 1 });
      pass(21);
      await disk.write(data, 0);
      expect(calls.counts).toMatchObject({ writeNow: 4, write: 1 });
      // Twice as long this time.
      pass(21);
      await disk.write(data, 0);
      expect(calls.counts).toMatchObject({ writeNow: 4, write: 2 });
      pass(20);
      Object.assign(write, { ms: 0.5, waits: false });
      await disk.write(data, 0);
      expect(calls.counts).toMatchObject({ writeNow: 5, write: 2 });
      await disk.close();
    });

    it('sends them to the thread pool also when they are seldom', async () => {
      const { disk, calls, write, pass } = await slowingDisk();
      Object.assign(write, { ms: 15, waits: true });
      for (let count = 0; count < 40; count += 1) {
        await disk.write(data, 0);
        pass(25);
      }
      expect(calls.counts.writeNow).toBeLessThan(10);
      await disk.close();
    });

    it('keeps them on the event loop when it only was not given the CPU', async () => {
      const { disk, calls, write, pass } = await slowingDisk();
      write.ms = 5;
      for (let count = 0; count < 10; count += 1) {
        await disk.write(data, 0);
        pass(1);
      }
      expect(calls.counts).toMatchObject({ writeNow: 10, write: 0 });
      await disk.close();
    });

    it('asks once for writes that follow each other closely, and holds what one write waited for against no other', async () => {
      const { disk, calls, write, pass } = await slowingDisk();
      write.ms = 5;
      await disk.write(data, 0);
      pass(1);
      write.ms = 0.5;
      for (let count = 0; count < 10; count += 1) await disk.write(data, 0);
      expect(write.asked).toBe(1);
      Object.assign(write, { ms: 5, waits: true });
      await disk.write(data, 0);
      expect(calls.counts).toMatchObject({ writeNow: 12, write: 0 });
      await disk.write(data, 0);
      expect(calls.counts).toMatchObject({ writeNow: 12, write: 1 });
      pass(20);
      write.waits = false;
      await disk.write(data, 0);
      await disk.write(data, 0);
      expect(calls.counts).toMatchObject({ writeNow: 14, write: 1 });
      await disk.close();
    });

    it('sends them to the thread pool after one that took as long as only a disk can', async () => {
      const { disk, calls, write } = await slowingDisk();
      write.ms = 21;
      await disk.write(data, 0);
      await disk.write(data, 0);
      expect(calls.counts).toMatchObject({ writeNow: 1, write: 1 });
      await disk.close();
    });
  });

  it.each([
    ['ENOSPC', 'no-space'],
    ['EDQUOT', 'no-space'],
    ['EFBIG', 'no-space'],
    ['EIO', 'io-error'],
    ['EROFS', 'not-permitted'],
    ['EPERM', 'not-permitted'],
    ['EINVAL', 'invalid-request'],
    ['ENXIO', 'io-error'],
  ])('tells %s of a write as %s, wherever it happens', async (errno, code) => {
    const calls = faultCalls({
      writeNow: failNth(nodeCalls.writeNow, 2, errno),
      write: failNth(nodeCalls.write, 1, errno),
    });
    const disk = await newDisk(4 * MIB, calls);
    await disk.write(Buffer.alloc(10), 0);
    expect(() => disk.write(Buffer.alloc(10), 0)).toThrow(expect.objectContaining({ code }));
    await expect(disk.write(Buffer.alloc(MIB), 0)).rejects.toMatchObject({ code });
    await disk.write(Buffer.alloc(10), 0);
    await disk.close();
  });

  it('fails a read that the disk cannot satisfy, in the middle too', async () => {
    const calls = faultCalls({
      readCachedNow: () => 0,
      read: async (descriptor, target, offset) => {
        if (offset > 1000) throw systemError('EIO');
        return nodeCalls.read(descriptor, target.subarray(0, 1500), offset);
      },
    });
    const disk = await newDisk(MIB, calls);
    await expect(disk.read(Buffer.alloc(4000), 0)).rejects.toMatchObject({ code: 'io-error' });
    await disk.close();
  });

  it('refuses mutations that reach past the end, and all when it is read-only', async () => {
    const path = newPath();
    await (await openNodeDisk(path, { createSize: 1000 })).close();
    const disk = await openNodeDisk(path, {});
    const outside = expect.objectContaining({ code: 'invalid-request' });
    expect(() => disk.write(Buffer.alloc(2), 999)).toThrow(outside);
    expect(() => disk.zero(999, 2, false)).toThrow(outside);
    expect(() => disk.punch(-1, 2)).toThrow(outside);
    expect(fs.statSync(path).size).toBe(1000);
    await disk.close();
    const reader = await openNodeDisk(path, { readOnly: true });
    expect(() => reader.write(Buffer.alloc(2), 0)).toThrow(expect.objectContaining({ code: 'not-permitted' }));
    expect(() => reader.zero(0, 2, true)).toThrow(expect.objectContaining({ code: 'not-permitted' }));
    await expect(reader.resize(5)).rejects.toMatchObject({ code: 'not-permitted' });
    await reader.close();
  });

  it('holds what a model holds after any sequence of writes, zeroes and punches', async () => {
    const size = 300_000;
    const range = fc.tuple(fc.nat(size - 1), fc.integer({ min: 1, max: 70_000 }));
    const operation = fc.tuple(fc.constantFrom('write', 'zero', 'allocate', 'punch'), range, fc.nat(255));
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 30 }), async (operations) => {
        const disk = await newDisk(size);
        const model = Buffer.alloc(size);
        for (const [kind, [offset, wanted], value] of operations) {
          const length = Math.min(wanted, size - offset);
          let done = true;
          if (kind === 'write') await disk.write(Buffer.alloc(length, value), offset);
          else if (kind === 'punch') done = await disk.punch(offset, length);
          else await disk.zero(offset, length, kind === 'allocate');
          expect(done).toBe(true);
          model.fill(kind === 'write' ? value : 0, offset, offset + length);
        }
        expect((await readAll(disk)).equals(model)).toBe(true);
        await disk.close();
        fs.unlinkSync(disk.path);
      }),
      { numRuns: 40 },
    );
  });
});

describe('zeroes and holes', () => {
  it('makes holes that are found again', async () => {
    const disk = await newDisk(64 * MIB);
    expect([disk.seekData(0), disk.seekHole(0)]).toEqual([64 * MIB, 0]);
    await disk.write(Buffer.alloc(MIB, 1), 16 * MIB);
    expect([disk.seekData(0), disk.seekHole(16 * MIB)]).toEqual([16 * MIB, 17 * MIB]);
    expect(await disk.punch(16 * MIB, 64 * KIB)).toBe(true);
    expect(disk.seekData(0)).toBe(16 * MIB + 64 * KIB);
    await disk.zero(0, 64 * MIB, false);
    expect(disk.seekData(0)).toBe(64 * MIB);
    expect(fs.statSync(disk.path).blocks).toBe(0);
    expect([disk.seekData(64 * MIB), disk.seekHole(64 * MIB)]).toEqual([64 * MIB, 64 * MIB]);
    await disk.close();
  });

  it('keeps the size of the file when the last bytes are zeroed', async () => {
    const disk = await newDisk(10_000);
    await disk.zero(5000, 5000, true);
    await disk.zero(9999, 1, false);
    expect(fs.statSync(disk.path).size).toBe(10_000);
    await disk.close();
  });

  it('allocates space for zeroes that must not be a hole, and reserves space without changing content', async () => {
    const disk = await newDisk(8 * MIB);
    await disk.zero(0, MIB, true);
    expect(fs.statSync(disk.path).blocks * 512).toBeGreaterThanOrEqual(MIB);
    await disk.write(Buffer.from('kept'), 4 * MIB);
    await disk.reserve(4 * MIB, 3 * MIB);
    // What is short needs no thread.
    expect(disk.reserve(7 * MIB, 64 * KIB)).toBeUndefined();
    await disk.reserve(7 * MIB, MIB);
    expect(fs.statSync(disk.path).blocks * 512).toBeGreaterThanOrEqual(5 * MIB);
    expect((await readAll(disk, 4 * MIB, 4)).toString()).toBe('kept');
    expect(fs.statSync(disk.path).size).toBe(8 * MIB);
    await disk.close();
  });

  it('writes zeroes where the store cannot make them, and does not ask it again', async () => {
    const refuse = (): never => {
      throw systemError('EOPNOTSUPP');
    };
    const calls = faultCalls({ fallocate: refuse, fallocateNow: refuse });
    const disk = await newDisk(8 * MIB, calls);
    await disk.write(Buffer.alloc(8 * MIB, 1), 0);
    await disk.zero(1, 3 * MIB, false);
    await disk.zero(5 * MIB, MIB, true);
    const expected = Buffer.alloc(8 * MIB, 1)
      .fill(0, 1, 3 * MIB + 1)
      .fill(0, 5 * MIB, 6 * MIB);
    expect((await readAll(disk)).equals(expected)).toBe(true);
    const asked = calls.counts.fallocate + calls.counts.fallocateNow;
    expect(asked).toBeLessThanOrEqual(2);
    expect([disk.zeroIsFast(0, 4096, false), disk.zeroIsFast(0, 4096, true)]).toEqual([false, false]);
    await disk.zero(0, 4096, false);
    expect(calls.counts.fallocate + calls.counts.fallocateNow).toBe(asked);
    await disk.close();
  });

  it('answers false to a punch that the store cannot do, and changes nothing', async () => {
    const calls = faultCalls({
      fallocateNow: () => {
        throw systemError('EOPNOTSUPP');
      },
      fallocate: () => Promise.reject(systemError('EOPNOTSUPP')),
    });
    const disk = await newDisk(8 * MIB, calls);
    await disk.write(Buffer.alloc(8 * MIB, 1), 0);
    expect(await disk.punch(0, 4096)).toBe(false);
    expect(await disk.punch(0, 8 * MIB)).toBe(false);
    expect((await readAll(disk)).equals(Buffer.alloc(8 * MIB, 1))).toBe(true);
    await disk.close();
  });

  it('zeroes long ranges in the thread pool only', async () => {
    const calls = faultCalls();
    const disk = await newDisk(512 * MIB, calls);
    await disk.zero(0, 512 * MIB, false);
    await disk.zero(0, 2 * MIB, true);
    expect(await disk.punch(0, 512 * MIB)).toBe(true);
    expect(calls.counts).toMatchObject({ fallocateNow: 0, fallocate: 3, write: 0 });
    await disk.close();
  });

  it('reports a full disk from zeroing and reserving', async () => {
    const calls = faultCalls({
      fallocateNow: () => {
        throw systemError('ENOSPC');
      },
      fallocate: () => Promise.reject(systemError('ENOSPC')),
    });
    const disk = await newDisk(8 * MIB, calls);
    expect(() => disk.zero(0, 4096, true)).toThrow(expect.objectContaining({ code: 'no-space' }));
    await expect(disk.zero(0, 4 * MIB, true)).rejects.toMatchObject({ code: 'no-space' });
    expect(() => disk.reserve(0, 4096)).toThrow(expect.objectContaining({ code: 'no-space' }));
    await expect(disk.reserve(0, 4 * MIB)).rejects.toMatchObject({ code: 'no-space' });
    await disk.close();
  });

  it('takes everything for data where the file system cannot tell', async () => {
    const calls = faultCalls({
      seekNow: () => {
        throw systemError('EINVAL');
      },
    });
    const disk = await newDisk(MIB, calls);
    expect([disk.seekData(5000), disk.seekHole(5000)]).toEqual([5000, MIB]);
    expect(calls.counts.seekNow).toBe(1);
    expect([disk.seekData(MIB), disk.seekHole(MIB)]).toEqual([MIB, MIB]);
    await disk.close();
  });
});

describe('durability and the end', () => {
  it('shares one fdatasync among callers that arrive while another runs', async () => {
    const running: ReturnType<typeof deferred>[] = [];
    const calls = faultCalls({
      fdatasync: () => {
        const call = deferred();
        running.push(call);
        return call.promise;
      },
    });
    const disk = await newDisk(MIB, calls);
    const done: string[] = [];
    const note = (name: string) => () => done.push(name);
    const first = disk.sync().then(note('first'));
    await settle();
    const others = ['second', 'third', 'fourth'].map((name) => disk.sync().then(note(name)));
    await settle();
    expect(running).toHaveLength(1);
    running[0]!.resolve();
    await first;
    await settle();
    expect(done).toEqual(['first']);
    expect(running).toHaveLength(2);
    running[1]!.resolve();
    await Promise.all(others);
    expect(running).toHaveLength(2);
    await disk.close();
  });

  it('resolves a caller only after an fdatasync that started after its call, whenever it joins', async () => {
    let written = 0;
    let durable = 0;
    const calls = faultCalls({
      fdatasync: async () => {
        const covered = written;
        for (let turn = 0; turn < 3; turn += 1) await settle();
        durable = Math.max(durable, covered);
      },
    });
    const disk = await newDisk(MIB, calls);
    await Promise.all(
      Array.from({ length: 50 }, async (_, index) => {
        for (let turn = 0; turn < index % 11; turn += 1) await settle();
        written += 1;
        const own = written;
        await disk.sync();
        expect(durable).toBeGreaterThanOrEqual(own);
      }),
    );
    expect(calls.counts.fdatasync).toBeLessThan(20);
    await disk.close();
  });

  it('runs at most two fdatasync calls at a time over all disks', async () => {
    let running = 0;
    let most = 0;
    const calls = faultCalls({
      fdatasync: async () => {
        running += 1;
        most = Math.max(most, running);
        await settle();
        running -= 1;
      },
    });
    const disks = await Promise.all(Array.from({ length: 6 }, () => newDisk(MIB, calls)));
    await Promise.all(disks.map((disk) => disk.sync()));
    expect([most, calls.counts.fdatasync]).toEqual([2, 6]);
    await Promise.all(disks.map((disk) => disk.close()));
  });

  it('tells an identity that a power loss does not take back only after an fsync', async () => {
    const gate = deferred();
    const calls = faultCalls({ fsync: (descriptor) => gate.promise.then(() => nodeCalls.fsync(descriptor)) });
    const disk = await newDisk(MIB, calls);
    await disk.write(Buffer.from('x'), 0);
    let told = false;
    const telling = disk.durableIdentity().finally(() => {
      told = true;
    });
    await settle();
    expect(told).toBe(false);
    gate.resolve();
    expect(await telling).toEqual(await disk.identity());
    expect([calls.counts.fsync, calls.counts.fdatasync]).toEqual([1, 0]);
    await disk.close();
  });

  it('tells no identity when the fsync fails', async () => {
    const disk = await newDisk(MIB, faultCalls({ fsync: failNth(nodeCalls.fsync, 1, 'EIO') }));
    await expect(disk.durableIdentity()).rejects.toMatchObject({ code: 'io-error' });
    await disk.close();
    await expect(disk.durableIdentity()).rejects.toMatchObject({ code: 'shutting-down' });
  });

  it('fails all callers of a failed fdatasync, and only those', async () => {
    const calls = faultCalls({
      fdatasync: failNth(() => Promise.resolve(), 1, 'EIO'),
    });
    const disk = await newDisk(MIB, calls);
    const outcomes = await Promise.allSettled([disk.sync(), disk.sync()]);
    expect(outcomes.map((outcome) => outcome.status)).toEqual(['rejected', 'rejected']);
    await expect(disk.sync()).resolves.toBeUndefined();
    expect(outcomes[0]).toMatchObject({ reason: { code: 'io-error' } });
    await disk.close();
  });

  it('waits for calls in flight before it closes the descriptor, and refuses later ones', async () => {
    const gate = deferred();
    let open = true;
    const calls = faultCalls({
      write: async (descriptor, data, offset) => {
        await gate.promise;
        open = fs.fstatSync(descriptor).isFile();
        return nodeCalls.write(descriptor, data, offset);
      },
    });
    const disk = await newDisk(4 * MIB, calls);
    const write = disk.write(Buffer.alloc(MIB, 7), 0);
    let closed = false;
    const closing = disk.close().then(() => {
      closed = true;
    });
    await settle();
    expect(closed).toBe(false);
    expect(() => disk.read(Buffer.alloc(1), 0)).toThrow(expect.objectContaining({ code: 'shutting-down' }));
    await expect(disk.sync()).rejects.toMatchObject({ code: 'shutting-down' });
    gate.resolve();
    await write;
    await closing;
    expect(open).toBe(true);
    await disk.close();
    expect(fs.readFileSync(disk.path).subarray(0, MIB).equals(Buffer.alloc(MIB, 7))).toBe(true);
  });

  it('grows and shrinks, and tells its identity', async () => {
    const disk = await newDisk(MIB);
    const before = await disk.identity();
    await disk.resize(2 * MIB);
    expect([disk.size, fs.statSync(disk.path).size]).toEqual([2 * MIB, 2 * MIB]);
    await disk.write(Buffer.from('x'), 2 * MIB - 1);
    await disk.resize(4096);
    expect(fs.statSync(disk.path).size).toBe(4096);
    const after = await disk.identity();
    expect(after.inode).toBe(before.inode);
    expect(after.size).toBe(4096);
    expect(after.modifiedNs).toBe(fs.statSync(disk.path, { bigint: true }).mtimeNs);
    await expect(disk.resize(-1)).rejects.toMatchObject({ code: 'invalid-request' });
    await disk.close();
  });

  it('keeps its size when growing fails', async () => {
    const calls = faultCalls({ truncate: failNth(nodeCalls.truncate, 2, 'EFBIG') });
    const disk = await newDisk(MIB, calls);
    await expect(disk.resize(2 * MIB)).rejects.toMatchObject({ code: 'no-space' });
    expect(disk.size).toBe(MIB);
    await disk.close();
  });

  it('reads ahead without waiting, and drops advice beyond two at a time', async () => {
    const gate = deferred();
    const calls = faultCalls({ advise: () => gate.promise });
    const disk = await newDisk(MIB, calls);
    for (let index = 0; index < 10; index += 1) disk.readAhead(0, MIB);
    expect(calls.counts.advise).toBe(2);
    gate.resolve();
    await settle();
    disk.readAhead(0, MIB);
    expect(calls.counts.advise).toBe(3);
    await disk.close();
    disk.readAhead(0, MIB);
  });
});
