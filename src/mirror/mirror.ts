import type { Log } from '../base/log.ts';
import type { Address } from '../io/network.ts';
import type { World } from '../io/world.ts';
import type { LinkTls } from '../secure/tls.ts';
import type { MirrorStatus } from './status.ts';

export interface MirrorOptions {
  /** Holds one image per export and its state. */
  readonly directory: string;
  readonly listen: Address;
  readonly tls: LinkTls;
}

export interface Mirror {
  /** The address really bound. */
  readonly address: Address;
  status(): MirrorStatus;
  /** Clean stop: applies everything received, makes it durable, records it. */
  close(): Promise<void>;
}

export type OpenMirror = (world: World, log: Log, options: MirrorOptions) => Promise<Mirror>;
