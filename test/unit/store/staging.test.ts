import assert from 'node:assert/strict';
import { describe, expect, it } from 'vitest';
import { Failure, isFailure } from '../../../src/base/failure.ts';
import { Staging } from '../../../src/store/staging.ts';
import type { Fate } from '../../sim/stored-file.ts';
import { CutFiles, PowerCut } from '../../support/cut-files.ts';
import { BASE, DIRECTORY, ID, Script, SIZE } from './staging-rig.ts';

const LOG = `${DIRECTORY}/log`;
const DATA = `${DIRECTORY}/data`;
const FATES: readonly Fate[] = [
  { kept: 0, torn: 0 },
  { kept: 0.3, torn: 0.4 },
  { kept: 1, torn: 0 },
];

/** Runs the script with something in its way; true when it got to the end. */
async function runs(script: Script): Promise<boolean> {
  try {
    await script.run('removed');
    return true;
  } catch (error) {
    if (!(error instanceof PowerCut)) throw error;
    return false;
  }
}

/** Undefined: killed, the machine lives on. */
function dies(files: CutFiles, fate: Fate | undefined): void {
  if (fate === undefined) files.restart();
  else files.powerCycle(fate);
}

describe('a staged run and a crash', () => {
  it.each([
    ['of the power, nothing unsynced kept', FATES[0]],
    ['of the power, some kept and torn', FATES[1]],
    ['of the power, all kept', FATES[2]],
    ['of the process', undefined],
  ])('%s: at every call it is as synced last, or committed, and can be finished', async (_, fate) => {
    const seen = new Set<string>();
    for (const seed of [1, 2, 3]) {
      for (let cutAt = 0; ; cutAt += 1) {
        const script = new Script(seed);
        script.files.slow = seed === 2;
        script.files.cutAt = cutAt;
        if (await runs(script)) break;
        dies(script.files, fate);
        const found = await script.open();
        await script.check(found);
        seen.add(found === undefined ? 'nothing' : found.committed === undefined ? 'uncommitted' : 'committed');
        // Once opened it stays as it was found, whatever happens next.
        script.files.powerCycle({ kept: 0, torn: 0 });
        const again = await script.open();
        await script.check(again);
        expect(again?.position).toEqual(found?.position);
        expect(again?.committed).toEqual(found?.committed);
        if (script.removal === 'not begun') await script.finish(again);
      }
    }
    expect([...seen].sort()).toEqual(['committed', 'nothing', 'uncommitted']);
  });

  it('during a removal before the commit leaves the run, or nothing', async () => {
    const seen = new Set<string>();
    for (let cutAt = 0; cutAt < 4; cutAt += 1) {
      for (const fate of FATES) {
        const script = new Script(4);
        const staging = await script.run('synced');
        script.files.cutAt = script.files.calls.length + cutAt;
        script.removal = 'begun';
        await expect(staging.remove()).rejects.toThrow(PowerCut);
        script.files.powerCycle(fate);
        const found = await script.open();
        await script.check(found);
        expect(found?.committed).toBe(undefined);
        seen.add(found === undefined ? 'nothing' : 'the run');
      }
    }
    expect(seen.size).toBe(2);
  });
});

