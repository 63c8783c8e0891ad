import { readFile } from 'node:fs/promises';

/** What a process has read and written so far, all threads, as the kernel counts it. */
export interface ProcessIo {
  /** Bytes of all read calls: disks, page cache, sockets, its own program. */
  readonly called: number;
  /** Bytes that came from a medium. */
  readonly fromMedium: number;
  /** Bytes of all write calls. */
  readonly written: number;
}

export async function ioOf(pid: number): Promise<ProcessIo> {
  const text = await readFile(`/proc/${pid}/io`, 'utf8');
  const field = (name: string): number => {
    const found = new RegExp(`^${name}: (\\d+)$`, 'm').exec(text)?.[1];
    if (found === undefined) throw new Error(`/proc/${pid}/io has no ${name}`);
    return Number(found);
  };
  return { called: field('rchar'), fromMedium: field('read_bytes'), written: field('wchar') };
}
