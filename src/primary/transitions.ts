/**
 * The states of a primary towards one mirror, and every transition between them. docs/state-machines.md is drawn from
 * this table.
 *
 * `same` cells are events that change nothing there. `bug` cells cannot happen whatever mirror or network do: reaching
 * one ends the process. What a peer can cause is never a bug cell.
 */
import { AssertionFailed } from '../base/assert.ts';
import type { SessionState } from './status.ts';

export type SessionEvent =
  /** An attempt to connect begins. */
  | 'attempt'
  /** TLS stands, HELLO goes out. */
  | 'linked'
  /** The mirror's position is in the window. */
  | 'resumed'
  /** It is not: a rescan must be admitted. */
  | 'scope-needed'
  /** The mirror lets the rescan begin. */
  | 'rescan-admitted'
  /** The same for an image that holds nothing yet. */
  | 'seeding-admitted'
  /** The rescan's last byte is durable. */
  | 'rescan-complete'
  /** Window nearly empty. */
  | 'caught-up'
  /** Window filling. */
  | 'lagging'
  /** The window overran: order is given up. */
  | 'overran'
  /** The connection could not be made, or was lost. */
  | 'lost'
  /** The mirror refuses; a human is needed. */
  | 'refused'
  /** We stop. */
  | 'stopped';

type Cell = SessionState | 'same' | 'bug';

export const TRANSITIONS = {
  offline: {
    attempt: 'connecting',
    linked: 'bug',
    resumed: 'bug',
    'scope-needed': 'bug',
    'rescan-admitted': 'bug',
    'seeding-admitted': 'bug',
    'rescan-complete': 'bug',
    'caught-up': 'bug',
    lagging: 'bug',
    overran: 'behind',
    lost: 'same',
    refused: 'bug',
    stopped: 'same',
  },
  connecting: {
    attempt: 'bug',
    linked: 'negotiating',
    resumed: 'bug',
    'scope-needed': 'bug',
    'rescan-admitted': 'bug',
    'seeding-admitted': 'bug',
    'rescan-complete': 'bug',
    'caught-up': 'bug',
    lagging: 'bug',
    overran: 'same',
    lost: 'offline',
    refused: 'refused',
    stopped: 'offline',
  },
  negotiating: {
    attempt: 'bug',
    linked: 'bug',
    resumed: 'catch-up',
    'scope-needed': 'queued',
    'rescan-admitted': 'bug',
    'seeding-admitted': 'bug',
    'rescan-complete': 'bug',
    'caught-up': 'bug',
    lagging: 'bug',
    overran: 'same',
    lost: 'offline',
    refused: 'refused',
    stopped: 'offline',
  },
  'catch-up': {
    attempt: 'bug',
    linked: 'bug',
    resumed: 'bug',
    'scope-needed': 'bug',
    'rescan-admitted': 'bug',
    'seeding-admitted': 'bug',
    'rescan-complete': 'bug',
    'caught-up': 'streaming',
    lagging: 'same',
    overran: 'behind',
    lost: 'offline',
    refused: 'refused',
    stopped: 'offline',
  },
  streaming: {
    attempt: 'bug',
    linked: 'bug',
    resumed: 'bug',
    'scope-needed': 'bug',
    'rescan-admitted': 'bug',
    'seeding-admitted': 'bug',
    'rescan-complete': 'bug',
    'caught-up': 'same',
    lagging: 'catch-up',
    overran: 'behind',
    lost: 'offline',
    refused: 'refused',
    stopped: 'offline',
  },
  behind: {
    attempt: 'connecting',
    linked: 'bug',
    resumed: 'bug',
    'scope-needed': 'bug',
    'rescan-admitted': 'bug',
    'seeding-admitted': 'bug',
    'rescan-complete': 'bug',
    'caught-up': 'same',
    lagging: 'same',
    overran: 'same',
    lost: 'same',
    refused: 'refused',
    stopped: 'offline',
  },
  queued: {
    attempt: 'bug',
    linked: 'bug',
    resumed: 'bug',
    'scope-needed': 'bug',
    'rescan-admitted': 'rescan',
    'seeding-admitted': 'seeding',
    'rescan-complete': 'bug',
    'caught-up': 'bug',
    lagging: 'bug',
    overran: 'same',
    lost: 'offline',
    refused: 'refused',
    stopped: 'offline',
  },
  seeding: {
    attempt: 'bug',
    linked: 'bug',
    resumed: 'bug',
    'scope-needed': 'bug',
    'rescan-admitted': 'bug',
    'seeding-admitted': 'bug',
    'rescan-complete': 'catch-up',
    'caught-up': 'same',
    lagging: 'same',
    overran: 'same',
    lost: 'offline',
    refused: 'refused',
    stopped: 'offline',
  },
  rescan: {
    attempt: 'bug',
    linked: 'bug',
    resumed: 'bug',
    'scope-needed': 'bug',
    'rescan-admitted': 'bug',
    'seeding-admitted': 'bug',
    'rescan-complete': 'catch-up',
    'caught-up': 'same',
    lagging: 'same',
    overran: 'same',
    lost: 'offline',
    refused: 'refused',
    stopped: 'offline',
  },
  refused: {
    attempt: 'connecting',
    linked: 'bug',
    resumed: 'bug',
    'scope-needed': 'bug',
    'rescan-admitted': 'bug',
    'seeding-admitted': 'bug',
    'rescan-complete': 'bug',
    'caught-up': 'bug',
    lagging: 'bug',
    overran: 'same',
    lost: 'same',
    refused: 'same',
    stopped: 'offline',
  },
} as const satisfies Record<SessionState, Record<SessionEvent, Cell>>;

/** The state after `event`. */
export function transition(state: SessionState, event: SessionEvent): SessionState {
  const next: Cell = TRANSITIONS[state][event];
  if (next === 'bug') throw new AssertionFailed(`event ${event} in state ${state}`);
  return next === 'same' ? state : next;
}
