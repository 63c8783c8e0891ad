import { describe, expect, it } from 'vitest';
import { activationSockets } from '../../../src/daemon/activation.ts';
import { isLocal, nbdUri, parseSocketPath, parseTcpAddress } from '../../../src/daemon/address.ts';

describe('a TCP address', () => {
  it.each([
    ['127.0.0.1:0', '127.0.0.1', 0],
    ['backup.example:10810', 'backup.example', 10810],
    ['[::1]:65535', '::1', 65535],
    ['[fe80::1%eth0]:1', 'fe80::1%eth0', 1],
  ])('%s has host and port', (text, host, port) => {
    expect(parseTcpAddress(text)).toEqual({ kind: 'tcp', host, port });
  });

  it.each([
    ['backup.example', 'backup.example'],
    ['2001:db8::1', '2001:db8::1'],
    ['[2001:db8::1]', '2001:db8::1'],
  ])('%s takes the default port where there is one', (text, host) => {
    expect(parseTcpAddress(text, 10810)).toEqual({ kind: 'tcp', host, port: 10810 });
    expect(() => parseTcpAddress(text)).toThrow(expect.objectContaining({ code: 'address-invalid' }));
  });

  it.each(['', ':', ':10', 'host:', 'host:port', 'host:65536', 'host:-1', 'a b', 'a b:1 ', '[::1', 'host:1:2:'])(
    '%j is none, with or without a default port',
    (text) => {
      expect(() => parseTcpAddress(text)).toThrow(expect.objectContaining({ code: 'address-invalid' }));
      expect(() => parseTcpAddress(text, 1)).toThrow(expect.objectContaining({ code: 'address-invalid' }));
    },
  );

  it('is local for loopback alone', () => {
    const host = (name: string) => isLocal({ kind: 'tcp', host: name, port: 1 });
    expect(['127.0.0.1', '127.8.8.8', '::1', 'localhost'].map(host)).toEqual([true, true, true, true]);
    expect(['0.0.0.0', '::', '192.0.2.1', 'localhost.example'].map(host)).toEqual([false, false, false, false]);
    expect(isLocal({ kind: 'unix', path: '/s' })).toBe(true);
  });
});

describe('the path of a unix socket', () => {
  it('has 1 to 107 bytes', () => {
    expect(parseSocketPath('s'.repeat(107))).toEqual({ kind: 'unix', path: 's'.repeat(107) });
    for (const path of ['', 's'.repeat(108), 'ä'.repeat(54)]) {
      expect(() => parseSocketPath(path)).toThrow(expect.objectContaining({ code: 'address-invalid' }));
    }
  });
});

describe('the URI of an export', () => {
  it('is that of the NBD specification', () => {
    const tcp = { kind: 'tcp', host: '127.0.0.1', port: 10809 } as const;
    expect(nbdUri(tcp, 'web/root', false)).toBe('nbd://127.0.0.1:10809/web/root');
    expect(nbdUri({ ...tcp, host: '::1' }, 'disk', true)).toBe('nbds://[::1]:10809/disk');
    expect(nbdUri({ kind: 'unix', path: '/run/a b.sock' }, 'disk', false)).toBe(
      'nbd+unix:///disk?socket=/run/a%20b.sock',
    );
    expect(nbdUri({ kind: 'unix', path: '/s' }, 'disk', true)).toBe('nbds+unix:///disk?socket=/s');
  });

  it('names the absolute path of a socket, which a client elsewhere in the tree needs', () => {
    expect(nbdUri({ kind: 'unix', path: 's' }, 'disk', false)).toBe(
      `nbd+unix:///disk?socket=${encodeURI(process.cwd())}/s`,
    );
  });
});

describe('sockets from systemd', () => {
  it('are descriptors from 3 on, and the variables are gone afterwards', () => {
    const environment: NodeJS.ProcessEnv = { LISTEN_PID: '7', LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b', HOME: '/' };
    expect(activationSockets(environment, 7)).toEqual([
      { kind: 'descriptor', descriptor: 3 },
      { kind: 'descriptor', descriptor: 4 },
    ]);
    expect(environment).toEqual({ HOME: '/' });
  });

  it('are none without activation, or when it was meant for another process', () => {
    expect(activationSockets({}, 7)).toEqual([]);
    expect(activationSockets({ LISTEN_PID: '8', LISTEN_FDS: '2' }, 7)).toEqual([]);
    expect(activationSockets({ LISTEN_FDS: '2' }, 7)).toEqual([]);
  });

  it.each(['-1', '65', 'two', '1.5'])('LISTEN_FDS=%s is refused', (count) => {
    expect(() => activationSockets({ LISTEN_PID: '7', LISTEN_FDS: count }, 7)).toThrow(
      expect.objectContaining({ code: 'config-invalid' }),
    );
  });
});
