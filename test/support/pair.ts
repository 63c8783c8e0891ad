import { randomBytes, randomFillSync } from 'node:crypto';
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { isFailure } from '../../src/base/failure.ts';
import type { Log } from '../../src/base/log.ts';
import { silentLog } from '../../src/base/log.ts';
import { payloadPool } from '../../src/base/payload-pool.ts';
import { MIB } from '../../src/base/units.ts';
import { type NodeWorld, nodeWorld } from '../../src/io/node-world.ts';
import type { World } from '../../src/io/world.ts';
import type { Mirror, MirrorOptions } from '../../src/mirror/mirror.ts';
import { openMirror } from '../../src/mirror/open-mirror.ts';
import { openPrimary } from '../../src/primary/open-primary.ts';
import type { Primary, PrimaryOptions } from '../../src/primary/primary.ts';
import type { MirrorLinkStatus } from '../../src/primary/status.ts';
import { PRIMARY_STATE } from '../../src/store/primary-state.ts';
import { openStateFile } from '../../src/store/state-file.ts';
import { DiskVolume } from '../../src/volume/disk-volume.ts';
import { LinkProxy } from './link-proxy.ts';
import { temporaryFolder } from './temporary-folder.ts';

const TIMING = { pingIntervalMs: 200, timeoutMs: 2_000 };
const RETRY = { firstMs: 20, lastMs: 200, refusedMs: 300, behindMs: 50 };

export interface PairOptions {
  readonly size?: number;
  readonly primary?: Partial<PrimaryOptions>;
  readonly mirror?: Partial<MirrorOptions>;
  readonly log?: Log;
  /** The mirror's own, when the test wants another than the primary's: disks that fail, short timeouts. */
  readonly mirrorWorld?: Partial<World>;
  /** The same for primaries. */
  readonly primaryWorld?: Partial<World>;
  /** Folders on file systems of the test's own choice, there already. */
  readonly diskFolder?: string;
  readonly mirrorFolder?: string;
}

/** A primary and a mirror in this process: real files, real sockets, real TLS, and a proxy between them. */
export class Pair {
  readonly folder: string;
  readonly diskPath: string;
  readonly mirrorFolder: string;
  readonly imagePath: string;
  readonly size: number;
  readonly world: NodeWorld = nodeWorld();
  readonly #options: PairOptions;
  readonly key = { identity: 'nbdtwin', key: randomBytes(32) };
  proxy!: LinkProxy;
  primary: Primary | undefined;
  mirror: Mirror | undefined;
  #mirrorPort = 0;

  private constructor(options: PairOptions) {
    this.#options = options;
    this.folder = temporaryFolder();
    this.size = options.size ?? 16 * MIB;
    this.diskPath = join(options.diskFolder ?? this.folder, 'disk.img');
    this.mirrorFolder = options.mirrorFolder ?? join(this.folder, 'mirror');
    this.imagePath = join(this.mirrorFolder, 'disk.img');
    mkdirSync(this.mirrorFolder, { recursive: true });
    writeFileSync(this.diskPath, '');
    truncateSync(this.diskPath, this.size);
  }

