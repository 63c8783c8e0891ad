/** Bad input on the command line gets a clear error and loses nothing. */
import { chmodSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FAILURES, type FailureCode } from '../../src/base/failure.ts';
import { MIB } from '../../src/base/units.ts';
import { type CommandResult, Daemon, runNbdtwin, WITHOUT_POWERS } from '../support/daemon.ts';
import { takenPort } from '../support/ports.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { SECRET_LINE } from '../support/twin.ts';

const LISTEN = ['--listen', '127.0.0.1:0'];

/** A folder with `disk.img` of 1 MiB, which holds a known text. */
function folderWithDisk(): { folder: string; disk: string } {
  const folder = temporaryFolder();
  const disk = join(folder, 'disk.img');
  writeFileSync(disk, 'precious');
  truncateSync(disk, MIB);
  return { folder, disk };
}

function expectRefusal(result: CommandResult, code: FailureCode, message: RegExp): void {
  expect(result.stderr).toMatch(new RegExp(`^nbdtwin: ${code}: .*${message.source}.*\n  .+\n$`, 'm'));
  expect(result.stderr).toContain(FAILURES[code].hint);
  expect({ status: result.status, stdout: result.stdout }).toEqual({ status: FAILURES[code].exit, stdout: '' });
}

describe('a disk that cannot be served', () => {
  it('is missing', async () => {
    const folder = temporaryFolder();
    expectRefusal(
      await runNbdtwin(['serve', join(folder, 'none.img'), ...LISTEN]),
      'disk-missing',
      /none\.img does not exist$/,
    );
    expect(readdirSync(folder)).toEqual([]);
  });

  it('cannot be read', async () => {
    const { disk } = folderWithDisk();
    chmodSync(disk, 0);
    const result = await runNbdtwin(['serve', disk, ...LISTEN], { wrapper: WITHOUT_POWERS });
    expectRefusal(result, 'disk-unreadable', /disk\.img/);
  });

  it('may not be written, and says how to serve it even so', async () => {
    const { disk } = folderWithDisk();
    chmodSync(disk, 0o400);
    const result = await runNbdtwin(['serve', disk, ...LISTEN], { wrapper: WITHOUT_POWERS });
    expectRefusal(result, 'disk-read-only', /disk\.img/);
  });

  it('has size zero', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'empty.img'), '');
    expectRefusal(await runNbdtwin(['serve', join(folder, 'empty.img'), ...LISTEN]), 'disk-empty', /empty\.img/);
  });

  it('is a directory', async () => {
    expectRefusal(await runNbdtwin(['serve', temporaryFolder(), ...LISTEN]), 'disk-not-a-disk', /nbdtwin-test/);
  });

  it('is a character device', async () => {
    expectRefusal(await runNbdtwin(['serve', '/dev/null', ...LISTEN]), 'disk-not-a-disk', /\/dev\/null/);
  });

  it('is served already, also when its port is taken for that very reason', async () => {
    const { folder, disk } = folderWithDisk();
    const { port } = (await Daemon.start(folder, ['serve', disk, ...LISTEN])).address;
    expectRefusal(await runNbdtwin(['serve', disk, ...LISTEN]), 'disk-busy', /disk\.img/);
    expectRefusal(await runNbdtwin(['serve', disk, '--listen', `127.0.0.1:${port}`]), 'disk-busy', /disk\.img/);
  });

  it('is to be made where nobody may write, or where there is no folder', async () => {
    const folder = join(temporaryFolder(), 'closed');
    mkdirSync(folder, { mode: 0o555 });
    const make = (path: string) => ['serve', join(folder, path), '--create', '--size', '1M', ...LISTEN];
    const closed = await runNbdtwin(make('new.img'), { wrapper: WITHOUT_POWERS });
    expectRefusal(closed, 'directory-read-only', /cannot make .*new\.img: permission denied/);
    expectRefusal(await runNbdtwin(make('none/new.img')), 'directory-missing', /its folder does not exist/);
  });

  it('is to be larger than the file system can hold', async () => {
    const folder = temporaryFolder();
    const args = ['serve', join(folder, 'new.img'), '--create', '--size', '8000T', ...LISTEN];
    expectRefusal(await runNbdtwin(args), 'disk-too-large', /new\.img: file too large/);
    expect(readdirSync(folder)).toEqual([]);
  });

  it('exists although it is to be created, and keeps its content', async () => {
    const { disk } = folderWithDisk();
    const result = await runNbdtwin(['serve', disk, '--create', '--size', '2M', ...LISTEN]);
    expectRefusal(result, 'disk-exists', /disk\.img/);
    expect(readFileSync(disk).subarray(0, 8).toString()).toBe('precious');
    expect(readFileSync(disk)).toHaveLength(MIB);
  });
});

