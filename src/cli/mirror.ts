import process from 'node:process';
import { type Command, Option } from 'commander';
import { Failure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import { activationSockets } from '../daemon/activation.ts';
import { type Address, LINK_PORT, parseTcpAddress } from '../daemon/address.ts';
import {
  addProcessOptions,
  addSecretOptions,
  countParser,
  type ProcessFlags,
  type SecretFlags,
  secretSources,
  sizeParser,
} from './options.ts';
import { runDaemon } from './run-daemon.ts';

interface MirrorFlags extends SecretFlags, ProcessFlags {
  readonly listen?: string;
  readonly stagingLimit?: number;
  readonly stagingOverflow: 'keep' | 'continue';
  readonly rescansMax: number;
}

/** As many as there can be sessions. */
const RESCANS_MAX = 1024;

const EXAMPLES = `
Example:
  On the backup host, with a copy of the primary's secret:
    nbdtwin mirror /srv/mirrors --secret-file twin.key

Each export appears as DIR/NAME.img, a plain image, with its state in DIR/NAME.img.twin/. To look inside while it is
being kept:
    losetup -r -f --show /srv/mirrors/disk.img      names a device, /dev/loop0 say
    mount -o ro,noload /dev/loop0 /mnt              ext4; for XFS: -o ro,norecovery,nouuid
A plain read-only loop mount would replay the journal *into* the image.

While a mirror is brought up to date after an interruption, what is new is kept beside the image, in
DIR/NAME.img.twin/staging/, and becomes part of it in one step: until then the image stays as it was. \`nbdtwin recover\`
makes an image ready for use. With --staging-overflow continue a run that finds no room goes straight to the image,
which is marked as not consistent until it is complete.

No more than --rescans-max exports are brought up to date at the same time: when the host comes back after a reboot, the
others wait in the order in which they came, their primaries serve as usual and remember what has changed, and
\`nbdtwin status\` shows the place of each, on both hosts. With 2, one that takes long leaves a place for all the others.

Give every primary a key of its own by a line \`identity:hexkey\` in the secret file: it may then write only the exports
named \`identity\` and \`identity/...\`; the identity \`nbdtwin\`, and a bare secret, may write all.`;

export function addMirror(program: Command): void {
  const command = program
    .command('mirror')
    .summary('receive live copies of disks into a directory')
    .description(
      'Keeps a byte-for-byte image of every disk that a primary sends. Any number of primaries share one port.',
    )
    .argument('<dir>', 'directory of the images; must exist')
    .option('--listen <host:port>', `address of the link (default: "0.0.0.0:${LINK_PORT}"); port 0 picks one`)
    .option(
      '--staging-limit <size>',
      'most bytes per export for what is not complete yet, kept beside the image (default: what the disk has)',
      sizeParser(MIB, Number.MAX_SAFE_INTEGER),
    )
    .addOption(
      new Option(
        '--staging-overflow <what>',
        'when that runs out: keep the image old but consistent, or continue without it',
      )
        .choices(['keep', 'continue'])
        .default('keep'),
    )
    .option(
      '--rescans-max <n>',
      'rescans and first copies that run at the same time, the others wait in a queue',
      countParser(1, RESCANS_MAX),
      2,
    );
  addProcessOptions(addSecretOptions(command))
    .addHelpText('after', EXAMPLES)
    .action(async (directory: string, flags: MirrorFlags) => {
      const staging = { limit: flags.stagingLimit, overflow: flags.stagingOverflow };
      const { rescansMax } = flags;
      const config = { directory, listen: listenAddress(flags), staging, rescansMax, secret: secretSources(flags) };
      const { startMirror } = await import('../daemon/mirror.ts');
      await runDaemon(flags, (world, log) => startMirror(world, log, config));
    });
}

function listenAddress(flags: MirrorFlags): Address {
  const handedOver = activationSockets(process.env, process.pid);
  if (flags.listen !== undefined) return parseTcpAddress(flags.listen, LINK_PORT);
  if (handedOver.length > 1) throw new Failure('config-invalid', 'a mirror takes one socket from systemd');
  return handedOver[0] ?? { kind: 'tcp', host: '0.0.0.0', port: LINK_PORT };
}
