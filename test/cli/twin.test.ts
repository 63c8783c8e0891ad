/** A primary and a mirror as processes of their own, seen through the command line. */
import { closeSync, openSync, readFileSync, symlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import type { MirrorDaemonStatus, ServeStatus } from '../../src/daemon/status.ts';
import { Daemon, type ProcessOptions, runNbdtwin, runtimeDirectory, until } from '../support/daemon.ts';
import { freePort } from '../support/ports.ts';
import { Twin } from '../support/twin.ts';

/** For commands that are to find the daemons of a test. */
function beside(twin: Twin): ProcessOptions {
  return { env: { NBDTWIN_RUNTIME_DIR: runtimeDirectory(twin.folder) } };
}

/** Writes to a file behind the back of whoever keeps it. */
function alter(path: string, offset: number, text: string): void {
  const file = openSync(path, 'r+');
  writeSync(file, text, offset);
  closeSync(file);
}

describe('status', () => {
  it('--json describes the primary and the mirror, one object per line', async () => {
    const twin = await Twin.inStep({ serve: ['--description', 'for the test'], mirror: ['--rescans-max', '3'] });
    const client = await twin.connect();
    await client.write(0, Buffer.alloc(64 * 1024, 'status'));
    await client.zero(MIB, MIB);
    await client.flush();
    await twin.primary.untilInStep();
    const { status, stdout } = await runNbdtwin(['status', '--json'], beside(twin));
    expect(status).toBe(0);
    const lines = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as ServeStatus | MirrorDaemonStatus);
    expect(lines.map(({ role }) => role).sort()).toEqual(['mirror', 'primary']);
    const primary = lines.find((line) => line.role === 'primary')!;
    const mirror = lines.find((line) => line.role === 'mirror')!;
    expect(primary).toMatchObject({
      pid: twin.primary.pid,
      disk: twin.disk,
      export: { name: 'disk', description: 'for the test', size: 16 * MIB, readOnly: false },
      listening: twin.primary.uris,
      connections: 1,
      replication: {
        role: 'primary',
        sequence: 2,
        bytesWritten: 64 * 1024,
        operations: { writes: 1, zeroes: 1, trims: 0 },
        mirrors: [{ state: 'streaming', applied: 2, lag: { operations: 0, bytes: 0 } }],
      },
    });
    expect(mirror).toMatchObject({
      pid: twin.mirror.pid,
      directory: twin.images,
      listening: `127.0.0.1:${twin.mirror.address.port}`,
      rescans: { limit: 3, running: 0, stuck: 0, waiting: 0 },
      exports: [{ name: 'disk', image: twin.image, size: 16 * MIB, state: 'streaming', consistent: true, applied: 2 }],
    });
    await client.close();
  });

  it('for people names state, lag and problem, and what to do next', async () => {
    const twin = await Twin.inStep();
    const streaming = (await runNbdtwin(['status'], beside(twin))).stdout;
    expect(streaming).toMatch(/^disk {2}\S+disk\.img/m);
    expect(streaming).toMatch(/^ {2}mirror 127\.0\.0\.1:\d+ {2}streaming for/m);
    expect(streaming).toMatch(/^ {4}lag +0 operations, 0 B/m);
    await twin.mirror.crash();
    await until(async () => (await twin.primary.link()).problem?.code === 'peer-unreachable', 'the loss is known');
    let offline = '';
    // It may just be trying again: then there is no next attempt to tell of.
    await until(async () => {
      offline = (await runNbdtwin(['status'], beside(twin))).stdout;
      return offline.includes('next attempt in ');
    }, 'it waits between two attempts');
    expect(offline).toMatch(/^ {4}problem +peer-unreachable: .*: connection refused/m);
    expect(offline).toContain('Check that the other side runs');
    expect(offline).toMatch(/^ +next attempt in /m);
  });

  it('TARGET selects by disk, by a link to it, by directory, by image and by name', async () => {
    const twin = await Twin.inStep({ serve: ['--export', 'web/root'] });
    const link = join(twin.folder, 'link');
    symlinkSync(twin.disk, link);
    const roles = async (target: string): Promise<string[]> => {
      const { stdout } = await runNbdtwin(['status', target, '--json'], beside(twin));
      const lines = stdout.split('\n').filter((line) => line !== '');
      return lines.map((line) => (JSON.parse(line) as { role: string }).role).sort();
    };
    expect(await roles(twin.disk)).toEqual(['primary']);
    expect(await roles(link)).toEqual(['primary']);
    expect(await roles(twin.images)).toEqual(['mirror']);
    expect(await roles(join(twin.images, 'web/root.img'))).toEqual(['mirror']);
    expect(await roles('web/root')).toEqual(['mirror', 'primary']);
    expect(await runNbdtwin(['status', 'other'], beside(twin))).toMatchObject({ status: 69, stdout: '' });
  });
});

