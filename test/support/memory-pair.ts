/** A primary and a mirror in memory, in one process, where time stands still unless it is moved. */
import { onTestFinished } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import type { Mirror } from '../../src/mirror/mirror.ts';
import { openMirror } from '../../src/mirror/open-mirror.ts';
import { openPrimary } from '../../src/primary/open-primary.ts';
import type { Primary, PrimaryOptions } from '../../src/primary/primary.ts';
import type { MirrorLinkStatus } from '../../src/primary/status.ts';
import { DiskVolume } from '../../src/volume/disk-volume.ts';
import type { MemoryDisk } from './memory-disk.ts';
import { memoryLog } from './memory-log.ts';
import { memoryWorld, turns } from './memory-world.ts';

const ADDRESS = { kind: 'tcp', host: 'mirror', port: 10810 } as const;
const DISK = '/disk.img';
const IMAGE = '/mirrors/disk.img';
export const STATE_DIRECTORY = '/disk.img.twin';

/** Of a primary in memory, but for its disk. */
export const PRIMARY_OPTIONS = {
  stateDirectory: STATE_DIRECTORY,
  exportName: 'disk',
  mirror: ADDRESS,
  tls: { keys: [] },
  windowSize: MIB,
  rescanRate: undefined,
  rekeySize: 2 ** 40,
  rekeyIntervalMs: 2 ** 30,
  rescanAll: false,
} as const satisfies Partial<PrimaryOptions>;

export class MemoryPair {
  readonly world = memoryWorld();
  readonly log = memoryLog();
  #mirror: Mirror | undefined;
  #primary: Primary | undefined;

  /** To begin with: the disk holds `content`, nothing runs. What runs at the end of the test is closed. */
  async with(content: Buffer): Promise<this> {
    await this.world.files.makeDirectory('/mirrors');
    this.world.files.put(DISK, content);
    onTestFinished(async () => {
      await this.stopPrimary();
      await this.stopMirror();
    });
    return this;
  }

  async startMirror(): Promise<void> {
    this.#mirror = await openMirror(this.world, this.log.log, {
      directory: '/mirrors',
      listen: ADDRESS,
      tls: { keys: [] },
    });
  }

  /** `makeVolume`: what serves the disk. */
  async startPrimary<Served extends DiskVolume = DiskVolume>(
    more: Partial<PrimaryOptions> = {},
    makeVolume: (disk: PrimaryOptions['disk']) => Served = (disk) => new DiskVolume(disk) as Served,
  ): Promise<Served> {
    const disk = await this.world.files.openDisk(DISK, { lock: 'exclusive' });
    const volume = makeVolume(disk);
    this.#primary = await openPrimary(this.world, this.log.log, {
      volume,
      disk,
      ...PRIMARY_OPTIONS,
      ...more,
    });
    return volume;
  }

  async stopPrimary(drainMs = 1000): Promise<void> {
    const primary = this.#primary;
    this.#primary = undefined;
    if (primary !== undefined) await this.finish(primary.close(drainMs));
  }

  async stopMirror(): Promise<void> {
    const mirror = this.#mirror;
    this.#mirror = undefined;
    if (mirror !== undefined) await this.finish(mirror.close());
  }

  get primary(): Primary {
    if (this.#primary === undefined) throw new Error('the primary does not run');
    return this.#primary;
  }

  get link(): MirrorLinkStatus {
    return this.primary.status().mirrors[0]!;
  }

  get disk(): MemoryDisk {
    return this.world.files.file(DISK).disk;
  }

  get image(): MemoryDisk {
    return this.world.files.file(IMAGE).disk;
  }

  /** Lets time pass in steps of `stepMs` until something is so. */
  async until(what: string, done: () => boolean, stepMs = 20): Promise<void> {
    for (let round = 0; round < 20_000 && !done(); round += 1) {
      await turns(3);
      this.world.clock.advance(stepMs);
    }
    if (!done()) throw new Error(`not in time: ${what}: ${JSON.stringify(this.#primary?.status())}`);
  }

  /** Lets so much time pass. */
  async pass(ms: number, stepMs = 20): Promise<void> {
    const endMs = this.world.clock.nowMs() + ms;
    await this.until('time has passed', () => this.world.clock.nowMs() >= endMs, stepMs);
  }

  untilStreaming(): Promise<void> {
    return this.until('streaming', () => this.link.state === 'streaming');
  }

  async finish<T>(work: Promise<T>): Promise<T> {
    let settled = false;
    const noted = (): void => {
      settled = true;
    };
    work.then(noted, noted);
    await this.until('finished', () => settled);
    return work;
  }
}
