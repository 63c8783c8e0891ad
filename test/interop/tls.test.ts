import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Daemon } from '../support/daemon.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram, tryProgram } from '../support/run-program.ts';
import { makeDisk, makeKeys, startPlain } from '../support/serving.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { newAuthority } from '../unit/io/certificates.ts';

/** A server with certificates; `clients` true: clients must show one too. */
async function startWithCertificates(clients: boolean) {
  const folder = temporaryFolder();
  const authority = newAuthority();
  const server = authority.issue('localhost');
  const file = (path: string, text: string) => {
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  };
  const args = [
    '--tls-cert',
    file(join(folder, 'cert'), server.certificate),
    '--tls-key',
    file(join(folder, 'key'), server.key),
  ];
  if (clients) args.push('--tls-ca', file(join(folder, 'ca'), authority.certificate));
  const daemon = await Daemon.start(folder, ['serve', makeDisk(folder), '--listen', '127.0.0.1:0', ...args]);
  /** A folder as libnbd wants it, for a client that trusts this authority. */
  const pki = (issuer: typeof authority | undefined) => {
    const path = join(temporaryFolder(), 'pki');
    mkdirSync(path);
    file(join(path, 'ca-cert.pem'), authority.certificate);
    const client = issuer?.issue('a client');
    if (client !== undefined) {
      file(join(path, 'client-cert.pem'), client.certificate);
      file(join(path, 'client-key.pem'), client.key);
    }
    return path;
  };
  const uriWith = (path: string) => `nbds://localhost:${daemon.address.port}/disk?tls-certificates=${path}`;
  return { daemon, authority, pki, uriWith };
}

needPrograms(
  'TLS',
  'nbdinfo',
  'qemu-img',
  'psktool',
  'openssl',
)(() => {
  describe('with pre-shared keys', () => {
    it('a client with a key of the file gets in, and its identity is known', async () => {
      const { uri, daemon } = await startPlain({ transport: 'tls' });
      expect(JSON.parse(await runProgram('nbdinfo', ['--json', uri]))).toMatchObject({ TLS: true });
      expect(daemon.logLines).toContainEqual(
        expect.objectContaining({ msg: 'client connected', identity: 'alice', encrypted: true }),
      );
    });

    it('a client with another key, or under an unknown name, does not', async () => {
      const { uri, folder } = await startPlain({ transport: 'tls' });
      const other = makeKeys(folder, 'other');
      const wrong = await tryProgram('nbdinfo', [uri.replace(/tls-psk-file=.*/, `tls-psk-file=${other}`)]);
      expect(wrong.status).not.toBe(0);
      writeFileSync(join(folder, 'mallory.psk'), `mallory:${'ab'.repeat(32)}\n`);
      const unknown = uri
        .replace('alice@', 'mallory@')
        .replace(/tls-psk-file=.*/, `tls-psk-file=${folder}/mallory.psk`);
      expect((await tryProgram('nbdinfo', [unknown])).status).not.toBe(0);
      expect(JSON.parse(await runProgram('nbdinfo', ['--json', uri]))).toMatchObject({ TLS: true });
    });

    it('a client without TLS learns nothing, and is told why', async () => {
      const { uri } = await startPlain({ transport: 'tls', args: ['--description', 'confidential'] });
      const plain = uri.replace('nbds+unix://alice@', 'nbd+unix://').replace(/&tls-psk-file=.*/, '');
      for (const args of [[plain], ['--list', plain]]) {
        const { status, stdout, stderr } = await tryProgram('nbdinfo', args);
        expect(status).not.toBe(0);
        expect(stdout + stderr).not.toMatch(/confidential|67108864/);
      }
      const socket = /socket=([^&]*)/.exec(uri)![1]!;
      const image = `driver=nbd,server.type=unix,server.path=${socket},export=disk`;
      const { status, stderr } = await tryProgram('qemu-img', ['info', '--image-opts', image]);
      expect(status).not.toBe(0);
      expect(stderr).toContain('server requires TLS');
    });

    it('with --tls on, clients come with TLS and without', async () => {
      const { uri } = await startPlain({ transport: 'tls', args: ['--tls', 'on'] });
      const plain = uri.replace('nbds+unix://alice@', 'nbd+unix://').replace(/&tls-psk-file=.*/, '');
      expect(JSON.parse(await runProgram('nbdinfo', ['--json', plain]))).toMatchObject({ TLS: false });
      expect(JSON.parse(await runProgram('nbdinfo', ['--json', uri]))).toMatchObject({ TLS: true });
    });

    it('a client that insists on TLS leaves a server without', async () => {
      const { uri, folder } = await startPlain();
      const keys = makeKeys(folder);
      const secure = `${uri.replace('nbd+unix://', 'nbds+unix://alice@')}&tls-psk-file=${keys}`;
      const { status, stderr } = await tryProgram('nbdinfo', [secure]);
      expect(status).not.toBe(0);
      expect(stderr).toContain('connection is closed');
    });
  });

  describe('with certificates', () => {
    it('a client that trusts the authority of the server gets in', async () => {
      const { pki, uriWith } = await startWithCertificates(false);
      const shown = JSON.parse(await runProgram('nbdinfo', ['--json', uriWith(pki(undefined))]));
      expect(shown).toMatchObject({ TLS: true, exports: [{ 'export-name': 'disk' }] });
    });

    it('a client that trusts another authority leaves', async () => {
      const { uriWith } = await startWithCertificates(false);
      const { pki } = await startWithCertificates(false);
      expect((await tryProgram('nbdinfo', [uriWith(pki(undefined))])).status).not.toBe(0);
    });

    it('where clients must show one, only one of the right authority will do', async () => {
      const { authority, pki, uriWith, daemon } = await startWithCertificates(true);
      expect(JSON.parse(await runProgram('nbdinfo', ['--json', uriWith(pki(authority))]))).toMatchObject({ TLS: true });
      expect(daemon.logLines).toContainEqual(
        expect.objectContaining({ msg: 'client connected', identity: 'a client', encrypted: true }),
      );
      expect((await tryProgram('nbdinfo', [uriWith(pki(undefined))])).status).not.toBe(0);
      const impostor = newAuthority('another authority');
      expect((await tryProgram('nbdinfo', [uriWith(pki(impostor))])).status).not.toBe(0);
      expect(daemon.logLines.filter(({ msg }) => msg === 'client connected')).toHaveLength(1);
    });
  });
});
