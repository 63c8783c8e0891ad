import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { programPath } from './peers.ts';
import { temporaryFolder } from './temporary-folder.ts';

/** A file system in memory that holds little; needs root. Unmounted when the test ends. */
export class SmallDisk {
  readonly folder: string;

  /** `size` in bytes. Make it before what uses it: it is undone last. */
  constructor(size: number) {
    this.folder = temporaryFolder();
    const { folder } = this;
    run('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'nbdtwin-test', folder);
    onTestFinished(() => run('umount', folder));
  }

  remount(options: string): void {
    run('mount', '-o', `remount,${options}`, this.folder);
  }

  /** Leaves no more than `left` bytes. */
  fill(left: number): void {
    const free = Number(execFileSync('stat', ['-f', '-c', '%a', this.folder]).toString()) * 4096;
    writeFileSync(join(this.folder, 'ballast'), Buffer.alloc(Math.max(0, free - left), 1));
  }

  /** Gives back what `fill` took. */
  free(): void {
    rmSync(join(this.folder, 'ballast'));
  }
}

function run(program: string, ...args: string[]): void {
  execFileSync(programPath(program) ?? program, args);
}
