/** What the crash tests share: a primary and a mirror as processes, a link that can be cut, and load on the disk. */
import { onTestFailed, onTestFinished } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import type { MirrorLinkStatus } from '../../src/primary/status.ts';
import { type Daemon, type ProcessOptions, until } from '../support/daemon.ts';
import { FioLoad } from '../support/fio.ts';
import { LinkProxy } from '../support/link-proxy.ts';
import { Noise } from '../support/noise.ts';
import { runProgram } from '../support/run-program.ts';
import { Twin } from '../support/twin.ts';

/** How often each thing is done: more in a long run, see docs/testing.md. */
export const ROUNDS = Number(process.env['NBDTWIN_CRASH_ROUNDS'] ?? 2);

/** For a test that does something ROUNDS times. */
export function timeoutOf(rounds: number): number {
  return 60_000 + rounds * 60_000;
}

const DISK_SIZE = 288 * MIB;
const FIO_JOBS = 2;
/** Per job; at FIO_RATE it lasts for 64 s, much longer than a round. */
const FIO_SIZE = 128 * MIB;
const FIO_RATE = 2 * MIB;
const NOISE_OFFSET = FIO_JOBS * FIO_SIZE;
const NOISE_SIZE = DISK_SIZE - NOISE_OFFSET;
/** Writes of fio that must go through before something is broken, and while it is: more than it has in flight. */
const LOAD_OPERATIONS = 300;

export interface RigOptions {
  /** Of the disk; `load` needs the one that is there without it. */
  readonly size?: number;
  /** More arguments of `nbdtwin serve`. */
  readonly serve?: readonly string[];
  /** More arguments of `nbdtwin mirror`. */
  readonly mirror?: readonly string[];
  /** A disk and a mirror's directory that exist. */
  readonly disk?: string;
  readonly images?: string;
}

export interface Load {
  readonly fio: FioLoad;
  readonly noise: Noise;
}

export class Rig {
  readonly twin: Twin;
  readonly proxy: LinkProxy;
  readonly #daemons: Daemon[] = [];
  #load: Load | undefined;
  #seed = 0;

  private constructor(twin: Twin, proxy: LinkProxy) {
    this.twin = twin;
    this.proxy = proxy;
  }

  /** Nothing runs yet but the link. */
  static async stopped(options: RigOptions = {}): Promise<Rig> {
    const twin = new Twin({ size: DISK_SIZE, ...options, socket: true });
    const proxy = await LinkProxy.open(() => twin.mirror.address.port);
    onTestFinished(() => proxy.close());
    const rig = new Rig(twin, proxy);
    onTestFailed(() => rig.#tell());
    return rig;
  }

  /** Both sides run and are in step. */
  static async inStep(options: RigOptions = {}): Promise<Rig> {
    const rig = await Rig.stopped(options);
    await rig.startMirror();
    await rig.startPrimary();
    await rig.expectIdentical();
    return rig;
  }

  /** Of the disk, for NBD clients. */
  get uri(): string {
    return `nbd+unix:///?socket=${this.twin.socket}`;
  }

  get primary(): Daemon {
    return this.twin.primary;
  }

  get mirror(): Daemon {
    return this.twin.mirror;
  }

  async startMirror(options: ProcessOptions = {}): Promise<Daemon> {
    this.#daemons.push(await this.twin.startMirror('127.0.0.1:0', options));
    return this.mirror;
  }

  async startPrimary(options: ProcessOptions = {}): Promise<Daemon> {
    this.#daemons.push(await this.twin.startPrimary(`127.0.0.1:${this.proxy.port}`, options));
    return this.primary;
  }

  /** fio and noise begin, and are seen to have begun. `onTrigger` takes the primary away when the load is stopped. */
  async load(onTrigger?: string): Promise<Load> {
    this.#seed += 1;
    const { folder, socket } = this.twin;
    const noise = await Noise.start({
      socket,
      offset: NOISE_OFFSET,
      size: NOISE_SIZE,
      connections: 2,
      depth: 8,
      pauseMs: 40,
    });
    const fio = FioLoad.start(
      {
        folder,
        uri: this.uri,
        size: FIO_SIZE,
        jobs: FIO_JOBS,
        rate: FIO_RATE,
        seed: this.#seed,
      },
      onTrigger,
    );
    this.#load = { fio, noise };
    await this.untilMoreOperations();
    return this.#load;
  }

  /** Waits until the primary has done many more writes of fio's than now, whatever becomes of them on the mirror. */
  async untilMoreOperations(): Promise<void> {
    const start = await this.#operations();
    await until(async () => (await this.#operations()) >= start + LOAD_OPERATIONS, 'the load goes on');
  }

  /** Waits until the primary has done so many operations more than now, of whomever. */
  async untilMoreThan(count: number): Promise<void> {
    const sequence = async (): Promise<number> => (await this.primary.serveStatus()).replication!.sequence;
    const start = await sequence();
    await until(async () => (await sequence()) > start + count, 'the disk is written');
  }

  /** The state of the link, as `nbdtwin status --json` has it. */
  link(): Promise<MirrorLinkStatus> {
    return this.primary.link();
  }

  /** Waits until the link is in a state that fulfils `condition`. */
  async untilLink(what: string, condition: (link: MirrorLinkStatus) => boolean): Promise<MirrorLinkStatus> {
    let link = await this.link();
    await until(async () => {
      link = await this.link();
      return condition(link);
    }, what);
    return link;
  }

  /** Waits until the mirror has everything and has written that down; then both images must hold the same bytes. */
  async expectIdentical(): Promise<void> {
    const inStep = until(async () => {
      const { replication } = await this.primary.serveStatus();
      const { sequence } = replication!;
      const link = replication!.mirrors[0]!;
      const nothingLeft = link.lag.operations === 0 && link.lag.bytes === 0 && link.markedSize === 0;
      return link.state === 'streaming' && nothingLeft && link.recorded === sequence;
    }, 'the mirror is in step');
    await inStep.catch(async (error: unknown) => {
      const status = JSON.stringify([await this.primary.status(), await this.mirror.status()], null, 1);
      throw new Error(`${String(error)}\n${status}`, { cause: error });
    });
    await runProgram('cmp', [this.twin.disk, this.twin.image]);
  }

  /** What all processes have said, for the one who looks for the reason. */
  #tell(): void {
    for (const daemon of this.#daemons) process.stderr.write(`${daemon.readyLine}\n${daemon.stderr}\n`);
  }

  /** Of fio since the load began; a little more, since what the noise has in flight counts too. */
  async #operations(): Promise<number> {
    return (await this.primary.serveStatus()).replication!.sequence - this.#load!.noise.mutations;
  }
}

/** Ends a load, and with `onTrigger` its primary. */
export async function stopLoad({ fio, noise }: Load): Promise<void> {
  await fio.stop();
  await noise.stop();
}
