import { describe, expect, it } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import type { Welcome } from '../../../src/link/messages.ts';
import { type Decision, decide, type Own } from '../../../src/primary/decide.ts';
import type { Replica } from '../../../src/primary/replica.ts';
import type { ClearedPosition } from '../../../src/store/dirty-map.ts';
import { turns } from '../../support/memory-world.ts';
import { REPLICA_ID, type ReplicaOptions, RUN, replicaParts } from './replica-parts.ts';

const SIZE = 8 * MIB;
const PARENT = Buffer.alloc(16, 7);
const OTHER = Buffer.alloc(16, 9);
/** A run of this disk before its parent. */
const EARLIER = Buffer.alloc(16, 8);
const STAGED = Buffer.alloc(16, 11);
/** The run began at operation 5 of its parent. */
const OWN: Own = {
  generation: Buffer.alloc(16, 1),
  run: RUN,
  parentRun: PARENT,
  parentSequence: 5,
  earlierRuns: [PARENT, EARLIER],
  size: SIZE,
  rescanAll: false,
};
/** Of a start after a stop that was not clean: nothing is in order. */
const UNCLEAN: Partial<Own> = { parentRun: NO_ID, parentSequence: 0 };

async function made(options: Partial<ReplicaOptions> = {}) {
  const { replica, write, map } = await replicaParts({
    size: SIZE,
    windowSize: SIZE,
    sequence: 5,
    checkpoint: 4,
    inOrder: true,
    ...options,
  });
  const send = (): void => {
    for (let entry = replica.window.takeUnsent(); entry !== undefined; entry = replica.window.takeUnsent()) {
      replica.sent(entry.sequence);
    }
    replica.window.applied(replica.window.lastSequence);
  };
  return { replica, write, map, send };
}

/** At operation 10, checkpoint 4; the window has 8 to 10, the mirror has recorded 7. */
async function atTen(): Promise<Replica> {
  const { replica, write, send } = await made();
  for (let sequence = 6; sequence <= 10; sequence += 1) write(sequence * 4096, 4096, false, new Uint8Array(4096));
  send();
  replica.acknowledged(7, 7);
  return replica;
}

/** As a start after a clean stop at operation 5 leaves it. */
async function atStart(): Promise<Replica> {
  return (await made()).replica;
}

/** As a start after a stop that was not clean leaves it, with the place at which the map was last cleared. */
function afterCrash(cleared: ClearedPosition | undefined): () => Promise<Replica> {
  return async () => {
    const { replica, map } = await made({ sequence: 0, inOrder: false });
    if (cleared !== undefined) await map.clear(0, [0], cleared);
    return replica;
  };
}

async function marked(): Promise<Replica> {
  const replica = await atTen();
  replica.marks.mark(0, 1);
  return replica;
}

async function behind(): Promise<Replica> {
  const replica = await atTen();
  replica.loseOrder();
  return replica;
}

/** Its session ended in the middle of a rescan of which the mirror has staged what is before checkpoint 6. */
async function rescanning(): Promise<Replica> {
  const replica = await marked();
  replica.beginCompare('marks', 9, 4, 9, STAGED);
  replica.passCleared(0, SIZE, 10, 6);
  replica.sessionEnded();
  return replica;
}

async function rescanningBehind(): Promise<Replica> {
  const replica = await rescanning();
  replica.loseOrder();
  return replica;
}

/** Its session ended while what may be in the image already was sent again as a staged run. */
async function catchingUp(): Promise<Replica> {
  const replica = await atTen();
  replica.beginCatchUp(7, STAGED);
  replica.sessionEnded();
  return replica;
}

async function catchingUpBehind(): Promise<Replica> {
  const replica = await catchingUp();
  replica.loseOrder();
  return replica;
}