describe('a start that fails', () => {
  it('because a port is taken makes neither a disk nor a state directory', async () => {
    const folder = temporaryFolder();
    const secret = join(folder, 'secret');
    writeFileSync(secret, SECRET_LINE, { mode: 0o600 });
    const listen = ['--listen', `127.0.0.1:${await takenPort()}`];
    const args = ['serve', join(folder, 'new.img'), '--create', '--size', '1M', ...listen];
    expectRefusal(await runNbdtwin(args), 'address-in-use', /127\.0\.0\.1/);
    const replicated = [...args, '--mirror', '127.0.0.1:1', '--secret-file', secret];
    expectRefusal(await runNbdtwin(replicated), 'address-in-use', /127\.0\.0\.1/);
    expect(readdirSync(folder)).toEqual(['secret']);
  });

  it('because a file is in the place of a unix socket leaves that file', async () => {
    const { folder, disk } = folderWithDisk();
    const socket = join(folder, 'notes.txt');
    writeFileSync(socket, 'notes');
    const result = await runNbdtwin(['serve', disk, '--no-listen', '--socket', socket]);
    expectRefusal(result, 'address-in-use', /notes\.txt/);
    expect(readFileSync(socket, 'utf8')).toBe('notes');
  });

  it('because another primary listens on a unix socket leaves that one alone', async () => {
    const { folder, disk } = folderWithDisk();
    const socket = join(folder, 's');
    const running = await Daemon.start(folder, ['serve', disk, '--no-listen', '--socket', socket]);
    const other = ['serve', join(folder, 'other.img'), '--create', '--size', '1M', '--no-listen', '--socket', socket];
    expectRefusal(await runNbdtwin(other), 'address-in-use', /\/s is in use/);
    expect((await running.serveStatus()).export.name).toBe('disk');
    expect(readdirSync(folder)).toContain('s');
  });

  it('because the port of the link is taken leaves nothing in the mirror directory but its lock', async () => {
    const folder = temporaryFolder();
    const args = ['mirror', folder, '--listen', `127.0.0.1:${await takenPort()}`];
    const result = await runNbdtwin(args, { env: { NBDTWIN_SECRET: 'a long enough bare secret' } });
    expectRefusal(result, 'address-in-use', /127\.0\.0\.1/);
    expect(readdirSync(folder).filter((name) => name !== 'lock')).toEqual([]);
  });

  it('because a unix socket has no folder, or one that may not be written, says so', async () => {
    const { folder, disk } = folderWithDisk();
    const closed = join(folder, 'closed');
    mkdirSync(closed, { mode: 0o555 });
    const at = (path: string) => ['serve', disk, '--no-listen', '--socket', join(folder, path)];
    expectRefusal(await runNbdtwin(at('none/s')), 'directory-missing', /none\/s: its folder does not exist/);
    const result = await runNbdtwin(at('closed/s'), { wrapper: WITHOUT_POWERS });
    expectRefusal(result, 'directory-read-only', /closed\/s: its folder may not be written/);
  });

  it('because a descriptor from systemd is no socket names the variable', async () => {
    const { disk } = folderWithDisk();
    const result = await runNbdtwin(['serve', disk], {
      wrapper: ['sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh'],
      env: { LISTEN_FDS: '1' },
    });
    expectRefusal(result, 'address-invalid', /descriptor 3, named by LISTEN_FDS/);
  });

  it('because an address is not of this machine says so', async () => {
    const { disk } = folderWithDisk();
    const result = await runNbdtwin(['serve', disk, '--listen', '203.0.113.1:0']);
    expectRefusal(result, 'address-unavailable', /203\.0\.113\.1/);
  });
});

