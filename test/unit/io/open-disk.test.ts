import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import type { OpenOptions } from '../../../src/io/disk.ts';
import { nodeFileSystem as files } from '../../../src/io/node-file-system.ts';
import { openNodeDisk } from '../../../src/io/node-open-disk.ts';
import { needPrograms } from '../../support/peers.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { faultCalls, systemError } from './fault-calls.ts';

function newFile(size: number): string {
  const path = join(temporaryFolder(), 'disk');
  fs.writeFileSync(path, '');
  fs.truncateSync(path, size);
  return path;
}

/** Opens the disk in a process of its own; it says `open` or a failure's code, and ends with its standard input. */
async function openElsewhere(
  path: string,
  options: OpenOptions,
): Promise<{ said: string; end: () => Promise<unknown> }> {
  const script = `
    import { nodeFileSystem } from ${JSON.stringify(new URL('../../../dist/io/node-file-system.js', import.meta.url))};
    await nodeFileSystem.openDisk(${JSON.stringify(path)}, ${JSON.stringify(options)}).then(
      () => console.log('open'),
      (error) => console.log(error.code),
    );
    process.stdin.resume();
    process.stdin.on('end', () => process.exit());`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [said] = (await once(child.stdout.setEncoding('utf8'), 'data')) as [string];
  return {
    said: said.trim(),
    end: () => {
      const ended = once(child, 'exit');
      child.stdin.end();
      return ended;
    },
  };
}

describe('opening a disk', () => {
  it('makes a sparse one of the size asked for, and refuses to make it twice', async () => {
    const path = join(temporaryFolder(), 'disk');
    const disk = await files.openDisk(path, { createSize: 10 * MIB, lock: 'exclusive' });
    expect([disk.size, disk.kind, fs.statSync(path).blocks]).toEqual([10 * MIB, 'file', 0]);
    expect(fs.statSync(path).mode & 0o777).toBe(0o600);
    await disk.close();
    await expect(files.openDisk(path, { createSize: MIB })).rejects.toMatchObject({ code: 'disk-exists' });
    expect(fs.statSync(path).size).toBe(10 * MIB);
  });

  it('leaves nothing behind when a disk cannot be made', async () => {
    const path = join(temporaryFolder(), 'disk');
    const calls = faultCalls({ truncate: () => Promise.reject(systemError('EFBIG')) });
    await expect(openNodeDisk(path, { createSize: MIB }, calls)).rejects.toMatchObject({ code: 'disk-too-large' });
    expect(fs.existsSync(path)).toBe(false);
    await expect(files.openDisk(path, { createSize: 0 })).rejects.toMatchObject({ code: 'disk-empty' });
    expect(fs.existsSync(path)).toBe(false);
    const elsewhere = join(temporaryFolder(), 'missing', 'disk');
    await expect(files.openDisk(elsewhere, { createSize: MIB })).rejects.toMatchObject({
      code: 'directory-missing',
      message: `cannot make ${elsewhere}: its folder does not exist`,
    });
  });

  it('refuses what is missing, empty or no disk', async () => {
    const folder = temporaryFolder();
    await expect(files.openDisk(join(folder, 'none'), {})).rejects.toMatchObject({ code: 'disk-missing' });
    await expect(files.openDisk(join(newFile(1), 'below'), {})).rejects.toMatchObject({ code: 'disk-missing' });
    await expect(files.openDisk(newFile(0), {})).rejects.toMatchObject({ code: 'disk-empty' });
    await expect(files.openDisk(folder, {})).rejects.toMatchObject({ code: 'disk-not-a-disk' });
    await expect(files.openDisk('/dev/null', {})).rejects.toMatchObject({ code: 'disk-not-a-disk' });
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    await expect(files.openDisk(pipe, {})).rejects.toMatchObject({ code: 'disk-not-a-disk' });
    const socket = join(folder, 'socket');
    const server = createServer().listen(socket);
    onTestFinished(() => void server.close());
    await once(server, 'listening');
    await expect(files.openDisk(socket, {})).rejects.toMatchObject({ code: 'disk-not-a-disk' });
  });

  it('refuses a disk that another process holds, until that ends', async () => {
    const path = newFile(MIB);
    const other = await openElsewhere(path, { lock: 'exclusive' });
    expect(other.said).toBe('open');
    await expect(files.openDisk(path, { lock: 'exclusive' })).rejects.toMatchObject({ code: 'disk-busy' });
    await expect(files.openDisk(path, { lock: 'shared', readOnly: true })).rejects.toMatchObject({ code: 'disk-busy' });
    await (await files.openDisk(path, { lock: 'none' })).close();
    await other.end();
    const disk = await files.openDisk(path, { lock: 'exclusive' });
    expect((await openElsewhere(path, { lock: 'exclusive' })).said).toBe('disk-busy');
    await disk.close();
    expect((await openElsewhere(path, { lock: 'exclusive' })).said).toBe('open');
  });

  it('lets readers share a disk and keeps a writer off meanwhile', async () => {
    const path = newFile(MIB);
    const reader = await files.openDisk(path, { lock: 'shared', readOnly: true });
    expect((await openElsewhere(path, { lock: 'shared', readOnly: true })).said).toBe('open');
    expect((await openElsewhere(path, { lock: 'exclusive' })).said).toBe('disk-busy');
    await reader.close();
  });

  it('makes state files when they are missing and keeps what is in them', async () => {
    const path = join(temporaryFolder(), 'state');
    const state = await files.openState(path);
    expect(state.size).toBe(0);
    await state.resize(100);
    await state.write(Buffer.from('abc'), 50);
    await state.close();
    const again = await files.openState(path);
    const target = Buffer.alloc(3);
    await again.read(target, 50);
    expect([again.size, target.toString(), fs.statSync(path).mode & 0o777]).toEqual([100, 'abc', 0o600]);
    await again.close();
    await expect(files.openState(temporaryFolder())).rejects.toMatchObject({ code: 'state-unwritable' });
    await expect(files.openState(join(path, 'below'))).rejects.toMatchObject({ code: 'state-unwritable' });
  });
});

