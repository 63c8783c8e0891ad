/**
 * Set-up of the suites that may run peer programs: installs what is missing from Debian's packages where that is allowed
 * (root, or sudo that asks for no password). Where it is not, or fails, the suites that need them say so themselves.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { PROGRAM_PACKAGES, type Program, programPath } from './peers.ts';

const INSTALL_TIMEOUT_MS = 8 * 60_000;

/** Debian packages of the programs that are not there, each once. */
export function missingPackages(isPresent: (program: Program) => boolean): string[] {
  const programs = Object.keys(PROGRAM_PACKAGES) as Program[];
  return [...new Set(programs.filter((program) => !isPresent(program)).map((program) => PROGRAM_PACKAGES[program]))];
}

/** The command that runs another as root without asking anything, or undefined when there is none. */
function rootPrefix(): string[] | undefined {
  if (process.getuid?.() === 0) return [];
  return spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0 ? ['sudo', '-n'] : undefined;
}

function say(text: string): void {
  process.stderr.write(`test set-up: ${text}\n`);
}

/** Set when one group of suites has been through this; the next need not try again. */
const DONE = 'NBDTWIN_PEERS_TRIED';

/** vitest's globalSetup, once for each group of suites that needs it. */
export default function installPeers(): void {
  if (process.env[DONE] !== undefined) return;
  process.env[DONE] = 'yes';
  const packages = missingPackages((program) => programPath(program) !== undefined);
  if (packages.length === 0) return;
  const prefix = rootPrefix();
  if (!existsSync('/usr/bin/apt-get') || prefix === undefined) {
    say(`not installed and not mine to install: ${packages.join(' ')}`);
    return;
  }
  say(`installing ${packages.join(' ')}`);
  const apt = [...prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-q', '-o', 'DPkg::Lock::Timeout=120'];
  for (const step of [['update'], ['install', '-y', '--no-install-recommends', ...packages]]) {
    const [command = '', ...args] = [...apt, ...step];
    const result = spawnSync(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      encoding: 'utf8',
      timeout: INSTALL_TIMEOUT_MS,
    });
    if (result.status !== 0) {
      say(`apt-get ${step[0]} failed:\n${result.stdout ?? ''}${result.stderr ?? ''}`);
      return;
    }
  }
}
