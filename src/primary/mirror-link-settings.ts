/** What a primary is told of one mirror. */
import type { Address } from '../io/network.ts';
import type { ChannelTiming } from '../link/channel.ts';
import type { LinkTls } from '../secure/tls.ts';
import type { Introduction } from './opening.ts';
import type { RateLimit } from './pacing.ts';

export interface RetryTiming {
  readonly firstMs: number;
  readonly lastMs: number;
  /** After a refusal that needs a human. */
  readonly refusedMs: number;
  /** After the window overran. */
  readonly behindMs: number;
}

export const DEFAULT_RETRY: RetryTiming = { firstMs: 200, lastMs: 10_000, refusedMs: 60_000, behindMs: 1_000 };

export interface MirrorLinkSettings {
  readonly address: Address;
  readonly tls: LinkTls;
  readonly introduction: Omit<Introduction, 'mode'>;
  readonly rescanLimit: RateLimit;
  readonly rekeySize: number;
  readonly rekeyIntervalMs: number;
  readonly timing?: ChannelTiming | undefined;
  readonly retry?: RetryTiming | undefined;
}
