import process from 'node:process';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { Failure } from '../base/failure.ts';
import { MIRROR_LOSSES, MODES, type Mode, type OnMirrorLoss } from '../base/mode.ts';
import { GIB, MIB, TIB } from '../base/units.ts';
import { activationSockets } from '../daemon/activation.ts';
import { type Address, LINK_PORT, NBD_PORT, parseSocketPath, parseTcpAddress } from '../daemon/address.ts';
import type { NbdTlsConfig, ReplicationConfig, ServeConfig } from '../daemon/config.ts';
import {
  addProcessOptions,
  addSecretOptions,
  collect,
  countParser,
  durationParser,
  type ProcessFlags,
  parseDuration,
  parseRate,
  type SecretFlags,
  secretSources,
  sizeOrNoneParser,
  sizeParser,
} from './options.ts';
import { runDaemon } from './run-daemon.ts';

interface ServeFlags extends SecretFlags, ProcessFlags {
  readonly mirror?: string;
  readonly identity?: string;
  readonly export?: string;
  readonly description?: string;
  readonly listen?: string[];
  readonly noListen?: boolean;
  readonly socket?: string[];
  readonly readOnly?: boolean;
  readonly create?: boolean;
  readonly size?: number;
  readonly stateDir?: string;
  readonly mode: Mode;
  readonly mirrorTimeout?: number;
  readonly onMirrorLoss?: OnMirrorLoss;
  readonly window: number;
  readonly spoolSize: number;
  readonly spoolDir?: string;
  readonly dirtyActive: number;
  readonly rescanRate?: number;
  readonly rescan?: boolean;
  readonly verifyEvery?: number;
  readonly verifyRate?: number;
  readonly repair?: boolean;
  readonly rekeyBytes: number;
  readonly rekeyInterval: number;
  readonly tls?: NonNullable<NbdTlsConfig['mode']>;
  readonly tlsPskFile?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly tlsCa?: string;
  readonly drainTimeout: number;
}

const MIRROR_TIMEOUT_MS = 10_000;
const MIRROR_TIMEOUT_MIN_MS = 1_000;
const VERIFY_EVERY_MIN_MS = 1_000;
const VERIFY_EVERY_MAX_MS = 366 * 86_400_000;
const VERIFY_RATE = 16 * MIB;

const EXAMPLES = `
Examples:
  A disk of 10 GiB, made on the spot and replicated to another host:
    (umask 077; nbdtwin secret new > twin.key)
    nbdtwin serve disk.img --create --size 10G --mirror backup.example --secret-file twin.key

  A partition, on a unix socket only:
    nbdtwin serve /dev/sdb1 --state-dir /var/lib/nbdtwin/sdb1 --mirror backup.example \\
      --secret-file twin.key --no-listen --socket /run/nbd-sdb1.sock

  A database whose commits must survive the loss of this host, and which rather stands still than lose that:
    nbdtwin serve db.img --mirror backup.example --secret-file twin.key --mode flush --on-mirror-loss stall

  The same, but after 30 s without the mirror it goes on alone, says so, and returns by itself:
    nbdtwin serve db.img --mirror backup.example --secret-file twin.key --mode flush --mirror-timeout 30s

  Compared with its mirror every week, in passing; what differs is reported:
    nbdtwin serve disk.img --mirror backup.example --secret-file twin.key --verify-every 7d

  Without replication, to the local network, for clients that know a key:
    nbdtwin serve disk.img --listen 0.0.0.0:${NBD_PORT} --tls-psk-file clients.psk

Clients attach with \`nbdtwin attach\`, nbd-client, qemu, libnbd and others. When it listens, one line that starts with
\`nbdtwin serve: ready\` and names the addresses is written to stdout.

SIGTERM and SIGINT stop cleanly, once more at once. SIGHUP is ignored: the disk stays served when the terminal closes.`;

