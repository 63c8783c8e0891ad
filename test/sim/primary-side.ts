/**
 * The primary's host in the simulation: starts the real primary on its world, gives it clients, records its history, and
 * ends it in every way there is. Also the human who sees what `status` says and does what the hint says.
 */
import { isFailure } from '../../src/base/failure.ts';
import { MIB } from '../../src/base/units.ts';
import type { FileSystem } from '../../src/io/disk.ts';
import { openPrimary } from '../../src/primary/open-primary.ts';
import type { Primary } from '../../src/primary/primary.ts';
import type { MirrorLinkStatus } from '../../src/primary/status.ts';
import { PRIMARY_STATE, primaryStatePath } from '../../src/store/primary-state.ts';
import { readStateFile } from '../../src/store/state-file.ts';
import { DiskVolume } from '../../src/volume/disk-volume.ts';
import { Clients } from './clients.ts';
import type { Content } from './content.ts';
import { type History, Run } from './history.ts';
import { Host, type Incarnation } from './host.ts';
import { watchNextLedger } from './ledger-watch.ts';
import { judge } from './legality.ts';
import type { Medium } from './medium.ts';
import { Promises } from './promises.ts';
import type { Shared } from './shared.ts';
import { logOf, MIRROR_ADDRESS, pickFate, RETRY, TIMING, TLS } from './shared.ts';
import type { StoredFile } from './stored-file.ts';

export const DISK_PATH = '/disks/disk.img';
export const STATE_DIRECTORY = `${DISK_PATH}.twin`;
export const EXPORT_NAME = 'disk';

/** Patience of the modes with a mirror that is away. */
const MIRROR_TIMEOUT_MS = 1_000;
/** Bytes per second of a periodic verification: a cycle takes longer than a slice may be interrupted. */
const VERIFY_RATE = 8 * MIB;
/** How long a stop waits for requests in flight. */
const DRAIN_MS = 500;

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
  /** Periodic verifications may find something. */
  expectsDifferences = false;
  /** What its answers have promised of the mirror. */
  readonly promises = new Promises();
  /** Requests answered by incarnations that are no more. */
  answered = 0;
  readonly #shared: Shared;
  readonly #pool: Buffer;
  #run: Run | undefined;

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

  /** Names the session with the mirror that there is now, or was last. */
  get session(): string {
    return `${this.host.incarnation?.number ?? 0} ${this.link?.sessions ?? 0}`;
  }

  /** Those of which acknowledgements may be on their way: also the one that is being opened. */
  get sessionsUnderWay(): string[] {
    const { number } = this.host.incarnation ?? { number: 0 };
    const sessions = this.link?.sessions ?? 0;
    return [
      `${number} ${sessions}`,
      ...(this.link?.agreement?.state === 'agreeing' ? [] : [`${number} ${sessions + 1}`]),
    ];
  }

  /** What is answered now is answered with the mirror. */
  get #isHeldByMirror(): boolean {
    const agreement = this.link?.agreement;
    return agreement !== undefined && agreement.state !== 'degraded';
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
    const handedOnBy = await lastRun(this.host.medium);
    try {
      const disk = await world.files.openDisk(DISK_PATH, { lock: 'exclusive' });
      watchNextLedger(this.#watcher(incarnation));
      const log = logOf(this.#shared, 'P', (message) => {
        // Nothing damages an image here but a script: what is found without one the product has done.
        if (message.startsWith('the mirror’s image differs') && !this.expectsDifferences) this.#shared.wrong(message);
      });
      primary = await openPrimary(world, log, {
        volume: new DiskVolume(disk),
        disk,
        stateDirectory: STATE_DIRECTORY,
        exportName: EXPORT_NAME,
        mirror: MIRROR_ADDRESS,
        tls: TLS,
        windowSize: profile.windowSize,
        spoolSize: profile.spoolSize,
        regionSize: profile.regionSize,
        dirtyActive: profile.dirtyActive,
        agreement: { mode: profile.mode, mirrorTimeoutMs: MIRROR_TIMEOUT_MS, onMirrorLoss: profile.onMirrorLoss },
        rescanRate: undefined,
        rekeySize: Number.MAX_SAFE_INTEGER,
        rekeyIntervalMs: profile.rekeyIntervalMs,
        rescanAll: this.rescanAll,
        periodicVerify:
          profile.verifyEveryMs === undefined
            ? undefined
            : { everyMs: profile.verifyEveryMs, rate: VERIFY_RATE, repair: true },
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
    const run = this.#beginRun(primary, handedOnBy);
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
        durable: (sequence) => {
          if (this.#isHeldByMirror) this.promises.made({ run, sequence }, true, this.session);
        },
        mutated: (sequence) => {
          if (profile.mode === 'sync' && this.#isHeldByMirror)
            this.promises.made({ run, sequence }, false, this.session);
        },
        mayFail: () => this.faulty || profile.onMirrorLoss === 'fail' || this.state === 'stopping',
        patienceMs: () => (profile.mode === 'async' ? this.#shared.patienceMs() : Number.POSITIVE_INFINITY),
      },
    );
    if (this.clientsWanted) this.clients.start();
  }

  #beginRun(primary: Primary, handedOnBy: string): Run {
    const status = primary.status();
    // Without a clean stop a run begins at 0. One that goes on elsewhere has been put back to an older copy.
    const parent = status.sequence === 0 ? undefined : this.history.get(handedOnBy);
    this.#shared.trace(`primary is up: run ${status.run.slice(0, 8)} from ${status.sequence}`);
    if (status.sequence > 0) {
      const known = parent !== undefined && status.sequence <= parent.sequence;
      if (!known || this.content.differences(parent.contentAt(status.sequence), 1).length > 0) {
        this.#shared.wrong(`a run is handed on at ${status.sequence}, but the disk is not as it was there`);
      }
    }
    const run = new Run(status.run, this.content, status.sequence, parent);
    this.history.begin(run);
    return run;
  }

  async #close(incarnation: Incarnation, drainMs: number): Promise<void> {
    try {
      // Requests that wait for the mirror are failed by the primary; the NBD server would have cut them off by then.
      const answered = this.clients?.stop();
      await Promise.race([answered, this.#sleep(DRAIN_MS, incarnation)]);
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

  #sleep(delayMs: number, incarnation: Incarnation): Promise<void> {
    return new Promise((resolve) => {
      this.#shared.timeline.after(delayMs, resolve, incarnation);
    });
  }

  #down(): void {
    this.state = 'down';
    this.primary = undefined;
    this.answered += this.clients?.answered ?? 0;
    this.clients = undefined;
    this.#run = undefined;
    this.#shared.wentDown('primary');
  }

  #watcher(incarnation: Incarnation): Parameters<typeof watchNextLedger>[0] {
    return {
      operation: (sequence, offset, length, data) => {
        if (!incarnation.alive) return;
        this.#run!.append({ sequence, offset, length, data });
        this.clients?.sequenced({ sequence, offset, length, data });
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

/** The run that the state on the disk names, or nothing that is one. */
async function lastRun(medium: Medium): Promise<string> {
  const file = medium.file(primaryStatePath(STATE_DIRECTORY));
  if (file === undefined) return '';
  const files = { readFile: () => Promise.resolve(file.cache.slice(0, file.cache.size)) };
  try {
    const state = await readStateFile(files as unknown as FileSystem, PRIMARY_STATE, STATE_DIRECTORY);
    return state?.run.toString('hex') ?? '';
  } catch (error) {
    if (!isFailure(error, 'state-corrupt')) throw error;
    return '';
  }
}
