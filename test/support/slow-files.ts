/** Files in memory whose disks take their time, fail, or are full, as a test says. */
import { Failure } from '../../src/base/failure.ts';
import type { Disk } from '../../src/io/disk.ts';
import type { MemoryDiskCall } from './memory-disk.ts';
import { MemoryFiles } from './memory-files.ts';

export class SlowFiles extends MemoryFiles {
  /** Reads, writes and syncs wait for `finish` from now on. */
  slow = false;
  /** Thrown by such calls, of the kinds that `failing` names. */
  failure: Failure | undefined;
  failing: readonly MemoryDiskCall[] = ['read', 'write', 'punch', 'sync'];
  /** Bytes that all files together may reach; only writes count. */
  sizeMax = Number.POSITIVE_INFINITY;
  /** How far each file has been written. */
  readonly reached = new Map<string, number>();
  writes = 0;
  #waiting: (() => void)[] = [];

  override async openState(path: string): Promise<Disk> {
    const disk = await super.openState(path);
    this.file(path).disk.hook = (call, offset, length) => this.#called(path, call, offset + length);
    return disk;
  }

  override async remove(path: string): Promise<void> {
    await super.remove(path);
    this.reached.delete(path);
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Lets the calls that wait take effect, in their order, or only the first `count` of them. */
  finish(count = this.#waiting.length): void {
    for (const wake of this.#waiting.splice(0, count)) wake();
  }

  /** Bytes of the files whose names end so, as far as they have been written. */
  sizeOf(ending: string): number {
    let size = 0;
    for (const [path, end] of this.reached) if (path.endsWith(ending)) size += end;
    return size;
  }

  #called(path: string, call: MemoryDiskCall, end: number): void | Promise<void> {
    const fail = this.failing.includes(call) ? this.failure : undefined;
    if (call === 'write') this.#count(path, end);
    if (!this.slow) {
      if (fail !== undefined) throw fail;
      return;
    }
    return new Promise<void>((resolve) => this.#waiting.push(resolve)).then(() => {
      if (fail !== undefined) throw fail;
    });
  }

  #count(path: string, end: number): void {
    const before = this.reached.get(path) ?? 0;
    const total = [...this.reached.values()].reduce((sum, size) => sum + size, 0);
    if (end > before && total - before + end > this.sizeMax) throw new Failure('no-space', `${path}: the disk is full`);
    this.writes += 1;
    this.reached.set(path, Math.max(before, end));
  }
}
