import { expect, it } from 'vitest';
import { until } from '../support/daemon.ts';
import { needPrograms } from '../support/peers.ts';
import { type Load, Rig, ROUNDS, stopLoad, timeoutOf } from './rig.ts';

/** So that regions are cleared, and marked again, all along: the load is everywhere. */
const FEW_MARKS = ['--dirty-active', '32'];

needPrograms(
  'a primary under load',
  'fio',
  'cmp',
)(() => {
  it(
    'is killed and comes back: what it had answered is there, and a rescan of what was marked brings the mirror back',
    async () => {
      const rig = await Rig.inStep({ serve: FEW_MARKS });
      for (let round = 0; round < ROUNDS; round += 1) {
        const { primary } = rig;
        const load = await rig.load(`kill -9 ${primary.pid}`);
        await stopLoad(load);
        expect((await primary.ended()).signal).toBe('SIGKILL');
        await rig.startPrimary();
        expect(await load.fio.verify()).toBeGreaterThan(0);
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
        // How much that is depends on how many regions the load has just been in; restart.test.ts counts.
        expect((await rig.link()).lastRescan).toBeDefined();
      }
    },
    timeoutOf(ROUNDS),
  );

  it(
    'is killed in the middle of a rescan under load',
    async () => {
      const rig = await Rig.inStep({ serve: ['--rescan-rate', '60M'] });
      for (let round = 0; round < ROUNDS; round += 1) {
        const killed = rig.primary;
        await stopLoad(await rig.load(`kill -9 ${killed.pid}`));
        await killed.ended();
        const again = await rig.startPrimary();
        const load = await rig.load(`kill -9 ${again.pid}`);
        const { rescan } = await rig.untilLink('a rescan runs', (link) => link.rescan !== undefined);
        expect(rescan?.comparedSize).toBeLessThan(rescan!.scopeSize);
        await stopLoad(load);
        expect((await again.ended()).signal).toBe('SIGKILL');
        await rig.startPrimary();
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
      }
    },
    timeoutOf(ROUNDS),
  );

  it(
    'is killed at the same moment as its mirror',
    async () => {
      const rig = await Rig.inStep();
      for (let round = 0; round < ROUNDS; round += 1) {
        const { primary, mirror } = rig;
        const load = await rig.load(`kill -9 ${primary.pid} ${mirror.pid}`);
        await stopLoad(load);
        expect((await primary.ended()).signal).toBe('SIGKILL');
        expect((await mirror.ended()).signal).toBe('SIGKILL');
        await rig.startPrimary();
        await rig.startMirror();
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
      }
    },
    timeoutOf(ROUNDS),
  );

  it(
    'is stopped cleanly and comes back: the stream goes on, without a rescan',
    async () => {
      const rig = await Rig.inStep();
      for (let round = 0; round < ROUNDS; round += 1) {
        const { primary } = rig;
        const load = await rig.load(`kill -TERM ${primary.pid}`);
        await stopLoad(load);
        expect(await primary.ended()).toEqual({ status: 0, signal: null });
        await rig.startPrimary();
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
        const link = await rig.link();
        expect(link.sessions).toBe(1);
        expect(link.lastRescan).toBeUndefined();
      }
    },
    timeoutOf(ROUNDS),
  );

  it('is killed while its mirror is down: what was marked is compared', async () => {
    const rig = await Rig.inStep({ serve: FEW_MARKS });
    const after = await restartWithoutMirror(rig, 'SIGKILL');
    await rig.untilLink('a rescan completes under load', (link) => link.lastRescan !== undefined);
    await stopLoad(after);
    await rig.expectIdentical();
    expect(await after.fio.verify()).toBeGreaterThan(0);
  });

  it.each(['1G', '1M'])(
    'is stopped while its mirror is down: what that lacks is handed on, from a window of %s',
    async (window) => {
      const rig = await Rig.inStep({ serve: ['--window', window] });
      const after = await restartWithoutMirror(rig, 'SIGTERM');
      await rig.untilLink('the stream goes on under load', (link) => link.applied > 0);
      await stopLoad(after);
      await rig.expectIdentical();
      expect(await after.fio.verify()).toBeGreaterThan(0);
      expect((await rig.link()).lastRescan).toBeUndefined();
    },
  );

  it.each(['SIGKILL', 'SIGTERM'] as const)('is down while its mirror restarts (%s)', async (signal) => {
    const rig = await Rig.inStep({ serve: FEW_MARKS });
    const { primary, mirror } = rig;
    const load = await rig.load(`kill -9 ${primary.pid}`);
    await stopLoad(load);
    await primary.ended();
    mirror.kill(signal);
    await mirror.ended();
    await rig.startMirror();
    await until(async () => (await rig.mirror.mirrorStatus()).exports[0]?.state === 'waiting', 'it waits');
    await rig.startPrimary();
    await rig.expectIdentical();
    expect(await load.fio.verify()).toBeGreaterThan(0);
    expect((await rig.link()).lastRescan).toBeDefined();
  });
});

/** The mirror dies under load, the primary goes and comes back, both under load again: the mirror last. */
async function restartWithoutMirror(rig: Rig, signal: NodeJS.Signals): Promise<Load> {
  const before = await rig.load();
  await rig.mirror.crash();
  await rig.untilMoreOperations();
  await stopLoad(before);
  rig.primary.kill(signal);
  await rig.primary.ended();
  await rig.startPrimary();
  const after = await rig.load();
  await rig.startMirror();
  return after;
}
