/**
 * The primary as a whole: state, ledger, replicating layer, one link per mirror.
 *
 * Starts: every start takes a new run, durable before the first mutation. After a clean stop that nobody wrote behind it
 * names the run and sequence of that stop as its parent, and a mirror that stands just there follows it; anything else
 * is compared. Stops: drains, syncs, and only then says that the stop was clean.
 */
import { ID_SIZE, NO_ID } from '../base/bytes.ts';
import { parseExportName } from '../base/export-name.ts';
import { isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { World } from '../io/world.ts';
import type { Lineage } from '../link/lineage.ts';
import { sameIdentity } from '../store/identity.ts';
import { PRIMARY_STATE, type PrimaryState, primaryStatePath, runsUpTo } from '../store/primary-state.ts';
import { createStateFile, openStateFile, type StateFile } from '../store/state-file.ts';
import { RangeLock } from '../volume/range-lock.ts';
import { Agreement, ASYNC } from './agreement.ts';
import { CheckpointNumbers } from './checkpoints.ts';
import { Ledger } from './ledger.ts';
import type { LocalDisk } from './local-disk.ts';
import { MirrorLink } from './mirror-link.ts';
import type { Primary, PrimaryOptions } from './primary.ts';
import { Replica } from './replica.ts';
import { ReplicatingVolume } from './replicating-volume.ts';

/** Opens the primary and starts to connect. Failures: `name-invalid`, `directory-busy`, `state-corrupt`, `state-unwritable`. */
export async function openPrimary(world: World, log: Log, options: PrimaryOptions): Promise<Primary> {
  parseExportName(options.exportName);
  await world.files.makeDirectory(options.stateDirectory);
  const lock = await world.files.lockDirectory(options.stateDirectory);
  try {
    const { file, resumed } = await openState(world, log, options);
    return start(world, log, options, file, resumed, () => lock.release());
  } catch (error) {
    await lock.release();
    throw error;
  }
}

/** The state of the last stop, or of this start when that was not clean; and whether the stop can be trusted. */
async function openState(
  world: World,
  log: Log,
  options: PrimaryOptions,
): Promise<{ file: StateFile<PrimaryState>; resumed: boolean }> {
  const path = primaryStatePath(options.stateDirectory);
  const identity = await options.disk.identity();
  const file = await openStateFile(world.files, PRIMARY_STATE, path);
  if (file === undefined) {
    const volumeId = world.random.bytes(ID_SIZE);
    const state = newRun(world, { volumeId, generation: world.random.bytes(ID_SIZE), checkpoint: 0, identity }, []);
    return { file: await createStateFile(world.files, PRIMARY_STATE, path, state), resumed: false };
  }
  const before = file.state;
  // A block device has no time of its last change, so nothing tells whether someone wrote to it since.
  const unchanged = options.disk.kind === 'file' && sameIdentity(before.identity, identity);
  if (before.clean && unchanged) return { file, resumed: true };
  if (before.clean && options.disk.kind === 'block-device')
    log.info({ disk: options.disk.path }, 'a block device may have changed unseen: everything will be compared');
  else if (before.clean)
    log.warn(
      { disk: options.disk.path },
      'the disk was changed while it was not being served: everything will be compared',
    );
  else
    log.info(
      { disk: options.disk.path },
      'the last stop was not clean, or the mirror was not in step then: everything will be compared',
    );
  // A process that died may have left pages in the cache that a failed sync had lost.
  await options.disk.sync();
  await options.disk.dropCache();
  await file.write(newRun(world, { ...before, identity }, runsUpTo(before)));
  return { file, resumed: false };
}

/** The state of a run that begins with nothing known of any mirror. */
function newRun(
  world: World,
  { volumeId, generation, checkpoint, identity }: Omit<PrimaryState, 'run' | 'earlierRuns' | 'sequence' | 'clean'>,
  earlierRuns: readonly Buffer[],
): PrimaryState {
  const run = world.random.bytes(ID_SIZE);
  return { volumeId, generation, run, earlierRuns, sequence: 0, checkpoint, clean: false, identity };
}

function start(
  world: World,
  log: Log,
  options: PrimaryOptions,
  file: StateFile<PrimaryState>,
  resumed: boolean,
  release: () => Promise<void>,
): Primary {
  const state = file.state;
  const { disk } = options;
  const numbers = new CheckpointNumbers(state.checkpoint);
  const replica = new Replica(world.clock, disk.size, options.windowSize, state.sequence, state.checkpoint, resumed);
  const lineage: Lineage = resumed
    ? { run: world.random.bytes(ID_SIZE), parentRun: state.run, parentSequence: state.sequence }
    : { run: state.run, parentRun: NO_ID, parentSequence: 0 };
  const earlierRuns = resumed ? runsUpTo(state) : state.earlierRuns;
  const ledger = new Ledger([replica], state.sequence, !resumed, () =>
    file.write({ ...file.state, run: lineage.run, earlierRuns, clean: false }),
  );
  const local: LocalDisk = { volume: options.volume, disk, lock: new RangeLock() };
  const agreement = new Agreement(world.clock, log, options.agreement ?? ASYNC, () => ledger.sequence);
  const volume = new ReplicatingVolume(local, ledger, agreement);
  const link = new MirrorLink(
    world,
    log,
    {
      address: options.mirror,
      tls: options.tls,
      exportName: options.exportName,
      volumeId: state.volumeId,
      windowSize: options.windowSize,
      rescanRate: options.rescanRate,
      rekeySize: options.rekeySize,
      rekeyIntervalMs: options.rekeyIntervalMs,
      timing: options.timing,
      retry: options.retry,
    },
    { generation: state.generation, ...lineage, earlierRuns, size: disk.size, rescanAll: options.rescanAll },
    replica,
    local,
    numbers,
    ledger,
    agreement,
  );
  link.start();

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
      mirrors: [link.status()],
    }),
    verify: (onProgress) => link.verify(onProgress),
    async close(drainMs) {
      await volume.idle();
      await link.stop(drainMs);
      agreement.close();
      const vouched = await sync();
      const identity = await disk.identity();
      await options.volume.close();
      // Without marks the window alone tells what the mirror lacks; it dies with us, but then its position does not
      // match and everything is compared. With marks, or after a failed sync, nothing can be vouched for.
      if (vouched && replica.keeping && replica.marks.count === 0 && replica.marks.unreadableSize === 0) {
        await file.write({ ...file.state, clean: true, sequence: ledger.sequence, checkpoint: numbers.last, identity });
      }
      const { lag, mirror } = link.status();
      if (lag.operations > 0 || replica.marks.count > 0) {
        log.warn({ mirror, ...lag }, 'stopped while the mirror was not in step: the next start compares everything');
      }
      await file.close();
      await release();
    },
  };

  /** False when the disk cannot vouch for what it holds. */
  async function sync(): Promise<boolean> {
    try {
      await options.volume.flush();
      return true;
    } catch (error) {
      if (!isFailure(error)) throw error;
      log.error({ code: error.code }, `the disk could not be synced at the end: ${error.message}`);
      return false;
    }
  }
}
