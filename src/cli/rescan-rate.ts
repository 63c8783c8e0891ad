import process from 'node:process';
import type { Command } from 'commander';
import { formatSize } from '../base/units.ts';
import { askRescanRate } from '../daemon/ask.ts';
import { parseRate } from './options.ts';

const ADAPTIVE = 'adaptive';

const NOTES = `
Holds from now on, for a rescan that runs as well, until the primary stops; \`serve --rescan-rate\` sets what it starts with.

Examples:
  nbdtwin rescan-rate 20M
  nbdtwin rescan-rate adaptive disk.img`;

export function addRescanRate(program: Command): void {
  program
    .command('rescan-rate')
    .summary('change how fast rescans of a running primary may read')
    .argument('<rate>', `bytes per second, such as 50M; ${ADAPTIVE}: no ceiling, as fast as clients allow`, (text) =>
      text === ADAPTIVE ? undefined : parseRate(text),
    )
    .argument('[target]', 'disk or export; may be left out when only one is served')
    .addHelpText('after', NOTES)
    .action(async (bytesPerSecond: number | undefined, target: string | undefined) => {
      await askRescanRate(target, bytesPerSecond);
      const now = bytesPerSecond === undefined ? 'as fast as clients allow' : `${formatSize(bytesPerSecond)}/s at most`;
      process.stderr.write(`rescans read ${now}\n`);
    });
}
