import { statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram, tryProgram } from '../support/run-program.ts';
import { startPair, startPlain, TRANSPORTS, writeSparsely } from '../support/serving.ts';

needPrograms(
  'libnbd',
  'nbdinfo',
  'nbdcopy',
  'psktool',
  'cmp',
)(() => {
  describe.each(TRANSPORTS)('over %s', (transport) => {
    it('nbdinfo --json shows all that the server can do', async () => {
      const { uri } = await startPlain({ transport, args: ['--description', 'a disk for tests'] });
      const shown = JSON.parse(await runProgram('nbdinfo', ['--json', uri])) as Record<string, unknown>;
      expect(shown).toMatchObject({
        protocol: 'newstyle-fixed',
        TLS: transport === 'tls',
        structured: true,
        exports: [
          {
            'export-name': 'disk',
            description: 'a disk for tests',
            contexts: expect.arrayContaining(['base:allocation']),
            is_rotational: false,
            is_read_only: false,
            can_cache: true,
            can_df: true,
            can_fast_zero: true,
            can_flush: true,
            can_fua: true,
            can_multi_conn: true,
            can_trim: true,
            can_zero: true,
            block_size_minimum: 1,
            block_size_preferred: 4096,
            block_size_maximum: 33_554_432,
            'export-size': 64 * MIB,
          },
        ],
      });
    });

    it('nbdinfo --list shows the export', async () => {
      const { uri } = await startPlain({ transport });
      const listed = await runProgram('nbdinfo', ['--list', '--json', uri]);
      expect(JSON.parse(listed)).toMatchObject({ exports: [{ 'export-name': 'disk', 'export-size': 64 * MIB }] });
    });

    it('nbdinfo --map shows data and holes where they are', async () => {
      const { uri, disk } = await startPlain({ transport });
      await runProgram('dd', ['if=/dev/urandom', `of=${disk}`, 'bs=64K', 'seek=16', 'count=2', 'conv=notrunc']);
      const map = JSON.parse(await runProgram('nbdinfo', ['--map', '--json', uri])) as object[];
      expect(map).toEqual([
        { offset: 0, length: MIB, type: 3, description: 'hole,zero' },
        { offset: MIB, length: 128 * 1024, type: 0, description: 'data' },
        { offset: MIB + 128 * 1024, length: 63 * MIB - 128 * 1024, type: 3, description: 'hole,zero' },
      ]);
    });

    it('nbdcopy brings an image in and out again, holes as holes', async () => {
      const { uri, disk, folder } = await startPlain({ transport });
      const [source, copy] = [join(folder, 'source'), join(folder, 'copy')];
      writeSparsely(source, 64 * MIB, 1);
      await runProgram('nbdcopy', ['--connections=4', '--requests=64', '--flush', source, uri]);
      await runProgram('cmp', [source, disk]);
      expect(statSync(disk).blocks).toBeLessThan(1.1 * statSync(source).blocks);
      await runProgram('nbdcopy', ['--connections=4', '--requests=64', uri, copy]);
      await runProgram('cmp', [source, copy]);
      expect(statSync(copy).blocks).toBeLessThan(1.1 * statSync(source).blocks);
    });
  });

  it('nbdcopy --allocated leaves no holes', async () => {
    const { uri, disk, folder } = await startPlain({ size: 16 * MIB });
    const source = join(folder, 'source');
    writeSparsely(source, 16 * MIB, 2);
    await runProgram('nbdcopy', ['--allocated', '--flush', source, uri]);
    await runProgram('cmp', [source, disk]);
    expect(statSync(disk).blocks * 512).toBeGreaterThanOrEqual(16 * MIB);
  });

  it('nbdcopy to a pair arrives on the mirror', async () => {
    const { uri, disk, folder, expectSettled } = await startPair();
    const source = join(folder, 'source');
    writeSparsely(source, 64 * MIB, 3);
    await runProgram('nbdcopy', ['--connections=4', '--flush', source, uri]);
    await runProgram('cmp', [source, disk]);
    await expectSettled();
  });

  it('nbdinfo shows what the mirror of a pair does not have yet, which is nothing', async () => {
    const { uri } = await startPair();
    expect(JSON.parse(await runProgram('nbdinfo', ['--json', uri]))).toMatchObject({
      exports: [{ contexts: ['base:allocation', 'x-nbdtwin:unreplicated'] }],
    });
    const map = await runProgram('nbdinfo', ['--map=x-nbdtwin:unreplicated', '--json', uri]);
    expect(JSON.parse(map)).toMatchObject([{ offset: 0, length: 64 * MIB, type: 0 }]);
  });

  it('an export that is read-only says so, and nbdcopy leaves it alone', async () => {
    const { uri, disk, folder } = await startPlain({ args: ['--read-only'] });
    const source = join(folder, 'source');
    writeSparsely(source, MIB, 4);
    expect(JSON.parse(await runProgram('nbdinfo', ['--json', uri]))).toMatchObject({
      exports: [{ is_read_only: true, can_trim: false, can_zero: false }],
    });
    expect((await tryProgram('nbdcopy', [source, uri])).status).not.toBe(0);
    expect(statSync(disk).blocks).toBe(0);
  });

  it('an unknown export is refused as such', async () => {
    const { uri } = await startPlain();
    const { status, stderr } = await tryProgram('nbdinfo', [uri.replace('/disk', '/other')]);
    expect(status).not.toBe(0);
    expect(stderr).toContain('No such file or directory for export: other');
  });
});
