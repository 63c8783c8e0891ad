/** What a running process answers to `nbdtwin status`: plain data, ready for JSON. Sizes are bytes, times ms. */
import type { MirrorStatus } from '../mirror/status.ts';
import type { PrimaryStatus, VerifyReport } from '../primary/status.ts';

export type { VerifyReport };

interface ProcessStatus {
  readonly pid: number;
  /** Release of nbdtwin that runs there. */
  readonly version: string;
  readonly uptimeMs: number;
}

/** `nbdtwin serve`. */
export interface ServeStatus extends ProcessStatus {
  readonly role: 'primary';
  /** Absolute path of the disk. */
  readonly disk: string;
  readonly export: {
    readonly name: string;
    readonly description: string;
    readonly size: number;
    readonly readOnly: boolean;
  };
  /** NBD URIs that clients may use. */
  readonly listening: readonly string[];
  /** NBD connections open now. */
  readonly connections: number;
  /** Absent without --mirror. */
  readonly replication?: PrimaryStatus;
}

/** `nbdtwin mirror`. */
export type MirrorDaemonStatus = ProcessStatus & MirrorStatus;

export type DaemonStatus = ServeStatus | MirrorDaemonStatus;
