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

/** `folder`: where the disks lie. `programs`: those whose version matters. */
export async function describeMachine(folder: string, programs: readonly string[]): Promise<Machine> {
  const processors = cpus();
  const { type } = await statfs(folder);
  return {
    cpu: processors[0]?.model ?? arch(),
    cpuCount: processors.length,
    memorySize: totalmem(),
    kernel: release(),
    fileSystem: FILE_SYSTEMS[type] ?? `0x${type.toString(16)}`,
    node: process.version,
    programs: Object.fromEntries(
      await Promise.all(programs.map(async (program) => [program, await versionOf(program)] as const)),
    ),
  };
}

/** The head of a report, in one or two lines. */
export function machineText(machine: Machine): string {
  const { cpu, cpuCount, memorySize, kernel, fileSystem, node, programs } = machine;
  const memory = `${Math.round(memorySize / 2 ** 30)} GiB`;
  const hardware = `${cpu}, ${cpuCount} CPUs, ${memory}, Linux ${kernel}, ${fileSystem}, Node ${node}`;
  const versions = Object.values(programs);
  return versions.length === 0 ? hardware : `${hardware}\n${versions.join(', ')}`;
}

async function versionOf(program: string): Promise<string> {
  return (await runChild(program, ['--version'])).split('\n')[0]!.trim();
}
