import { describe, expect, it } from 'vitest';
import { findExports } from '../../../src/mirror/find-exports.ts';
import { MemoryFiles } from '../../support/memory-files.ts';

const STATE = Buffer.from('state');

describe('the exports of a mirror’s directory', () => {
  it('are the images with a state beside them, in nested folders too, sorted', async () => {
    const files = new MemoryFiles();
    for (const name of ['b', 'a', 'host/disk', 'host/deep/er/disk', 'host', 'a-b.c_d']) {
      files.put(`/m/${name}.img`, Buffer.alloc(1));
      files.put(`/m/${name}.img.twin/mirror`, STATE);
    }
    expect(await findExports(files, '/m')).toEqual(['a', 'a-b.c_d', 'b', 'host', 'host/deep/er/disk', 'host/disk']);
  });

  it('are found by their state, also when the image is missing: the mirror will say so', async () => {
    const files = new MemoryFiles();
    files.put('/m/gone.img.twin/mirror', STATE);
    expect(await findExports(files, '/m')).toEqual(['gone']);
  });

  it('are not images without state, states elsewhere, the lock, nor anything inside a folder of state', async () => {
    const files = new MemoryFiles();
    files.put('/m/stranger.img', Buffer.alloc(1));
    files.put('/m/lock', Buffer.alloc(0));
    files.put('/m/half.img.twin/other', STATE);
    files.put('/m/folder/mirror', STATE);
    files.put('/m/x.img.twin/inner.img.twin/mirror', STATE);
    files.put('/m/x.twin/mirror', STATE);
    expect(await findExports(files, '/m')).toEqual([]);
  });

  it('are looked for 16 folders deep', async () => {
    const files = new MemoryFiles();
    const path = (depth: number): string => `${'d/'.repeat(depth)}disk`;
    files.put(`/m/${path(15)}.img.twin/mirror`, STATE);
    files.put(`/m/${path(16)}.img.twin/mirror`, STATE);
    expect(await findExports(files, '/m')).toEqual([path(15)]);
  });

  it('of an empty directory are none', async () => {
    const files = new MemoryFiles();
    await files.makeDirectory('/m');
    expect(await findExports(files, '/m')).toEqual([]);
  });
});
