import { chmodSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { Daemon } from '../support/daemon.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram } from '../support/run-program.ts';
import { makeDisk, type Serving, startPair, startPlain } from '../support/serving.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { newAuthority } from '../unit/io/certificates.ts';

const JOBS = 4;
const JOB_SIZE = 16 * MIB;

interface Counts {
  readonly error: number;
  readonly read: { readonly total_ios: number; readonly io_bytes: number };
  readonly write: { readonly total_ios: number; readonly io_bytes: number };
  readonly trim: { readonly total_ios: number; readonly io_bytes: number };
}

/**
 * Four jobs, each with a connection of its own and 32 requests in flight, each on its quarter of 64 MiB. fio reads back
 * what it wrote and compares checksums.
 */
async function fio(uri: string, args: readonly string[], wrapper: readonly string[] = []): Promise<Counts> {
  const folder = temporaryFolder();
  chmodSync(folder, 0o777);
  const report = join(folder, 'report.json');
  const [program = '', ...rest] = [
    ...wrapper,
    'fio',
    '--name=job',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--iodepth=32',
    `--numjobs=${JOBS}`,
    `--size=${JOB_SIZE}`,
    `--offset_increment=${JOB_SIZE}`,
    '--verify_fatal=1',
    '--group_reporting',
    '--output-format=json',
    `--output=${report}`,
    ...args,
  ];
  await runProgram(program, rest, { cwd: folder });
  const { jobs } = JSON.parse(readFileSync(report, 'utf8')) as { jobs: Counts[] };
  expect(jobs).toHaveLength(1);
  expect(jobs[0]!.error).toBe(0);
  return jobs[0]!;
}

const VERIFY = ['--verify=crc32c', '--do_verify=1'];

/** Every byte of the disk is written once and read back at least once. */
async function expectVerifiedWrites(uri: string, wrapper?: readonly string[]): Promise<void> {
  const sizes = ['--rw=randwrite', '--bsrange=512-128k', '--bs_unaligned=1', '--serialize_overlap=1', '--fsync=64'];
  const counts = await fio(uri, [...sizes, ...VERIFY], wrapper);
  expect(counts.write.io_bytes).toBeGreaterThan(0.9 * JOBS * JOB_SIZE);
  expect(counts.read.io_bytes).toBe(counts.write.io_bytes);
}

async function expectVerifiedTrims({ uri, disk }: Serving): Promise<void> {
  const trimAndWrite = ['--rw=randtrimwrite', '--bsrange=4k-64k', '--serialize_overlap=1'];
  const mixed = await fio(uri, [...trimAndWrite, ...VERIFY]);
  expect(mixed.trim.total_ios).toBeGreaterThan(0);
  expect(mixed.write.total_ios).toBeGreaterThan(0);
  expect(mixed.read.io_bytes).toBe(mixed.write.io_bytes);
  const trims = await fio(uri, ['--rw=randtrim', '--bsrange=4k-64k']);
  expect(trims.trim.io_bytes).toBe(JOBS * JOB_SIZE);
  expect(readFileSync(disk).equals(Buffer.alloc(JOBS * JOB_SIZE))).toBe(true);
  expect(statSync(disk).blocks).toBe(0);
}

const SERVERS = [
  ['a server without mirror', startPlain],
  ['a pair', startPair],
] as const;

needPrograms(
  'fio',
  'fio',
  'cmp',
  'openssl',
)(() => {
  describe.each(SERVERS)('against %s', (_, start) => {
    it.each(['tcp', 'unix'] as const)('finds what it wrote in blocks of any size, over %s', async (transport) => {
      const serving = await start({ transport });
      await expectVerifiedWrites(serving.uri);
      await serving.expectSettled();
    });

    it('finds what it wrote while it reads and writes at once, with FUA by fsync', async () => {
      const serving = await start();
      const mixed = ['--rw=randrw', '--rwmixread=30', '--bsrange=512-128k', '--bs_unaligned=1', '--fsync=20'];
      const counts = await fio(serving.uri, [...mixed, ...VERIFY]);
      expect(counts.write.total_ios).toBeGreaterThan(0);
      await serving.expectSettled();
    });

    it('finds what it wrote between trims, and zeroes where it trimmed', async () => {
      const serving = await start();
      await expectVerifiedTrims(serving);
      await serving.expectSettled();
    });
  });

  it('finds what it wrote over TLS with certificates', async () => {
    const folder = temporaryFolder();
    const authority = newAuthority();
    const server = authority.issue('localhost');
    const client = authority.issue('a client');
    const file = (name: string, text: string) => {
      const path = join(folder, name);
      writeFileSync(path, text, { mode: 0o600 });
      return path;
    };
    const certificates = ['--tls-cert', file('cert', server.certificate), '--tls-key', file('key', server.key)];
    const disk = makeDisk(folder);
    const clients = ['--tls-ca', file('ca', authority.certificate)];
    const daemon = await Daemon.start(folder, ['serve', disk, '--listen', '127.0.0.1:0', ...certificates, ...clients]);

    // libnbd takes certificates from the user's home, but not for root, and fio can name no other place.
    const home = temporaryFolder();
    chmodSync(home, 0o755);
    const pki = join(home, '.pki/libnbd');
    mkdirSync(pki, { recursive: true });
    writeFileSync(join(pki, 'ca-cert.pem'), authority.certificate);
    writeFileSync(join(pki, 'client-cert.pem'), client.certificate);
    writeFileSync(join(pki, 'client-key.pem'), client.key);
    const asNobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
    const wrapper = [...(process.getuid?.() === 0 ? asNobody : []), 'env', `HOME=${home}`];
    await expectVerifiedWrites(`nbds://localhost:${daemon.address.port}/disk`, wrapper);
    const identities = daemon.logLines.flatMap(({ msg, identity }) => (msg === 'client connected' ? [identity] : []));
    expect(new Set(identities)).toEqual(new Set(['a client']));
  });
});
