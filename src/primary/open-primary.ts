/**
 * The primary as a whole: state, dirty map, backlog, ledger, replicating layer, one link per mirror.
 *
 * Starts: what the last stop left is in last-stop.ts. Stops: drains, puts what the mirror has not recorded into the spool,
 * syncs disk, spool and map, and only then says that the stop was clean.
 */
import { parseExportName } from '../base/export-name.ts';
import { isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { GIB } from '../base/units.ts';
import { within } from '../io/clock.ts';
import type { DiskIdentity } from '../io/disk.ts';
import type { World } from '../io/world.ts';
import { DirtyMap, dirtyMapPath } from '../store/dirty-map.ts';
import { RangeLock } from '../volume/range-lock.ts';
import { Agreement, ASYNC } from './agreement.ts';
import { Backlog } from './backlog.ts';
import { CheckpointNumbers } from './checkpoints.ts';
import { ClientLoad } from './client-load.ts';
import { DirtyRegions } from './dirty-regions.ts';
import { type LastStop, openLastStop } from './last-stop.ts';
import { Ledger } from './ledger.ts';
import type { LocalDisk } from './local-disk.ts';
import { MirrorLink } from './mirror-link.ts';
import { MirrorRegions } from './mirror-regions.ts';
import { Pacing, type RateLimit } from './pacing.ts';
import { PeriodicVerify } from './periodic-verify.ts';
import type { Primary, PrimaryOptions } from './primary.ts';
import { RegionSequences } from './region-sequences.ts';
import { Replica } from './replica.ts';
import { ReplicatingVolume } from './replicating-volume.ts';
import { Verification } from './verification.ts';
import { VerifyRecord } from './verify-record.ts';

/** Regions of the dirty map that stay marked though in step, unless told otherwise. */
const DIRTY_ACTIVE = 4096;
/** Bytes of spool unless told otherwise. */
const SPOOL_SIZE = GIB;
/** The one mirror's plane of the dirty map. */
const PLANE = 0;

/** Opens the primary and starts to connect. Failures: `name-invalid`, `directory-busy`, `state-corrupt`, `state-unwritable`. */
export async function openPrimary(world: World, log: Log, options: PrimaryOptions): Promise<Primary> {
  parseExportName(options.exportName);
  await world.files.makeDirectory(options.stateDirectory);
  const lock = await world.files.lockDirectory(options.stateDirectory);
  const opened: (() => Promise<void>)[] = [() => lock.release()];
  try {
    const stop = await openLastStop(world, log, options.disk, options.stateDirectory);
    opened.unshift(() => stop.file.close());
    const parts = await openParts(world, log, options, stop, opened);
    return start(world, log, options, stop, parts, () => lock.release());
  } catch (error) {
    for (const close of opened) await close();
    throw error;
  }
}

interface Parts {
  readonly map: DirtyMap;
  readonly backlog: Backlog;
  /** The backlog holds all that a mirror may lack. */
  readonly inOrder: boolean;
  /** Told of every new version of the map. */
  readonly mapChanged: { call: (version: number) => void };
}

/** Dirty map and backlog, as far as the last stop vouches for them. */
async function openParts(
  world: World,
  log: Log,
  options: PrimaryOptions,
  stop: LastStop,
  opened: (() => Promise<void>)[],
): Promise<Parts> {
  const mapChanged = { call: (_version: number): void => undefined };
  const map = await DirtyMap.open(world.files, dirtyMapPath(options.stateDirectory), {
    size: options.disk.size,
    trusted: stop.mapTrusted,
    versionTold: stop.file.state.mapVersionTold,
    // Durable before any write goes on without its mark, or a mirror is told what the map cannot keep.
    invalidate: async (mapVersionTold) => {
      const isNew = stop.file.state.mapValid;
      await stop.file.write({ ...stop.file.state, clean: false, mapValid: false, mapVersionTold });
      if (isNew) log.error({}, 'the dirty map cannot be written: the next start will compare everything');
    },
    changed: (version) => mapChanged.call(version),
    points: world.points,
    ...(options.regionSize === undefined ? {} : { regionSize: options.regionSize }),
  });
  opened.unshift(() => map.close());
  if (map.found !== 'kept' && stop.mapTrusted) {
    log.warn({ found: map.found }, 'the dirty map was damaged: what it cannot tell will be compared');
  }
  // From here on the map holds everything again.
  if (!stop.file.state.mapValid) await stop.file.write({ ...stop.file.state, mapValid: true });
  const kept =
    stop.spoolBase === undefined
      ? undefined
      : { run: stop.lineage.parentRun, base: stop.spoolBase, sequence: stop.sequence };
  // What is read back leaves the spool: the state must not vouch for it any more.
  if (kept !== undefined && kept.base !== kept.sequence) await recordRun(world, stop);
  const { backlog, restored } = await Backlog.open(
    world,
    log,
    {
      diskSize: options.disk.size,
      windowSize: options.windowSize,
      spoolSize: options.spoolSize ?? SPOOL_SIZE,
      spoolDirectory: options.spoolDirectory ?? `${options.stateDirectory}/spool`,
    },
    kept?.base ?? stop.sequence,
    kept,
  );
  opened.unshift(() => backlog.close());
  if (kept !== undefined && !restored) {
    log.warn({}, 'the spool that the last stop left cannot be used: what was in it will be compared');
  }
  return { map, backlog, inOrder: kept !== undefined && restored && map.found === 'kept', mapChanged };
}

/** This run is under way, and no clean stop vouches for anything any more. Durable on return. */
async function recordRun(world: World, { file, lineage, earlierRuns }: LastStop): Promise<void> {
  await file.write({ ...file.state, run: lineage.run, earlierRuns, clean: false });
  world.points.reached('primary-run-recorded');
}

function start(
  world: World,
  log: Log,
  options: PrimaryOptions,
  stop: LastStop,
  { map, backlog, inOrder, mapChanged }: Parts,
  release: () => Promise<void>,
): Primary {
  const { file, lineage } = stop;
  const state = file.state;
  const { disk } = options;
  const numbers = new CheckpointNumbers(stop.checkpoint);
  const sequences = new RegionSequences(map.size, map.regionSize, stop.sequence);
  const mirrorRegions = new MirrorRegions(map, PLANE, sequences);
  const replica = new Replica(world.clock, mirrorRegions, backlog, {
    sequence: stop.sequence,
    checkpoint: stop.clearedCheckpoint,
    inOrder,
  });
  mapChanged.call = (version) => replica.mapChanged(version);
  const ledger = new Ledger([replica], stop.sequence, !file.state.clean, () => recordRun(world, stop), {
    map,
    sequences,
  });
  const local: LocalDisk = { volume: options.volume, disk, lock: new RangeLock() };
  const agreement = new Agreement(world.clock, log, options.agreement ?? ASYNC, () => ledger.sequence);
  const load = new ClientLoad(world.clock);
  const volume = new ReplicatingVolume(local, ledger, agreement, load);
  const syncLocal = (): Promise<void> => ledger.sync(() => options.volume.flush());
  const regions = new DirtyRegions(world.clock, log, map, PLANE, sequences, options.dirtyActive ?? DIRTY_ACTIVE, {
    recorded: () =>
      ledger.started
        ? { run: lineage.run, sequence: replica.recorded, checkpoint: replica.marks.checkpoint }
        : undefined,
    mustStay: (region) => replica.marks.holds(region) || replica.stagedRun.holds(region),
    stayCount: () => replica.marks.count + replica.stagedRun.uncommittedCount,
    locallyDurable: () => ledger.locallyDurable,
    syncFailed: () => ledger.syncFailed,
    syncLocal,
    isFree: (offset, length) => local.lock.isFree(offset, length),
  });
  const rescanLimit: RateLimit = { bytesPerSecond: options.rescanRate };
  const link = new MirrorLink(
    world,
    log,
    {
      address: options.mirror,
      tls: options.tls,
      introduction: { exportName: options.exportName, volumeId: state.volumeId, windowSize: options.windowSize },
      rescanLimit,
      rekeySize: options.rekeySize,
      rekeyIntervalMs: options.rekeyIntervalMs,
      timing: options.timing,
      retry: options.retry,
    },
    {
      generation: state.generation,
      ...lineage,
      earlierRuns: stop.earlierRuns,
      size: disk.size,
      rescanAll: options.rescanAll,
    },
    replica,
    local,
    numbers,
    ledger,
    agreement,
    regions,
    load,
  );
  const pace = (bytesPerSecond: number): Pacing => new Pacing(world.clock, replica.window, { bytesPerSecond }, load);
  const verification = new Verification(
    link,
    options.periodicVerify &&
      new PeriodicVerify(
        {
          clock: world.clock,
          link,
          record: new VerifyRecord(world.files, log, options.stateDirectory, disk.size),
          pacing: pace(options.periodicVerify.rate),
          size: disk.size,
          uniform: () => world.random.uniform(),
          restate: (offset, length) => volume.restate(offset, length),
        },
        log,
        options.periodicVerify,
      ),
  );
  link.start();
  verification.start();

  return {
    volume,
    status: () => ({
      role: 'primary',
      volumeId: state.volumeId.toString('hex'),
      generation: state.generation.toString('hex'),
      run: lineage.run.toString('hex'),
      size: disk.size,
      sequence: ledger.sequence,
      operations: { ...ledger.counts },
      bytesWritten: ledger.bytesWritten,
      mirrors: [{ ...link.status(), ...verification.status() }],
    }),
    setRescanRate(bytesPerSecond) {
      rescanLimit.bytesPerSecond = bytesPerSecond;
    },
    verify: (onProgress) => verification.verify(onProgress),
    async close(drainMs) {
      // A mirror that does not answer ends it only with the session.
      const compared = verification.stop();
      ledger.close();
      await volume.idle();
      await within(world.clock, drainMs, compared);
      await link.stop(drainMs);
      await compared;
      await verification.close();
      agreement.close();
      const identity = await sealed();
      await regions.settle();
      await regions.close();
      // What could not be read here is marked in the map alone: only a comparison settles it.
      // What is only staged on the mirror has left the window, and is not in its image.
      const settled = replica.stagedRun.kind === undefined && replica.marks.unreadableSize === 0;
      const inOrder = ledger.started && replica.inOrder && settled;
      const spoolBase = inOrder ? await backlog.persist(lineage.run, ledger.sequence) : undefined;
      await backlog.close();
      await map.close();
      await options.volume.close();
      // A start that met no mirror and wrote nothing leaves the state as it was.
      if (identity !== undefined && ledger.started) await recordStop(identity, spoolBase);
      const { lag, mirror } = link.status();
      if (ledger.started && spoolBase === undefined) {
        log.warn(
          { mirror, ...lag },
          'stopped while the mirror was not in step: the next start compares what is marked',
        );
      }
      await file.close();
      await release();
    },
  };

  async function recordStop(identity: DiskIdentity, spoolBase: number | undefined) {
    await file.write({
      ...file.state,
      clean: true,
      mapValid: map.valid,
      inOrder: spoolBase !== undefined,
      spoolBase: spoolBase ?? 0,
      sequence: ledger.sequence,
      // One that a drain placed and did not see done counts for the numbering alone: the mirror may lack it.
      checkpoint: numbers.last,
      clearedCheckpoint: replica.marks.checkpoint,
      identity,
    });
    world.points.reached('primary-clean-recorded');
  }

  /** What the disk is from now on, durably; undefined when it cannot vouch for what it holds. */
  async function sealed(): Promise<DiskIdentity | undefined> {
    try {
      await syncLocal();
      return await disk.durableIdentity();
    } catch (error) {
      if (!isFailure(error)) throw error;
      log.error({ code: error.code }, `the disk could not be synced at the end: ${error.message}`);
      return undefined;
    }
  }
}
