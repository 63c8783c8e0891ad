/** The life of `nbdtwin serve` as a process: ready line, signals, sockets from systemd, status. */
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { REPEATED_SIGNAL_MS } from '../../src/daemon/process.ts';
import { systemClock } from '../../src/io/clock.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { connectNbd } from '../../src/nbd/client.ts';
import { Daemon, runNbdtwin, runtimeDirectory, until } from '../support/daemon.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { connectTo, Twin } from '../support/twin.ts';

/** A folder with `disk.img`, 1 MiB of zeroes. */
function folderWithDisk(): { folder: string; disk: string } {
  const folder = temporaryFolder();
  const disk = join(folder, 'disk.img');
  writeFileSync(disk, '');
  truncateSync(disk, MIB);
  return { folder, disk };
}

describe('the thread pool', () => {
  it('is large enough for many requests that wait for a disk, unless the environment says otherwise', async () => {
    const threadCount = async (poolSize: string | undefined): Promise<number> => {
      const { folder, disk } = folderWithDisk();
      const daemon = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0'], {
        env: { UV_THREADPOOL_SIZE: poolSize },
      });
      return readdirSync(`/proc/${daemon.pid}/task`).length;
    };
    expect((await threadCount(undefined)) - (await threadCount('2'))).toBe(14);
  });
});

describe('the ready line', () => {
  it('names the port that was picked, and clients reach the export there', async () => {
    const { folder, disk } = folderWithDisk();
    const daemon = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0']);
    expect(daemon.readyLine).toMatch(/^nbdtwin serve: ready nbd:\/\/127\.0\.0\.1:[1-9]\d*\/disk, not replicated$/);
    const client = await connectTo(daemon);
    expect(client.size).toBe(MIB);
    await client.close();
  });

  it('names every listener and the mirror', async () => {
    const twin = new Twin();
    await twin.startMirror();
    const socket = join(twin.folder, 'nbd.sock');
    const options = ['--listen', '127.0.0.1:0', '--listen', '127.0.0.1:0', '--socket', socket, '--export', 'a/b'];
    const mirror = `127.0.0.1:${twin.mirror.address.port}`;
    const link = ['--mirror', mirror, '--secret-file', twin.secret];
    const daemon = await Daemon.start(twin.folder, ['serve', twin.disk, ...options, ...link]);
    expect(daemon.uris).toEqual([
      expect.stringMatching(/^nbd:\/\/127\.0\.0\.1:\d+\/a\/b$/),
      expect.stringMatching(/^nbd:\/\/127\.0\.0\.1:\d+\/a\/b$/),
      `nbd+unix:///a/b?socket=${socket}`,
    ]);
    expect(daemon.readyLine.endsWith(`, mirror ${mirror}`)).toBe(true);
    expect(twin.mirror.readyLine).toBe(
      `nbdtwin mirror: ready 127.0.0.1:${twin.mirror.address.port}, directory ${twin.images}`,
    );
  });

  it('is all that stands on stdout; the log on stderr is JSON, one object per line', async () => {
    const { folder, disk } = folderWithDisk();
    const daemon = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0', '--log-level', 'debug']);
    await daemon.stop();
    const lines = daemon.stderr.trimEnd().split('\n');
    expect(daemon.logLines).toHaveLength(lines.length);
    for (const line of daemon.logLines) {
      expect(line).toMatchObject({ level: expect.any(String), time: expect.any(String), msg: expect.any(String) });
    }
    expect(daemon.logLines.at(-1)).toMatchObject({ level: 'info', msg: 'stopped' });
  });
});

