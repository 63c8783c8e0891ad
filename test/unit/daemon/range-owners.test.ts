import { describe, expect, it } from 'vitest';
import { fileSystemOf, inodesIn, pathsIn, usesIn } from '../../../src/daemon/range-owners.ts';

describe('the file system on a disk', () => {
  it('is told by its magic at the start of the disk', () => {
    const ext = Buffer.alloc(2048);
    expect(fileSystemOf(ext)).toBeUndefined();
    ext.writeUInt16LE(0xef53, 1080);
    ext.writeUInt32LE(2, 1048);
    expect(fileSystemOf(ext)).toEqual({ kind: 'ext', blockSize: 4096 });
    ext.writeUInt32LE(7, 1048);
    expect(fileSystemOf(ext)).toBeUndefined();
    expect(fileSystemOf(Buffer.from('XFSB'.padEnd(2048, '\0')))).toEqual({ kind: 'xfs' });
  });
});

describe('what debugfs and xfs_db say', () => {
  it('icheck: the inodes of blocks that have one', () => {
    const text = 'Block\tInode number\n1173\t13\n8193\t<block not found>\n9\t8\n';
    expect([...inodesIn(text)]).toEqual([
      [1173, 13],
      [9, 8],
    ]);
  });

  it('ncheck: paths, with spaces in them, and without the doubled slash of the root', () => {
    expect([...pathsIn('Inode\tPathname\n12\t//dir\n13\t/dir/a file.bin\n')]).toEqual([
      [12, '/dir'],
      [13, '/dir/a file.bin'],
    ]);
  });

  it('blockuse: one answer for each question, also where nothing is used', () => {
    const text =
      'block 32792 (1/24) type data inode 262273 dir/a file\nblock 12 (0/12) type free2\nblock 16 (0/16) type inode inode 99\n';
    expect(usesIn(text)).toEqual(['/dir/a file', undefined, 'inode 99']);
    expect(usesIn('xfs_db: cannot read\n')).toEqual([]);
  });
});
