/** The command line as a whole: its commands, and what becomes of errors. */
import process from 'node:process';
import { Command, CommanderError } from 'commander';
import { FAILURES, isFailure, messageOf } from '../base/failure.ts';
import { VERSION } from '../daemon/version.ts';
import { addAttach, addDetach } from './attach.ts';
import { endWithOutput } from './closed-output.ts';
import { addDemo } from './demo.ts';
import { addMirror } from './mirror.ts';
import { addRecover } from './recover.ts';
import { addRescanRate } from './rescan-rate.ts';
import { addSecret } from './secret.ts';
import { addServe } from './serve.ts';
import { addStatus } from './status.ts';
import { addVerify } from './verify.ts';

/** BSD sysexits: an internal error. */
const EXIT_BUG = 70;

const DESCRIPTION = `A disk that keeps a live copy of itself elsewhere.

\`nbdtwin serve\` is an NBD server for a file, partition or block device: clients attach it and put a file system or a \
database on it. Every write is also sent, in order and encrypted, to \`nbdtwin mirror\` on another host, which keeps a \
plain image. After an interruption the two find back together by themselves.`;

const START = `
To see it at work on this machine: nbdtwin demo

Exit status: 0 success, 1 \`verify\` found differences, 64 wrong usage, 65 data that does not fit, 66 something is missing,
68 no such host, 69 not reachable or not running, 70 internal error, 71 a program failed, 72 no kernel module, 73 cannot
create, 74 I/O error, 75 busy, 76 protocol, 77 no permission, 78 configuration, 128 + signal (130 is Ctrl-C).`;

/** Commands that go on, or clean up, when their output is closed. */
const CLEANING = new Set(['serve', 'mirror', 'demo']);

/** Runs a command line, without the program's name. Returns the exit status; errors were told on stderr. */
export async function runCommandLine(args: readonly string[]): Promise<number> {
  const program = createProgram();
  // What cannot be told to anybody must not become an internal error.
  process.stderr.on('error', () => {});
  try {
    if (args.length === 0) program.outputHelp({ error: true });
    else await program.parseAsync(args, { from: 'user' });
    return args.length === 0 ? FAILURES.usage.exit : 0;
  } catch (error) {
    return report(error);
  }
}

function createProgram(): Command {
  const program = new Command('nbdtwin')
    .description(DESCRIPTION)
    .version(VERSION, '-V, --version')
    .addHelpText('after', START)
    .configureHelp({ sortSubcommands: false, showGlobalOptions: false })
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'nbdtwin: usage: ')) })
    .showHelpAfterError('`nbdtwin help COMMAND` shows what is possible.')
    .exitOverride()
    .hook('preAction', (_, command) => {
      if (!CLEANING.has(command.name())) endWithOutput();
    });
  // Commands inherit these settings when they are added.
  for (const add of [
    addServe,
    addMirror,
    addStatus,
    addVerify,
    addRescanRate,
    addRecover,
    addSecret,
    addAttach,
    addDetach,
    addDemo,
  ])
    add(program);
  const version = program.command('version').description('Prints the release, as --version does.');
  version.action(() => void process.stdout.write(`${VERSION}\n`));
  return program;
}

function report(error: unknown): number {
  // Commander has written its message.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : FAILURES.usage.exit;
  if (isFailure(error)) {
    process.stderr.write(`nbdtwin: ${error.code}: ${error.message}\n  ${error.hint}\n`);
    return error.exit;
  }
  process.stderr.write(`nbdtwin: internal error, please report it: ${messageOf(error)}\n`);
  if (error instanceof Error && error.stack !== undefined) process.stderr.write(`${error.stack}\n`);
  return EXIT_BUG;
}
