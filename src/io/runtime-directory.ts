/**
 * The folder in which running processes leave their control sockets. Who can write there can pose as a daemon, so it
 * is used only when it belongs to this user and nobody else can enter.
 */
import { lstat, mkdir, readdir, unlink } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { errnoOf, Failure } from '../base/failure.ts';
import { systemReason, systemReasonOf } from '../base/system-reason.ts';

const MODE = 0o700;
const FOREIGN_MODE_BITS = 0o077;

/**
 * $NBDTWIN_RUNTIME_DIR, else /run/nbdtwin for root, else $XDG_RUNTIME_DIR/nbdtwin, else /tmp/nbdtwin-UID. An absolute
 * path; the folder may not be there yet.
 */
export function runtimeDirectory(environment: NodeJS.ProcessEnv): string {
  const given = environment['NBDTWIN_RUNTIME_DIR'] ?? '';
  if (given !== '') return path.resolve(given);
  const userId = process.geteuid!();
  if (userId === 0) return '/run/nbdtwin';
  const session = environment['XDG_RUNTIME_DIR'] ?? '';
  return session === '' ? `/tmp/nbdtwin-${userId}` : path.join(path.resolve(session), 'nbdtwin');
}

/** Makes the folder when it is missing. `runtime-directory` when it is not a folder of this user alone. */
export async function makeRuntimeDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { mode: MODE });
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') {
      throw new Failure('runtime-directory', `cannot make ${directory}: ${systemReason(error)}`, { cause: error });
    }
  }
  await requireOwn(directory);
}

/** Paths of the sockets in the folder, sorted. None when there is no folder. `runtime-directory` as above. */
export async function listSockets(directory: string): Promise<string[]> {
  try {
    await requireOwn(directory);
    const entries = await readdir(directory, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isSocket())
      .map((entry) => path.join(directory, entry.name))
      .sort();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    if (error instanceof Failure) throw error;
    throw new Failure('runtime-directory', systemReasonOf(directory, error), { cause: error });
  }
}

/** Removes a socket that nobody listens on any more. Never fails: another process may have been quicker. */
export async function removeSocket(socketPath: string): Promise<void> {
  await unlink(socketPath).catch(() => {});
}

async function requireOwn(directory: string): Promise<void> {
  const stat = await lstat(directory);
  const why = !stat.isDirectory()
    ? 'is not a folder'
    : stat.uid !== process.geteuid!()
      ? `belongs to user ${stat.uid}`
      : (stat.mode & FOREIGN_MODE_BITS) !== 0
        ? 'is open to other users'
        : undefined;
  if (why !== undefined) throw new Failure('runtime-directory', `${directory} ${why}`);
}
