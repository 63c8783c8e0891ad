import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { RUNG_DWELL_MS } from '../../../src/primary/overflow.ts';
import { BacklogModel, brokenDisk, settled, ZONE_COUNT, ZONE_SIZE } from './backlog-model.ts';

const SPOOL_SIZE = 40_000;

const step = fc.record({
  kind: fc.constantFrom(
    ...(['append', 'append', 'append', 'append', 'append', 'append', 'burst', 'burst', 'barrier', 'fua'] as const),
    ...(['send', 'send', 'remark', 'record', 'record', 'merged', 'merged', 'turn', 'disk', 'disk', 'time'] as const),
    ...(['slow', 'quick', 'crash', 'reconnect'] as const),
  ),
  zone: fc.nat(ZONE_COUNT - 1),
  from: fc.nat(ZONE_SIZE - 1),
  share: fc.nat(100),
});
/** What happens seldom: at most a few times in a run. */
const incident = fc.record({
  at: fc.nat(250),
  kind: fc.constantFrom('restart', 'restart', 'kill', 'give-up', 'broken', 'full', 'mended'),
});

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

async function drive(
  model: BacklogModel,
  { kind, zone, from, share }: { kind: string; zone: number; from: number; share: number },
): Promise<void> {
  const between = (low: number, high: number): number => low + Math.floor(((high - low) * share) / 100);
  const write = (at: number, fua: boolean): void => {
    const length = Math.max(1, between(1, ZONE_SIZE - from));
    model.append((zone + at) % ZONE_COUNT, from, length, (model.sequence * 7 + share) % 11, fua);
  };
  if (kind === 'append' || kind === 'fua') write(0, kind === 'fua');
  else if (kind === 'burst') for (let count = 0; count < between(5, 40); count += 1) write(count % 5, false);
  else if (kind === 'barrier') model.barrier();
  else if (kind === 'remark') model.remark(between(1, 2_000));
  else if (kind === 'send') model.send(between(1, 40));
  else if (kind === 'record') model.record();
  else if (kind === 'merged') await model.sendMerged();
  else if (kind === 'turn') await settled();
  else if (kind === 'disk') await disk(model, between(1, 4));
  else if (kind === 'time') model.clock.advance(between(0, 2 * RUNG_DWELL_MS));
  else if (kind === 'slow') model.files.slow = true;
  else if (kind === 'quick') model.files.slow = false;
  else if (kind === 'restart') await model.restart(share % 2 === 0);
  else if (kind === 'kill') await model.kill();
  else if (kind === 'give-up') model.giveUp();
  else if (kind === 'broken') model.files.failure = brokenDisk();
  else if (kind === 'full') model.files.sizeMax = model.files.sizeOf('') + 500;
  else if (kind === 'mended') mend(model);
  else model.reconnect(kind === 'crash');
}

async function disk(model: BacklogModel, count: number): Promise<void> {
  model.files.finish(count);
  await settled();
}

function mend(model: BacklogModel): void {
  model.files.failure = undefined;
  model.files.sizeMax = Number.POSITIVE_INFINITY;
}

const append = (share: number): Step => ({ kind: 'append', zone: 0, from: 0, share });
/** After a restart the mirror is further than what was kept, and merging begins before that has been read back. */
const FURTHER: [Step[], { at: number; kind: 'restart' }[], 6_000] = [
  [
    ...[0, 0, 0, 0, 0].map(append),
    { kind: 'burst', zone: 0, from: 0, share: 33 },
    append(0),
    { kind: 'send', zone: 0, from: 0, share: 0 },
    ...[0, 0, 0, 0].map(append),
    { kind: 'send', zone: 0, from: 0, share: 18 },
    ...[3, 8, 41].map(append),
  ],
  [{ at: 13, kind: 'restart' }],
  6_000,
];

