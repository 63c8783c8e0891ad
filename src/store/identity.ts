import type { DiskIdentity } from '../io/disk.ts';

/** True when two identities show that nobody touched the file in between. */
export function sameIdentity(a: DiskIdentity, b: DiskIdentity): boolean {
  return a.inode === b.inode && a.size === b.size && a.modifiedNs === b.modifiedNs;
}