describe('a staged run and failures of the disk', () => {
  it.each(['io-error', 'no-space'] as const)(
    '%s at any call: what is left is sound, and nothing is lost',
    async (code) => {
      const spoiledBy = new Set<string>();
      for (let index = 0; ; index += 1) {
        const script = new Script(5);
        script.files.failAt = { index, code };
        script.files.slow = index % 2 === 1;
        let failure: unknown;
        let staging: Staging | undefined;
        const create = script.create.bind(script);
        script.create = async () => {
          staging = await create();
          return staging;
        };
        try {
          await script.run('committed');
        } catch (error) {
          failure = error;
        }
        if (failure === undefined) break;
        expect(isFailure(failure)).toBe(true);
        if (staging?.spoiled !== undefined) {
          spoiledBy.add(script.files.calls[index]!.name);
          assert.equal(staging.spoiled, failure);
          const { name, path } = script.files.calls[index]!;
          assert.equal(staging.dataLost, name === 'sync' && path === DATA);
          await assert.rejects(staging.sync({ sequence: 1000, checkpoint: 0 }), (error) => error === failure);
          await assert.rejects(staging.commit(script.record), (error) => error === failure);
        }
        await staging?.close();
        // What the cache shows of pages that a failed sync has lost must not be believed.
        const found = await script.open();
        await script.check(found);
        await script.finish(found);
      }
      expect([...spoiledBy].sort()).toEqual(['create', 'rename', 'resize', 'sync', 'syncDirectory', 'write']);
    },
  );

  it('a removal that fails can be repeated, and is not done before', async () => {
    for (let index = 0; index < 4; index += 1) {
      const script = new Script(6);
      const staging = await script.run('committed');
      script.files.failAt = { index: script.files.calls.length + index, code: 'io-error' };
      await expect(staging.remove()).rejects.toThrow(Failure);
      await staging.remove();
      script.files.powerCycle({ kept: 0, torn: 0 });
      expect(await script.open()).toBe(undefined);
      expect(await script.files.list(DIRECTORY)).toEqual([]);
    }
  });

  it('an opening that fails changes nothing', async () => {
    for (let index = 0; index < 6; index += 1) {
      const script = new Script(7);
      const staging = await script.run('synced');
      await staging.close();
      script.files.failAt = { index: script.files.calls.length + index, code: 'io-error' };
      await script.open().catch((error: unknown) => assert(isFailure(error, 'io-error')));
      script.files.powerCycle({ kept: 0.5, torn: 0.5 });
      const found = await script.open();
      expect(found?.position.sequence).toBe(script.synced);
      await script.check(found);
    }
  });
});

/** The log of a script's run, and files that hold another one in its place. */
async function withLog(upTo: 'synced' | 'committed', change: (log: Buffer) => Buffer): Promise<Script> {
  const script = new Script(8);
  await script.run(upTo);
  const file = script.files.medium.file(LOG)!;
  const changed = change(file.cache.slice(0, file.cache.size));
  file.change({ kind: 'size', size: changed.length }, 0n);
  file.change({ kind: 'write', offset: 0, data: changed }, 0n);
  return script;
}

async function codeOf(opening: Promise<unknown>): Promise<string | undefined> {
  try {
    await opening;
  } catch (error) {
    return (error as Failure).code;
  }
  return undefined;
}

describe('a damaged log', () => {
  it('of a committed run is corrupt wherever a byte is wrong or missing, never another run', async () => {
    const { size } = (await withLog('committed', (log) => log)).files.medium.file(LOG)!.cache;
    const places = [...Array.from({ length: 110 }, (_, at) => at), size - 1, size - 40, size - 88, size - 89];
    for (const at of places) {
      const flipped = await withLog('committed', (log) => {
        log[at]! ^= 1 << (at % 8);
        return log;
      });
      expect(await codeOf(flipped.open()), `byte ${at}`).toBe('state-corrupt');
      const cut = await withLog('committed', (log) => log.subarray(0, at));
      expect(await codeOf(cut.open()), `cut at ${at}`).toBe('state-corrupt');
    }
    const longer = await withLog('committed', (log) => Buffer.concat([log, Buffer.alloc(1)]));
    expect(await codeOf(longer.open())).toBe('state-corrupt');
  });

  it('of an open run goes back to the last position before the damage, and loses a header never unseen', async () => {
    const { size } = (await withLog('synced', (log) => log)).files.medium.file(LOG)!.cache;
    const sequences = new Set<number>();
    for (let at = 0; at < size; at += at < 72 ? 1 : 47) {
      const script = await withLog('synced', (log) => {
        log[at]! ^= 0x40;
        return log;
      });
      if (at < 72) {
        assert.equal(await codeOf(script.open()), 'state-corrupt', `byte ${at}`);
        continue;
      }
      const found = await script.open();
      if (found === undefined || sequences.has(found.position.sequence)) continue;
      sequences.add(found.position.sequence);
      script.synced = found.position.sequence;
      await script.check(found);
      await script.finish(found);
    }
    expect(sequences.size).toBeGreaterThan(2);
  });
});