describe('a secret that cannot be used', () => {
  /** Runs both roles with a secret file of this content and mode. */
  async function withSecretFile(content: string | undefined, mode = 0o600): Promise<CommandResult[]> {
    const { folder, disk } = folderWithDisk();
    const secret = join(folder, 'secret');
    if (content !== undefined) {
      writeFileSync(secret, content);
      chmodSync(secret, mode);
    }
    mkdirSync(join(folder, 'images'));
    const results = [
      await runNbdtwin(['serve', disk, ...LISTEN, '--mirror', '127.0.0.1:1', '--secret-file', secret]),
      await runNbdtwin(['mirror', join(folder, 'images'), ...LISTEN, '--secret-file', secret]),
    ];
    expect(readdirSync(folder).filter((name) => name !== 'secret')).toEqual(['disk.img', 'images']);
    expect(readdirSync(join(folder, 'images'))).toEqual([]);
    return results;
  }

  it.each<[string, string | undefined, number, FailureCode, RegExp]>([
    ['has no file', undefined, 0o600, 'secret-missing', /secret does not exist/],
    ['is readable by the group', SECRET_LINE, 0o640, 'secret-exposed', /mode 640/],
    ['is readable by others', SECRET_LINE, 0o604, 'secret-exposed', /mode 604/],
    ['has too short a key', 'nbdtwin:0123456789abcdef\n', 0o600, 'secret-too-short', /16 hex digits/],
    ['is too short a bare secret', 'hunter2\n', 0o600, 'secret-too-short', /7 characters/],
    ['is no hex', `nbdtwin:${'zz'.repeat(32)}\n`, 0o600, 'secret-malformed', /hex/],
    ['repeats an identity', `${SECRET_LINE}${SECRET_LINE}`, 0o600, 'secret-malformed', /repeats identity nbdtwin/],
    ['is empty', '', 0o600, 'secret-missing', /secret/],
  ])('%s', async (_, content, mode, code, message) => {
    for (const result of await withSecretFile(content, mode)) {
      expectRefusal(result, code, message);
      // Longer than what the name of the temporary folder may hold by chance.
      expect(result.stderr).not.toContain('zzzzzzzz');
      expect(result.stderr).not.toContain('hunter2');
    }
  });

  it('is random bytes instead of text', async () => {
    const { folder, disk } = folderWithDisk();
    const secret = join(folder, 'secret');
    writeFileSync(secret, Buffer.alloc(32, 0x81), { mode: 0o600 });
    const args = ['serve', disk, ...LISTEN, '--mirror', '127.0.0.1:1', '--secret-file', secret];
    expectRefusal(await runNbdtwin(args), 'secret-malformed', /bytes that are no text/);
  });

  it('is a directory, or a file of somebody else: nothing says that one should be made there', async () => {
    const { folder, disk } = folderWithDisk();
    const secret = join(folder, 'secret');
    const args = (path: string) => ['serve', disk, ...LISTEN, '--mirror', '127.0.0.1:1', '--secret-file', path];
    expectRefusal(await runNbdtwin(args(folder)), 'secret-unreadable', /directory/);
    writeFileSync(secret, SECRET_LINE, { mode: 0 });
    const result = await runNbdtwin(args(secret), { wrapper: WITHOUT_POWERS });
    expectRefusal(result, 'secret-unreadable', /secret cannot be read: permission denied/);
  });

  it('is given nowhere', async () => {
    const { folder, disk } = folderWithDisk();
    expectRefusal(await runNbdtwin(['serve', disk, ...LISTEN, '--mirror', '127.0.0.1:1']), 'secret-missing', /secret/);
    expectRefusal(await runNbdtwin(['mirror', folder, ...LISTEN]), 'secret-missing', /secret/);
  });

  it('has several lines, and the primary is not told which to use', async () => {
    const { folder, disk } = folderWithDisk();
    const secret = join(folder, 'secret');
    writeFileSync(secret, `${SECRET_LINE}web:${'ab'.repeat(32)}\n`, { mode: 0o600 });
    const args = ['serve', disk, ...LISTEN, '--mirror', '127.0.0.1:1', '--secret-file', secret];
    expectRefusal(await runNbdtwin(args), 'secret-ambiguous', /2 keys \(nbdtwin, web\)/);
    expectRefusal(await runNbdtwin([...args, '--identity', 'mail']), 'secret-missing', /identity mail/);
    expect(readdirSync(folder).sort()).toEqual(['disk.img', 'secret']);
  });
});

