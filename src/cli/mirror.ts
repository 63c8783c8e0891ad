import process from 'node:process';
import type { Command } from 'commander';
import { Failure } from '../base/failure.ts';
import { activationSockets } from '../daemon/activation.ts';
import { type Address, LINK_PORT, parseTcpAddress } from '../daemon/address.ts';
import { addProcessOptions, addSecretOptions, type ProcessFlags, type SecretFlags, secretSources } from './options.ts';
import { runDaemon } from './run-daemon.ts';

interface MirrorFlags extends SecretFlags, ProcessFlags {
  readonly listen?: string;
}

const EXAMPLES = `
Example:
  On the backup host, with a copy of the primary's secret:
    nbdtwin mirror /srv/mirrors --secret-file twin.key

Each export appears as DIR/NAME.img, a plain image, with its state in DIR/NAME.img.twin/. To look inside while it is
being kept:
    losetup -r -f --show /srv/mirrors/disk.img      names a device, /dev/loop0 say
    mount -o ro,noload /dev/loop0 /mnt              ext4; for XFS: -o ro,norecovery,nouuid
A plain read-only loop mount would replay the journal *into* the image.

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
    .option('--listen <host:port>', `address of the link (default: "0.0.0.0:${LINK_PORT}"); port 0 picks one`);
  addProcessOptions(addSecretOptions(command))
    .addHelpText('after', EXAMPLES)
    .action(async (directory: string, flags: MirrorFlags) => {
      const config = { directory, listen: listenAddress(flags), secret: secretSources(flags) };
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
