import type { Address } from '../io/network.ts';
import type { ChannelTiming } from '../link/channel.ts';
import type { LinkTls } from '../secure/tls.ts';
import type { StagingRules } from './image-state.ts';
import type { RecoverReport } from './recover.ts';
import type { MirrorStatus } from './status.ts';

export interface MirrorOptions {
  /** Holds one image per export and its state. */
  readonly directory: string;
  readonly listen: Address;
  readonly tls: LinkTls;
  /** Rescans and first seedings that run at the same time; the others queue. At least 1; default 2. */
  readonly rescansMax?: number;
  /** Room for staged runs. Default: what the disk has; when it runs out the image stays as it is. */
  readonly staging?: StagingRules;
  /** Liveness of the link; for tests. */
  readonly timing?: ChannelTiming;
}

export interface Mirror {
  /** The address really bound. */
  readonly address: Address;
  status(): MirrorStatus;
  /**
   * Applies what was received for the image at that path, finishes what is committed, and tells the position. A staged
   * run that is not complete is kept. Failures: `image-unknown`, `image-missing`, those of the disk.
   */
  recover(image: string, dryRun: boolean): Promise<RecoverReport>;
  /** Clean stop: applies everything received, makes it durable, records it. */
  close(): Promise<void>;
}