describe('verify', () => {
  it('ends with 0 when the images are identical', async () => {
    const twin = await Twin.inStep();
    const result = await runNbdtwin(['verify'], beside(twin));
    expect(result).toMatchObject({ status: 0, stdout: '' });
    expect(result.stderr).toMatch(/^identical: 16 MiB compared/m);
  });

  it('ends with 1 and names the ranges when the mirror was altered behind its back', async () => {
    const twin = await Twin.inStep();
    alter(twin.image, 5 * MIB + 123, 'vandal');
    alter(twin.image, 9 * MIB, 'x'.repeat(10_000));
    const result = await runNbdtwin(['verify', twin.disk], beside(twin));
    expect(result.status).toBe(1);
    expect(result.stdout).toBe(`${5 * MIB} 4096\n${9 * MIB} 12288\n`);
    expect(result.stderr).toMatch(/^nbdtwin: differences-found: 2 ranges differ, 16 KiB in all/m);

    const json = await runNbdtwin(['verify', '--json'], beside(twin));
    expect(json.status).toBe(1);
    expect(JSON.parse(json.stdout)).toMatchObject({
      comparedSize: 16 * MIB,
      differingSize: 16384,
      ranges: [
        { offset: 5 * MIB, length: 4096 },
        { offset: 9 * MIB, length: 12288 },
      ],
      truncated: false,
    });
  });

  it('is not possible while the mirror is away, on a mirror, or without one', async () => {
    const twin = await Twin.inStep();
    expect(await runNbdtwin(['verify', twin.images], beside(twin))).toMatchObject({ status: 69, stdout: '' });
    await twin.mirror.stop();
    await until(async () => (await twin.primary.link()).state !== 'streaming', 'the loss is known');
    expect((await runNbdtwin(['verify'], beside(twin))).stderr).toMatch(/^nbdtwin: not-ready: /);
    await twin.primary.stop();
    await Daemon.start(twin.folder, ['serve', twin.disk, '--listen', '127.0.0.1:0']);
    expect((await runNbdtwin(['verify'], beside(twin))).stderr).toMatch(/not-ready: disk is served without a mirror/);
  });

  it('asks which one is meant when several primaries run', async () => {
    const twin = await Twin.inStep();
    await Daemon.start(twin.folder, [
      'serve',
      join(twin.folder, 'b.img'),
      '--create',
      '--size',
      '1M',
      '--no-listen',
      '--socket',
      join(twin.folder, 's'),
    ]);
    const result = await runNbdtwin(['verify'], beside(twin));
    expect(result.status).toBe(64);
    expect(result.stderr).toContain('b.img');
    expect(result.stderr).toContain('disk.img');
  });
});

