/** Primaries that share one mirror, each with a disk of its own. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { cachePieceByPiece, writeDisk } from '../common/disk.ts';
import { type Mirror, makeSecret, type Primary, startMirror, startPrimary } from '../common/nbdtwin.ts';
import { LinkWatch, type MirrorReport } from '../system/servers.ts';

const STARTED_TOGETHER = 5;

export interface FleetOptions {
  readonly count: number;
  readonly diskSize: number;
  /** Of each disk: the first bytes, which are there before; the rest is a hole. */
  readonly dataSize: number;
  /** Of each primary. */
  readonly serveFlags?: readonly string[];
  /** Where primaries connect, given the port of the mirror; there unless given. */
  readonly portOf?: (mirrorPort: number) => number;
}

interface Member {
  readonly name: string;
  readonly disk: string;
  readonly image: string;
  readonly uri: string;
  readonly primary: Primary;
  readonly watch: LinkWatch;
}

export class Fleet {
  readonly #folder: string;
  readonly #secret: string;
  readonly #members: readonly Member[];
  #mirror: Mirror;

  private constructor(folder: string, secret: string, mirror: Mirror, members: readonly Member[]) {
    this.#folder = folder;
    this.#secret = secret;
    this.#mirror = mirror;
    this.#members = members;
  }

  /** Resolves when all mirrors are in step. */
  static async start(folder: string, options: FleetOptions): Promise<Fleet> {
    const secret = await makeSecret(folder);
    const directory = join(folder, 'mirror');
    await mkdir(directory);
    const mirror = await startMirror(directory, folder, secret);
    const startMember = async (index: number): Promise<Member> => {
      const name = `disk${index}`;
      const own = join(folder, name);
      await mkdir(own);
      const disk = join(own, `${name}.img`);
      await writeDisk(disk, options.diskSize, options.dataSize);
      const port = options.portOf?.(mirror.port) ?? mirror.port;
      const to = ['--mirror', `127.0.0.1:${port}`, '--secret-file', secret];
      const primary = await startPrimary(disk, own, ['--export', name, ...to, ...(options.serveFlags ?? [])]);
      const watch = new LinkWatch(primary);
      await watch.untilSettled();
      const image = join(directory, `${name}.img`);
      for (const file of [disk, image]) await cachePieceByPiece(file, options.dataSize);
      return { name, disk, image, uri: `nbd+unix:///${name}?socket=${primary.socket}`, primary, watch };
    };
    const members: Member[] = [];
    while (members.length < options.count) {
      const together = Math.min(STARTED_TOGETHER, options.count - members.length);
      const indexes = Array.from({ length: together }, (_, index) => members.length + index);
      members.push(...(await Promise.all(indexes.map(startMember))));
    }
    return new Fleet(folder, secret, mirror, members);
  }

  get members(): readonly Member[] {
    return this.#members;
  }

  get mirror(): Mirror {
    return this.#mirror;
  }

  /** Stops the mirror, and starts it again on another port with these flags once `meanwhile` is done. */
  async restartMirror(flags: readonly string[], meanwhile: () => Promise<void>): Promise<void> {
    await this.#mirror.child.stop();
    await meanwhile();
    this.#mirror = await startMirror(this.#mirror.directory, this.#folder, this.#secret, flags);
  }

  get uris(): readonly string[] {
    return this.#members.map(({ uri }) => uri);
  }

  get primaryPids(): readonly number[] {
    return this.#members.map(({ primary }) => primary.child.pid);
  }

  /** Writes and the like so far, of all: done by the primaries, and applied by the mirror. */
  async operations(): Promise<{ readonly done: number; readonly applied: number }> {
    const links = await Promise.all(
      this.#members.map(async ({ primary }) => (await primary.status()).replication!.mirrors[0]!),
    );
    const applied = links.reduce((sum, link) => sum + link.applied, 0);
    return { applied, done: applied + links.reduce((sum, link) => sum + link.lag.operations, 0) };
  }

  /** Resolves when the mirror has everything: whether it kept up with all, and how long the last one took. */
  async settle(): Promise<MirrorReport> {
    const reports = await Promise.all(this.#members.map(({ watch }) => watch.untilSettled()));
    return {
      keptUp: reports.every(({ keptUp }) => keptUp),
      settleMs: Math.max(...reports.map(({ settleMs }) => settleMs)),
    };
  }

  async stop(): Promise<void> {
    await Promise.all(this.#members.map(({ primary }) => primary.child.stop()));
    await this.mirror.child.stop();
  }
}