describe('staging', () => {
  it('finds nothing where nothing is, and removes data that a removal has left', async () => {
    const files = new CutFiles(1);
    expect(await Staging.open(files, DIRECTORY, SIZE, SIZE)).toBe(undefined);
    await files.makeDirectory('/twin');
    await files.makeDirectory(DIRECTORY);
    await files.openState(DATA);
    expect(await Staging.open(files, DIRECTORY, SIZE, SIZE)).toBe(undefined);
    expect(await files.list(DIRECTORY)).toEqual([]);
  });

  it.each(['smaller disk', 'data gone'])(
    '%s: an uncommitted run is dropped, a committed one is corrupt',
    async (why) => {
      const spoilt = async (upTo: 'synced' | 'committed'): Promise<Script> => {
        const script = new Script(9);
        await script.run(upTo);
        if (why === 'data gone') await script.files.remove(DATA);
        return script;
      };
      const imageSize = why === 'smaller disk' ? SIZE + 512 : SIZE;
      const open = (script: Script): Promise<Staging | undefined> =>
        Staging.open(script.files, DIRECTORY, imageSize, SIZE);

      const uncommitted = await spoilt('synced');
      expect(await open(uncommitted)).toBe(undefined);
      expect(await uncommitted.files.list(DIRECTORY)).toEqual([]);
      expect(await codeOf(open(await spoilt('committed')))).toBe('state-corrupt');
    },
  );

  it('keeps a run for a disk that has grown: its image grows with the copy', async () => {
    const script = new Script(10);
    await script.run('synced');
    const found = await Staging.open(script.files, DIRECTORY, SIZE - 512, SIZE);
    expect(found?.size).toBe(SIZE);
  });

  it('begins anew where a run is left, whatever that was', async () => {
    for (const upTo of ['synced', 'committed'] as const) {
      const script = new Script(11);
      await script.run(upTo);
      const begun = await Staging.create(script.files, DIRECTORY, Buffer.alloc(16, 7), SIZE, SIZE, BASE);
      expect(begun.overlay.rangeCount).toBe(0);
      expect(begun.position).toEqual({ sequence: 0, checkpoint: 0 });
      expect((await script.view(begun)).equals(script.image.content())).toBe(true);
      // Without any position it is not worth keeping.
      script.files.powerCycle({ kept: 0, torn: 0 });
      expect(await script.open()).toBe(undefined);
    }
  });

  it('makes the name of its directory durable even where the directory is there already', async () => {
    const script = new Script(15);
    await script.files.makeDirectory(DIRECTORY);
    const before = script.files.calls.length;
    await script.create();
    expect(script.files.calls.slice(before)).toContainEqual({ name: 'syncDirectory', path: '/twin' });
  });

  it('writes down only what has changed, and rewrites a log that has grown too long', async () => {
    const files = new CutFiles(12);
    await files.makeDirectory('/twin');
    const staging = await Staging.create(files, DIRECTORY, ID, SIZE, SIZE, BASE, 4096);
    const log = (): number => files.medium.file(LOG)!.cache.size;
    await staging.overlay.write(0, Buffer.alloc(8192, 1));
    await staging.sync({ sequence: 1, checkpoint: 0 });
    const renames = (): number => files.calls.filter((call) => call.name === 'rename').length;
    const before = renames();
    for (let sequence = 2; sequence < 1000; sequence += 1) {
      await staging.overlay.write(4096, Buffer.alloc(512, sequence));
      await staging.sync({ sequence, checkpoint: 0 });
      expect(log()).toBeLessThanOrEqual(65_536);
    }
    // A batch without entries takes 32 bytes: about 126 of them fit.
    expect(renames() - before).toBe(7);
    files.powerCycle({ kept: 0, torn: 0 });
    const found = await Staging.open(files, DIRECTORY, SIZE, SIZE);
    expect(found?.position.sequence).toBe(999);
    expect([...found!.overlay.ranges()]).toEqual([{ offset: 0, length: 8192, zero: false }]);
  });

  it('writes beside a sync count for the next one, not for that', async () => {
    const script = new Script(13);
    const staging = await script.create();
    await staging.overlay.write(0, Buffer.alloc(4096, 1));
    script.files.slow = true;
    const syncing = staging.sync({ sequence: 1, checkpoint: 0 });
    await staging.overlay.write(8192, Buffer.alloc(4096, 2));
    await syncing;
    script.files.powerCycle({ kept: 0, torn: 0 });
    const found = await script.open();
    expect([...found!.overlay.ranges()]).toEqual([{ offset: 0, length: 4096, zero: false }]);
  });

  it('gives back the space of what was written after the last sync', async () => {
    const script = new Script(14);
    const staging = await script.create();
    await staging.overlay.write(0, Buffer.alloc(4096, 1));
    await staging.sync({ sequence: 1, checkpoint: 0 });
    await staging.overlay.write(8192, Buffer.alloc(40_960, 2));
    script.files.powerCycle({ kept: 1, torn: 0 });
    expect(script.files.medium.file(DATA)!.allocatedSize).toBe(45_056);
    await script.open();
    expect(script.files.medium.file(DATA)!.allocatedSize).toBe(4096);
  });
});
