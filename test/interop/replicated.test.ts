import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram } from '../support/run-program.ts';
import { startPair, TRANSPORTS, writeSparsely } from '../support/serving.ts';

const SIZE = 96 * MIB;

needPrograms(
  'peers of a disk with a mirror',
  'nbdcopy',
  'qemu-img',
  'psktool',
  'cmp',
)(() => {
  it.each(TRANSPORTS)(
    'over %s an image goes in, over another, and out again, and the mirror has it',
    async (transport) => {
      const serving = await startPair({ transport, size: SIZE });
      const { folder, uri, qemu } = serving;
      const compare = ['compare', ...qemu.objects, '--image-opts'];
      for (const seed of [1, 2]) {
        const [source, copy] = [join(folder, `source${seed}`), join(folder, `copy${seed}`)];
        writeSparsely(source, SIZE, seed);
        await runProgram('nbdcopy', ['--connections=4', '--requests=64', '--flush', source, uri]);
        const local = `driver=raw,file.driver=file,file.filename=${source}`;
        expect(await runProgram('qemu-img', [...compare, local, qemu.image])).toContain('Images are identical');
        await runProgram('nbdcopy', ['--connections=4', '--requests=64', uri, copy]);
        await runProgram('cmp', [source, copy]);
        await serving.expectSettled();
        for (const image of serving.images) await runProgram('cmp', [source, image]);
      }
      const { lastRescan, sessions } = await serving.daemon.link();
      expect({ shipped: lastRescan?.shippedSize, sessions }).toEqual({ shipped: 0, sessions: 1 });
    },
  );
});
