import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { digestOf } from '../../../src/io/digest.ts';
import type { Disk } from '../../../src/io/disk.ts';
import { nodeFileSystem as files } from '../../../src/io/node-file-system.ts';
import { nodeScanPool, type ScanPoolOptions } from '../../../src/io/node-scan-pool.ts';
import type { ScanPool, ScanRequest, ScanResult } from '../../../src/io/scan-pool.ts';
import { inlineScanPool } from '../../support/inline-scan-pool.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const KEY = randomBytes(16);

async function newDisk(size: number): Promise<Disk> {
  const disk = await files.openDisk(join(temporaryFolder(), 'disk'), { createSize: size });
  onTestFinished(() => disk.close());
  return disk;
}

function newPool(options: ScanPoolOptions = { threads: 2 }): ScanPool {
  const pool = nodeScanPool(options);
  onTestFinished(() => pool.close());
  return pool;
}

/** What a scan must say of this content, worked out the plain way. */
function expected(content: Buffer, request: ScanRequest): ScanResult {
  const units = Math.ceil(request.length / request.unitSize);
  const result = { zero: new Uint8Array(units), digests: new Uint8Array(units * 16) };
  for (let unit = 0; unit < units; unit += 1) {
    const offset = request.offset + unit * request.unitSize;
    const end = Math.min(offset + request.unitSize, request.offset + request.length);
    const data = content.subarray(offset, end);
    if (data.every((byte) => byte === 0)) result.zero[unit] = 1;
    else result.digests.set(digestOf(data, request.key, offset, request.unitSize), unit * 16);
  }
  return result;
}

function same(found: ScanResult, wanted: ScanResult): boolean {
  return Buffer.compare(found.zero, wanted.zero) === 0 && Buffer.compare(found.digests, wanted.digests) === 0;
}

describe.each([
  ['threads', newPool],
  ['one thread', () => newPool({ threads: 1 })],
  ['no threads', inlineScanPool],
])('a scan with %s', (_name, makePool) => {
  it('digests data, finds holes and written zeroes, at every unit size and in a short last unit', async () => {
    const size = 24 * MIB + 5 * KIB + 123;
    const disk = await newDisk(size);
    const content = Buffer.alloc(size);
    const put = async (data: Buffer, offset: number): Promise<void> => {
      await disk.write(data, offset);
      data.copy(content, offset);
    };
    await put(randomBytes(3 * MIB), 0);
    await put(Buffer.alloc(2 * MIB), 5 * MIB);
    await put(Buffer.from([1]), 9 * MIB + 4095);
    await put(Buffer.from([1]), 12 * MIB);
    await put(randomBytes(100), size - 50 * KIB);
    await put(Buffer.from([7]), size - 1);
    const pool = makePool();
    for (const unitSize of [4 * KIB, 64 * KIB, MIB]) {
      for (const request of [
        { offset: 0, length: size, unitSize, key: KEY },
        { offset: 4 * MIB, length: 8 * MIB, unitSize, key: KEY },
        { offset: 23 * MIB, length: size - 23 * MIB, unitSize, key: KEY },
        { offset: 0, length: unitSize, unitSize, key: KEY },
      ]) {
        expect(same(await pool.scan(disk, request), expected(content, request))).toBe(true);
      }
    }
  });

  it('takes a disk that is one hole for zeroes, and finds a byte that is not', async () => {
    const disk = await newDisk(64 * MIB);
    const pool = makePool();
    const request = { offset: 0, length: 64 * MIB, unitSize: 64 * KIB, key: KEY };
    const before = await pool.scan(disk, request);
    expect(before.zero.every((flag) => flag === 1)).toBe(true);
    expect(before.digests.every((byte) => byte === 0)).toBe(true);
    await disk.write(Buffer.from([1]), 33 * MIB + 77);
    const after = await pool.scan(disk, request);
    expect([...after.zero.keys()].filter((unit) => after.zero[unit] === 0)).toEqual([33 * 16]);
    expect(Buffer.from(after.digests.subarray(33 * 256, 33 * 256 + 16)).every((byte) => byte === 0)).toBe(false);
  });

  it('runs many scans at once, each with its own result', async () => {
    const disk = await newDisk(32 * MIB);
    const content = randomBytes(32 * MIB);
    await disk.write(content, 0);
    const pool = makePool();
    const requests = Array.from({ length: 40 }, (_, index) => ({
      offset: (index % 32) * MIB,
      length: MIB,
      unitSize: index % 2 === 0 ? 64 * KIB : MIB,
      key: randomBytes(16),
    }));
    const results = await Promise.all(requests.map((request) => pool.scan(disk, request)));
    expect(results.every((result, index) => same(result, expected(content, requests[index]!)))).toBe(true);
  });

  it.each([
    ['outside the disk', { offset: 0, length: 2 * MIB }],
    ['of nothing', { length: 0 }],
    ['from the middle of a unit', { offset: 512 * KIB }],
    ['that ends inside a unit before the end', { length: 100 }],
    ['with units that are no power of two', { unitSize: 3000, length: 3000 }],
    ['with units larger than a step', { unitSize: 8 * MIB }],
  ])('refuses a range %s', async (_name, change) => {
    const disk = await newDisk(MIB);
    const request = { offset: 0, length: MIB, unitSize: MIB, key: KEY, ...change };
    await expect(makePool().scan(disk, request)).rejects.toMatchObject({ code: 'invalid-request' });
  });

  it('refuses more units than its limit', async () => {
    const disk = await newDisk(512 * MIB);
    const request = { offset: 0, length: 65_537 * 4 * KIB, unitSize: 4 * KIB, key: KEY };
    await expect(makePool().scan(disk, request)).rejects.toMatchObject({ code: 'invalid-request' });
  });

  it('refuses scans after it was closed', async () => {
    const disk = await newDisk(MIB);
    const pool = makePool();
    await pool.close();
    await pool.close();
    const request = { offset: 0, length: MIB, unitSize: MIB, key: KEY };
    await expect(pool.scan(disk, request)).rejects.toMatchObject({ code: 'shutting-down' });
  });
});

