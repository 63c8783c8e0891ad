import process from 'node:process';
import type { Command } from 'commander';
import { Failure } from '../base/failure.ts';
import { recover } from '../daemon/recover.ts';
import { openLog } from '../observe/logger.ts';
import { paintFor } from '../observe/paint.ts';
import { recoverText } from '../observe/recover-text.ts';
import { wholeMs } from '../observe/whole-ms.ts';

interface RecoverFlags {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

const NOTES = `
Finishes a staged run that is complete, drops one that is not, and prints the position of the image, its age, and
whether it may be used. The primary can go on with the image later. Where a mirror runs it is asked to do it: it applies
what it has received first, and keeps a staged run that is not complete for its primary.

It works on a copy of the image with its .twin folder just as well (from a backup, or of a mirror that is stopped or
frozen), and says that it is one. Afterwards a mirror takes the copy up, which without this it would compare whole.

The image looks as if made by dd. To look inside while its mirror runs use \`losetup -r\` and mount with noload or
norecovery: a plain read-only loop mount would replay the journal into the image.

Exit status: 0 the image may be used (with --dry-run: could be, after a real run), 65 it may not (the output says why),
66 no such image, 75 it is in use.

Examples:
  nbdtwin recover /srv/mirrors/disk.img
  nbdtwin recover /srv/mirrors/disk.img --dry-run
  nbdtwin recover /srv/mirrors/disk.img --json | jq '{consistent, exact, file, ageMs}'

  # a copy of a mirror that is stopped, made ready for use
  cp -a --sparse=always /srv/mirrors/disk.img /srv/mirrors/disk.img.twin /srv/copy/
  nbdtwin recover /srv/copy/disk.img`;

export function addRecover(program: Command): void {
  program
    .command('recover')
    .summary('make a mirror image ready for use, and say what it holds')
    .argument('<image>', 'image of a mirror: DIR/NAME.img')
    .option('--dry-run', 'change nothing, only say what would be done')
    .option('--json', 'print the report as one JSON object')
    .addHelpText('after', NOTES)
    .action(async (image: string, flags: RecoverFlags) => {
      const log = await openLog({
        level: 'warn',
        pretty: process.stderr.isTTY === true,
        write: (line) => process.stderr.write(line),
      });
      const report = await recover(log, image, flags.dryRun === true);
      const text =
        flags.json === true
          ? JSON.stringify(report, wholeMs)
          : recoverText(report, paintFor(process.stdout)).join('\n');
      process.stdout.write(`${text}\n`);
      if (!report.consistent) throw new Failure('image-inconsistent', `${report.image}: ${report.reason ?? 'unknown'}`);
    });
}
