import { join } from 'node:path';
import { nodeFileSystem } from '../../../src/io/node-file-system.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { OrderedVolume } from '../../../src/volume/ordered-volume.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';
import { describeOrderingConformance, describeVolumeConformance } from '../../support/volume-conformance.ts';

/** What the volumes of memory promise, a file of the operating system must keep. */
const options = {
  runs: 20,
  make: async (size: number) => {
    const path = join(temporaryFolder(), 'disk.img');
    const disk = await nodeFileSystem.openDisk(path, { createSize: size, lock: 'exclusive' });
    const volume = new OrderedVolume(new DiskVolume(disk));
    return { volume, close: () => volume.close() };
  },
};

describeVolumeConformance('OrderedVolume over a real file', options);
describeOrderingConformance('OrderedVolume over a real file', options);
