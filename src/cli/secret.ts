import process from 'node:process';
import type { Command } from 'commander';
import { newSecret } from '../daemon/new-secret.ts';

const EXAMPLE = `
Example:
  (umask 077; nbdtwin secret new > twin.key)
  scp -p twin.key backup.example:`;

export function addSecret(program: Command): void {
  const secret = program.command('secret').summary('make the secret that both sides share');
  secret
    .command('new')
    .summary('print a new secret of 256 bits, ready for --secret-file')
    .option('--identity <id>', 'whose key it is; the default may write every export')
    .addHelpText('after', EXAMPLE)
    .action((flags: { readonly identity?: string }) => {
      process.stdout.write(`${newSecret(flags.identity)}\n`);
    });
}
