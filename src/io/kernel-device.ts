/** /dev/nbdN: the block devices that the kernel makes of NBD exports. */
import { existsSync, readFileSync } from 'node:fs';

/** True when the kernel has the device `name`, such as `nbd0`. */
export function deviceExists(name: string): boolean {
  return existsSync(`/sys/block/${name}`);
}

/** True while a client is attached to it. */
export function isAttached(name: string): boolean {
  return existsSync(`/sys/block/${name}/pid`);
}

/** Where the device or a partition of it is mounted; undefined when nowhere. */
export function mountPoint(name: string): string | undefined {
  const source = new RegExp(`^/dev/${name}(?:p\\d+)?$`);
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  return mounts.map((line) => line.split(' ')).find(([device = '']) => source.test(device))?.[1];
}
