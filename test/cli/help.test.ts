import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PROGRAM, runNbdtwin } from '../support/daemon.ts';

const COMMANDS = ['serve', 'mirror', 'status', 'verify', 'recover', 'secret', 'attach', 'detach', 'demo'];

describe('help', () => {
  it('names every command, on stdout', async () => {
    const { status, stdout, stderr } = await runNbdtwin(['help']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    for (const command of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${command} `, 'm'));
  });

  it.each(COMMANDS)('explains %s and its options', async (command) => {
    const { status, stdout } = await runNbdtwin(['help', command]);
    expect(status).toBe(0);
    expect(stdout).toMatch(new RegExp(`^Usage: nbdtwin ${command} `));
    expect(stdout).toMatch(command === 'secret' ? /new \[options]/ : /--\w+/);
  });

  it('is shown on stderr, with the status of wrong usage, when nothing is asked for', async () => {
    const { status, stdout, stderr } = await runNbdtwin([]);
    expect({ status, stdout }).toEqual({ status: 64, stdout: '' });
    expect(stderr).toContain('Usage: nbdtwin');
  });

  it('has examples that start with a command that exists', async () => {
    for (const command of COMMANDS) {
      const { stdout } = await runNbdtwin(['help', command]);
      for (const [, word] of stdout.matchAll(/^ +nbdtwin (\w+)/gm)) expect(COMMANDS).toContain(word);
    }
  });
});

it('starts by its own first line, whose flags this Node knows', () => {
  // No Node that stands elsewhere in PATH: the one that runs this.
  const PATH = `${dirname(process.execPath)}:${process.env['PATH']}`;
  const { status, stderr } = spawnSync(PROGRAM, ['--version'], { encoding: 'utf8', env: { ...process.env, PATH } });
  expect([status, stderr]).toEqual([0, '']);
  expect(readFileSync(PROGRAM, 'utf8')).toMatch(/^#!\/usr\/bin\/env -S node --single-threaded-gc\n/);
});

describe('--version', () => {
  it('prints the release of package.json', async () => {
    const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
    for (const word of ['--version', 'version']) {
      expect(await runNbdtwin([word])).toMatchObject({ status: 0, stdout: `${version}\n` });
    }
  });
});

describe('wrong usage', () => {
  it.each([
    [['frobnicate'], /^nbdtwin: usage: unknown command 'frobnicate'/],
    [['serve'], /missing required argument 'disk'/],
    [['serve', 'a', 'b'], /too many arguments/],
    [['recover'], /missing required argument 'image'/],
    [['mirror', 'd', '--staging-limit', '1K'], /This size must be from 1 MiB/],
    [['mirror', 'd', '--staging-overflow', 'maybe'], /Allowed choices are keep, continue/],
    [['mirror', 'd', '--rescans-max', '0'], /This number must be from 1 to 1024/],
    [['mirror', 'd', '--rescans-max', '1025'], /This number must be from 1 to 1024/],
    [['mirror', 'd', '--rescans-max', 'two'], /A whole number is needed/],
    [['serve', 'a', '--bogus'], /unknown option '--bogus'/],
    [['serve', 'a', '--window', 'much'], /A size is a number/],
    [['serve', 'a', '--window', '1K'], /This size must be from 1 MiB to 64 GiB/],
    [['serve', 'a', '--dirty-active', '0'], /This number must be from 1 to 1048576/],
    [['serve', 'a', '--rekey-interval', '1'], /A duration is a number/],
    [['serve', 'a', '--rescan-rate', 'fast'], /A rate is a size/],
    [['serve', 'a', '--log-level', 'loud'], /Allowed choices are debug, info, warn, error, silent/],
    [['serve', 'a', '--tls', 'maybe'], /Allowed choices are require, on, off/],
    [['serve', 'a', '--listen', '127.0.0.1:70000'], /address-invalid: .* ports go up to 65535/],
    [['serve', 'a', '--socket', 'x'.repeat(200)], /address-invalid: a socket path/],
    [['serve', 'a', '--no-listen'], /usage: --no-listen without --socket/],
    [['serve', 'a', '--no-listen', '--listen', 'b:1'], /usage: --listen and --no-listen contradict each other/],
    [['serve', 'a', '--listen', 'b:1', '--no-listen'], /usage: --listen and --no-listen contradict each other/],
    [['serve', 'a', '--create'], /usage: --create needs --size/],
    [['serve', 'a', '--size', '1G'], /usage: --size needs --create/],
    [['serve', 'a', '--create', '--size', '1G', '--read-only'], /usage: --create and --read-only/],
    [['serve', 'a', '--rescan'], /usage: .*need --mirror/],
    [['serve', 'a', '--mode', 'flush'], /usage: --mode flush needs --mirror/],
    [['serve', 'a', '--mode', 'slow'], /Allowed choices are async, flush, sync/],
    [['serve', 'a', '--mirror', 'b', '--on-mirror-loss', 'stall'], /usage: .* need --mode flush or --mode sync/],
    [['serve', 'a', '--mirror', 'b', '--mirror-timeout', '5s'], /usage: .* need --mode flush or --mode sync/],
    [['serve', 'a', '--mode', 'sync', '--mirror-timeout', '20ms'], /A mirror needs at least 1s/],
    [['serve', 'a', '--mode', 'sync', '--on-mirror-loss', 'hope'], /Allowed choices are continue, stall, fail/],
    [['serve', 'a', '--secret-file', 'k'], /usage: a secret needs --mirror/],
    [['serve', 'a', '--mirror', 'b:port', '--secret', 'x'], /address-invalid/],
    [['mirror', 'a', '--listen', 'b:port'], /address-invalid/],
    [['attach', '/dev/sda', '--dry-run'], /usage: "\/dev\/sda" is not an NBD device/],
    [['attach', '/dev/nbd0', '--port', '0'], /This number must be from 1 to 65535/],
  ])('%j is refused with status 64', async (args, message) => {
    const { status, stdout, stderr } = await runNbdtwin(args);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^nbdtwin: /);
    expect({ status, stdout }).toEqual({ status: 64, stdout: '' });
  });
});

describe('--description', () => {
  it('longer than the protocol can send is refused at the start, not when a client lists exports', async () => {
    const result = await runNbdtwin(['serve', 'a', '--description', 'ä'.repeat(2049)]);
    expect(result).toMatchObject({ status: 64, stdout: '' });
    expect(result.stderr).toContain('nbdtwin: usage: --description has 4098 bytes, at most 4096 are possible\n');
  });
});

describe('attach --dry-run', () => {
  it('prints the commands that would be run and runs nothing', async () => {
    const tcp = await runNbdtwin(['attach', '/dev/nbd3', '--dry-run', '--host', 'store', '--connections', '2']);
    expect(tcp).toMatchObject({ status: 0, stderr: '' });
    expect(tcp.stdout.split('\n')).toEqual([
      'modprobe nbd',
      'nbd-client store 10809 /dev/nbd3 -block-size 512 -timeout 90 -connections 2',
      '',
    ]);
    const unix = await runNbdtwin(['attach', '/dev/nbd0', '--dry-run', '--socket', '/a b/s', '--export', 'web/1']);
    expect(unix.stdout).toContain(`nbd-client -unix '/a b/s' /dev/nbd0 -name web/1 -block-size 512 -timeout 90\n`);
  });
});

describe('secret new', () => {
  it('prints a line of 256 bits that differs every time', async () => {
    const [first, second] = await Promise.all([runNbdtwin(['secret', 'new']), runNbdtwin(['secret', 'new'])]);
    expect(first.stdout).toMatch(/^nbdtwin:[0-9a-f]{64}\n$/);
    expect(second.stdout).toMatch(/^nbdtwin:[0-9a-f]{64}\n$/);
    expect(first.stdout).not.toBe(second.stdout);
  });

  it('takes the identity whose key it is, and refuses one that no secret file could hold', async () => {
    expect((await runNbdtwin(['secret', 'new', '--identity', 'web'])).stdout).toMatch(/^web:[0-9a-f]{64}\n$/);
    expect(await runNbdtwin(['secret', 'new', '--identity', 'a:b'])).toMatchObject({ status: 64, stdout: '' });
    for (const identity of ['a b', '../x', 'a.img', '']) {
      const result = await runNbdtwin(['secret', 'new', '--identity', identity]);
      expect(result).toMatchObject({ status: 64, stdout: '' });
      expect(result.stderr).toContain(`nbdtwin: usage: --identity ${JSON.stringify(identity)}: `);
    }
  });
});
