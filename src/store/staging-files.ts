/**
 * The two files of a staged run in its directory: `data`, in which the bytes of an overlay lie, and `log`, without which
 * there is no run.
 */
import { Failure, isFailure } from '../base/failure.ts';
import { MIB } from '../base/units.ts';
import type { Disk, FileSystem } from '../io/disk.ts';
import { RANGES_MAX } from './overlay.ts';
import { type DecodedLog, decodeLog, ENTRY_SIZE } from './staging-log.ts';

export const LOG_NAME = 'log';
export const DATA_NAME = 'data';
/** A log is rewritten when it is so many times as large as its live ranges would be. */
export const LOG_FACTOR = 4;
/** More than a log can become: ranges without number are refused by the overlay. */
const LOG_SIZE_MAX = LOG_FACTOR * RANGES_MAX * ENTRY_SIZE + MIB;

/** Failure: `state-corrupt`. */
export async function readLog(files: FileSystem, path: string): Promise<DecodedLog> {
  let bytes: Buffer | undefined;
  try {
    bytes = await files.readFile(path, LOG_SIZE_MAX);
  } catch (error) {
    if (!isFailure(error, 'overflow')) throw error;
    throw new Failure('state-corrupt', `the log of the staged run is too large: ${path}`, { cause: error });
  }
  return decodeLog(bytes ?? Buffer.alloc(0), path);
}

/** A failed sync, before this process or in it, has left pages in the cache that the medium does not hold. */
export async function readAnew(disk: Disk): Promise<void> {
  await disk.sync();
  await disk.dropCache();
}

/** The log first: with it goes the run, in one step, and whatever else is left means nothing. */
export async function removeFiles(files: FileSystem, directory: string): Promise<void> {
  await removeLog(files, directory);
  await removeRest(files, directory);
}

/** On return there is no run any more, durably. */
export async function removeLog(files: FileSystem, directory: string): Promise<void> {
  await files.remove(`${directory}/${LOG_NAME}`);
  await files.syncDirectory(directory);
}

/** After `removeLog`: gives the space back. Until it has returned no other run may begin in the directory. */
export async function removeRest(files: FileSystem, directory: string): Promise<void> {
  const names = await files.list(directory);
  for (const name of names) await files.remove(`${directory}/${name}`);
  if (names.length > 0) await files.syncDirectory(directory);
}
