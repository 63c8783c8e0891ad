import process from 'node:process';
import type { Command } from 'commander';

const NOTES = `
A primary and a mirror run as processes of their own over an encrypted link; a file system is written through NBD, the
link is cut while writes go on, and at the end both images are compared bit for bit. On a terminal both go on serving
afterwards, until Ctrl-C. Everything is in a temporary folder ($TMPDIR) that is removed at the end; it takes some
500 MiB there.

Exit status: 0 when both images are identical, 1 when they differ.`;

export function addDemo(program: Command): void {
  program
    .command('demo')
    .summary('show it at work on this machine, in a temporary folder')
    .description('Shows what nbdtwin does, on this machine alone.')
    .option('--once', 'end afterwards, also on a terminal')
    .addHelpText('after', NOTES)
    .action(async (flags: { readonly once?: boolean }) => {
      const { runDemo } = await import('../daemon/demo/demo.ts');
      await runDemo({ screen: process.stdout, keepServing: flags.once !== true });
    });
}
