import type { RecoverReport } from '../mirror/recover.ts';
import type { RescanProgress, VerifyReport } from '../primary/status.ts';
import type { DaemonStatus } from './status.ts';

/** A primary or a mirror that listens. */
export interface Running {
  /** The line on stdout that says so: stable, for scripts. */
  readonly readyLine: string;
  status(): DaemonStatus;
  /** Failures: `not-ready`; `usage` on a mirror. */
  verify(onProgress: (progress: RescanProgress) => void): Promise<VerifyReport>;
  /** Bytes per second that a rescan may read; undefined: as fast as clients allow. Failures: `not-ready`; `usage` on a mirror. */
  setRescanRate(bytesPerSecond: number | undefined): void;
  /** Failures: see `recoverImage`; `usage` on a primary. */
  recover(image: string, dryRun: boolean): Promise<RecoverReport>;
  /** Takes no more clients, lets those there are finish, stops cleanly. Failures: those of the disk. */
  stop(): Promise<void>;
}
