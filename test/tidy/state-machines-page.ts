import type { SessionState } from '../../src/primary/status.ts';
import { type SessionEvent, TRANSITIONS } from '../../src/primary/transitions.ts';

const STATES: Readonly<Record<SessionState, string>> = {
  offline: 'No connection. The next attempt comes by itself, after a jittered pause of at most 10 s.',
  connecting: 'TCP and TLS are being set up.',
  negotiating: 'HELLO has gone out; the mirror says what it holds, and that decides what follows.',
  'catch-up': 'The stream runs in order, and the window is more than nearly empty.',
  streaming: 'The stream runs in order, and the window is nearly empty.',
  behind: 'The window overran: order is given up, only the marks are kept. A rescan will follow.',
  queued: 'A rescan is needed; the mirror has others to do first.',
  seeding: 'The first rescan of an image that holds nothing yet.',
  rescan: 'Both images are compared; what differs is sent, and the stream runs beside it.',
  refused:
    'Somebody has to act: wrong secret, another volume, a disk put back to an older copy. Tried again every minute.',
};

const EVENTS: Readonly<Record<SessionEvent, string>> = {
  attempt: 'an attempt to connect begins',
  linked: 'TLS stands, HELLO goes out',
  resumed: 'the mirror’s position is in the window, and nothing is marked',
  'scope-needed': 'it is not, or something is: a rescan has to be admitted',
  'rescan-admitted': 'the mirror lets the rescan begin',
  'seeding-admitted': 'the same, for an image that holds nothing yet',
  'rescan-complete': 'the last byte of the rescan is durable on the mirror',
  'caught-up': 'the window is nearly empty',
  lagging: 'the window fills',
  overran: 'the window had no room for an operation: order is given up',
  lost: 'the connection could not be made, was lost, or was closed to renew its keys',
  refused: 'one side refuses, and only a person can change that',
  stopped: 'this primary stops',
};

const ORDER = Object.keys(STATES) as SessionState[];

/** docs/state-machines.md, made from the transition table. */
export function stateMachinesPage(): string {
  const events = Object.keys(EVENTS) as SessionEvent[];
  const table = events.map((event) => `| \`${event}\` | ${ORDER.map((state) => cell(state, event)).join(' | ')} |`);
  return `# State machines

## A primary towards one mirror

\`nbdtwin status\` shows these states. The mirror's own \`status\` tells less: \`waiting\`, \`seeding\`, \`rescan\`, \`catch-up\`,
\`streaming\`, \`failed\`, as far as it knows.

\`\`\`mermaid
stateDiagram-v2
${ORDER.map((state) => `  ${node(state)}: ${state}`).join('\n')}
  [*] --> offline
${ORDER.flatMap(arrows).join('\n')}
\`\`\`

| state | meaning |
| --- | --- |
${ORDER.map((state) => `| \`${state}\` | ${STATES[state]} |`).join('\n')}

| event | meaning |
| --- | --- |
${events.map((event) => `| \`${event}\` | ${EVENTS[event]} |`).join('\n')}

## Every state, every event

\`=\` changes nothing. An empty cell cannot happen, whatever mirror and network do: there the process would end with status
70 before it could do harm.

| event | ${ORDER.join(' | ')} |
| --- | ${ORDER.map(() => '---').join(' | ')} |
${table.join('\n')}

A session counts as \`streaming\` when less than a sixteenth of the window waits to be applied, and falls back to \`catch-up\`
when more than half does, not sooner than half a second after it last changed. After an overrun the next attempt waits a
second, so that one burst is over before the rescan begins.

This page is generated from \`src/primary/transitions.ts\` by \`npm run docs\`.
`;
}

function cell(state: SessionState, event: SessionEvent): string {
  const next = TRANSITIONS[state][event];
  if (next === 'bug') return '';
  return next === 'same' ? '=' : next;
}

/** Arrows out of a state, one for each target, with all events that lead there. */
function arrows(state: SessionState): string[] {
  return ORDER.flatMap((target) => {
    const events = (Object.keys(EVENTS) as SessionEvent[]).filter((event) => TRANSITIONS[state][event] === target);
    return events.length === 0 ? [] : [`  ${node(state)} --> ${node(target)}: ${events.join(', ')}`];
  });
}

/** Mermaid takes no dash in the name of a node. */
function node(state: SessionState): string {
  return state.replace('-', '_');
}
