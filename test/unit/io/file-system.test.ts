import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { nodeFileSystem as files } from '../../../src/io/node-file-system.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

describe('files and directories', () => {
  it('reads a file up to a limit, and tells a missing one apart', async () => {
    const path = join(temporaryFolder(), 'file');
    expect(await files.readFile(path, 10)).toBeUndefined();
    fs.writeFileSync(path, 'x'.repeat(10));
    expect((await files.readFile(path, 10))?.toString()).toBe('x'.repeat(10));
    await expect(files.readFile(path, 9)).rejects.toMatchObject({ code: 'overflow' });
    await expect(files.readFile(temporaryFolder(), 10)).rejects.toMatchObject({ code: 'disk-not-a-disk' });
  });

  it('replaces a file whole, for its owner alone, and leaves no temporary file', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'file');
    await files.replaceFile(path, Buffer.from('one'));
    await files.replaceFile(path, Buffer.from('two'));
    expect(fs.readFileSync(path, 'utf8')).toBe('two');
    expect(fs.statSync(path).mode & 0o777).toBe(0o600);
    expect(fs.readdirSync(folder)).toEqual(['file']);
  });

  it('keeps the last of many replacements at once', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'file');
    const contents = Array.from({ length: 20 }, (_, index) => String(index).repeat(1000 - index));
    await Promise.all(contents.map((content) => files.replaceFile(path, Buffer.from(content))));
    expect(fs.readFileSync(path, 'utf8')).toBe(contents.at(-1));
    expect(fs.readdirSync(folder)).toEqual(['file']);
  });

  it('keeps the old file when the new one cannot be written', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'file');
    await files.replaceFile(path, Buffer.from('old'));
    fs.mkdirSync(`${path}.tmp`);
    await expect(files.replaceFile(path, Buffer.from('new'))).rejects.toMatchObject({ code: 'state-unwritable' });
    expect(fs.readFileSync(path, 'utf8')).toBe('old');
    fs.rmdirSync(`${path}.tmp`);
    await files.replaceFile(path, Buffer.from('new'));
    expect(fs.readFileSync(path, 'utf8')).toBe('new');
  });

  it('makes a directory with its parents, and again', async () => {
    const path = join(temporaryFolder(), 'a', 'b', 'c');
    await files.makeDirectory(path);
    await files.makeDirectory(path);
    expect(fs.statSync(path).mode & 0o777).toBe(0o700);
    fs.writeFileSync(join(path, 'file'), '');
    await expect(files.makeDirectory(join(path, 'file', 'x'))).rejects.toMatchObject({ code: 'state-unwritable' });
  });

  it('locks a directory for one process', async () => {
    const folder = temporaryFolder();
    const lock = await files.lockDirectory(folder);
    await expect(files.lockDirectory(folder)).rejects.toMatchObject({ code: 'directory-busy' });
    const script = `
      import { nodeFileSystem } from ${JSON.stringify(new URL('../../../dist/io/node-file-system.js', import.meta.url))};
      await nodeFileSystem.lockDirectory(${JSON.stringify(folder)}).then(() => console.log('locked'), (error) => console.log(error.code));`;
    const elsewhere = () =>
      spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' }).stdout;
    expect(elsewhere().trim()).toBe('directory-busy');
    await lock.release();
    await lock.release();
    expect(elsewhere().trim()).toBe('locked');
    await expect(files.lockDirectory(join(folder, 'none'))).rejects.toMatchObject({ code: 'directory-missing' });
    await expect(files.lockDirectory(join(folder, 'lock'))).rejects.toMatchObject({ code: 'directory-missing' });
  });

  it('tells what stands at a path, lists, removes and syncs', async () => {
    const folder = temporaryFolder();
    fs.writeFileSync(join(folder, 'b'), '');
    fs.mkdirSync(join(folder, 'a'));
    expect(await files.list(folder)).toEqual(['a', 'b']);
    expect(await files.exists(join(folder, 'a'))).toBe('directory');
    expect(await files.exists(join(folder, 'b'))).toBe('file');
    expect(await files.exists('/dev/null')).toBe('other');
    expect(await files.exists(join(folder, 'c'))).toBeUndefined();
    const { bavail, bsize } = fs.statfsSync(folder);
    expect(Math.abs((await files.freeSize(folder)) - bavail * bsize)).toBeLessThan(2 ** 40);
    await expect(files.freeSize(join(folder, 'c'))).rejects.toMatchObject({ code: 'disk-unreadable' });
    await files.remove(join(folder, 'a'));
    await files.remove(join(folder, 'b'));
    await files.remove(join(folder, 'c'));
    expect(fs.readdirSync(folder)).toEqual([]);
    await files.syncDirectory(folder);
    await expect(files.syncDirectory(join(folder, 'c'))).rejects.toMatchObject({ code: 'state-unwritable' });
    await expect(files.list(join(folder, 'c'))).rejects.toMatchObject({ code: 'directory-missing' });
  });
});
