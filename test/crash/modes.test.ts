/** What the modes promise, when the primary is lost: its mirror alone must hold it (G5). */
import { expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { Chance } from '../support/chance.ts';
import { judgePrefix } from '../support/judge.ts';
import { needPrograms } from '../support/peers.ts';
import { Rig, ROUNDS, timeoutOf } from './rig.ts';
import { freeze, SEED, thaw, Witness } from './witness.ts';

needPrograms(
  `a primary that is lost (seed ${SEED})`,
  'cmp',
)(() => {
  it.each(['flush', 'sync'] as const)(
    'in mode %s, has a mirror with all that this mode promised',
    async (mode) => {
      const rig = await Rig.inStep({ size: 16 * MIB, serve: ['--mode', mode] });
      const witness = await Witness.of(rig, new Chance(SEED));
      for (let round = 0; round < ROUNDS; round += 1) {
        await rig.untilLink('the mirror streams', (link) => link.state === 'streaming');
        // A mirror on a link so slow is behind whenever it may be.
        rig.proxy.rate = 4 * MIB;
        await witness.startLoad();
        await witness.untilAnswered(200 + witness.chance.below(800));
        rig.primary.kill('SIGKILL');
        rig.proxy.cut();
        await rig.primary.ended();
        await freeze(rig.mirror);
        await witness.stopLoad();
        const { history } = witness;
        const since = mode === 'flush' ? history.promised : history.clock;
        expect(since).toBeGreaterThan(0);
        await witness.expectPrefix({ since });
        thaw(rig.mirror);
        rig.proxy.rate = undefined;
        rig.proxy.restore();
        await witness.newLife((life, disk) =>
          judgePrefix(life, disk, { since: life.clock, tornMax: life.mutations.length }),
        );
        await rig.startPrimary();
        await witness.expectSettled();
      }
    },
    timeoutOf(ROUNDS),
  );
});
