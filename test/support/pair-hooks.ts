/** What a test does to the disks, the scans and the clock of a pair: looks on, holds, fails, lets time pass. */
import { onTestFinished } from 'vitest';
import { type Clock, systemClock, type Timer } from '../../src/io/clock.ts';
import type { Disk } from '../../src/io/disk.ts';
import type { ScanRequest } from '../../src/io/scan-pool.ts';
import type { Pair } from './pair.ts';

/** Something that waits until the test lets it go on, or is over. */
export class Gate {
  readonly passed: Promise<void>;
  open: () => void = () => undefined;

  constructor() {
    this.passed = new Promise((resolve) => {
      this.open = resolve;
    });
    onTestFinished(this.open);
  }
}

type HookedCall = 'read' | 'write' | 'sync';
/** Throw to fail the call; return a promise to delay it; otherwise it goes on. */
export type DiskHook = (call: HookedCall, offset: number, length: number) => void | Promise<void>;

/** Calls `hook` before each such call to the disk at `path`, if it is opened from now on. */
export function hookDisk(pair: Pair, path: string, hook: DiskHook): void {
  const { files } = pair.world;
  const { openDisk } = files;
  files.openDisk = async (opened, options) => {
    const disk = await openDisk.call(files, opened, options);
    return opened === path ? hooked(disk, hook) : disk;
  };
  onTestFinished(() => {
    files.openDisk = openDisk;
  });
}

/** Calls `hook` before each such call to what is staged beside the image at `path`, in staged runs from now on. */
export function hookStaging(pair: Pair, path: string, hook: DiskHook): void {
  const { files } = pair.world;
  const { openState } = files;
  files.openState = async (opened) => {
    const disk = await openState.call(files, opened);
    return opened === `${path}.twin/staging/data` ? hooked(disk, hook) : disk;
  };
  onTestFinished(() => {
    files.openState = openState;
  });
}

function hooked(disk: Disk, hook: DiskHook): Disk {
  const read = disk.read.bind(disk);
  const write = disk.write.bind(disk);
  const sync = disk.sync.bind(disk);
  const after = (held: void | Promise<void>, call: () => void | Promise<void>): void | Promise<void> =>
    held === undefined ? call() : held.then(call);
  disk.read = (target, offset) => after(hook('read', offset, target.length), () => read(target, offset));
  disk.write = (data, offset) => after(hook('write', offset, data.length), () => write(data, offset));
  disk.sync = async () => {
    await hook('sync', 0, disk.size);
    await sync();
  };
  return disk;
}

/** Calls `hook` before each scan of the disk at `path`, on either side. */
export function hookScans(pair: Pair, path: string, hook: (request: ScanRequest) => void | Promise<void>): void {
  const { scan: pool } = pair.world;
  const scan = pool.scan.bind(pool);
  pool.scan = async (disk, request) => {
    if (disk.path === path) await hook(request);
    return scan(disk, request);
  };
}

export function overlaps(request: Pick<ScanRequest, 'offset' | 'length'>, offset: number, length: number): boolean {
  return request.offset < offset + length && offset < request.offset + request.length;
}

/** The clock of the system, with leaps into the future when the test says so; timers take their time all the same. */
export class LeapingClock implements Clock {
  #leaptMs = 0;

  leap(ms: number): void {
    this.#leaptMs += ms;
  }

  wallMs(): number {
    return systemClock.wallMs() + this.#leaptMs;
  }

  nowMs(): number {
    return systemClock.nowMs() + this.#leaptMs;
  }

  after(delayMs: number, action: () => void): Timer {
    return systemClock.after(delayMs, action);
  }

  sleep(delayMs: number): Promise<void> {
    return systemClock.sleep(delayMs);
  }
}
