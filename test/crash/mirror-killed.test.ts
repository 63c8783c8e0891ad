import { expect, it } from 'vitest';
import { needPrograms } from '../support/peers.ts';
import { Rig, ROUNDS, stopLoad, timeoutOf } from './rig.ts';

needPrograms(
  'a mirror under load',
  'fio',
  'cmp',
)(() => {
  it(
    'is killed and comes back: it catches up in order, without a rescan',
    async () => {
      const rig = await Rig.inStep({ serve: ['--window', '1G'] });
      const seeding = (await rig.link()).lastRescan;
      expect(seeding?.scope).toBe('everything');
      for (let round = 0; round < ROUNDS; round += 1) {
        const { sessions } = await rig.link();
        const load = await rig.load();
        expect((await rig.mirror.crash()).signal).toBe('SIGKILL');
        await rig.untilMoreOperations();
        await rig.startMirror();
        await rig.untilLink('the link is back', (link) => link.sessions > sessions);
        await rig.untilMoreOperations();
        await stopLoad(load);
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
        expect((await rig.link()).lastRescan).toEqual(seeding);
      }
    },
    timeoutOf(ROUNDS),
  );

  it(
    'is stopped cleanly and comes back: it catches up in order, without a rescan',
    async () => {
      const rig = await Rig.inStep({ serve: ['--window', '1G'] });
      const seeding = (await rig.link()).lastRescan;
      for (let round = 0; round < ROUNDS; round += 1) {
        const { sessions } = await rig.link();
        const load = await rig.load();
        expect(await rig.mirror.stop()).toEqual({ status: 0, signal: null });
        await rig.untilMoreOperations();
        await rig.startMirror();
        await rig.untilLink('the link is back', (link) => link.sessions > sessions);
        await stopLoad(load);
        await rig.expectIdentical();
        expect(await load.fio.verify()).toBeGreaterThan(0);
        expect((await rig.link()).lastRescan).toEqual(seeding);
      }
    },
    timeoutOf(ROUNDS),
  );
});
