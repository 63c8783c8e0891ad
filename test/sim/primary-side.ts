/**
 * The primary's host in the simulation: starts the real primary on its world, gives it clients, records its history, and
 * ends it in every way there is. Also the human who sees what `status` says and does what the hint says.
 */
import { isFailure } from '../../src/base/failure.ts';
import { openPrimary } from '../../src/primary/open-primary.ts';
import type { Primary } from '../../src/primary/primary.ts';
import type { MirrorLinkStatus } from '../../src/primary/status.ts';
import { DiskVolume } from '../../src/volume/disk-volume.ts';
import { Clients } from './clients.ts';
import type { Content } from './content.ts';
import { type History, Run } from './history.ts';
import { Host, type Incarnation } from './host.ts';
import { watchNextLedger } from './ledger-watch.ts';
import { judge } from './legality.ts';
import type { Shared } from './shared.ts';
import { logOf, MIRROR_ADDRESS, pickFate, RETRY, TIMING, TLS } from './shared.ts';
import type { StoredFile } from './stored-file.ts';

export const DISK_PATH = '/disks/disk.img';
export const STATE_DIRECTORY = `${DISK_PATH}.twin`;
export const EXPORT_NAME = 'disk';

export type SideState = 'down' | 'starting' | 'up' | 'stopping';

export class PrimarySide {
  readonly host: Host;
  readonly history: History;
  state: SideState = 'down';
  primary: Primary | undefined;
  clients: Clients | undefined;
  /** The disk has had failures: requests may fail, and what a kill leaves is less certain. */
  faulty = false;
  /** A restart by a human with --rescan is due. */
  rescanAll = false;
  clientsWanted = true;
  readonly #shared: Shared;
  readonly #pool: Buffer;
  #run: Run | undefined;
  /** The disk is what the last run left. */
  #handedOn = true;

  constructor(shared: Shared, history: History) {
    this.#shared = shared;
    this.history = history;
    this.host = new Host('primary', shared.timeline, shared.random.fork(), shared.network);
    this.#pool = Clients.pool(shared.random.fork());
    this.#makeDisk();
  }

  /** The file that is served. */
  get file(): StoredFile {
    return this.host.medium.file(DISK_PATH)!;
  }

  get content(): Content {
    return this.file.cache;
  }

  get link(): MirrorLinkStatus | undefined {
    return this.primary?.status().mirrors[0];
  }

