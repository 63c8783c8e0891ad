/**
 * The peer programs that judge us: what they are called, which Debian package brings each, and whether this machine
 * has them. A suite that needs some says so with `needPrograms`; where they are missing and may not be installed it is
 * skipped under a name that tells why. With CI=true a skipped test fails the run (reporter.ts).
 */
import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { describe } from 'vitest';

/** Program to Debian package. */
export const PROGRAM_PACKAGES = {
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  nbdsh: 'python3-libnbd',
  nbdfuse: 'nbdfuse',
  fusermount3: 'fuse3',
  'qemu-io': 'qemu-utils',
  'qemu-img': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  fio: 'fio',
  psktool: 'gnutls-bin',
  openssl: 'openssl',
  nbdkit: 'nbdkit',
  'nbd-client': 'nbd-client',
  'mkfs.ext4': 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  debugfs: 'e2fsprogs',
  dumpe2fs: 'e2fsprogs',
  'mkfs.xfs': 'xfsprogs',
  xfs_db: 'xfsprogs',
  xfs_repair: 'xfsprogs',
  losetup: 'mount',
  mount: 'mount',
  umount: 'mount',
  fstrim: 'util-linux',
  cmp: 'diffutils',
  tar: 'tar',
} as const satisfies Record<string, string>;

/** What a suite may need beside programs. */
const ABILITIES = {
  root: { missing: 'needs root', present: () => process.getuid?.() === 0 },
  'loop-device': { missing: 'needs root and /dev/loop-control', present: () => isRootWith('/dev/loop-control') },
  'fuse-device': { missing: 'needs root and /dev/fuse', present: () => isRootWith('/dev/fuse') },
} as const;

export type Program = keyof typeof PROGRAM_PACKAGES;
export type Ability = keyof typeof ABILITIES;

function isRootWith(device: string): boolean {
  return process.getuid?.() === 0 && existsSync(device);
}

/** The path of a program, also of those in sbin when $PATH leaves that out; undefined when it is not installed. */
export function programPath(program: string): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(delimiter).concat('/usr/local/sbin', '/usr/sbin', '/sbin');
  return folders.map((folder) => join(folder, program)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Why a suite with these needs cannot run here, for a person; undefined when it can. */
export function missingNeeds(needs: readonly (Program | Ability)[]): string | undefined {
  const reasons = needs.flatMap((need): string[] => {
    if (isAbility(need)) return ABILITIES[need].present() ? [] : [ABILITIES[need].missing];
    return programPath(need) === undefined ? [`${need} is not installed (Debian: ${PROGRAM_PACKAGES[need]})`] : [];
  });
  return reasons.length === 0 ? undefined : reasons.join(', ');
}

function isAbility(need: Program | Ability): need is Ability {
  return Object.hasOwn(ABILITIES, need);
}

/**
 * `describe` for a suite that runs peer programs; where one is missing, the suite is skipped and its name says why.
 * Used as `needPrograms('fio over TCP', 'fio')(() => { it(...) })`.
 */
export function needPrograms(suiteName: string, ...needs: (Program | Ability)[]): (body: () => void) => void {
  const reason = missingNeeds(needs);
  if (reason === undefined) return (body) => describe(suiteName, body);
  return (body) => describe.skip(`${suiteName} [skipped: ${reason}]`, body);
}