describe('rescan-rate', () => {
  it('holds from now on, shows in status, and can be lifted', async () => {
    const twin = await Twin.inStep();
    expect((await twin.primary.link()).rescanRate).toBeUndefined();
    expect(await runNbdtwin(['rescan-rate', '5M'], beside(twin))).toMatchObject({
      status: 0,
      stdout: '',
      stderr: 'rescans read 5 MiB/s at most\n',
    });
    expect((await twin.primary.link()).rescanRate).toBe(5 * MIB);
    expect(await runNbdtwin(['rescan-rate', 'adaptive', twin.disk], beside(twin))).toMatchObject({
      status: 0,
      stderr: 'rescans read as fast as clients allow\n',
    });
    expect((await twin.primary.link()).rescanRate).toBeUndefined();
  });

  it('refuses what is no rate, a mirror, and a disk without one', async () => {
    const twin = await Twin.inStep();
    expect(await runNbdtwin(['rescan-rate', 'fast'], beside(twin))).toMatchObject({ status: 64, stdout: '' });
    expect(await runNbdtwin(['rescan-rate', '5M', twin.images], beside(twin))).toMatchObject({ status: 69 });
    await twin.primary.stop();
    await Daemon.start(twin.folder, ['serve', twin.disk, '--listen', '127.0.0.1:0']);
    expect((await runNbdtwin(['rescan-rate', '5M'], beside(twin))).stderr).toMatch(/not-ready: disk is served without/);
  });
});

describe('a wrong secret', () => {
  it('is told on both sides, and nothing is written on the mirror', async () => {
    const twin = new Twin();
    const wrong = { env: { NBDTWIN_SECRET: 'not the one that they share' } };
    const args = ['mirror', twin.images, '--listen', '127.0.0.1:0'];
    twin.mirror = await Daemon.start(twin.folder, args, wrong);
    await twin.startPrimary();
    await until(async () => (await twin.primary.link()).problem?.code === 'secret-rejected', 'the primary knows');
    const { stdout } = await runNbdtwin(['status'], beside(twin));
    expect(stdout).toMatch(/problem +secret-rejected: .*\n +Give both sides the same secret file\./);
    await until(() => twin.mirror.stderr.includes('secret-rejected'), 'the mirror says so too');
    expect((await twin.mirror.mirrorStatus()).exports).toEqual([]);
    expect(twin.primary.stderr).not.toContain('5e5e5e');
    expect(twin.mirror.stderr).not.toContain('not the one');
  });
});

describe('a restart', () => {
  it('of either side, clean or killed, in any order: they find each other and the images are identical', async () => {
    const listen = `127.0.0.1:${await freePort()}`;
    const twin = new Twin();
    await twin.startMirror(listen);
    await twin.startPrimary(listen);
    await twin.primary.untilInStep();
    const steps: [string, () => Promise<unknown>][] = [
      ['mirror stopped', () => twin.mirror.stop()],
      ['mirror killed', () => twin.mirror.crash()],
      ['primary stopped', () => twin.primary.stop()],
      ['primary killed', () => twin.primary.crash()],
    ];
    for (const [index, [name, end]] of steps.entries()) {
      const client = await twin.connect();
      await client.write(index * MIB, Buffer.alloc(65_536, name));
      await client.flush();
      await end();
      if (name.startsWith('mirror')) {
        await client.write(index * MIB + 65_536, Buffer.alloc(65_536, `${name}, and gone`));
        await twin.startMirror(listen);
      } else await twin.startPrimary(listen);
      client.destroy();
      await twin.primary.untilInStep();
      expect(readFileSync(twin.image).equals(readFileSync(twin.disk)), name).toBe(true);
    }
    expect(readFileSync(twin.image).includes('mirror killed, and gone')).toBe(true);
  });
});

describe('serving without --mirror in between', () => {
  it('makes the next start with --mirror compare the whole disk, and nothing is lost', async () => {
    const twin = await Twin.inStep();
    expect(await twin.primary.stop()).toEqual({ status: 0, signal: null });
    const alone = await Daemon.start(twin.folder, ['serve', twin.disk, '--listen', '127.0.0.1:0']);
    expect(alone.stderr).toContain('the next start with --mirror will compare the whole disk');
    twin.primary = alone;
    const client = await twin.connect();
    await client.write(3 * MIB, Buffer.alloc(8192, 'written alone'));
    await client.close();
    await alone.stop();
    await twin.startPrimary();
    await twin.primary.untilInStep();
    expect((await twin.primary.link()).lastRescan).toMatchObject({ scope: 'everything', scopeSize: 16 * MIB });
    expect(readFileSync(twin.image).equals(readFileSync(twin.disk))).toBe(true);
  });
});
