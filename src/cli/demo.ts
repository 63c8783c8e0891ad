import type { Command } from 'commander';

export function addDemo(program: Command): void {
  program.command('demo').summary('show it at work on this machine, in a temporary folder');
}