/** Its session ended while a merged part was on its way under that id. */
function merging(id: Buffer): () => Promise<Replica> {
  return async () => {
    const { replica, write, send } = await made({ windowSize: 1000, spoolSize: 128 * KIB });
    const block = new Uint8Array(16 * KIB).fill(9);
    for (let count = 0; count < 12; count += 1) {
      write((count % 3) * 16 * KIB, block.length, false, block);
      await turns(5);
    }
    send();
    const part = replica.backlog.nextMerged()!;
    part.transfer = { stagingId: id, checkpoint: 6, offset: 16 * KIB };
    replica.beginMerged(STAGED, part);
    replica.sessionEnded();
    return replica;
  };
}

const WELCOME: Welcome = {
  version: 2,
  consistent: true,
  fresh: false,
  seeded: true,
  replicaId: REPLICA_ID,
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
/** The mirror's process has died: operations after what it has recorded may be in its image. */
const DIED = { exact: false, resumeAfter: 7 };
const AT_PARENT = { run: PARENT, parentRun: OTHER, parentSequence: 0, resumeAfter: 5 };
const HOLDING = { stagingId: STAGED, stagedSequence: 9, stagedCheckpoint: 6 };

const EVERYTHING: Decision = { kind: 'compare', scope: 'everything', resumeAfter: undefined };
const MAP: Decision = { kind: 'compare', scope: 'map', resumeAfter: undefined };
const MARKS: Decision = { kind: 'compare', scope: 'marks', resumeAfter: undefined };
const catchUp = (after: number): Decision => ({ kind: 'catch-up', after, staged: false });

interface Case {
  readonly name: string;
  readonly own?: Partial<Own>;
  readonly welcome?: Partial<Welcome>;
  readonly replica?: () => Promise<Replica>;
  readonly decision: Decision;
}

const IN_ORDER: readonly Case[] = [
  { name: 'in step, applied further than recorded', decision: catchUp(9) },
  { name: 'everything applied', welcome: { resumeAfter: 10 }, decision: catchUp(10) },
  { name: 'the oldest position that the backlog has', welcome: { resumeAfter: 7 }, decision: catchUp(7) },
  {
    name: 'a mirror that died: what may be in its image is one staged run',
    welcome: DIED,
    decision: { kind: 'catch-up', after: 7, staged: true },
  },
  { name: 'the place where the parent run ended', welcome: AT_PARENT, replica: atStart, decision: catchUp(5) },
  {
    name: 'the place where the parent run ended, of a mirror that died',
    welcome: { ...AT_PARENT, exact: false },
    replica: atStart,
    decision: { kind: 'catch-up', after: 5, staged: true },
  },
  {
    name: 'a sibling run that wrote nothing',
    welcome: { run: OTHER, resumeAfter: 5 },
    replica: atStart,
    decision: catchUp(5),
  },
  { name: 'a checkpoint that was not acknowledged', welcome: { checkpoint: 5 }, decision: catchUp(9) },
];

const STAGED_CASES: readonly Case[] = [
  {
    name: 'a rescan whose staged run the mirror holds',
    welcome: HOLDING,
    replica: rescanning,
    decision: { kind: 'resume-staged', after: 9 },
  },
  {
    name: 'a rescan whose staged run the mirror holds, of a mirror that died since',
    welcome: { ...HOLDING, ...DIED },
    replica: rescanning,
    decision: { kind: 'resume-staged', after: 9 },
  },
  {
    name: 'a rescan whose staged run the mirror holds, also where order was given up since',
    welcome: HOLDING,
    replica: rescanningBehind,
    decision: { kind: 'resume-staged', after: 9 },
  },
  {
    name: 'a rescan of everything that was asked for, and that the mirror holds the beginning of',
    own: { rescanAll: true },
    welcome: HOLDING,
    replica: rescanning,
    decision: { kind: 'resume-staged', after: 9 },
  },
  {
    name: 'a staged run of which the mirror lost what was relied on',
    welcome: { ...HOLDING, stagedCheckpoint: 5 },
    replica: rescanning,
    decision: { kind: 'compare', scope: 'marks', resumeAfter: 9 },
  },
  {
    name: 'a staged run that the mirror claims to hold further than anything that was sent',
    welcome: { ...HOLDING, stagedSequence: 11 },
    replica: rescanning,
    decision: { kind: 'compare', scope: 'marks', resumeAfter: 9 },
  },
  {
    name: 'another staged run than ours',
    welcome: { ...HOLDING, stagingId: OTHER },
    replica: rescanning,
    decision: { kind: 'compare', scope: 'marks', resumeAfter: 9 },
  },
  {
    name: 'a staged run that is not there any more',
    replica: rescanning,
    decision: { kind: 'compare', scope: 'marks', resumeAfter: 9 },
  },
  {
    name: 'a staged catch-up that the mirror holds',
    welcome: { ...HOLDING, ...DIED },
    replica: catchingUp,
    decision: { kind: 'resume-staged', after: 9 },
  },
  {
    name: 'a staged catch-up that the mirror has lost',
    welcome: DIED,
    replica: catchingUp,
    decision: { kind: 'catch-up', after: 7, staged: true },
  },
  {
    name: 'a staged catch-up that the mirror holds, where order was given up since',
    welcome: { ...HOLDING, ...DIED },
    replica: catchingUpBehind,
    decision: MARKS,
  },
  {
    name: 'a staged catch-up that the mirror holds only to before what the backlog has',
    welcome: { ...HOLDING, ...DIED, stagedSequence: 6 },
    replica: catchingUp,
    decision: { kind: 'catch-up', after: 7, staged: true },
  },
  {
    name: 'a merged part of which the mirror holds the beginning',
    welcome: { ...HOLDING, resumeAfter: 6 },
    replica: merging(STAGED),
    decision: { kind: 'resume-staged', after: 9 },
  },
  {
    name: 'a merged part that was sent under another id since',
    welcome: { ...HOLDING, resumeAfter: 6 },
    replica: merging(OTHER),
    decision: catchUp(6),
  },
];

const COMPARED: readonly Case[] = [
  {
    name: 'marks beside a backlog that has the rest',
    replica: marked,
    decision: { kind: 'compare', scope: 'marks', resumeAfter: 9 },
  },
  {
    name: 'marks beside a backlog that has the rest, of a mirror that died',
    welcome: DIED,
    replica: marked,
    decision: { kind: 'compare', scope: 'marks', resumeAfter: 7 },
  },
  {
    name: 'an image that a run without the net has left half new',
    welcome: { consistent: false },
    decision: { kind: 'compare', scope: 'marks', resumeAfter: 9 },
  },
  { name: 'a backlog that overran', replica: behind, decision: MARKS },
  { name: 'a backlog that overran, of a mirror that died', replica: behind, welcome: DIED, decision: MARKS },
  {
    name: 'a backlog that overran and an image half new',
    replica: behind,
    welcome: { consistent: false },
    decision: MARKS,
  },
  {
    name: 'a backlog that overran and began anew after the position',
    replica: async () => {
      const replica = await behind();
      replica.beginCompare('marks', 9, 4, undefined, STAGED);
      replica.sessionEnded();
      return replica;
    },
    decision: MARKS,
  },
  {
    name: 'an image older than what has left the backlog, which the map covers',
    welcome: { resumeAfter: 6 },
    decision: MAP,
  },
  {
    name: 'an older copy of the image, from before what the map was cleared at',
    welcome: { resumeAfter: 4 },
    decision: EVERYTHING,
  },
  { name: 'an older copy of the image: its checkpoint is behind', welcome: { checkpoint: 3 }, decision: EVERYTHING },
  {
    name: 'a place before the end of the parent run, since which the map was cleared in this one',
    welcome: { ...AT_PARENT, resumeAfter: 4 },
    replica: atStart,
    decision: EVERYTHING,
  },
  {
    name: 'the place where the parent run ended, half new of nobody knows what',
    welcome: { ...AT_PARENT, consistent: false },
    replica: atStart,
    decision: { kind: 'compare', scope: 'marks', resumeAfter: 5 },
  },
  {
    name: 'a sibling run that wrote nothing here, but perhaps there: its mirror died',
    welcome: { run: OTHER, resumeAfter: 5, exact: false },
    replica: atStart,
    decision: EVERYTHING,
  },
  { name: 'a mirror that holds nothing', welcome: { fresh: true }, decision: EVERYTHING },
  {
    name: 'a mirror that holds nothing, of whatever generation',
    welcome: { fresh: true, generation: OTHER },
    decision: EVERYTHING,
  },
  { name: 'no run', welcome: { run: NO_ID, resumeAfter: 0 }, decision: EVERYTHING },
  { name: 'a disk that grew', welcome: { size: SIZE - MIB }, decision: EVERYTHING },
  { name: 'another replica than the map is about', welcome: { replicaId: OTHER }, decision: EVERYTHING },
  { name: '--rescan', own: { rescanAll: true }, decision: EVERYTHING },
  {
    name: '--rescan with a mirror that is ahead, and has seen a newer map',
    own: { rescanAll: true },
    welcome: { resumeAfter: 99, mapVersion: 1_000 },
    decision: EVERYTHING,
  },
];

/** After a stop that was not clean: the map alone says what to compare, where it was cleared after nothing later. */
const CRASHED: readonly Case[] = [
  {
    name: 'a map that was never cleared',
    welcome: { run: PARENT },
    replica: afterCrash(undefined),
    decision: MAP,
  },
  {
    name: 'a map cleared where the mirror stands',
    welcome: { run: PARENT, resumeAfter: 9 },
    replica: afterCrash({ run: PARENT, sequence: 9, checkpoint: 4 }),
    decision: MAP,
  },
  {
    name: 'a map cleared where the mirror stands, also when the mirror has died',
    welcome: { run: PARENT, resumeAfter: 9, exact: false },
    replica: afterCrash({ run: PARENT, sequence: 9, checkpoint: 4 }),
    decision: MAP,
  },
  {
    name: 'a map cleared after the mirror’s position',
    welcome: { run: PARENT, resumeAfter: 8 },
    replica: afterCrash({ run: PARENT, sequence: 9, checkpoint: 4 }),
    decision: EVERYTHING,
  },
  {
    name: 'a map cleared at a checkpoint that the mirror has not',
    welcome: { run: PARENT, resumeAfter: 9, checkpoint: 3 },
    replica: afterCrash({ run: PARENT, sequence: 9, checkpoint: 4 }),
    decision: EVERYTHING,
  },
  {
    name: 'a map cleared in a run before that of the mirror, however far',
    welcome: { run: PARENT, resumeAfter: 1, checkpoint: 0 },
    replica: afterCrash({ run: EARLIER, sequence: 99, checkpoint: 99 }),
    decision: MAP,
  },
  {
    name: 'a map cleared in a run after that of the mirror, however little',
    welcome: { run: EARLIER, resumeAfter: 99, checkpoint: 99 },
    replica: afterCrash({ run: PARENT, sequence: 1, checkpoint: 1 }),
    decision: EVERYTHING,
  },
  {
    name: 'a map cleared in a run that nobody remembers',
    welcome: { run: PARENT, resumeAfter: 9 },
    replica: afterCrash({ run: OTHER, sequence: 1, checkpoint: 1 }),
    decision: EVERYTHING,
  },
  {
    name: 'a start before this one that ended without an operation, and whose mirror is exact',
    welcome: { run: OTHER, parentRun: PARENT, parentSequence: 9, resumeAfter: 9 },
    replica: afterCrash({ run: PARENT, sequence: 9, checkpoint: 4 }),
    decision: MAP,
  },
  {
    name: 'a start before this one that left no trace, and whose mirror died: nobody knows what it wrote',
    welcome: { run: OTHER, parentRun: PARENT, parentSequence: 9, resumeAfter: 9, exact: false },
    replica: afterCrash({ run: PARENT, sequence: 9, checkpoint: 4 }),
    decision: EVERYTHING,
  },
  {
    name: 'a mirror whose first seeding is not complete',
    welcome: { run: PARENT, resumeAfter: 9, seeded: false, consistent: false },
    replica: afterCrash({ run: PARENT, sequence: 9, checkpoint: 4 }),
    decision: MAP,
  },
];

async function decided({ own, welcome, replica }: Omit<Case, 'name' | 'decision'>): Promise<Decision> {
  return decide({ ...OWN, ...own }, { ...WELCOME, ...welcome }, await (replica ?? atTen)());
}

describe('what a session has to do', () => {
  it.each(IN_ORDER)('in order: $name', async ({ decision, ...given }) => {
    expect(await decided(given)).toEqual(decision);
  });

  it.each(STAGED_CASES)('with a staged run: $name', async ({ decision, ...given }) => {
    expect(await decided(given)).toEqual(decision);
  });

  it.each(COMPARED)('by comparing: $name', async ({ decision, ...given }) => {
    expect(await decided(given)).toEqual(decision);
  });

  it.each(CRASHED)('after a stop that was not clean: $name', async ({ decision, ...given }) => {
    expect(await decided({ own: UNCLEAN, ...given })).toEqual(decision);
  });

  it('is nothing where the mirror is of another generation, whatever else', async () => {
    for (const rescanAll of [false, true]) {
      await expect(decided({ own: { rescanAll }, welcome: { generation: OTHER } })).rejects.toMatchObject({
        code: 'generation-newer',
      });
    }
  });

  it('is nothing where the mirror has operations that this disk has not: of this run, its parent, or a sibling', async () => {
    for (const ahead of [{ resumeAfter: 11 }, { ...AT_PARENT, resumeAfter: 6 }, { run: OTHER, resumeAfter: 6 }]) {
      await expect(decided({ welcome: ahead })).rejects.toMatchObject({ code: 'primary-older' });
    }
  });

  it('is nothing where the mirror follows a run that this disk never went through, unless --rescan says so', async () => {
    for (const welcome of [
      { run: OTHER, parentRun: OTHER, parentSequence: 0, resumeAfter: 0 },
      { run: OTHER, parentRun: NO_ID, parentSequence: 0, resumeAfter: 99 },
      { run: OTHER, parentRun: EARLIER, parentSequence: 3, resumeAfter: 4 },
    ]) {
      for (const own of [OWN, { ...OWN, ...UNCLEAN }]) {
        await expect(decided({ own, welcome })).rejects.toMatchObject({ code: 'primary-older' });
      }
      expect(await decided({ own: { rescanAll: true }, welcome })).toEqual(EVERYTHING);
    }
  });

  it('is nothing where the mirror has seen a newer dirty map: this disk was put back to an older state', async () => {
    const replica = await atTen();
    const { versionTold } = replica.regions;
    const seen = (mapVersion: number) => decide(OWN, { ...WELCOME, mapVersion }, replica);
    expect(seen(versionTold)).toEqual(catchUp(9));
    expect(() => seen(versionTold + 1)).toThrow(expect.objectContaining({ code: 'primary-older' }));
    // Told in a session of this very run.
    replica.regions.told(versionTold + 1);
    expect(seen(versionTold + 1)).toEqual(catchUp(9));
    expect(() => seen(versionTold + 2)).toThrow(expect.objectContaining({ code: 'primary-older' }));
  });

  it('changes nothing by being asked', async () => {
    const replica = await marked();
    decide(OWN, { ...WELCOME, consistent: false }, replica);
    expect([replica.keeping, replica.marks.count, replica.window.baseSequence]).toEqual([true, 1, 7]);
  });
});