describe('the backlog', () => {
  it('hands everything to the mirror in order, once, through all rungs, restarts and failures of its disk', async () => {
    // Seen in every few runs; what is rarer has tests of its own below.
    const seen = { givenUp: 0, refused: 0, merged: 0, restored: 0, applied: 0 };
    const points = new Set<string>();
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 250, size: 'max' }),
        fc.array(incident, { maxLength: 4 }),
        fc.constantFrom(0, 6_000, SPOOL_SIZE, SPOOL_SIZE, 200_000),
        async (steps, incidents, spoolSize) => {
          const model = new BacklogModel(spoolSize);
          await model.open();
          for (const [index, each] of steps.entries()) {
            await drive(model, each);
            for (const { at, kind } of incidents) if (at === index) await drive(model, { ...each, kind });
            model.check();
          }
          await model.settle();
          await model.backlog.close();
          for (const key of Object.keys(seen) as (keyof typeof seen)[]) seen[key] += model.seen[key];
          for (const name of model.points.keys()) points.add(name);
        },
      ),
      { numRuns: 300, examples: [FURTHER] },
    );
    for (const [what, count] of Object.entries(seen)) expect(count, what).toBeGreaterThan(0);
    expect([...points].sort()).toEqual([
      'primary-backlog-persisted',
      'primary-merge-begun',
      'primary-merge-frozen',
      'primary-merge-sent',
      'primary-order-given-up',
      'primary-spool-begun',
      'primary-spool-read',
    ]);
  }, 240_000);
});

/** Writes of 64 bytes to three places, a few at a time. */
async function writes(model: BacklogModel, count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) {
    model.append(index % 3, 0, 64, 1 + (index % 200), false);
    if (index % 10 === 9) await settled();
  }
}

describe('the rungs', () => {
  it('do not flap while the mirror takes exactly what is written, around each boundary, for thousands of operations', async () => {
    for (const burst of [1, 3, 20, 90]) {
      const model = new BacklogModel(SPOOL_SIZE);
      await model.open();
      // Fills the window to the brim, or the spool to where merging begins.
      await writes(model, burst === 90 ? 220 : 28);
      const beganMs = model.clock.nowMs();
      const before = model.backlog.status.rungChanges;
      for (let round = 0; round < 1_200; round += 1) {
        await writes(model, burst);
        await settled();
        model.send(burst);
        model.record();
        await model.sendMerged();
        model.clock.advance(1);
        model.check();
      }
      const seconds = (model.clock.nowMs() - beganMs) / 1_000;
      const changes = model.backlog.status.rungChanges - before;
      expect(changes, `bursts of ${burst}`).toBeLessThanOrEqual(2 * Math.ceil((seconds * 1_000) / RUNG_DWELL_MS) + 2);
      expect(model.seen.givenUp).toBe(0);
      await model.settle();
      await model.backlog.close();
    }
  });

  it('do not flap when load and mirror conspire: full, empty, full again, as fast as they can', async () => {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    for (let round = 0; round < 500; round += 1) {
      await writes(model, 60 + (round % 120));
      for (let turn = 0; turn < 400 && model.position < model.sequence; turn += 1) {
        await settled();
        model.send(1_000);
        model.record();
        await model.sendMerged();
      }
      expect(model.position).toBe(model.sequence);
      model.clock.advance(20);
    }
    const seconds = model.clock.nowMs() / 1_000;
    const { rungChanges } = model.backlog.status;
    expect(model.sequence).toBeGreaterThan(50_000);
    expect(rungChanges).toBeGreaterThan(1);
    expect(rungChanges).toBeLessThanOrEqual(3 * Math.ceil((seconds * 1_000) / RUNG_DWELL_MS) + 2);
    await model.backlog.close();
  });

  it('lead back to the window once nothing is on disk and the dwell is over, and not before', async () => {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    await writes(model, 60);
    model.clock.advance(RUNG_DWELL_MS);
    expect(model.backlog.rung).toBe('spool');
    await model.settle();
    expect(model.backlog.rung).toBe('window');
    await writes(model, 60);
    await model.settle();
    expect(model.backlog.rung).toBe('spool');
    model.clock.advance(RUNG_DWELL_MS - 1);
    expect(model.backlog.rung).toBe('spool');
    model.clock.advance(1);
    expect(model.backlog.rung).toBe('window');
    await writes(model, 1);
    expect(model.backlog.status).toMatchObject({ rung: 'window', spooledOperations: 0 });
    await model.backlog.close();
  });

  it('keep the lag of a mirror that is slower than the writes at the size of what is rewritten', async () => {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    for (let round = 0; round < 400; round += 1) {
      // Three zones are rewritten ten times as fast as the link would carry it.
      await writes(model, 100);
      for (let turn = 0; turn < 20; turn += 1) await settled();
      model.send(10);
      model.record();
      if (round % 10 === 0) await model.sendMerged();
      model.clock.advance(20);
      model.check();
    }
    expect(model.seen.givenUp).toBe(0);
    expect(model.seen.merged).toBeGreaterThan(10);
    expect(model.backlog.rung).toBe('merged');
    await model.settle();
    await model.backlog.close();
  });
});

