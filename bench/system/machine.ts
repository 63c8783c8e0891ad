import { statfs } from 'node:fs/promises';
import { arch, cpus, release, totalmem } from 'node:os';
import { runChild } from './children.ts';

/** Where figures were measured; without this they mean nothing. */
export interface Machine {
  readonly cpu: string;
  readonly cpuCount: number;
  readonly memorySize: number;
  readonly kernel: string;
  readonly fileSystem: string;
  readonly node: string;
  /** First line of what each program says about its version. */
  readonly programs: Readonly<Record<string, string>>;
}

/** Magic numbers of file systems, from statfs(2). */
const FILE_SYSTEMS: Readonly<Record<number, string>> = {
  61267: 'ext4',
  1481003842: 'xfs',
  16914836: 'tmpfs',
  2435016766: 'btrfs',
  2035054128: 'overlayfs',
  801189825: 'zfs',
};

export async function describeMachine(folder: string): Promise<Machine> {
  const processors = cpus();
  const { type } = await statfs(folder);
  return {
    cpu: processors[0]?.model ?? arch(),
    cpuCount: processors.length,
    memorySize: totalmem(),
    kernel: release(),
    fileSystem: FILE_SYSTEMS[type] ?? `0x${type.toString(16)}`,
    node: process.version,
    programs: {
      fio: await versionOf('fio'),
      nbdkit: await versionOf('nbdkit'),
      'qemu-nbd': await versionOf('qemu-nbd'),
    },
  };
}

async function versionOf(program: string): Promise<string> {
  return (await runChild(program, ['--version'])).split('\n')[0]!.trim();
}
