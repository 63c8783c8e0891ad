import { realpath } from 'node:fs/promises';

/** The path without symbolic links, absolute; undefined when nothing is there or it cannot be reached. */
export async function realPath(path: string): Promise<string | undefined> {
  return realpath(path).catch(() => undefined);
}
