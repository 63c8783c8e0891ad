/** Which exports a mirror directory holds: every `NAME.img` with a state beside it, in nested folders too. */
import type { FileSystem } from '../io/disk.ts';
import { MIRROR_STATE_NAME } from '../store/mirror-state.ts';

/** Folders inside folders, as deep as an export's name can nest in practice. */
const DEPTH_MAX = 16;

export async function findExports(files: FileSystem, directory: string): Promise<string[]> {
  const names: string[] = [];
  await collect(files, directory, '', DEPTH_MAX, names);
  return names.sort();
}

async function collect(
  files: FileSystem,
  directory: string,
  prefix: string,
  depth: number,
  names: string[],
): Promise<void> {
  if (depth === 0) return;
  for (const entry of await files.list(directory)) {
    const path = `${directory}/${entry}`;
    if (entry.endsWith('.img.twin')) {
      const state = await files.exists(`${path}/${MIRROR_STATE_NAME}`);
      if (state === 'file') names.push(prefix + entry.slice(0, -'.img.twin'.length));
    } else if ((await files.exists(path)) === 'directory') {
      await collect(files, path, `${prefix}${entry}/`, depth - 1, names);
    }
  }
}