export function addServe(program: Command): void {
  const command = program
    .command('serve')
    .summary('serve a disk over NBD and keep a live copy of it on a mirror')
    .description(
      'Serves a file, partition or block device over NBD. With --mirror, every write is also sent, in order and encrypted, to an `nbdtwin mirror`.',
    )
    .argument('<disk>', 'file, partition or block device')
    .optionsGroup('Replication:')
    .option('--mirror <host[:port]>', `where \`nbdtwin mirror\` listens; port ${LINK_PORT} unless given`);
  addSecretOptions(command)
    .option('--identity <id>', 'line of the secret file to use, when it has several')
    .option('--state-dir <dir>', 'what must survive a crash; DISK.twin unless given, needed for block devices')
    .addOption(
      new Option(
        '--mode <mode>',
        'when requests are answered: async, done here; flush, FLUSH and FUA durable here and on the mirror; sync, writes done on both as well',
      )
        .choices(MODES)
        .default('async'),
    )
    .option(
      '--mirror-timeout <duration>',
      'in flush and sync: how long a mirror that is away or stuck is waited for; 10s unless given',
      parseMirrorTimeout,
    )
    .addOption(
      new Option(
        '--on-mirror-loss <policy>',
        'and then: continue (unless given), answer as in async until it is back; stall, wait for it; fail, answer with an error',
      ).choices(MIRROR_LOSSES),
    )
    .option('--rescan', 'compare the whole disk at the first contact')
    .option(
      '--rescan-rate <rate>',
      'most bytes per second that a rescan reads on each side, such as 50M; in any case no faster than clients allow',
      parseRate,
    )
    .option(
      '--verify-every <duration>',
      'compare the whole disk with the mirror this often, slowly, such as 7d; never unless given',
      durationParser(VERIFY_EVERY_MIN_MS, VERIFY_EVERY_MAX_MS),
    )
    .option(
      '--verify-rate <rate>',
      'with --verify-every: most bytes per second read on each side; 16M unless given',
      parseRate,
    )
    .option(
      '--repair',
      'with --verify-every: make the mirror what the disk is where they differ; wrong if the disk is the damaged one',
    )
    .addOption(
      new Option('--window <size>', 'memory for operations that the mirror does not have yet')
        .argParser(sizeParser(MIB, 64 * GIB))
        .default(64 * MIB, '64M'),
    )
    .addOption(
      new Option('--spool-size <size>', 'disk space for what the window cannot take; 0 for none')
        .argParser(sizeOrNoneParser(MIB, 64 * TIB))
        .default(GIB, '1G'),
    )
    .option('--spool-dir <dir>', 'where that goes, if not below --state-dir; for one export alone')
    .addOption(
      new Option('--dirty-active <count>', 'regions that stay marked: the first write to another one waits for a mark')
        .argParser(countParser(1, 2 ** 20))
        .default(4096),
    )
    .addOption(
      new Option('--rekey-bytes <size>', 'renew the keys of the link after this much')
        .argParser(sizeParser(MIB, 16 * TIB))
        .default(64 * GIB, '64G'),
    )
    .addOption(
      new Option('--rekey-interval <duration>', 'renew the keys of the link after this long')
        .argParser(parseDuration)
        .default(3_600_000, '1h'),
    )
    .optionsGroup('Export:')
    .option('--export <name>', 'its name; the base name of the disk without extension unless given')
    .option('--description <text>', 'shown to clients that list exports')
    .option('--read-only', 'refuse every change')
    .option('--create', 'make the disk, a sparse file of --size')
    .option('--size <size>', 'with --create, such as 10G', sizeParser(512, Number.MAX_SAFE_INTEGER))
    .optionsGroup('Clients:')
    .option(
      '--listen <host[:port]>',
      `TCP address for NBD clients, may be repeated; 127.0.0.1:${NBD_PORT} unless given; port 0 picks one`,
      collect(String),
    )
    .addOption(noListenOption())
    .option('--socket <path>', 'unix socket for NBD clients, may be repeated', collect(String))
    .addOption(
      new Option('--tls <mode>', 'TLS for NBD clients; require when one of the following is given, else off').choices([
        'require',
        'on',
        'off',
      ]),
    )
    .option('--tls-psk-file <file>', 'keys of clients, as psktool writes them')
    .option('--tls-cert <file>', 'certificate of this server, PEM')
    .option('--tls-key <file>', 'its key, PEM')
    .option('--tls-ca <file>', 'clients must show a certificate of this authority, PEM')
    .optionsGroup('Process:')
    .addOption(
      new Option('--drain-timeout <duration>', 'how long a stop waits for clients and mirror')
        .argParser(parseDuration)
        .default(10_000, '10s'),
    );
  addProcessOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (disk: string, flags: ServeFlags) => {
      const config = serveConfig(disk, flags);
      const { startServe } = await import('../daemon/serve.ts');
      await runDaemon(flags, (world, log) => startServe(world, log, config));
    });
}

