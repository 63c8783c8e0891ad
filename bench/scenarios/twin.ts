/** A primary and its mirror as two processes, perhaps with a slow link between them. */
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { MirrorLinkStatus } from '../../dist/primary/status.js';
import { EXPORT_NAME, type Mirror, makeSecret, type Primary, startMirror, startPrimary } from '../common/nbdtwin.ts';
import { until } from '../common/until.ts';
import { ThrottledLink } from './throttled-link.ts';

export interface TwinOptions {
  /** Of each direction of the link, bytes per second; as fast as it goes unless given. */
  readonly linkRate?: number;
  readonly serveFlags?: readonly string[];
}

export class Twin {
  readonly mirror: Mirror;
  readonly link: ThrottledLink | undefined;
  /** Of the primary and of the mirror. */
  readonly disk: string;
  readonly image: string;
  readonly #folder: string;
  readonly #flags: readonly string[];
  #primary: Primary | undefined;

  private constructor(mirror: Mirror, link: ThrottledLink | undefined, folder: string, flags: readonly string[]) {
    this.mirror = mirror;
    this.link = link;
    this.disk = diskIn(folder);
    this.image = join(mirror.directory, `${EXPORT_NAME}.img`);
    this.#folder = folder;
    this.#flags = flags;
  }

  /** Starts the mirror; the disk is there already (`makeDisk`), and `startPrimary` follows. */
  static async open(folder: string, options: TwinOptions = {}): Promise<Twin> {
    const secret = await makeSecret(folder);
    const directory = join(folder, 'mirror');
    await mkdir(directory);
    const mirror = await startMirror(directory, folder, secret);
    const link = options.linkRate === undefined ? undefined : await ThrottledLink.open(mirror.port, options.linkRate);
    const address = `127.0.0.1:${link?.port ?? mirror.port}`;
    return new Twin(mirror, link, folder, [
      '--mirror',
      address,
      '--secret-file',
      secret,
      ...(options.serveFlags ?? []),
    ]);
  }

  get primary(): Primary {
    if (this.#primary === undefined) throw new Error('the primary is not running');
    return this.#primary;
  }

  /** Resolves when it listens for clients. */
  async startPrimary(more: readonly string[] = []): Promise<void> {
    this.#primary = await startPrimary(this.disk, this.#folder, [...this.#flags, ...more]);
  }

  async linkStatus(): Promise<MirrorLinkStatus> {
    const status = (await this.primary.status()).replication?.mirrors[0];
    if (status === undefined) throw new Error('the primary knows no mirror');
    return status;
  }

  /** Resolves when the mirror streams and has applied everything. */
  inStep(timeoutMs: number): Promise<MirrorLinkStatus> {
    return until('the mirror is not in step', timeoutMs, async () => {
      const status = await this.linkStatus();
      return status.state === 'streaming' && status.lag.operations === 0 ? status : undefined;
    });
  }

  /** Clean stops, the primary first. */
  async stop(): Promise<void> {
    await this.primary.child.stop();
    await this.mirror.child.stop();
    await this.link?.close();
  }
}

function diskIn(folder: string): string {
  return join(folder, `${EXPORT_NAME}.img`);
}

/** The disk of a twin in `folder`: sparse, without data. */
export async function makeDisk(folder: string, size: number): Promise<string> {
  const path = diskIn(folder);
  const file = await open(path, 'wx');
  try {
    await file.truncate(size);
  } finally {
    await file.close();
  }
  return path;
}