describe('a part that is next', () => {
  /** A frozen part that holds the first 64 bytes of three zones; nothing else waits. */
  async function frozen(): Promise<BacklogModel> {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    await writes(model, 240);
    model.clock.advance(RUNG_DWELL_MS);
    for (let turn = 0; turn < 20; turn += 1) await settled();
    model.send(1_000);
    model.record();
    expect(model.backlog.nextMerged()).toMatchObject({ isFrozen: true, end: 240, size: 192 });
    return model;
  }

  it('ends merging when it is small, and nothing overtakes it', async () => {
    const model = await frozen();
    expect(model.backlog.rung).toBe('spool');
    await writes(model, 10);
    for (let turn = 0; turn < 20; turn += 1) await settled();
    expect(model.backlog.window.hasUnsent).toBe(false);
    expect(model.backlog.status.spooledOperations).toBe(10);
    await model.sendMerged();
    for (let turn = 0; turn < 20; turn += 1) await settled();
    expect(model.backlog.window.hasUnsent).toBe(true);
    await model.settle();
    await model.backlog.close();
  });

  it('is named when order is given up', async () => {
    const model = await frozen();
    expect(model.backlog.status).toMatchObject({ spooledOperations: 0, unappliedSize: 192 });
    model.giveUp();
    await model.backlog.close();
    expect(model.files.openCount).toBe(0);
  });

  it('is dropped when the mirror has it already, and sent whole when it has none or some of it', async () => {
    const model = await frozen();
    const { backlog } = model;
    expect(backlog.rewind(backlog.baseSequence - 1)).toBe(false);
    expect(backlog.rewind(239)).toBe(true);
    expect(backlog.nextMerged()?.end).toBe(240);
    expect(backlog.rewind(240)).toBe(true);
    expect(backlog.nextMerged()).toBeUndefined();
    expect(backlog.baseSequence).toBe(240);
    await backlog.close();
    expect(model.files.openCount).toBe(0);
  });
});

describe('reading back', () => {
  it('goes on when the repairs that took the room have been sent, though the mirror has nothing left to record', async () => {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    await writes(model, 60);
    expect(model.backlog.rung).toBe('spool');
    model.send(1_000);
    model.record();
    // A pass is ahead of the stream: its repairs take the room that this has made, before much has been read back.
    for (let more = true; more; ) more = model.remark(500);
    await settled();
    const held = model.backlog.window.usedSize;
    expect(held).toBeGreaterThan(model.backlog.window.limit / 2);
    model.send(1_000);
    const before = model.position;
    expect(model.backlog.window.usedSize).toBeLessThan(held / 2);
    for (let turn = 0; turn < 20; turn += 1) await settled();
    model.send(1_000);
    expect(model.position).toBeGreaterThan(before);
    model.record();
    await model.settle();
    await model.backlog.close();
  });
});