  start(): void {
    if (this.state !== 'down') return;
    this.state = 'starting';
    const { incarnation, world } = this.host.boot((name) => this.#shared.reached('primary', name));
    this.#shared.trace(`primary ${incarnation.number} starts${this.rescanAll ? ' with --rescan' : ''}`);
    this.#open(incarnation, world).catch((error: unknown) => this.#shared.escaped(error, incarnation));
  }

  /** Clean stop: clients first, then the primary. */
  stop(drainMs: number): void {
    if (this.state !== 'up') return;
    this.state = 'stopping';
    const incarnation = this.host.incarnation!;
    this.#shared.trace('primary stops');
    this.#close(incarnation, drainMs).catch((error: unknown) => this.#shared.escaped(error, incarnation));
  }

  crash(how: 'kill' | 'power'): void {
    if (this.state === 'down') return;
    const { clients } = this;
    const run = this.#run;
    const loose = clients?.mutating ?? [];
    this.#shared.trace(`primary: ${how}, at ${run?.sequence ?? 0}`);
    if (how === 'kill') this.host.kill();
    else this.host.powerOff(pickFate(this.host.random));
    this.#down();
    if (run === undefined) return;
    // What a failed sync gave up may show after the restart: then only what a flush has promised counts.
    const certain = how === 'kill' && !this.faulty;
    const from = certain ? run.sequence : (clients?.floor ?? run.baseSequence);
    const verdict = judge(this.content, run, from, { epochs: false, loose });
    if (verdict.positions.length === 0) {
      this.#shared.wrong(`the primary's own disk after a ${how}: ${verdict.complaint}`);
    }
  }

  /** The disk and its state are put back to a copy. */
  restored(): void {
    this.#handedOn = false;
  }

  /** What a person does who looks at `status` now and then. */
  attend(): void {
    if (this.state !== 'up') return;
    const problem = this.link?.problem;
    if (problem?.code === 'primary-older') {
      this.#shared.trace('human: primary-older, --rescan');
      this.rescanAll = true;
      this.stop(0);
    }
  }

  async #open(incarnation: Incarnation, world: Parameters<typeof openPrimary>[0]): Promise<void> {
    const { profile } = this.#shared;
    let primary: Primary;
    try {
      const disk = await world.files.openDisk(DISK_PATH, { lock: 'exclusive' });
      watchNextLedger(this.#watcher(incarnation));
      primary = await openPrimary(world, logOf(this.#shared, 'P'), {
        volume: new DiskVolume(disk),
        disk,
        stateDirectory: STATE_DIRECTORY,
        exportName: EXPORT_NAME,
        mirror: MIRROR_ADDRESS,
        tls: TLS,
        windowSize: profile.windowSize,
        rescanRate: undefined,
        rekeySize: Number.MAX_SAFE_INTEGER,
        rekeyIntervalMs: profile.rekeyIntervalMs,
        rescanAll: this.rescanAll,
        timing: TIMING,
        retry: RETRY,
      });
    } catch (error) {
      if (!incarnation.alive) return;
      if (!isFailure(error)) throw error;
      this.#shared.trace(`primary does not start: ${error.code}: ${error.message}`);
      if (!this.faulty) this.#shared.wrong(`the primary does not start: ${error.code}: ${error.message}`);
      this.host.exited();
      this.#down();
      return;
    }
    if (!incarnation.alive) return;
    this.rescanAll = false;
    this.primary = primary;
    this.state = 'up';
    const run = this.#beginRun(primary);
    this.#run = run;
    this.clients = new Clients(
      primary.volume,
      run,
      profile,
      this.#shared.random.fork(),
      this.#pool,
      this.#shared.timeline,
      incarnation,
      {
        trace: (text) => this.#shared.trace(text),
        wrong: (what) => this.#shared.wrong(what),
        mayFail: () => this.faulty,
        patienceMs: () => this.#shared.patienceMs(),
      },
    );
    if (this.clientsWanted) this.clients.start();
  }

  #beginRun(primary: Primary): Run {
    const status = primary.status();
    const parent = status.sequence > 0 ? this.history.latest : undefined;
    this.#shared.trace(`primary is up: run ${status.run.slice(0, 8)} from ${status.sequence}`);
    if (parent !== undefined && this.#handedOn) {
      const differing = this.content.differences(parent.current, 1);
      if (parent.sequence !== status.sequence || differing.length > 0) {
        this.#shared.wrong(`a run is handed on at ${status.sequence}, but the disk is not as at ${parent.sequence}`);
      }
    }
    this.#handedOn = true;
    const run = new Run(status.run, this.content, status.sequence, parent);
    this.history.begin(run);
    return run;
  }

  async #close(incarnation: Incarnation, drainMs: number): Promise<void> {
    try {
      await this.clients?.stop();
      await this.primary?.close(drainMs);
    } catch (error) {
      if (!incarnation.alive) return;
      if (!isFailure(error)) throw error;
      this.#shared.trace(`primary stops badly: ${error.code}: ${error.message}`);
      if (!this.faulty) this.#shared.wrong(`the primary does not stop: ${error.code}: ${error.message}`);
    }
    if (!incarnation.alive) return;
    this.#shared.trace(`primary has stopped at ${this.#run?.sequence ?? 0}`);
    this.host.exited();
    this.#down();
  }

  #down(): void {
    this.state = 'down';
    this.primary = undefined;
    this.clients = undefined;
    this.#run = undefined;
    this.#shared.wentDown('primary');
  }

  #watcher(incarnation: Incarnation): Parameters<typeof watchNextLedger>[0] {
    return {
      operation: (sequence, offset, length, data, barrier) => {
        if (!incarnation.alive) return;
        this.#run!.append({ sequence, offset, length, data }, barrier);
        this.clients?.sequenced(data, sequence);
      },
      barrier: () => {
        if (incarnation.alive) this.#run!.barrier();
      },
      unknown: () => {
        this.#shared.wrong('the primary could not read back what a failed write left');
      },
    };
  }

  /** The disk before the first start: some of it holds something already. */
  #makeDisk(): void {
    const { profile, timeline } = this.#shared;
    const { medium, random } = this.host;
    medium.put('/disks', 'directory');
    const file = medium.newFile(0, timeline.wallNs);
    medium.put(DISK_PATH, file);
    medium.syncDirectory('/');
    medium.syncDirectory('/disks');
    file.change({ kind: 'size', size: profile.diskSize }, timeline.wallNs);
    for (let left = profile.initialSize; left > 0; ) {
      const length = 1 + random.below(32 * 1024);
      const offset = random.below(profile.diskSize - length);
      const at = random.below(this.#pool.length - length);
      const data = Buffer.from(this.#pool.subarray(at, at + length));
      file.change({ kind: 'write', offset, data }, timeline.wallNs);
      left -= length;
    }
    file.synced(file.changeCount);
  }
}
