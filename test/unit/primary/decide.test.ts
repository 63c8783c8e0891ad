import { describe, expect, it } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { MIB } from '../../../src/base/units.ts';
import { FrameType } from '../../../src/link/frame.ts';
import type { Welcome } from '../../../src/link/messages.ts';
import { type Decision, decide, type Own } from '../../../src/primary/decide.ts';
import { Replica } from '../../../src/primary/replica.ts';
import { ManualClock } from '../../support/manual-clock.ts';

const SIZE = 8 * MIB;
const PARENT = Buffer.alloc(16, 7);
const OTHER = Buffer.alloc(16, 9);
/** A run of this disk before its parent. */
const EARLIER = Buffer.alloc(16, 8);
/** The run began at operation 5 of its parent. */
const OWN: Own = {
  generation: Buffer.alloc(16, 1),
  run: Buffer.alloc(16, 2),
  parentRun: PARENT,
  parentSequence: 5,
  earlierRuns: [PARENT, EARLIER],
  size: SIZE,
  rescanAll: false,
};

/** At operation 10, checkpoint 4; the window has 8 to 10, the mirror has recorded 7. */
function replicaAtTen(): Replica {
  const replica = new Replica(new ManualClock(), SIZE, SIZE, 5, 4, true);
  for (let sequence = 6; sequence <= 10; sequence += 1) {
    replica.append(FrameType.WRITE, sequence, sequence * 4096, 4096, new Uint8Array(4096), false);
    replica.window.takeUnsent();
  }
  replica.window.applied(10);
  replica.recorded(7);
  return replica;
}

/** As a start after a clean stop at operation 5 leaves it. */
function atStart(): Replica {
  return new Replica(new ManualClock(), SIZE, SIZE, 5, 4, true);
}

const WELCOME: Welcome = {
  version: 2,
  consistent: true,
  fresh: false,
  seeded: true,
  replicaId: Buffer.alloc(16, 3),
  generation: OWN.generation,
  run: OWN.run,
  parentRun: PARENT,
  parentSequence: 5,
  resumeAfter: 9,
  recorded: 7,
  checkpoint: 4,
  size: SIZE,
  exact: true,
  mapVersion: 0,
  stagingId: NO_ID,
  stagedSequence: 0,
  stagedCheckpoint: 0,
  stagingRoom: Number.MAX_SAFE_INTEGER,
};

const EVERYTHING: Decision = { kind: 'compare', markAll: true, resumeAfter: undefined };
const MARKED: Decision = { kind: 'compare', markAll: false, resumeAfter: undefined };

function marked(replica: Replica): Replica {
  replica.marks.mark(0, 1);
  return replica;
}

function behind(): Replica {
  const replica = replicaAtTen();
  replica.giveUpOrder();
  return replica;
}

interface Case {
  readonly name: string;
  readonly own?: Partial<Own>;
  readonly welcome?: Partial<Welcome>;
  readonly replica?: () => Replica;
  readonly decision: Decision;
}