describe('a barrier', () => {
  it('that comes back from the spool after what it ends has been sent is sent too', async () => {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    await writes(model, 30);
    model.send(1_000);
    model.record();
    for (let turn = 0; turn < 20; turn += 1) await settled();
    model.send(1_000);
    expect(model.position).toBe(30);
    expect(model.backlog.rung).toBe('spool');
    model.barrier();
    for (let turn = 0; turn < 20; turn += 1) await settled();
    // The model finds out, at the next operation, whether the mirror has seen the barrier.
    await writes(model, 1);
    await model.settle();
    expect(model.position).toBe(31);
    await model.backlog.close();
  });
});

describe('a mirror that loses after a restart of the primary what it said it had', () => {
  /** It has applied `sent` and recorded nothing; after the restart the disk finishes `finished` calls before it crashes. */
  it.each([0, 1, 2, 3, 4, 5, 6].flatMap((finished) => [20, 36].map((sent) => [sent, finished] as const)))(
    'gets it all again, also when merging has begun behind it (%d, %d)',
    async (sent, finished) => {
      const model = new BacklogModel(6_000);
      await model.open();
      while (model.backlog.rung === 'window') await writes(model, 1);
      await writes(model, 6);
      model.send(sent);
      model.files.slow = true;
      await model.restart(false);
      for (let count = 0; count < 40 && model.backlog.rung !== 'merged'; count += 1) model.append(1, 0, 200, 5, false);
      expect(model.backlog.rung).toBe('merged');
      for (let count = 0; count < finished; count += 1) await disk(model, 1);
      model.reconnect(true);
      model.files.slow = false;
      await model.settle();
      await model.backlog.close();
    },
  );
});

describe('what cannot go on', () => {
  it('a disk that hangs lets nobody wait: order is given up when the memory for it is full', async () => {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    model.files.slow = true;
    while (model.seen.givenUp === 0) await writes(model, 1);
    expect(model.sequence).toBeLessThan(80);
    expect(model.seen.refused).toBe(1);
    expect(model.backlog.rung).toBe('window');
    await model.settle();
    await model.backlog.close();
  });

  it('a disk without the room for a merged part does without merging', async () => {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    model.files.hook = (operation, path) => {
      if (operation === 'openState' && path.includes('merged'))
        throw new Failure('no-space', 'EFBIG: made by the test');
    };
    await writes(model, 220);
    for (let turn = 0; turn < 20; turn += 1) await settled();
    expect(model.points.get('primary-merge-begun')).toBe(1);
    expect(model.backlog.rung).toBe('spool');
    await model.settle();
    expect(model.seen).toMatchObject({ givenUp: 0, merged: 0 });
    await model.backlog.close();
  });

  it('a record that is not what was written gives up order, and what was in it is named', async () => {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    await writes(model, 120);
    await settled();
    for (const path of await segments(model)) void model.files.file(path).disk.write(Buffer.alloc(1, 0xff), 200);
    model.send(1_000);
    model.record();
    for (let turn = 0; turn < 20; turn += 1) await settled();
    expect(model.usable).toBe(false);
    expect(model.seen).toMatchObject({ failed: 1, givenUp: 0 });
    model.giveUp();
    expect(model.backlog.failure).toBeUndefined();
    await model.settle();
    await model.backlog.close();
  });

  it('a clean stop with merged parts keeps nothing', async () => {
    const model = new BacklogModel(SPOOL_SIZE);
    await model.open();
    await writes(model, 240);
    for (let turn = 0; turn < 20; turn += 1) await settled();
    expect(model.backlog.rung).toBe('merged');
    expect(await model.backlog.persist(Buffer.alloc(16, 1), model.sequence)).toBeUndefined();
    await model.backlog.close();
    expect(await model.files.list('spool')).not.toContain('complete');
  });
});

async function segments(model: BacklogModel): Promise<string[]> {
  const names = await model.files.list('spool');
  return names.filter((name) => name.endsWith('.seg')).map((name) => `spool/${name}`);
}