describe('SIGTERM and SIGINT', () => {
  it.each(['SIGTERM', 'SIGINT'] as const)(
    '%s stops cleanly: what was answered is there, sockets are gone',
    async (signal) => {
      const { folder, disk } = folderWithDisk();
      const socket = join(folder, 'nbd.sock');
      const daemon = await Daemon.start(folder, ['serve', disk, '--no-listen', '--socket', socket]);
      const client = await connectNbd({
        network: nodeNetwork,
        address: { kind: 'unix', path: socket },
        exportName: 'disk',
      });
      const written = Buffer.alloc(64 * 1024, 'answered');
      await client.write(4096, written);
      daemon.kill(signal);
      expect(await daemon.ended()).toEqual({ status: 0, signal: null });
      expect(
        readFileSync(disk)
          .subarray(4096, 4096 + written.length)
          .equals(written),
      ).toBe(true);
      expect(existsSync(socket)).toBe(false);
      expect(readdirSync(runtimeDirectory(folder))).toEqual([]);
    },
  );

  it.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)('%s a second time ends a stop that waits for the mirror, with status %i', async (signal, status) => {
    const twin = await Twin.inStep({ serve: ['--drain-timeout', '1h'] });
    const client = await twin.connect();
    twin.mirror.kill('SIGSTOP');
    onTestFinished(() => twin.mirror.kill('SIGCONT'));
    await client.write(0, Buffer.alloc(MIB, 'not on the mirror'));
    client.destroy();
    twin.primary.kill(signal);
    await until(() => twin.primary.logLines.some((line) => line['signal'] === signal), 'the stop has begun');
    await systemClock.sleep(REPEATED_SIGNAL_MS);
    twin.primary.kill(signal);
    expect(await twin.primary.ended()).toEqual({ status, signal: null });
    expect(twin.primary.logLines.at(-1)).toMatchObject({ level: 'warn', msg: 'stopping at once' });
  });

  it('the same signal twice in a row is one request, and the stop still waits for the mirror', async () => {
    const twin = await Twin.inStep({ serve: ['--drain-timeout', '1h'] });
    const client = await twin.connect();
    twin.mirror.kill('SIGSTOP');
    const data = Buffer.alloc(MIB, 'written before the stop');
    await client.write(0, data);
    client.destroy();
    twin.primary.kill('SIGTERM');
    twin.primary.kill('SIGINT');
    await until(() => twin.primary.logLines.some((line) => 'signal' in line), 'the stop has begun');
    twin.mirror.kill('SIGCONT');
    expect(await twin.primary.ended()).toEqual({ status: 0, signal: null });
    expect(readFileSync(twin.image).subarray(0, data.length).equals(data)).toBe(true);
  });

  it('a stop waits for the mirror: what was written before is on it', async () => {
    const twin = await Twin.inStep({ serve: ['--drain-timeout', '1h'] });
    const client = await twin.connect();
    twin.mirror.kill('SIGSTOP');
    const data = Buffer.alloc(4 * MIB, 'written before the stop');
    await client.write(MIB, data);
    client.destroy();
    twin.primary.kill('SIGTERM');
    await until(() => twin.primary.logLines.some((line) => line['signal'] === 'SIGTERM'), 'the stop has begun');
    twin.mirror.kill('SIGCONT');
    expect(await twin.primary.ended()).toEqual({ status: 0, signal: null });
    expect(
      readFileSync(twin.image)
        .subarray(MIB, MIB + data.length)
        .equals(data),
    ).toBe(true);
  });
});

describe('--stop-with-stdin', () => {
  it('stops cleanly when whoever holds the other end of stdin is gone', async () => {
    const { folder, disk } = folderWithDisk();
    const daemon = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0', '--stop-with-stdin'], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    daemon.endStdin();
    expect(await daemon.ended()).toEqual({ status: 0, signal: null });
    expect(daemon.logLines).toContainEqual(expect.objectContaining({ stdin: 'ended' }));
  });
});

describe('SIGHUP and SIGUSR1', () => {
  it.each(['SIGHUP', 'SIGUSR1'] as const)('%s is ignored: the disk stays served', async (signal) => {
    const { folder, disk } = folderWithDisk();
    const daemon = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0']);
    daemon.kill(signal);
    await until(() => daemon.logLines.some((line) => line['msg'] === `${signal} ignored`), 'the signal has arrived');
    const client = await connectTo(daemon);
    await client.write(0, Buffer.from('still here'));
    expect((await client.read(0, 10)).toString()).toBe('still here');
    await client.close();
    expect(daemon.stderr).not.toContain('Debugger');
  });
});

describe('sockets from systemd', () => {
  /** A listening socket as descriptor 3 of a child that believes it came from systemd. */
  async function listeningSocket(): Promise<{ port: number; descriptor: number }> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => void server.close());
    const address = server.address();
    // The descriptor of a server is nowhere in Node's public interface.
    const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
    if (address === null || typeof address === 'string') throw new Error('not a TCP server');
    return { port: address.port, descriptor: fd };
  }

  /** The shell gives the process its own id, as systemd does. */
  const ACTIVATED = ['sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh'];

  it('are listened on, instead of the default address', async () => {
    const { folder, disk } = folderWithDisk();
    const { port, descriptor } = await listeningSocket();
    const daemon = await Daemon.start(folder, ['serve', disk], {
      wrapper: ACTIVATED,
      env: { LISTEN_FDS: '1' },
      stdio: ['ignore', 'pipe', 'pipe', descriptor],
    });
    expect(daemon.uris).toEqual([`nbd://127.0.0.1:${port}/disk`]);
  });

  it('serve a mirror as well', async () => {
    const twin = new Twin();
    const { port, descriptor } = await listeningSocket();
    const daemon = await Daemon.start(twin.folder, ['mirror', twin.images, '--secret-file', twin.secret], {
      wrapper: ACTIVATED,
      env: { LISTEN_FDS: '1' },
      stdio: ['ignore', 'pipe', 'pipe', descriptor],
    });
    expect(daemon.address.port).toBe(port);
  });

  it('that are meant for another process are left alone', async () => {
    const { folder, disk } = folderWithDisk();
    const { port, descriptor } = await listeningSocket();
    const daemon = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0'], {
      env: { LISTEN_FDS: '1', LISTEN_PID: '1' },
      stdio: ['ignore', 'pipe', 'pipe', descriptor],
    });
    expect(daemon.uris).toHaveLength(1);
    expect(daemon.address.port).not.toBe(port);
  });
});