describe('threads of a scan', () => {
  const whole = (disk: Disk): ScanRequest => ({ offset: 0, length: disk.size, unitSize: 64 * KIB, key: KEY });

  it('reject what is under way when the pool is closed', async () => {
    const disk = await newDisk(64 * MIB);
    await disk.write(randomBytes(64 * MIB), 0);
    const pool = newPool();
    const scans = Array.from({ length: 8 }, () => pool.scan(disk, whole(disk)));
    const outcomes = Promise.allSettled(scans);
    await pool.close();
    for (const outcome of await outcomes) expect(outcome).toMatchObject({ reason: { code: 'shutting-down' } });
  });

  it('keep the disk open until they are done with it', async () => {
    const disk = await newDisk(64 * MIB);
    const content = randomBytes(64 * MIB);
    await disk.write(content, 0);
    const scan = newPool().scan(disk, whole(disk));
    await disk.close();
    const result = await scan;
    expect(same(result, expected(content, whole(disk)))).toBe(true);
  });

  it('report what the system says of a disk that cannot be read', async () => {
    // Reading a directory by its descriptor fails with EISDIR, as a broken disk fails with EIO.
    const folder = temporaryFolder();
    const descriptor = fs.openSync(folder, 'r');
    onTestFinished(() => fs.closeSync(descriptor));
    const disk = { path: folder, size: MIB, descriptor, seekData: (offset: number) => offset } as Disk;
    await expect(newPool().scan(disk, whole(disk))).rejects.toMatchObject({ code: 'io-error' });
  });

  it('fail the scans of a thread that dies, and are replaced', async () => {
    const disk = await newDisk(MIB);
    await disk.write(randomBytes(MIB), 0);
    const flag = join(temporaryFolder(), 'died');
    const real = new URL('../../../dist/io/scan-worker.js', import.meta.url).href;
    const script = join(temporaryFolder(), 'worker.mjs');
    // The first thread ends at its first message; later ones are real.
    fs.writeFileSync(
      script,
      `import fs from 'node:fs';
       import { parentPort } from 'node:worker_threads';
       if (fs.existsSync(${JSON.stringify(flag)})) await import(${JSON.stringify(real)});
       else parentPort.on('message', () => { fs.writeFileSync(${JSON.stringify(flag)}, ''); process.exit(3); });`,
    );
    const pool = newPool({ threads: 1, workerUrl: pathToFileURL(script) });
    await expect(pool.scan(disk, whole(disk))).rejects.toMatchObject({
      code: 'scan-failed',
      message: expect.stringContaining('scan thread') as unknown,
    });
    expect((await pool.scan(disk, whole(disk))).zero).toHaveLength(16);
  });

  it('digest through the OpenSSL of Node, and those that cannot say so once and digest all the same', async () => {
    const disk = await newDisk(8 * MIB);
    const content = randomBytes(8 * MIB);
    await disk.write(content, 0);
    const told: string[] = [];
    const fast = newPool({ threads: 2, slowDigests: () => told.push('fast') });
    expect(same(await fast.scan(disk, whole(disk)), expected(content, whole(disk)))).toBe(true);
    const real = new URL('../../../dist/io/scan-worker.js', import.meta.url).href;
    const script = join(temporaryFolder(), 'worker.mjs');
    // As in a process that exports no symbols.
    fs.writeFileSync(
      script,
      `import koffi from ${JSON.stringify(new URL('../../../node_modules/koffi/index.js', import.meta.url).href)};
       const load = koffi.load;
       koffi.load = (library) => {
         if (library === null) throw new Error('no symbols');
         return load(library);
       };
       await import(${JSON.stringify(real)});`,
    );
    const slow = newPool({ threads: 2, workerUrl: pathToFileURL(script), slowDigests: () => told.push('slow') });
    expect(same(await slow.scan(disk, whole(disk)), expected(content, whole(disk)))).toBe(true);
    expect(told).toEqual(['slow']);
  });

  it('are not asked about holes', async () => {
    const disk = await newDisk(64 * 1024 * MIB);
    const script = join(temporaryFolder(), 'worker.mjs');
    fs.writeFileSync(script, 'process.exit(3);');
    const pool = newPool({ threads: 1, workerUrl: pathToFileURL(script) });
    const { zero } = await pool.scan(disk, { offset: 0, length: disk.size, unitSize: MIB, key: KEY });
    expect(zero.every((flag) => flag === 1)).toBe(true);
  });

  it('have done with what they hold when a disk cannot tell its holes any more', async () => {
    const disk = await newDisk(64 * MIB);
    await disk.write(randomBytes(64 * MIB), 0);
    let calls = 0;
    disk.seekData = (offset) => {
      calls += 1;
      if (calls > 4) throw new Failure('io-error', 'no holes');
      return offset;
    };
    await expect(newPool().scan(disk, whole(disk))).rejects.toMatchObject({ code: 'io-error', message: 'no holes' });
    // Nothing holds it open.
    await disk.close();
  });

  it('do not keep an idle process alive', async () => {
    const path = join(temporaryFolder(), 'disk');
    fs.writeFileSync(path, randomBytes(MIB));
    const url = (name: string): string => JSON.stringify(new URL(`../../../dist/io/${name}.js`, import.meta.url).href);
    const script = `
      import { nodeFileSystem } from ${url('node-file-system')};
      import { nodeScanPool } from ${url('node-scan-pool')};
      const disk = await nodeFileSystem.openDisk(${JSON.stringify(path)}, {});
      const request = { offset: 0, length: disk.size, unitSize: 65536, key: new Uint8Array(16) };
      const { digests } = await nodeScanPool().scan(disk, request);
      console.log(digests.length);`;
    const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      timeout: 30_000,
    });
    expect([child.stdout.trim(), child.status]).toEqual(['256', 0]);
  });
});
