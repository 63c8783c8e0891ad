import { describe, expect, it } from 'vitest';
import type { SessionState } from '../../../src/primary/status.ts';
import { type SessionEvent, TRANSITIONS, transition } from '../../../src/primary/transitions.ts';

const STATES = Object.keys(TRANSITIONS) as SessionState[];
const EVENTS = Object.keys(TRANSITIONS.offline) as SessionEvent[];

/**
 * What the other end and the network can cause in each state, by construction of mirror-link.ts and session.ts: a
 * connection attempt succeeds or fails (connecting); WELCOME decides (negotiating); RESCAN_PLACE admits (queued);
 * acknowledgements move the session between streaming and catch-up; the last CHECKPOINT_DONE ends a rescan. A loss or a
 * refusal ends whatever is connected. After an overrun acknowledgements may still arrive until the channel has ended.
 */
const PEER_EVENTS: Readonly<Record<SessionState, readonly SessionEvent[]>> = {
  offline: [],
  connecting: ['linked', 'lost', 'refused'],
  negotiating: ['resumed', 'scope-needed', 'lost', 'refused'],
  queued: ['rescan-admitted', 'seeding-admitted', 'lost', 'refused'],
  'catch-up': ['caught-up', 'lagging', 'lost', 'refused'],
  streaming: ['caught-up', 'lagging', 'lost', 'refused'],
  seeding: ['rescan-complete', 'caught-up', 'lagging', 'lost', 'refused'],
  rescan: ['rescan-complete', 'caught-up', 'lagging', 'lost', 'refused'],
  behind: ['caught-up', 'lagging', 'lost', 'refused'],
  refused: [],
};

/** What clients and our own stop can cause, connected or not. */
const EVER: readonly SessionEvent[] = ['overran', 'stopped'];

/** Where no session is under way an attempt may begin. */
const RESTING: readonly SessionState[] = ['offline', 'behind', 'refused'];

describe('the transition table of a session', () => {
  it('has a cell for each event in each state', () => {
    expect(STATES.length).toBe(10);
    expect(EVENTS.length).toBe(13);
    for (const state of STATES) expect(Object.keys(TRANSITIONS[state]).sort()).toEqual([...EVENTS].sort());
  });

  it('has no bug cell for what a peer, the network, a client or a stop can cause', () => {
    for (const state of STATES) {
      for (const event of [...PEER_EVENTS[state], ...EVER]) {
        expect(TRANSITIONS[state][event], `${event} in ${state}`).not.toBe('bug');
      }
    }
  });

  it('lets an attempt begin exactly where no session is under way', () => {
    for (const state of STATES) {
      expect(TRANSITIONS[state].attempt === 'connecting', state).toBe(RESTING.includes(state));
    }
  });

  it('reaches every state from offline, and offline from every state', () => {
    const reach = (from: SessionState): ReadonlySet<SessionState> => {
      const found = new Set<SessionState>([from]);
      for (const state of found) {
        for (const event of EVENTS) {
          if (TRANSITIONS[state][event] !== 'bug') found.add(transition(state, event));
        }
      }
      return found;
    };
    expect([...reach('offline')].sort()).toEqual([...STATES].sort());
    for (const state of STATES) expect(reach(state).has('offline'), state).toBe(true);
  });

  it('ends in offline when we stop, whatever was', () => {
    for (const state of STATES) expect(transition(state, 'stopped')).toBe('offline');
  });

  it('gives up order only where there is one to give up', () => {
    for (const state of STATES) {
      const ordered = ['offline', 'catch-up', 'streaming'].includes(state);
      expect(transition(state, 'overran'), state).toBe(ordered ? 'behind' : state);
    }
  });

  it('ends the process at a bug cell', () => {
    expect(() => transition('offline', 'rescan-complete')).toThrow('event rescan-complete in state offline');
  });
});