describe('the name of an export', () => {
  it.each(['../x', 'a.twin', 'a.img', 'a/../b', '/a', 'a/', 'a//b', '.hidden', 'a b', 'ä', ''])(
    '%j is refused, and nothing is made',
    async (name) => {
      const { folder, disk } = folderWithDisk();
      const result = await runNbdtwin(['serve', disk, ...LISTEN, '--export', name]);
      expectRefusal(result, 'name-invalid', /export name/);
      expect(readdirSync(folder)).toEqual(['disk.img']);
    },
  );

  it('is refused too when it would come from a file whose name no export can have', async () => {
    const { folder } = folderWithDisk();
    const disk = join(folder, 'my disk.img');
    expectRefusal(await runNbdtwin(['serve', disk, '--create', '--size', '1M', ...LISTEN]), 'name-invalid', /my disk/);
    expect(readdirSync(folder)).toEqual(['disk.img']);
  });
});

describe('a mirror directory that cannot be used', () => {
  const withSecret = { env: { NBDTWIN_SECRET: 'a long enough bare secret' } };

  it('is missing, or a file', async () => {
    const { folder, disk } = folderWithDisk();
    const missing = await runNbdtwin(['mirror', join(folder, 'none'), ...LISTEN], withSecret);
    expectRefusal(missing, 'directory-missing', /none/);
    expectRefusal(await runNbdtwin(['mirror', disk, ...LISTEN], withSecret), 'directory-missing', /disk\.img/);
    expect(readdirSync(folder)).toEqual(['disk.img']);
  });

  it('is read-only', async () => {
    const folder = join(temporaryFolder(), 'images');
    mkdirSync(folder, { mode: 0o555 });
    const result = await runNbdtwin(['mirror', folder, ...LISTEN], { ...withSecret, wrapper: WITHOUT_POWERS });
    expectRefusal(result, 'directory-read-only', /images/);
  });

  it('is in use by another mirror', async () => {
    const folder = temporaryFolder();
    const images = join(folder, 'images');
    mkdirSync(images);
    await Daemon.start(folder, ['mirror', images, ...LISTEN], withSecret);
    expectRefusal(await runNbdtwin(['mirror', images, ...LISTEN], withSecret), 'directory-busy', /images/);
  });
});

describe('TLS options that do not fit together', () => {
  it.each<[string, string[], RegExp]>([
    ['mode without material', ['--tls', 'require'], /--tls require needs/],
    ['certificate without key', ['--tls-cert', 'c.pem'], /--tls-cert and --tls-key go together/],
    ['authority without certificate', ['--tls-ca', 'ca.pem'], /give --tls-cert and --tls-key too/],
    ['keys that are not there', ['--tls-psk-file', '/none/k'], /--tls-psk-file: \/none\/k does not exist/],
    ['files that are not there', ['--tls-cert', '/none/c', '--tls-key', '/none/k'], /\/none\/c does not exist/],
  ])('%s', async (_, options, message) => {
    const { disk } = folderWithDisk();
    expectRefusal(await runNbdtwin(['serve', disk, ...LISTEN, ...options]), 'tls-config', message);
  });
});

describe('folders that the program needs', () => {
  it('must be there: $TMPDIR of the demonstration', async () => {
    const env = { TMPDIR: join(temporaryFolder(), 'none') };
    const { status, stderr } = await runNbdtwin(['demo'], { env });
    expect(stderr).toMatch(/^nbdtwin: directory-missing: the temporary folder .* does not exist$/m);
    expect(status).toBe(FAILURES['directory-missing'].exit);
  });

  it('must let this user in: the one with the control sockets', async () => {
    const folder = temporaryFolder();
    chmodSync(folder, 0);
    const env = { NBDTWIN_RUNTIME_DIR: join(folder, 'run') };
    const result = await runNbdtwin(['status'], { env, wrapper: WITHOUT_POWERS });
    expectRefusal(result, 'runtime-directory', /run: permission denied/);
  });
});
