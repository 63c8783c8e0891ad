import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram, tryProgram } from '../support/run-program.ts';
import { type Serving, startPair, startPlain, TRANSPORTS, writeSparsely } from '../support/serving.ts';

const SIZE = 64 * MIB;

/** qemu-img with the served image in the place of `@`; other images are raw. */
function img({ qemu }: Serving, command: string, ...args: string[]): Promise<string> {
  const rest = args.map((arg) => (arg === '@' ? qemu.image : arg));
  return runProgram('qemu-img', [command, ...qemu.objects, ...rest]);
}

function io({ qemu }: Serving, ...commands: string[]): Promise<string> {
  return runProgram('qemu-io', [
    ...qemu.objects,
    ...commands.flatMap((command) => ['-c', command]),
    '--image-opts',
    qemu.image,
  ]);
}

needPrograms(
  'qemu',
  'qemu-img',
  'qemu-io',
  'psktool',
  'cmp',
)(() => {
  describe.each(TRANSPORTS)('over %s', (transport) => {
    it('qemu-img converts into the disk and out of it, and finds both the same', async () => {
      const serving = await startPlain({ transport });
      const [source, copy] = [join(serving.folder, 'source'), join(serving.folder, 'copy.qcow2')];
      writeSparsely(source, SIZE, 1);
      await img(serving, 'convert', '-n', '-W', '-m', '16', '-f', 'raw', '--target-image-opts', source, '@');
      await runProgram('cmp', [source, serving.disk]);
      const local = `driver=raw,file.driver=file,file.filename=${source}`;
      const compared = await img(serving, 'compare', '--image-opts', local, '@');
      expect(compared).toContain('Images are identical');
      await img(serving, 'convert', '--image-opts', '-O', 'qcow2', '@', copy);
      expect(await runProgram('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', source, copy])).toContain(
        'identical',
      );
    });

    it('qemu-img compare notices a byte that differs', async () => {
      const serving = await startPlain({ transport });
      await io(serving, 'write -P 1 5000001 1', 'flush');
      const empty = join(serving.folder, 'empty');
      await runProgram('truncate', ['-s', String(SIZE), empty]);
      const local = `driver=raw,file.driver=file,file.filename=${empty}`;
      const args = ['compare', ...serving.qemu.objects, '--image-opts', local, serving.qemu.image];
      expect((await tryProgram('qemu-img', args)).status).toBe(1);
    });

    it('qemu-img info and map describe the disk', async () => {
      const serving = await startPlain({ transport });
      await io(serving, 'write -P 7 1M 64k', 'flush');
      const info = JSON.parse(await img(serving, 'info', '--image-opts', '--output', 'json', '@')) as object;
      expect(info).toMatchObject({ 'virtual-size': SIZE, format: 'nbd' });
      const map = JSON.parse(await img(serving, 'map', '--image-opts', '--output', 'json', '@')) as object[];
      expect(map).toMatchObject([
        { start: 0, length: MIB, zero: true, data: false },
        { start: MIB, length: 65_536, zero: false, data: true },
        { start: MIB + 65_536, length: SIZE - MIB - 65_536, zero: true, data: false },
      ]);
    });

    it('qemu-io reads the patterns that it wrote, at any alignment', async () => {
      const serving = await startPlain({ transport });
      const output = await io(
        serving,
        'write -P 1 0 1M',
        'write -P 2 -f 512k 4k',
        'write -P 3 12345 54321',
        'write -z 256k 64k',
        'write -z -u 320k 64k',
        'discard 384k 64k',
        'writev -P 4 2M 4k 8k 16k',
        'flush',
        'read -P 1 0 12345',
        'read -P 3 12345 54321',
        'read -P 0 256k 192k',
        'read -P 2 512k 4k',
        'read -P 1 516k 508k',
        'read -P 4 2M 28k',
        'read -P 0 3M 32M',
        'aio_write -P 5 8M 1M',
        'aio_write -P 6 16M 1M',
        'aio_read -P 1 600k 8k',
        'aio_flush',
        'read -P 5 8M 1M',
        'read -P 6 16M 1M',
      );
      expect(output).not.toMatch(/failed|error|Pattern/i);
      expect(output.match(/^read /gm)).toHaveLength(10);
    });
  });

  it('converting into a pair arrives on the mirror', async () => {
    const serving = await startPair();
    const source = join(serving.folder, 'source');
    writeSparsely(source, SIZE, 2);
    await img(serving, 'convert', '-n', '-W', '-m', '16', '-f', 'raw', '--target-image-opts', source, '@');
    await runProgram('cmp', [source, serving.disk]);
    await serving.expectSettled();
  });

  it('a disk whose size is no multiple of a sector is served to its last byte', async () => {
    const size = 1_000_003;
    const serving = await startPlain({ size });
    const source = join(serving.folder, 'source');
    writeSparsely(source, size, 3);
    await runProgram('nbdcopy', ['--flush', source, serving.uri]);
    await runProgram('cmp', [source, serving.disk]);
    expect(await io(serving, `read ${size - 3} 3`)).toContain('read 3/3 bytes');
  });
});
