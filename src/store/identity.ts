import type { DiskIdentity } from '../io/disk.ts';

/**
 * True when two inode texts name the same file of its file system. The device is left out: its number may be another one
 * after the next start of the machine.
 */
export function sameInode(a: string, b: string): boolean {
  return a.slice(a.indexOf(':') + 1) === b.slice(b.indexOf(':') + 1);
}

/** True when two identities show that nobody touched the file in between. */
export function sameIdentity(a: DiskIdentity, b: DiskIdentity): boolean {
  return a.inode === b.inode && a.size === b.size && a.modifiedNs === b.modifiedNs;
}
