import type { Disk } from '../io/disk.ts';
import type { Address } from '../io/network.ts';
import type { ChannelTiming } from '../link/channel.ts';
import type { LinkTls } from '../secure/tls.ts';
import type { Volume } from '../volume/volume.ts';
import type { AgreementSettings } from './agreement.ts';
import type { RetryTiming } from './mirror-link-settings.ts';
import type { PeriodicVerifySettings } from './periodic-verify.ts';
import type { PrimaryStatus, RescanProgress, VerifyReport } from './status.ts';

export interface PrimaryOptions {
  /** The local volume; the primary owns it from now on and closes it. */
  readonly volume: Volume;
  /** The disk under that volume, for digests and identity. */
  readonly disk: Disk;
  /** `DISK.twin`, or --state-dir. Created when missing. */
  readonly stateDirectory: string;
  /** Name of the export on the mirror. */
  readonly exportName: string;
  readonly mirror: Address;
  /** Exactly one key. */
  readonly tls: LinkTls;
  /** Bytes of operations kept in memory until the mirror has recorded them. */
  readonly windowSize: number;
  /** Bytes on disk for operations that the window cannot take; 0: none; 1 GiB unless given. */
  readonly spoolSize?: number;
  /** Where they go; `spool` in the state directory unless given. Made when missing, locked. */
  readonly spoolDirectory?: string | undefined;
  /** Bytes of a region of the dirty map; by the size of the disk unless given, for tests. */
  readonly regionSize?: number;
  /** Regions that stay marked in the dirty map though the mirror is in step; 4096 unless given. */
  readonly dirtyActive?: number;
  /** Bytes per second that a rescan may read, to begin with; undefined: as fast as clients allow. */
  readonly rescanRate: number | undefined;
  /** Bytes on one link session before its keys are renewed. */
  readonly rekeySize: number;
  /** Age of a link session before its keys are renewed. */
  readonly rekeyIntervalMs: number;
  /** When requests are answered; `async` unless given. */
  readonly agreement?: AgreementSettings;
  /** Compare everything at the first contact, whatever is known. */
  readonly rescanAll: boolean;
  /** Compare everything every so often; undefined: never. */
  readonly periodicVerify?: PeriodicVerifySettings | undefined;
  /** Liveness of the link and pauses between attempts; for tests. */
  readonly timing?: ChannelTiming;
  readonly retry?: RetryTiming;
}

export interface Primary {
  /** The replicating layer: serve this. */
  readonly volume: Volume;
  status(): PrimaryStatus;
  /** Bytes per second that a rescan may read from now on, one that runs included; undefined: as fast as clients allow. */
  setRescanRate(bytesPerSecond: number | undefined): void;
  /** Compares both images while serving. Fails with `not-ready` unless in catch-up or streaming. */
  verify(onProgress: (progress: RescanProgress) => void): Promise<VerifyReport>;
  /**
   * Clean stop: drains what the mirror can take within `drainMs`, writes the clean flag, closes volume and state. Requests
   * that still wait for the mirror then fail with `shutting-down`.
   */
  close(drainMs: number): Promise<void>;
}