/** Failures: `usage`, `address-invalid`, `config-invalid`. */
function serveConfig(disk: string, flags: ServeFlags): ServeConfig {
  if (flags.create === true && flags.size === undefined) throw new Failure('usage', '--create needs --size');
  if (flags.create !== true && flags.size !== undefined) throw new Failure('usage', '--size needs --create');
  if (flags.create === true && flags.readOnly === true) {
    throw new Failure('usage', '--create and --read-only exclude each other');
  }
  const replicating = flags.mirror !== undefined;
  if (!replicating && (flags.rescan === true || flags.identity !== undefined || flags.rescanRate !== undefined)) {
    throw new Failure('usage', '--rescan, --rescan-rate and --identity need --mirror');
  }
  if (!replicating && flags.spoolDir !== undefined) throw new Failure('usage', '--spool-dir needs --mirror');
  if (!replicating && flags.mode !== 'async') throw new Failure('usage', `--mode ${flags.mode} needs --mirror`);
  // Without it they would promise what async does not keep.
  if (flags.mode === 'async' && (flags.mirrorTimeout !== undefined || flags.onMirrorLoss !== undefined)) {
    throw new Failure('usage', '--mirror-timeout and --on-mirror-loss need --mode flush or --mode sync');
  }
  if (!replicating && flags.verifyEvery !== undefined) throw new Failure('usage', '--verify-every needs --mirror');
  if (flags.verifyEvery === undefined && (flags.verifyRate !== undefined || flags.repair === true)) {
    throw new Failure('usage', '--verify-rate and --repair need --verify-every');
  }
  const secret = secretSources(flags);
  if (!replicating && (flags.secret !== undefined || flags.secretFile !== undefined)) {
    throw new Failure('usage', 'a secret needs --mirror');
  }
  return {
    disk,
    createSize: flags.create === true ? flags.size : undefined,
    readOnly: flags.readOnly === true,
    exportName: flags.export,
    description: flags.description ?? '',
    listen: listenAddresses(flags),
    tls: {
      mode: flags.tls,
      pskFile: flags.tlsPskFile,
      certificateFile: flags.tlsCert,
      keyFile: flags.tlsKey,
      clientAuthorityFile: flags.tlsCa,
    },
    stateDirectory: flags.stateDir,
    replication:
      flags.mirror === undefined
        ? undefined
        : {
            mirror: parseTcpAddress(flags.mirror, LINK_PORT),
            secret,
            identity: flags.identity,
            agreement: {
              mode: flags.mode,
              mirrorTimeoutMs: flags.mirrorTimeout ?? MIRROR_TIMEOUT_MS,
              onMirrorLoss: flags.onMirrorLoss ?? 'continue',
            },
            windowSize: flags.window,
            spoolSize: flags.spoolSize,
            spoolDirectory: flags.spoolDir,
            dirtyActive: flags.dirtyActive,
            rescanRate: flags.rescanRate,
            rescanAll: flags.rescan === true,
            periodicVerify: periodicVerify(flags),
            rekeySize: flags.rekeyBytes,
            rekeyIntervalMs: flags.rekeyInterval,
          },
    drainMs: flags.drainTimeout,
  };
}

function periodicVerify({ verifyEvery, verifyRate, repair }: ServeFlags): ReplicationConfig['periodicVerify'] {
  if (verifyEvery === undefined) return undefined;
  return { everyMs: verifyEvery, rate: verifyRate ?? VERIFY_RATE, repair: repair === true };
}

/** Long enough for a mirror that is well: below, every hiccup of the network would be a loss. */
function parseMirrorTimeout(text: string): number {
  const timeoutMs = parseDuration(text);
  if (timeoutMs < MIRROR_TIMEOUT_MIN_MS) throw new InvalidArgumentError('A mirror needs at least 1s.');
  return timeoutMs;
}

/** A flag of its own: for commander it would be `--listen` with the value false, and the last of both would win. */
function noListenOption(): Option {
  const option = new Option('--no-listen', 'no TCP');
  option.negate = false;
  return option;
}

/** Sockets from systemd replace the default address, not those that are asked for. */
function listenAddresses(flags: ServeFlags): Address[] {
  const handedOver = activationSockets(process.env, process.pid);
  const sockets = (flags.socket ?? []).map(parseSocketPath);
  const asked = flags.listen ?? [];
  if (flags.noListen === true && asked.length > 0) {
    throw new Failure('usage', '--listen and --no-listen contradict each other');
  }
  const replaced = flags.noListen === true || asked.length > 0 || handedOver.length > 0;
  const byDefault = replaced ? [] : [`127.0.0.1:${NBD_PORT}`];
  const addresses = [
    ...[...asked, ...byDefault].map((text) => parseTcpAddress(text, NBD_PORT)),
    ...sockets,
    ...handedOver,
  ];
  if (addresses.length === 0) throw new Failure('usage', '--no-listen without --socket: clients could not connect');
  return addresses;
}