needPrograms(
  'opening a disk on a small or read-only file system',
  'root',
  'mount',
  'umount',
)(() => {
  function mountSmall(size: number): string {
    const folder = temporaryFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'nbdtwin-test', folder]);
    onTestFinished(() => void execFileSync('umount', [folder]));
    return folder;
  }

  it('reports a full file system as no-space and keeps what was written before', async () => {
    const disk = await files.openDisk(join(mountSmall(MIB), 'disk'), { createSize: 8 * MIB });
    const block = Buffer.alloc(64 * 1024, 7);
    let written = 0;
    await expect(
      (async () => {
        for (; written < disk.size; written += block.length) await disk.write(block, written);
      })(),
    ).rejects.toMatchObject({ code: 'no-space' });
    expect(written).toBeGreaterThan(0);
    await expect((async () => disk.write(Buffer.alloc(2 * MIB, 8), 4 * MIB))()).rejects.toMatchObject({
      code: 'no-space',
    });
    const target = Buffer.alloc(written);
    await disk.read(target, 0);
    expect(target.equals(Buffer.alloc(written, 7))).toBe(true);
    expect(await disk.punch(0, written)).toBe(true);
    await disk.write(block, 0);
    await disk.close();
  });

  it('zeroes in place on a file system that cannot zero ranges', async () => {
    const disk = await files.openDisk(join(mountSmall(8 * MIB), 'disk'), { createSize: 4 * MIB });
    await disk.write(Buffer.alloc(4 * MIB, 7), 0);
    expect(disk.zeroIsFast(0, 4096, true)).toBe(false);
    await disk.zero(100, 2 * MIB, true);
    const target = Buffer.alloc(4 * MIB);
    await disk.read(target, 0);
    expect(target.equals(Buffer.alloc(4 * MIB, 7).fill(0, 100, 100 + 2 * MIB))).toBe(true);
    expect(fs.statSync(disk.path).blocks * 512).toBe(4 * MIB);
    await disk.close();
  });

  it('refuses to write on a read-only file system, but reads', async () => {
    const folder = mountSmall(8 * MIB);
    const path = join(folder, 'disk');
    fs.writeFileSync(path, 'content');
    execFileSync('mount', ['-o', 'remount,ro', folder]);
    await expect(files.openDisk(path, { lock: 'exclusive' })).rejects.toMatchObject({ code: 'disk-read-only' });
    await expect(files.openDisk(join(folder, 'new'), { createSize: 5 })).rejects.toMatchObject({
      code: 'directory-read-only',
    });
    await expect(files.openState(path)).rejects.toMatchObject({ code: 'state-unwritable' });
    await expect(files.lockDirectory(folder)).rejects.toMatchObject({ code: 'directory-read-only' });
    const disk = await files.openDisk(path, { readOnly: true, lock: 'shared' });
    expect(disk.size).toBe(7);
    await disk.close();
  });
});
