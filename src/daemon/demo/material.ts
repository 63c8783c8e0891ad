/** What the demonstration writes: a file system with files in it, or, without mkfs.ext4, data that looks like files. */
import { MIB } from '../../base/units.ts';
import type { Disk } from '../../io/disk.ts';
import { nodeFileSystem } from '../../io/node-file-system.ts';
import { findProgram, runToEnd } from '../../io/programs.ts';
import type { Random } from '../../io/random.ts';
import type { TemporaryFolder } from '../../io/temporary-folder.ts';

/** Stands in every block that is written: to be seen on the wire if anything were sent in clear. */
export const MARKER = Buffer.from('nbdtwin demonstration: this text travels encrypted. ');

const FILE_COUNT = 120;
const FILE_SIZE = MIB / 2;
const FOLDER_COUNT = 8;

export interface Material {
  /** For people: what it is. */
  readonly description: string;
  readonly isFileSystem: boolean;
  /** An image of the size asked for, sparse. To be closed. */
  readonly image: Disk;
}

/** Makes an image of `size` bytes in the folder. Failures: `program-failed`, those of the disk. */
export async function makeMaterial(folder: TemporaryFolder, size: number, random: Random): Promise<Material> {
  const mkfs = findProgram('mkfs.ext4');
  const path = folder.join('material.img');
  if (mkfs === undefined) {
    const image = await nodeFileSystem.openDisk(path, { createSize: size });
    for (let index = 0; index < FILE_COUNT; index += 1) {
      await image.write(fileContent(FILE_SIZE, random), Math.floor((size / FILE_COUNT) * index));
    }
    return { description: `${FILE_COUNT} pieces of generated data (no mkfs.ext4 here)`, isFileSystem: false, image };
  }
  for (let index = 0; index < FILE_COUNT; index += 1) {
    const name = `files/${index % FOLDER_COUNT}`;
    await folder.makeFolder(name);
    await folder.writeFile(`${name}/file-${index}.txt`, fileContent(FILE_SIZE, random));
  }
  // -E root_owner: the files are to belong to whoever mounts the file system.
  const settings = ['-q', '-F', '-L', 'nbdtwin-demo', '-d', folder.join('files')];
  await runToEnd([mkfs, ...settings, path, `${size / 1024}k`]);
  const image = await nodeFileSystem.openDisk(path, { readOnly: true });
  return { description: `an ext4 file system with ${FILE_COUNT} files`, isFileSystem: true, image };
}

/** Text with the marker again and again, each time followed by random letters, so that no two blocks are equal. */
export function fileContent(size: number, random: Random): Buffer {
  const content = Buffer.alloc(size, MARKER);
  const salt = random.bytes(SALT_SIZE);
  for (let offset = 0; offset + SALT_SIZE <= size; offset += SALT_STEP) {
    salt.writeUInt32LE(offset);
    salt.copy(content, offset);
  }
  return content;
}

const SALT_SIZE = 32;
const SALT_STEP = 512;
