/** What processes use of the machine, from /proc. */
import { readdir, readFile } from 'node:fs/promises';
import { runChild } from './children.ts';

/** Clock ticks of /proc/PID/stat in a second, on every Linux. */
const TICKS_PER_SECOND = 100;
/** Place of utime behind the name of the program, which is in parentheses; stime, cutime and cstime follow. */
const UTIME = 11;
const TIMES = 4;

/** CPU seconds of these processes so far, in user and kernel mode, with children that have ended. */
export async function cpuSecondsOf(pids: readonly number[]): Promise<number> {
  let ticks = 0;
  for (const pid of pids) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    for (const field of fields.slice(UTIME, UTIME + TIMES)) ticks += Number(field);
  }
  return ticks / TICKS_PER_SECOND;
}

/** Bytes of memory that these processes have now, without what they share with the page cache. */
export async function memoryOf(pids: readonly number[]): Promise<number> {
  let size = 0;
  for (const pid of pids) {
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    size += Number(/^RssAnon:\s+(\d+)/m.exec(status)?.[1] ?? 0) * 1024;
  }
  return size;
}

/** All threads of a process on these CPUs, as taskset lists them. */
export async function pin(pid: number, cpus: string): Promise<void> {
  await runChild('taskset', ['-a', '-c', '-p', cpus, String(pid)]);
}

/**
 * CPU seconds of these processes so far, from what the scheduler counts in nanoseconds rather than in ticks of 10 ms; without
 * children and threads that have ended. 0 where the kernel does not count.
 */
export async function preciseCpuSecondsOf(pids: readonly number[]): Promise<number> {
  let nanoseconds = 0;
  for (const pid of pids) {
    for (const thread of await readdir(`/proc/${pid}/task`)) {
      const text = await readFile(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').catch(() => '0');
      nanoseconds += Number(text.split(' ')[0]);
    }
  }
  return nanoseconds / 1e9;
}
