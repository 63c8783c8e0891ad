import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { expect } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { BlockDevice } from './block-device.ts';
import { runProgram } from './run-program.ts';

/** A kind of file system and the programs that make and judge it. */
export interface FileSystem {
  /** Of the disk; not much more than the kind needs. */
  readonly size: number;
  readonly make: readonly [string, ...string[]];
  /** Mount options that leave the journal alone. */
  readonly asIs: readonly string[];
  /** Checks a device or an image without changing it; ends with 0 when nothing at all is wrong. */
  readonly check: readonly [string, ...string[]];
}

export const EXT4: FileSystem = {
  size: 96 * MIB,
  make: ['mkfs.ext4', '-q', '-E', 'nodiscard'],
  asIs: ['-o', 'ro,noload'],
  check: ['e2fsck', '-f', '-n'],
};

export const XFS: FileSystem = {
  size: 320 * MIB,
  make: ['mkfs.xfs', '-q', '-K'],
  asIs: ['-o', 'ro,norecovery'],
  check: ['xfs_repair', '-n'],
};

/** Path to checksum of every file below a folder. */
export function checksums(folder: string): Map<string, string> {
  const sums = new Map<string, string>();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    sums.set(relative(folder, path), createHash('sha256').update(readFileSync(path)).digest('hex'));
  }
  return sums;
}

/** An image must hold a file system without faults, with just these files, its journal left alone. */
export async function expectFiles(
  image: string,
  { asIs, check }: FileSystem,
  files: Map<string, string>,
): Promise<void> {
  const device = await BlockDevice.ofImage(image);
  const [program, ...args] = check;
  await runProgram(program, [...args, device.path]);
  const point = await device.mount(asIs);
  expect(checksums(point)).toEqual(files);
  await device.detach();
}