const CASES: readonly Case[] = [
  { name: 'in step, applied further than recorded', decision: { kind: 'catch-up', after: 9 } },
  { name: 'everything applied', welcome: { resumeAfter: 10 }, decision: { kind: 'catch-up', after: 10 } },
  {
    name: 'the oldest position that the window has',
    welcome: { resumeAfter: 7 },
    decision: { kind: 'catch-up', after: 7 },
  },
  { name: 'one older than the window', welcome: { resumeAfter: 6 }, decision: EVERYTHING },
  { name: 'a mirror that holds nothing', welcome: { fresh: true }, decision: EVERYTHING },
  {
    name: 'a mirror that holds nothing, of whatever generation',
    welcome: { fresh: true, generation: OTHER },
    decision: EVERYTHING,
  },
  {
    name: 'the place where the parent run ended',
    welcome: { run: PARENT, parentRun: OTHER, parentSequence: 0, resumeAfter: 5 },
    replica: atStart,
    decision: { kind: 'catch-up', after: 5 },
  },
  {
    name: 'a place before the end of the parent run',
    welcome: { run: PARENT, parentRun: OTHER, parentSequence: 0, resumeAfter: 4 },
    replica: atStart,
    decision: EVERYTHING,
  },
  {
    name: 'the end of the parent run, of a primary that stopped uncleanly since',
    own: { parentRun: Buffer.alloc(16), parentSequence: 0 },
    welcome: { run: PARENT, parentRun: OTHER, parentSequence: 0, resumeAfter: 5 },
    replica: atStart,
    decision: EVERYTHING,
  },
  {
    name: 'a sibling run that wrote nothing',
    welcome: { run: OTHER, resumeAfter: 5 },
    replica: atStart,
    decision: { kind: 'catch-up', after: 5 },
  },
  {
    name: 'the place where the parent run ended, in the middle of a rescan of nobody knows what',
    welcome: { run: PARENT, parentRun: OTHER, parentSequence: 0, resumeAfter: 5, consistent: false },
    replica: atStart,
    decision: EVERYTHING,
  },
  {
    name: 'a sibling run that wrote nothing and left a rescan half done',
    welcome: { run: OTHER, resumeAfter: 5, consistent: false },
    replica: atStart,
    decision: EVERYTHING,
  },
  { name: 'a run before this one', welcome: { run: EARLIER, parentRun: OTHER }, decision: EVERYTHING },
  {
    name: 'a run before this one that was longer',
    welcome: { run: EARLIER, parentRun: OTHER, resumeAfter: 99 },
    decision: EVERYTHING,
  },
  {
    name: 'a start before this one that ended without an operation',
    welcome: { run: OTHER, parentRun: EARLIER, parentSequence: 3, resumeAfter: 3 },
    decision: EVERYTHING,
  },
  { name: 'no run', welcome: { run: Buffer.alloc(16), resumeAfter: 0 }, decision: EVERYTHING },
  { name: 'a disk that grew', welcome: { size: SIZE - MIB }, decision: EVERYTHING },
  { name: '--rescan', own: { rescanAll: true }, decision: EVERYTHING },
  {
    name: '--rescan with a mirror that is ahead',
    own: { rescanAll: true },
    welcome: { resumeAfter: 99 },
    decision: EVERYTHING,
  },
  { name: 'an older copy of the image: its checkpoint is behind', welcome: { checkpoint: 3 }, decision: EVERYTHING },
  {
    name: 'a checkpoint that was not acknowledged',
    welcome: { checkpoint: 5 },
    decision: { kind: 'catch-up', after: 9 },
  },
  {
    name: 'marks beside a window that has the rest',
    replica: () => marked(replicaAtTen()),
    decision: { kind: 'compare', markAll: false, resumeAfter: 9 },
  },
  {
    name: 'a rescan of this run cut short before it could say complete',
    welcome: { consistent: false },
    decision: { kind: 'compare', markAll: false, resumeAfter: 9 },
  },
  { name: 'a window that overran', replica: behind, decision: MARKED },
  {
    name: 'a window that overran and an inconsistent image',
    replica: behind,
    welcome: { consistent: false },
    decision: MARKED,
  },
  {
    name: 'a window that overran and began anew after the position',
    replica: () => {
      const replica = behind();
      replica.startKeeping();
      return replica;
    },
    decision: MARKED,
  },
  {
    name: 'a window that overran and an image that is too old',
    replica: behind,
    welcome: { resumeAfter: 6 },
    decision: EVERYTHING,
  },
];

describe('what a session has to do', () => {
  it.each(CASES)('$name', ({ own, welcome, replica, decision }) => {
    expect(decide({ ...OWN, ...own }, { ...WELCOME, ...welcome }, (replica ?? replicaAtTen)())).toEqual(decision);
  });

  it('is nothing where the mirror is of another generation, whatever else', () => {
    for (const rescanAll of [false, true]) {
      expect(() => decide({ ...OWN, rescanAll }, { ...WELCOME, generation: OTHER }, replicaAtTen())).toThrow(
        expect.objectContaining({ code: 'generation-newer' }),
      );
    }
  });

  it('is nothing where the mirror has operations that this disk has not: of this run, its parent, or a sibling', () => {
    for (const ahead of [
      { resumeAfter: 11 },
      { run: PARENT, parentRun: OTHER, parentSequence: 0, resumeAfter: 6 },
      { run: OTHER, resumeAfter: 6 },
    ]) {
      expect(() => decide(OWN, { ...WELCOME, ...ahead }, replicaAtTen())).toThrow(
        expect.objectContaining({ code: 'primary-older' }),
      );
    }
  });

  it('is nothing where the mirror follows a run that this disk never went through, unless --rescan says so', () => {
    for (const strange of [
      { run: OTHER, parentRun: OTHER, parentSequence: 0, resumeAfter: 0 },
      { run: OTHER, parentRun: Buffer.alloc(16), parentSequence: 0, resumeAfter: 99 },
      { run: OTHER, parentRun: EARLIER, parentSequence: 3, resumeAfter: 4 },
    ]) {
      const welcome = { ...WELCOME, ...strange };
      for (const own of [OWN, { ...OWN, parentRun: Buffer.alloc(16), parentSequence: 0 }]) {
        expect(() => decide(own, welcome, replicaAtTen())).toThrow(expect.objectContaining({ code: 'primary-older' }));
      }
      expect(decide({ ...OWN, rescanAll: true }, welcome, replicaAtTen())).toEqual(EVERYTHING);
    }
  });

  it('changes nothing by being asked', () => {
    const replica = marked(replicaAtTen());
    decide(OWN, { ...WELCOME, consistent: false }, replica);
    expect([replica.keeping, replica.marks.count, replica.window.baseSequence]).toEqual([true, 1, 7]);
  });
});
