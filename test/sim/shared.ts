/** What the parts of one simulation share, and constants of all simulations. */
import type { Log } from '../../src/base/log.ts';
import type { PointName } from '../../src/io/points.ts';
import type { ChannelTiming } from '../../src/link/channel.ts';
import type { RetryTiming } from '../../src/primary/mirror-link-settings.ts';
import type { LinkTls } from '../../src/secure/tls.ts';
import type { Incarnation } from './host.ts';
import type { SimulatedNetwork } from './network.ts';
import type { Profile } from './profile.ts';
import type { SeededRandom } from './random.ts';
import type { Fate } from './stored-file.ts';
import type { Timeline } from './timeline.ts';

export type SideName = 'primary' | 'mirror';

export interface Shared {
  readonly random: SeededRandom;
  readonly timeline: Timeline;
  readonly network: SimulatedNetwork;
  readonly profile: Profile;
  trace(text: string): void;
  /** Something that must never be: the simulation ends. */
  wrong(what: string): void;
  /** An error that came out of the product where none may. */
  escaped(error: unknown, incarnation: Incarnation): void;
  /** A named point was passed; the side may die in it. */
  reached(side: SideName, name: PointName): void;
  wentDown(side: SideName): void;
  /** How long a request of a client may take. */
  patienceMs(): number;
}

export const MIRROR_ADDRESS = { kind: 'tcp', host: 'mirror', port: 10_810 } as const;
/** Nobody looks at it: there is no TLS here. */
export const TLS: LinkTls = { keys: [{ identity: 'nbdtwin', key: Buffer.alloc(32, 1) }] };
/** Outside of tests a peer is given longer; here more can happen in the same number of steps. */
export const TIMING: ChannelTiming = { pingIntervalMs: 200, timeoutMs: 900 };
export const RETRY: RetryTiming = { firstMs: 20, lastMs: 500, refusedMs: 1_000, behindMs: 100 };

/** What this power loss does to what was not synced. */
export function pickFate(random: SeededRandom): Fate {
  return random.pick<Fate>([
    { kept: 0, torn: 0 },
    { kept: 1, torn: 0 },
    { kept: 0.5, torn: 0.3 },
    { kept: 0.1, torn: 0.1 },
    { kept: 0.9, torn: 0.1 },
    { kept: 0, torn: 1 },
  ]);
}

/** The log of a process, in the trace; `onError` sees errors too. */
export function logOf(shared: Shared, name: string, onError: (message: string) => void = () => undefined): Log {
  const line = (fields: object, message: string): void => shared.trace(`${name}: ${message} ${textOf(fields)}`);
  const error = (fields: object, message: string): void => {
    line(fields, message);
    onError(message);
  };
  const log: Log = { debug: line, info: line, warn: line, error, child: () => log };
  return log;
}

function textOf(fields: object): string {
  return JSON.stringify(fields, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value));
}