  /**
   * Nothing runs yet. Whatever runs when the test finishes is stopped. Who looks at a payload after it was given back finds
   * it spoiled.
   */
  static async make(options: PairOptions = {}): Promise<Pair> {
    const pair = new Pair(options);
    payloadPool.onGive = (buffer) => buffer.fill(0xee);
    pair.proxy = await LinkProxy.open(() => pair.#mirrorPort);
    onTestFinished(async () => {
      await pair.primary?.close(0);
      await pair.mirror?.close();
      await pair.proxy.close();
      await pair.world.scan.close();
    });
    return pair;
  }

  /** Both sides run and are in step. */
  static async inStep(options: PairOptions = {}): Promise<Pair> {
    const pair = await Pair.make(options);
    await pair.startMirror();
    await pair.startPrimary();
    await pair.untilInStep();
    return pair;
  }

  async startMirror(): Promise<Mirror> {
    this.mirror = await openMirror({ ...this.world, ...this.#options.mirrorWorld }, this.#options.log ?? silentLog, {
      directory: this.mirrorFolder,
      listen: { kind: 'tcp', host: '127.0.0.1', port: this.#mirrorPort },
      tls: { keys: [this.key] },
      timing: TIMING,
      ...this.#options.mirror,
    });
    const { address } = this.mirror;
    if (address.kind === 'tcp') this.#mirrorPort = address.port;
    return this.mirror;
  }

  async startPrimary(more: Partial<PrimaryOptions> = {}): Promise<Primary> {
    this.primary = await this.#open(this.diskPath, more);
    return this.primary;
  }

  async #open(diskPath: string, more: Partial<PrimaryOptions>): Promise<Primary> {
    const disk = await this.world.files.openDisk(diskPath, { lock: 'exclusive' });
    try {
      return await openPrimary({ ...this.world, ...this.#options.primaryWorld }, this.#options.log ?? silentLog, {
        volume: new DiskVolume(disk),
        disk,
        stateDirectory: `${diskPath}.twin`,
        exportName: 'disk',
        mirror: { kind: 'tcp', host: '127.0.0.1', port: this.proxy.port },
        tls: { keys: [this.key] },
        windowSize: 8 * MIB,
        rescanRate: undefined,
        rekeySize: 2 ** 40,
        rekeyIntervalMs: 2 ** 30,
        rescanAll: false,
        timing: TIMING,
        retry: RETRY,
        ...this.#options.primary,
        ...more,
      });
    } catch (error) {
      await disk.close();
      throw error;
    }
  }

  /** Another primary towards the same mirror; the caller closes it. */
  openOther(diskPath: string, more: Partial<PrimaryOptions> = {}): Promise<Primary> {
    return this.#open(diskPath, more);
  }

  /** Where the mirror listens, beside the proxy. */
  get mirrorPort(): number {
    return this.#mirrorPort;
  }

  async stopPrimary(drainMs = 5_000): Promise<void> {
    await this.primary?.close(drainMs);
    this.primary = undefined;
  }

  async stopMirror(): Promise<void> {
    await this.mirror?.close();
    this.mirror = undefined;
  }

  /** Makes the primary's state vouch for the disk as it is now: for a restored copy, whose times would be restored too. */
  async vouchForDisk(diskPath = this.diskPath): Promise<void> {
    const disk = await this.world.files.openDisk(diskPath, {});
    const file = await openStateFile(this.world.files, PRIMARY_STATE, `${diskPath}.twin/primary`);
    await file!.write({ ...file!.state, identity: await disk.identity() });
    await file!.close();
    await disk.close();
  }

  get link(): MirrorLinkStatus {
    return this.primary!.status().mirrors[0]!;
  }

  /** Writes through the replicating layer. The buffer is not used again by the caller. */
  async write(offset: number, data: Buffer, fua = false): Promise<void> {
    await this.primary!.volume.write(offset, data, { fua });
  }

  /** `timeoutMs` from the start, and again from each change of what `progress` says. */
  async until(what: string, condition: () => boolean, timeoutMs = 20_000, progress = () => ''): Promise<void> {
    let deadline = Date.now() + timeoutMs;
    let before = '';
    while (!condition()) {
      const now = progress();
      if (now !== before) deadline = Date.now() + timeoutMs;
      before = now;
      if (Date.now() > deadline) throw new Error(`not in time: ${what}\n${JSON.stringify(this.snapshot(), null, 1)}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Streaming, and the mirror has recorded everything. A deep backlog on a disk that syncs slowly takes its time. */
  untilInStep(timeoutMs?: number): Promise<void> {
    return this.until(
      'in step',
      () => {
        if (this.primary === undefined) return false;
        const { state, recorded, lag } = this.link;
        return state === 'streaming' && lag.operations === 0 && recorded === this.primary.status().sequence;
      },
      timeoutMs,
      () => (this.primary === undefined ? '' : `${this.link.durable} ${this.link.staging.used}`),
    );
  }

  /** Fails unless both images hold the same bytes. */
  expectIdentical(imagePath = this.imagePath, diskPath = this.diskPath): void {
    const primary = readFileSync(diskPath);
    const mirror = readFileSync(imagePath);
    if (primary.equals(mirror)) return;
    const at = primary.findIndex((byte, index) => byte !== mirror[index]);
    throw new Error(`the images differ from byte ${at} on (sizes ${primary.length}, ${mirror.length})`);
  }

  snapshot(): unknown {
    return { primary: this.primary?.status(), mirror: this.mirror?.status() };
  }
}

/** As the NBD server has it: large ones in a buffer that is used again. */
function randomPayload(length: number): Buffer {
  return randomFillSync(payloadPool.take(length));
}

/** Runs until `stop` is called, whatever happens to the primary: writes of random sizes at random places, now and then a flush, a trim, zeroes. */
export function writeRandomly(pair: Pair, seed = 1): { stop(): Promise<number> } {
  let stopped = false;
  let count = 0;
  let state = seed;
  const random = (limit: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
  const running = (async () => {
    while (!stopped) {
      const volume = pair.primary?.volume;
      if (volume === undefined) {
        // Between two starts of the primary.
        await new Promise((resolve) => setTimeout(resolve, 5));
        continue;
      }
      const length = 1 + random(random(4) === 0 ? 200_000 : 8192);
      const offset = random(pair.size - length);
      const kind = random(20);
      try {
        if (kind === 0) await volume.flush();
        else if (kind === 1) await volume.trim(offset, length, { fua: false });
        else if (kind === 2) await volume.zero(offset, length, { fua: false, allocate: random(2) === 0, fast: false });
        else await volume.write(offset, randomPayload(length), { fua: kind === 3 });
      } catch (error) {
        if (!isFailure(error)) throw error;
      }
      count += 1;
      if (count % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  return {
    async stop() {
      stopped = true;
      await running;
      return count;
    },
  };
}
