import { expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { needPrograms } from '../support/peers.ts';
import { Rig, ROUNDS, stopLoad, timeoutOf } from './rig.ts';

needPrograms(
  'a link under load',
  'fio',
  'cmp',
)(() => {
  it(
    'is cut for a short while: the mirror catches up in order, without a rescan',
    async () => {
      const rig = await Rig.inStep({ serve: ['--window', '1G'] });
      const seeding = (await rig.link()).lastRescan;
      expect(seeding?.scope).toBe('everything');
      for (let round = 0; round < ROUNDS; round += 1) {
        const { sessions } = await rig.link();
        const load = await rig.load();
        rig.proxy.cut();
        await rig.untilLink('the cut is noticed', (link) => link.state !== 'streaming' && link.state !== 'catch-up');
        await rig.untilMoreOperations();
        rig.proxy.restore();
        await rig.untilLink('the link is back', (link) => link.sessions > sessions);
        rig.proxy.drop();
        await rig.untilLink('the link is back once more', (link) => link.sessions > sessions + 1);
        await stopLoad(load);
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
        expect((await rig.link()).lastRescan).toEqual(seeding);
      }
    },
    timeoutOf(ROUNDS),
  );

  it.each(['cut', 'too slow'])(
    'is %s for longer than the window lasts: what it cannot hold waits in the spool, and nothing is compared',
    async (how) => {
      const rig = await Rig.inStep({ serve: ['--window', '2M'] });
      const seeding = (await rig.link()).lastRescan;
      for (let round = 0; round < ROUNDS; round += 1) {
        const load = await rig.load();
        if (how === 'cut') rig.proxy.cut();
        else rig.proxy.rate = MIB / 2;
        await rig.untilLink('the spool is in use', (link) => link.spool.rung === 'spool');
        await rig.untilMoreOperations();
        expect((await rig.link()).markedSize).toBe(0);
        rig.proxy.rate = undefined;
        if (how === 'cut') rig.proxy.restore();
        await stopLoad(load);
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
        expect((await rig.link()).lastRescan).toEqual(seeding);
      }
    },
    timeoutOf(ROUNDS),
  );

  it(
    'is cut for longer than the window lasts: without a spool a rescan brings the mirror back',
    async () => {
      // Without a spool the window must take what is written while the mirror copies what it has staged.
      const rig = await Rig.inStep({ serve: ['--window', '16M', '--spool-size', '0'] });
      for (let round = 0; round < ROUNDS; round += 1) {
        const { lastRescan, sessions } = await rig.link();
        const load = await rig.load();
        rig.proxy.cut();
        await rig.untilLink('the window has overrun', (link) => link.markedSize > 0);
        await rig.untilMoreOperations();
        const before = await rig.mirror.mirrorStatus();
        expect(before.exports[0]).toMatchObject({ consistent: true });
        rig.proxy.restore();
        // In the middle of the rescan, too: the image is what it was until all is there.
        await rig.untilLink('a rescan runs', (link) => link.sessions > sessions);
        expect((await rig.mirror.mirrorStatus()).exports[0]).toMatchObject({ consistent: true });
        await rig.untilLink(
          'a rescan completes under load',
          (link) => link.lastRescan?.elapsedMs !== lastRescan?.elapsedMs,
        );
        await stopLoad(load);
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
      }
    },
    timeoutOf(ROUNDS),
  );

  it(
    'is too slow for a while: without a spool the window overruns under an open session, and a rescan brings the mirror back',
    async () => {
      const rig = await Rig.inStep({ serve: ['--window', '2M', '--spool-size', '0'] });
      for (let round = 0; round < ROUNDS; round += 1) {
        const { sessions } = await rig.link();
        const load = await rig.load();
        rig.proxy.rate = MIB / 2;
        const behind = await rig.untilLink('the window has overrun', (link) => link.state === 'behind');
        expect(behind.problem).toBeUndefined();
        rig.proxy.rate = undefined;
        await rig.untilLink('the link is back', (link) => link.sessions > sessions);
        await stopLoad(load);
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
      }
    },
    timeoutOf(ROUNDS),
  );

  it('gets new keys again and again: nothing is lost, and nothing is compared', async () => {
    const rig = await Rig.inStep({ serve: ['--window', '1G', '--rekey-bytes', '2M'] });
    const { sessions, lastRescan } = await rig.link();
    const load = await rig.load();
    await rig.untilLink('keys have been renewed three times', (link) => link.sessions >= sessions + 3);
    await stopLoad(load);
    await rig.expectIdentical();
    expect(await load.fio.verify()).toBeGreaterThan(0);
    expect((await rig.link()).lastRescan).toEqual(lastRescan);
    expect((await rig.link()).problem).toBeUndefined();
  });

  it('goes silent without an end: the primary gives it up, and both find each other when it is back', async () => {
    const rig = await Rig.inStep({ serve: ['--window', '1G'] });
    const { sessions, lastRescan } = await rig.link();
    const load = await rig.load();
    rig.proxy.stall();
    await rig.untilLink('the silence is noticed', (link) => link.problem?.code === 'peer-timeout');
    await rig.untilMoreOperations();
    rig.proxy.restore();
    await rig.untilLink('the link is back', (link) => link.sessions > sessions);
    await stopLoad(load);
    await rig.expectIdentical();
    expect(await load.fio.verify()).toBeGreaterThan(0);
    expect((await rig.link()).lastRescan).toEqual(lastRescan);
  });

  it.each(['primary', 'mirror'] as const)('is silent when the %s is asked to stop, which it does', async (side) => {
    const rig = await Rig.inStep({ serve: ['--window', '1G', '--drain-timeout', '1s'] });
    const load = await rig.load();
    rig.proxy.stall();
    await rig.untilMoreOperations();
    await stopLoad(load);
    expect((await rig.link()).lag.operations).toBeGreaterThan(0);
    expect(await rig[side].stop()).toEqual({ status: 0, signal: null });
    rig.proxy.restore();
    if (side === 'primary') await rig.startPrimary();
    else await rig.startMirror();
    await rig.expectIdentical();
    expect(await load.fio.verify()).toBeGreaterThan(0);
  });
});