describe('--create', () => {
  it('makes a sparse disk of that size, which is served again without it', async () => {
    const folder = temporaryFolder();
    const disk = join(folder, 'new.img');
    const first = await Daemon.start(folder, ['serve', disk, '--create', '--size', '3M', '--listen', '127.0.0.1:0']);
    const client = await connectTo(first);
    expect(client.size).toBe(3 * MIB);
    await client.write(MIB, Buffer.from('kept'));
    await client.close();
    expect(await first.stop()).toEqual({ status: 0, signal: null });
    const second = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0']);
    const again = await connectTo(second);
    expect((await again.read(MIB, 4)).toString()).toBe('kept');
    await again.close();
  });
});

describe('--read-only', () => {
  it('serves a disk that may not be written, to several processes at a time, and refuses writes', async () => {
    const { folder, disk } = folderWithDisk();
    const args = ['serve', disk, '--read-only', '--listen', '127.0.0.1:0'];
    const daemons = [await Daemon.start(folder, args), await Daemon.start(folder, args)];
    for (const daemon of daemons) {
      const client = await connectTo(daemon);
      expect(await client.read(0, 512)).toEqual(Buffer.alloc(512));
      await expect(client.write(0, Buffer.from('x'))).rejects.toMatchObject({ code: 'not-permitted' });
      await client.close();
    }
  });
});

describe('an internal error', () => {
  it('ends the process with 70 and a log line', async () => {
    const dist = join(process.cwd(), 'dist');
    const script = `
      import { runProcess } from '${dist}/daemon/process.js';
      import { assert } from '${dist}/base/assert.js';
      setInterval(() => {}, 1000);
      await runProcess({ level: 'info', pretty: false }, () => {
        setImmediate(() => assert(false, 'two and two are five'));
        return new Promise(() => {});
      });`;
    const file = join(temporaryFolder(), 'broken.mjs');
    writeFileSync(file, script);
    const { tryProgram } = await import('../support/run-program.ts');
    const result = await tryProgram(process.execPath, [file]);
    expect(result.status).toBe(70);
    expect(JSON.parse(result.stderr)).toMatchObject({
      level: 'error',
      err: { type: 'AssertionFailed', message: 'two and two are five' },
    });
  });
});

describe('status', () => {
  it('says that nothing runs', async () => {
    const env = { NBDTWIN_RUNTIME_DIR: runtimeDirectory(temporaryFolder()) };
    expect(await runNbdtwin(['status'], { env })).toMatchObject({ status: 69, stdout: '' });
    expect((await runNbdtwin(['verify'], { env })).stderr).toMatch(/^nbdtwin: not-running: /);
  });

  it('refuses a runtime directory that others could write to', async () => {
    const { folder, disk } = folderWithDisk();
    const { chmodSync, mkdirSync } = await import('node:fs');
    const open = join(folder, 'open');
    mkdirSync(open);
    chmodSync(open, 0o777);
    const env = { NBDTWIN_RUNTIME_DIR: open };
    expect(await runNbdtwin(['status'], { env })).toMatchObject({ status: 73, stdout: '' });
    const daemon = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0'], { env });
    await until(() => daemon.stderr.includes('no control socket'), 'the process warns');
    expect(readdirSync(open)).toEqual([]);
    await (await connectTo(daemon)).close();
  });

  it('tells of a process that is stopped, shows the others, and fails', async () => {
    const { folder, disk } = folderWithDisk();
    const env = { NBDTWIN_RUNTIME_DIR: runtimeDirectory(folder) };
    const stopped = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0']);
    const other = ['serve', join(folder, 'other.img'), '--create', '--size', '1M', '--listen', '127.0.0.1:0'];
    const running = await Daemon.start(folder, other);
    stopped.kill('SIGSTOP');
    const text = await runNbdtwin(['status'], { env });
    expect(text.stdout).toContain(`pid ${running.pid}, up`);
    expect(text.stdout).toContain(`\nprimary  pid ${stopped.pid}: does not answer\n`);
    expect(text.stderr).toMatch(/^nbdtwin: not-answering: /);
    expect(text.status).toBe(69);
    const json = await runNbdtwin(['status', '--json'], { env });
    const objects = json.stdout.trimEnd().split('\n');
    expect(objects.map((line) => JSON.parse(line) as object)).toMatchObject([
      { role: 'primary', pid: running.pid, export: { name: 'other' } },
      { role: 'primary', pid: stopped.pid, problem: { code: 'not-answering' } },
    ]);
    expect(await runNbdtwin(['status', 'other'], { env })).toMatchObject({ status: 0, stderr: '' });
  });

  it('passes over and removes the socket of a process that was killed', async () => {
    const { folder, disk } = folderWithDisk();
    const daemon = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0']);
    await daemon.status();
    await daemon.crash();
    const run = runtimeDirectory(folder);
    expect(readdirSync(run)).toEqual([`primary-${daemon.pid}.sock`]);
    expect(await runNbdtwin(['status'], { env: { NBDTWIN_RUNTIME_DIR: run } })).toMatchObject({ status: 69 });
    expect(readdirSync(run)).toEqual([]);
  });
});
