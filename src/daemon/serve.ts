/**
 * `nbdtwin serve`, put together: disk → volume → replicating layer (or none) → NBD server.
 *
 * The order of a start: what can be refused without making anything (options, secrets, the disk, ports) comes first,
 * then what is made: a new disk, the state beside it. A start that fails undoes its steps, so that a disk it made is gone again.
 *
 * The order of a stop: no new clients; those there are finish or are cut off after the drain time; the mirror gets what
 * it can take in the same time again; state and disk are synced and closed.
 */

import path from 'node:path';
import process from 'node:process';
import { LIMITS } from 'nbd-protocol';
import { parseExportName } from '../base/export-name.ts';
import { Failure, isFailure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Disk } from '../io/disk.ts';
import { type Address, formatAddress } from '../io/network.ts';
import type { NodeWorld } from '../io/node-world.ts';
import { realPath } from '../io/real-path.ts';
import { startNbdServer } from '../nbd/server.ts';
import { openPrimary } from '../primary/open-primary.ts';
import type { Primary } from '../primary/primary.ts';
import { selectKey } from '../secure/identity.ts';
import { loadSecret } from '../secure/load-secret.ts';
import type { PresharedKey } from '../secure/tls.ts';
import { forgetCleanStop } from '../store/primary-state.ts';
import { DiskVolume } from '../volume/disk-volume.ts';
import { OrderedVolume } from '../volume/ordered-volume.ts';
import type { Volume } from '../volume/volume.ts';
import { isLocal, nbdUri } from './address.ts';
import type { ReplicationConfig, ServeConfig } from './config.ts';
import { loadNbdTls } from './nbd-tls.ts';
import { RangeOwners } from './range-owners.ts';
import type { Running } from './running.ts';
import type { ServeStatus } from './status.ts';
import { Unwinding } from './unwinding.ts';
import { VERSION } from './version.ts';

/** Of the ranges that a verify on request finds, so many are looked up. */
const NAMED_MAX = 8;

/** Starts serving. Resolves once clients can connect. Failures: of the options, secrets, disk, state and addresses. */
export async function startServe(world: NodeWorld, log: Log, config: ServeConfig): Promise<Running> {
  const exportName = parseExportName(config.exportName ?? defaultExportName(config.disk));
  requireSendable(config.description);
  const tls = await loadNbdTls(world.files, world.secrets, config.tls);
  const key = config.replication && (await primaryKey(world, config.replication));

  const opened = new Unwinding();
  try {
    // A disk that is served already is the better reason than its port; one to be made is made last.
    const creates = config.createSize !== undefined;
    if (creates) await requireFree(world, config.listen);
    const disk = await openDisk(world, config, opened);
    if (!creates) await requireFree(world, config.listen);
    const diskPath = (await realPath(config.disk)) ?? path.resolve(config.disk);
    const stateDirectory = stateDirectoryOf(disk, diskPath, config);
    const local = new DiskVolume(disk, { readOnly: config.readOnly });
    const owners = new RangeOwners(disk, diskPath);
    let volume: Volume;
    let primary: Primary | undefined;
    if (config.replication === undefined) {
      await leaveReplication(world, log, config, stateDirectory);
      volume = new OrderedVolume(local);
      opened.add(() => volume.close());
    } else {
      primary = await openPrimary(world, log, {
        volume: local,
        disk,
        stateDirectory: stateDirectory!,
        exportName,
        mirror: config.replication.mirror,
        tls: { keys: [key!] },
        agreement: config.replication.agreement,
        windowSize: config.replication.windowSize,
        spoolSize: config.replication.spoolSize,
        spoolDirectory: spoolDirectoryOf(config.replication),
        dirtyActive: config.replication.dirtyActive,
        rescanRate: config.replication.rescanRate,
        rescanAll: config.replication.rescanAll,
        periodicVerify: config.replication.periodicVerify && {
          ...config.replication.periodicVerify,
          ownersOf: (ranges) => owners.of(ranges),
        },
        rekeySize: config.replication.rekeySize,
        rekeyIntervalMs: config.replication.rekeyIntervalMs,
      });
      const replicating = primary;
      volume = replicating.volume;
      opened.add(() => replicating.close(0));
    }
    const server = await startNbdServer({
      network: world.network,
      log,
      clock: world.clock,
      exports: [{ name: exportName, description: config.description, volume, isDefault: true }],
      listeners: config.listen,
      tls: tls.mode,
      nbdTls: tls.material,
    });
    opened.forget();
    warnOfOpenDoors(log, config, tls.mode);
    const startedMs = world.clock.nowMs();
    const listening = server.addresses.map((address) => nbdUri(address, exportName, tls.mode === 'require'));
    return {
      readyLine: readyLine(listening, config.replication),
      status: (): ServeStatus => ({
        role: 'primary',
        pid: process.pid,
        version: VERSION,
        uptimeMs: world.clock.nowMs() - startedMs,
        disk: diskPath,
        export: { name: exportName, description: config.description, size: volume.size, readOnly: volume.readOnly },
        listening,
        connections: server.connections().length,
        ...(primary && { replication: primary.status() }),
      }),
      verify: async (onProgress) => {
        if (primary === undefined) throw new Failure('not-ready', `${exportName} is served without a mirror`);
        const report = await primary.verify(onProgress);
        const named = await owners.of(report.ranges.slice(0, NAMED_MAX));
        const ranges = report.ranges.map((range, index) => {
          const owner = named[index];
          return owner === undefined ? range : { ...range, owner };
        });
        return { ...report, ranges };
      },
      setRescanRate(bytesPerSecond) {
        if (primary === undefined) throw new Failure('not-ready', `${exportName} is served without a mirror`);
        primary.setRescanRate(bytesPerSecond);
      },
      recover: async () => {
        throw new Failure('usage', 'a primary has no image to recover');
      },
      async stop() {
        owners.close();
        await server.close(config.drainMs);
        if (primary === undefined) {
          await volume.flush();
          await volume.close();
        } else await primary.close(config.drainMs);
      },
    };
  } catch (error) {
    await opened.unwind();
    throw error;
  }
}

