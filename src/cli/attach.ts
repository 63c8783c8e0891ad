import process from 'node:process';
import type { Command } from 'commander';
import { NBD_PORT } from '../daemon/address.ts';
import { attach, detach } from '../daemon/attach.ts';
import { countParser } from './options.ts';

interface AttachFlags {
  readonly host: string;
  readonly port: number;
  readonly socket?: string;
  readonly export?: string;
  readonly connections: number;
  readonly timeout: number;
  readonly readOnly?: boolean;
  readonly dryRun?: boolean;
}

const NOTES = `
Needs root, the kernel module nbd and the program nbd-client. What it runs is printed first.

A server that restarts is not found again by nbd-client: unmount, \`nbdtwin detach\` and attach anew. (Its -persist loses
writes that are in flight, so it is not used.)

It attaches without TLS: against a server that requires it, serve a unix socket for this host, or run nbd-client itself
with -certfile and -keyfile. nbd-client knows certificates, and no keys of --tls-psk-file.

Examples:
  nbdtwin attach /dev/nbd0 && mkfs.ext4 /dev/nbd0 && mount /dev/nbd0 /mnt
  nbdtwin attach /dev/nbd0 --socket /run/nbd.sock --export disk
  nbdtwin attach /dev/nbd0 --dry-run`;

export function addAttach(program: Command): void {
  program
    .command('attach')
    .summary('make an export a block device of this host')
    .description('Attaches an export to a kernel NBD device with nbd-client.')
    .argument('<device>', 'such as /dev/nbd0')
    .option('--host <host>', 'where the server is', '127.0.0.1')
    .option('--port <port>', 'its TCP port', countParser(1, 65535), NBD_PORT)
    .option('--socket <path>', 'its unix socket, instead of host and port')
    .option('--export <name>', 'name of the export; the default one unless given')
    .option('--connections <count>', 'connections to use in parallel', countParser(1, 64), 1)
    .option(
      '--timeout <seconds>',
      'a request unanswered for so long fails with an I/O error',
      countParser(1, 86_400),
      90,
    )
    .option('--read-only', 'refuse every change')
    .option('--dry-run', 'only print what would be run')
    .addHelpText('after', NOTES)
    .action((device: string, flags: AttachFlags) => {
      const server = flags.socket === undefined ? { host: flags.host, port: flags.port } : { socket: flags.socket };
      const config = {
        device,
        server,
        exportName: flags.export ?? '',
        connections: flags.connections,
        timeoutSeconds: flags.timeout,
        readOnly: flags.readOnly === true,
        dryRun: flags.dryRun === true,
      };
      attach(config, announce);
    });
}

export function addDetach(program: Command): void {
  program
    .command('detach')
    .summary('give a block device back')
    .description('Detaches a kernel NBD device, which must not be mounted.')
    .argument('<device>', 'such as /dev/nbd0')
    .option('--dry-run', 'only print what would be run')
    .action((device: string, flags: { readonly dryRun?: boolean }) => detach(device, flags.dryRun === true, announce));
}

function announce(command: string): void {
  process.stdout.write(`${command}\n`);
}
