import process from 'node:process';
import type { Command } from 'commander';
import { Failure } from '../base/failure.ts';
import { formatDuration, formatSize } from '../base/units.ts';
import { askVerify } from '../daemon/ask.ts';
import type { VerifyReport } from '../daemon/status.ts';
import { ProgressReporter } from '../observe/progress-reporter.ts';
import { comparisonText } from '../observe/progress-text.ts';
import { wholeMs } from '../observe/whole-ms.ts';

const NOTES = `
Clients are served meanwhile. Prints the ranges that differ, or cannot be read here, \`offset length\` in bytes, one per line, on stdout; for the
first ones followed by what lies there, where debugfs (ext) or xfs_db (XFS) can tell.

Exit status: 0 identical, 1 differences, 69 no such process, 75 the mirror is not in step at present, or another verify runs.

Examples:
  nbdtwin verify
  nbdtwin verify disk.img --json`;

export function addVerify(program: Command): void {
  program
    .command('verify')
    .summary('compare disk and mirror now, block by block')
    .argument('[target]', 'disk or export; may be left out when only one is served')
    .option('--json', 'print the whole report as one JSON object')
    .addHelpText('after', NOTES)
    .action(async (target: string | undefined, flags: { readonly json?: boolean }) => {
      const reporter = new ProgressReporter(process.stderr);
      let report: VerifyReport;
      try {
        report = await askVerify(target, (progress) =>
          reporter.update(progress.comparedSize, progress.scopeSize, comparisonText(progress)),
        );
      } finally {
        reporter.finish();
      }
      if (flags.json === true) process.stdout.write(`${JSON.stringify(report, wholeMs)}\n`);
      else for (const range of report.ranges) process.stdout.write(`${rangeLine(range)}\n`);
      const compared = `${formatSize(report.comparedSize)} compared in ${formatDuration(report.elapsedMs)}`;
      if (report.differingSize > 0) {
        const ranges = `${report.truncated ? 'more than ' : ''}${report.ranges.length} ranges`;
        throw new Failure(
          'differences-found',
          `${ranges} differ, ${formatSize(report.differingSize)} in all; ${compared}`,
        );
      }
      process.stderr.write(`identical: ${compared}\n`);
    });
}

function rangeLine({ offset, length, owner }: VerifyReport['ranges'][number]): string {
  return `${offset} ${length}${owner === undefined ? '' : ` ${owner}`}`;
}