/** The protocol sends it as one string. */
function requireSendable(description: string): void {
  const size = Buffer.byteLength(description);
  if (size <= LIMITS.string) return;
  throw new Failure('usage', `--description has ${size} bytes, at most ${LIMITS.string} are possible`);
}

function defaultExportName(disk: string): string {
  return path.parse(disk).name;
}

async function primaryKey(world: NodeWorld, replication: ReplicationConfig): Promise<PresharedKey> {
  return selectKey(await loadSecret(world.secrets, replication.secret), replication.identity);
}

/** A port that is taken is told before anything is made. Whoever takes it in between is found by the server. */
async function requireFree(world: NodeWorld, addresses: readonly Address[]): Promise<void> {
  for (const address of addresses) {
    if (address.kind === 'descriptor') continue;
    const listener = await world.network.listen(address, (stream) => {
      stream.receive({ data() {}, drain() {}, end() {}, close() {} });
      stream.destroy();
    });
    await listener.close();
  }
}

async function openDisk(world: NodeWorld, config: ServeConfig, opened: Unwinding): Promise<Disk> {
  const { createSize, readOnly } = config;
  if (createSize !== undefined && readOnly) throw new Failure('usage', '--create and --read-only exclude each other');
  const disk = await world.files.openDisk(config.disk, {
    readOnly,
    lock: readOnly ? 'shared' : 'exclusive',
    ...(createSize === undefined ? {} : { createSize }),
  });
  if (createSize !== undefined) opened.add(() => world.files.remove(config.disk));
  opened.add(() => disk.close());
  return disk;
}

function stateDirectoryOf(disk: Disk, diskPath: string, config: ServeConfig): string | undefined {
  if (config.stateDirectory !== undefined) return path.resolve(config.stateDirectory);
  if (disk.kind === 'file') return `${diskPath}.twin`;
  if (config.replication === undefined) return undefined;
  throw new Failure('config-invalid', `${config.disk} is a block device: name a folder for its state with --state-dir`);
}

function spoolDirectoryOf({ spoolDirectory }: ReplicationConfig): string | undefined {
  return spoolDirectory === undefined ? undefined : path.resolve(spoolDirectory);
}

/** The mirror will not see what is written now: a later start with --mirror must compare everything. */
async function leaveReplication(
  world: NodeWorld,
  log: Log,
  config: ServeConfig,
  stateDirectory: string | undefined,
): Promise<void> {
  if (config.readOnly || stateDirectory === undefined) return;
  if ((await world.files.exists(stateDirectory)) !== 'directory') return;
  try {
    await forgetCleanStop(world.files, stateDirectory);
  } catch (error) {
    // State that cannot be read vouches for nothing.
    if (!isFailure(error, 'state-corrupt')) throw error;
  }
  log.warn({ stateDirectory }, 'serving without --mirror: the next start with --mirror will compare the whole disk');
}

function warnOfOpenDoors(log: Log, config: ServeConfig, tls: 'require' | 'on' | 'off'): void {
  if (tls === 'require') return;
  const open = config.listen.filter((address) => !isLocal(address)).map(formatAddress);
  if (open.length > 0) {
    log.warn({ addresses: open }, 'whoever reaches these addresses can read and write the disk: see --tls require');
  }
}

function readyLine(listening: readonly string[], replication: ReplicationConfig | undefined): string {
  const [first = 'nothing', ...others] = listening;
  const also = others.length === 0 ? '' : ` (also ${others.join(', ')})`;
  const mirror = replication === undefined ? 'not replicated' : `mirror ${formatAddress(replication.mirror)}`;
  return `nbdtwin serve: ready ${first}${also}, ${mirror}`;
}
